"""Metadata, messages and timeouts in header fields."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstore.rpc.metadata import (
    decode_message,
    decode_metadata,
    encode_message,
    encode_metadata,
    format_timeout,
    parse_timeout,
)


@given(st.text())
def test_a_message_survives(text: str) -> None:
    text = text.encode("utf-8", "replace").decode()
    encoded = encode_message(text)
    assert all(0x20 <= byte <= 0x7E for byte in encoded)
    assert decode_message(encoded) == text


def test_a_message_is_encoded_as_the_specification_says() -> None:
    assert encode_message("50% of\nü") == b"50%25 of%0A%C3%BC"
    assert decode_message(b"50%25 of%0a%zz%") == "50% of\n%zz%"


@given(st.binary())
def test_binary_metadata_survives(value: bytes) -> None:
    ((key, encoded),) = encode_metadata([("Key-Bin", value)])
    assert key == b"key-bin"
    assert b"=" not in encoded
    assert decode_metadata([(key, encoded)]) == (("key-bin", value),)


def test_repeated_and_joined_values_are_all_there() -> None:
    headers = [
        (b":path", b"/x"),
        (b"te", b"trailers"),
        (b"a", b"1"),
        (b"a", b"2"),
        (b"b-bin", b"AA==,/w"),
        (b"c-bin", b"!"),
    ]
    assert decode_metadata(headers) == (("a", "1"), ("a", "2"), ("b-bin", b"\x00"), ("b-bin", b"\xff"))


@pytest.mark.parametrize(
    "entry", [("a b", "x"), ("", "x"), ("grpc-status", "0"), (":path", "x"), ("a", "x\n"), ("a", "ü")]
)
def test_what_cannot_be_a_field_is_refused(entry: tuple[str, str]) -> None:
    with pytest.raises(ValueError, match="metadata"):
        encode_metadata([entry])


@pytest.mark.parametrize(
    ("field", "seconds"),
    [
        (b"1H", 3600),
        (b"2M", 120),
        (b"3S", 3),
        (b"40m", 0.04),
        (b"50u", 0.00005),
        (b"60n", 6e-8),
        (b"99999999S", 99999999),
    ],
)
def test_every_unit_of_a_timeout_is_read(field: bytes, seconds: float) -> None:
    assert parse_timeout(field) == pytest.approx(seconds)


@pytest.mark.parametrize("field", [b"", b"S", b"5", b"5X", b"-5S", b"5.5S", b"123456789S", b" 5S"])
def test_a_malformed_timeout_is_refused(field: bytes) -> None:
    with pytest.raises(ValueError, match="grpc-timeout"):
        parse_timeout(field)


@given(st.floats(min_value=1e-9, max_value=1e10))
def test_a_timeout_is_never_shortened_by_its_format(seconds: float) -> None:
    field = format_timeout(seconds)
    assert len(field) <= 9
    assert seconds * (1 - 1e-7) - 1e-9 <= parse_timeout(field) <= seconds * 1.02 + 1e-9
