"""gRPC messages in a byte stream: one flag byte, four bytes of length, the message.

Knows nothing of HTTP/2. Messages are sent uncompressed; gzip and deflate are understood when the peer sends them.
"""

import zlib

from kvstore.rpc.status import RpcError, StatusCode

PREFIX_BYTES = 5
# wbits that make zlib read each encoding's container.
_WBITS = {b"gzip": 16 + zlib.MAX_WBITS, b"deflate": zlib.MAX_WBITS}
ACCEPTED_ENCODINGS = b"identity,gzip,deflate"


def frame(message: bytes) -> bytes:
    """Put the prefix before an uncompressed message of less than 4 GiB."""
    # The flag byte is 0, so flag and length are together the length as five bytes.
    return len(message).to_bytes(5, "big") + message


def is_supported_encoding(encoding: bytes) -> bool:
    return encoding == b"identity" or encoding in _WBITS


def decompress(data: bytes, encoding: bytes, max_bytes: int) -> bytes:
    """Undo the compression of one message; never holds more than max_bytes + 1 of the result.

    Raises RpcError: RESOURCE_EXHAUSTED if the result is larger than max_bytes, INTERNAL if data is not so encoded.
    """
    wbits = _WBITS.get(encoding)
    if wbits is None:
        raise RpcError(StatusCode.INTERNAL, "grpc: compressed flag set with identity or empty encoding")
    decoder = zlib.decompressobj(wbits)
    try:
        message = decoder.decompress(data, max_bytes + 1)
    except zlib.error as error:
        raise RpcError(StatusCode.INTERNAL, f"grpc: failed to decompress the received message: {error}") from error
    if len(message) > max_bytes:
        text = f"grpc: received message after decompression larger than max ({len(message)} vs. {max_bytes})"
        raise RpcError(StatusCode.RESOURCE_EXHAUSTED, text)
    if not decoder.eof:
        raise RpcError(StatusCode.INTERNAL, "grpc: failed to decompress the received message: unexpected end of data")
    return message


class MessageReader:
    """Cuts the messages out of the bytes of one direction of one call.

    Holds at most one incomplete message; its length is checked as soon as the prefix is there.
    """

    __slots__ = ("_buffer", "_encoding", "_max_bytes", "_need")

    def __init__(self, max_bytes: int, encoding: bytes | None) -> None:
        """max_bytes: largest message taken, before and after decompression. encoding: the peer's grpc-encoding."""
        self._buffer = bytearray()
        self._max_bytes = max_bytes
        self._encoding = encoding or b"identity"
        self._need = PREFIX_BYTES

    @property
    def buffered(self) -> int:
        """Bytes of the incomplete message; 0 between messages."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[bytes]:
        """Take the next bytes of the stream; return the messages they complete, in order.

        Raises RpcError (RESOURCE_EXHAUSTED, INTERNAL) for a message that cannot be taken; the stream is then useless.
        """
        buffer = self._buffer
        buffer += data
        messages: list[bytes] = []
        start = 0
        end = len(buffer)
        # _need is what must be there, counted from the start of the message, before anything new can be said of it.
        while end - start >= self._need:
            size = int.from_bytes(buffer[start + 1 : start + PREFIX_BYTES], "big")
            if size > self._max_bytes:
                text = f"grpc: received message larger than max ({size} vs. {self._max_bytes})"
                raise RpcError(StatusCode.RESOURCE_EXHAUSTED, text)
            self._need = PREFIX_BYTES + size
            if end - start < self._need:
                break
            messages.append(self._message(buffer[start], bytes(buffer[start + PREFIX_BYTES : start + self._need])))
            start += self._need
            self._need = PREFIX_BYTES
        if start:
            del buffer[:start]
        return messages

    def _message(self, flag: int, data: bytes) -> bytes:
        if flag == 0:
            return data
        if flag == 1:
            return decompress(data, self._encoding, self._max_bytes)
        raise RpcError(StatusCode.INTERNAL, f"grpc: received unexpected payload format {flag}")
