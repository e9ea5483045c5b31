"""Which keys a range means."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstore.client import KeyRange, from_key, key_range, prefix
from kvstore.client.keys import as_bytes, as_range, prefix_end


@pytest.mark.parametrize(
    ("start", "end"),
    [(b"a", b"b"), (b"a\xff", b"b"), (b"az\xff\xff", b"a{"), (b"\xff", b"\x00"), (b"a\x00", b"a\x01")],
)
def test_a_prefix_ends_before_the_next_key_that_does_not_have_it(start: bytes, end: bytes) -> None:
    assert prefix_end(start) == end


@given(st.binary(min_size=1, max_size=6), st.binary(max_size=6))
def test_a_key_is_in_a_prefix_range_exactly_if_it_begins_with_it(start: bytes, key: bytes) -> None:
    keys = prefix(start)
    inside = keys.key <= key and (keys.end == b"\x00" or key < keys.end)
    assert inside == key.startswith(start)


def test_an_empty_prefix_and_an_empty_start_mean_every_key() -> None:
    assert prefix("") == from_key("") == KeyRange(b"\x00", b"\x00")


def test_text_is_taken_as_utf8_and_undecodable_arguments_as_the_bytes_they_were() -> None:
    assert as_range("é") == KeyRange("é".encode())
    assert key_range("a", b"b") == KeyRange(b"a", b"b")
    assert as_bytes(b"\xff\xfe".decode("utf-8", "surrogateescape")) == b"\xff\xfe"
