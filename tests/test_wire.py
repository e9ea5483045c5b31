"""What is written by hand in protobuf's wire format is what protobuf would have written."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kvstore import wire
from kvstore.pb import kv_pb2

EDGES = st.sampled_from([0, 127, 128, 16383, 16384, 2**21 - 1, 2**21, 2**28 - 1, 2**28, 2**35, 2**63 - 1, -1, -(2**63)])
SIZES = st.sampled_from([1, 127, 128, 16383, 16384])


@given(st.one_of(EDGES, st.integers(-(2**63), 2**63 - 1)))
def test_varints_are_written_and_read(number: int) -> None:
    encoded = wire.varint(number)
    assert kv_pb2.KeyValue(lease=number).SerializeToString() == (b"0" + encoded if number else b"")
    assert wire.read_varint(b"x" + encoded + b"\xff", 1) == (number & (2**64 - 1), 1 + len(encoded))


@given(SIZES)
def test_a_field_of_bytes_has_its_tag_and_length(size: int) -> None:
    payload = b"v" * size
    expected = kv_pb2.KeyValue(value=payload).SerializeToString()
    assert wire.length_prefixed(b"\x2a", payload) == expected
    assert wire.length_delimited(5, payload) == expected
