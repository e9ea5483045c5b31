"""Puts taken apart by hand are what protobuf makes of the same bytes."""

from __future__ import annotations

import pytest
from google.protobuf.message import DecodeError
from hypothesis import example, given
from hypothesis import strategies as st

from kvstore.errors import EmptyKey, LeaseProvided, ValueProvided
from kvstore.mvcc import puts
from kvstore.mvcc.puts import Put
from kvstore.pb.rpc_pb2 import PutRequest
from kvstore.wire import varint

LENGTHS = (0, 1, 0x7F, 0x80, 0x3FFF, 0x4000, 0x1FFFFF)
LEASES = (1, 0x7F, 0x80, 1 << 62, (1 << 63) - 1, -1, -(1 << 63))


def message(put: Put) -> PutRequest:
    return PutRequest(
        key=put.key,
        value=put.value,
        lease=put.lease,
        prev_kv=put.prev_kv,
        ignore_value=put.ignore_value,
        ignore_lease=put.ignore_lease,
    )


def assert_as_protobuf(data: bytes) -> None:
    """Decode bytes both ways: the same message, or none; and the log is given the same again."""
    try:
        expected = PutRequest.FromString(data)
    except DecodeError:
        with pytest.raises(DecodeError):
            puts.decode(data)
        return
    expected.DiscardUnknownFields()
    put = puts.decode(data)
    assert message(put) == expected
    stored = PutRequest.FromString(put.encoded)
    assert stored == expected
    assert stored.ByteSize() == expected.ByteSize()


def field(number: int, kind: int, content: bytes) -> bytes:
    return varint(number << 3 | kind) + content


def counted(content: bytes) -> bytes:
    return varint(len(content)) + content


# Fields as they are, of other types, unknown ones, lengths that are longer than they need be, and what is cut off.
pieces = st.one_of(
    st.builds(lambda number, content: field(number, 2, counted(content)), st.integers(1, 7), st.binary(max_size=40)),
    st.builds(lambda number, value: field(number, 0, varint(value)), st.integers(1, 7), st.sampled_from(LEASES)),
    st.builds(lambda number, size: field(number, 2, varint(size)), st.integers(1, 2), st.sampled_from(LENGTHS)),
    st.sampled_from([b"\x0a\x81\x00k", b"\x12\x81\x80\x00v", b"\x18\x80\x80\x00", b"\x18" + b"\xff" * 9 + b"\x7f"]),
    st.binary(max_size=6),
)


@given(st.lists(pieces, max_size=5).map(b"".join), st.integers(0, 3))
@example(b"", 0)
@example(b"\x0a\x01k\x18" + b"\xff" * 8 + b"\x7f", 0)
def test_any_bytes_are_to_it_what_they_are_to_protobuf(data: bytes, cut: int) -> None:
    assert_as_protobuf(data[: len(data) - cut])


@pytest.mark.parametrize("key", LENGTHS[:-1])
@pytest.mark.parametrize("value", LENGTHS)
@pytest.mark.parametrize("lease", [0, LEASES[2], LEASES[-1]])
def test_keys_and_values_of_every_length(key: int, value: int, lease: int) -> None:
    assert_as_protobuf(PutRequest(key=b"k" * key, value=b"v" * value, lease=lease).SerializeToString())


@pytest.mark.parametrize("lease", LEASES)
def test_leases_of_every_length(lease: int) -> None:
    assert_as_protobuf(PutRequest(key=b"k", lease=lease).SerializeToString())


@pytest.mark.parametrize("name", ["prev_kv", "ignore_value", "ignore_lease"])
def test_what_is_rarely_asked_for(name: str) -> None:
    request = PutRequest(key=b"k")
    setattr(request, name, True)
    put = puts.decode(request.SerializeToString())
    assert [each for each in ("prev_kv", "ignore_value", "ignore_lease") if getattr(put, each)] == [name]


def test_every_prefix_of_a_usual_put() -> None:
    data = PutRequest(key=b"k" * 200, value=b"v" * 300, lease=1 << 40).SerializeToString()
    for end in range(len(data) + 1):
        assert_as_protobuf(data[:end])


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (PutRequest(value=b"v"), EmptyKey),
        (PutRequest(key=b"k", value=b"v", ignore_value=True), ValueProvided),
        (PutRequest(key=b"k", lease=1, ignore_lease=True), LeaseProvided),
    ],
)
def test_what_no_store_could_take_is_refused(request_: PutRequest, error: type[Exception]) -> None:
    with pytest.raises(error):
        puts.decode(request_.SerializeToString()).check()
