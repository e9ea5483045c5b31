"""Messages in a byte stream."""

import gzip
import sys
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstore.rpc import RpcError, StatusCode
from kvstore.rpc.framing import MessageReader, decompress, frame


@given(st.lists(st.binary(max_size=40), max_size=6), st.integers(min_value=1, max_value=20))
def test_messages_survive_any_fragmentation(messages: list[bytes], size: int) -> None:
    stream = b"".join(map(frame, messages))
    reader = MessageReader(100, None)
    received = [
        message for start in range(0, len(stream), size) for message in reader.feed(stream[start : start + size])
    ]
    assert received == messages
    assert reader.buffered == 0


def test_a_message_too_large_is_refused_by_its_length_alone() -> None:
    reader = MessageReader(1000, None)
    with pytest.raises(RpcError) as caught:
        reader.feed((1001).to_bytes(5, "big"))
    assert caught.value.code is StatusCode.RESOURCE_EXHAUSTED
    assert caught.value.message == "grpc: received message larger than max (1001 vs. 1000)"


def test_a_message_of_the_largest_size_is_taken() -> None:
    assert MessageReader(1000, None).feed(frame(bytes(1000))) == [bytes(1000)]


def test_a_message_in_tiny_pieces_takes_little_more_than_its_size() -> None:
    reader = MessageReader(1 << 20, None)
    message = frame(bytes(range(256)) * 400)
    for start in range(0, len(message) - 2, 2):
        assert not reader.feed(message[start : start + 2])
    held = sum(sys.getsizeof(piece) for piece in reader._pieces) + sys.getsizeof(reader._pieces)
    assert held < 1.1 * len(message)
    assert reader.feed(message[-len(message) % 2 - 2 :]) == [message[5:]]
    assert reader.buffered == 0


@pytest.mark.parametrize(("encoding", "compress"), [(b"gzip", gzip.compress), (b"deflate", zlib.compress)])
def test_compressed_messages_are_understood(encoding: bytes, compress: object) -> None:
    data = compress(b"hello" * 100)  # type: ignore[operator]
    stream = b"\x01" + len(data).to_bytes(4, "big") + data
    assert MessageReader(1000, encoding).feed(stream + frame(b"plain")) == [b"hello" * 100, b"plain"]


def test_a_bomb_is_not_inflated() -> None:
    bomb = gzip.compress(bytes(50_000_000))
    with pytest.raises(RpcError) as caught:
        decompress(bomb, b"gzip", 1 << 20)
    assert caught.value.code is StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("data", [b"", b"not gzip", gzip.compress(b"hello", mtime=0)[:-4]])
def test_what_does_not_decompress_is_an_error(data: bytes) -> None:
    with pytest.raises(RpcError) as caught:
        decompress(data, b"gzip", 100)
    assert caught.value.code is StatusCode.INTERNAL


@pytest.mark.parametrize("flag", [1, 2, 255])
def test_an_unexpected_flag_is_an_error(flag: int) -> None:
    with pytest.raises(RpcError) as caught:
        MessageReader(100, None).feed(bytes([flag]) + b"\0\0\0\x01x")
    assert caught.value.code is StatusCode.INTERNAL
