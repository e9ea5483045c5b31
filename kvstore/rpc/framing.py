"""gRPC messages in a byte stream: one flag byte, four bytes of length, the message.

Knows nothing of HTTP/2. Messages are sent uncompressed; gzip and deflate are understood when the peer sends them.
"""

import zlib
from typing import Final

from kvstore.rpc.status import RpcError, StatusCode

PREFIX_BYTES: Final = 5
# A message larger than this goes to the engine apart from its prefix: copying it would cost more than a second call.
COPY_BYTES: Final = 32768
_SMALL_PIECE = 1 << 10
# wbits that make zlib read each encoding's container.
_WBITS = {b"gzip": 16 + zlib.MAX_WBITS, b"deflate": zlib.MAX_WBITS}
ACCEPTED_ENCODINGS = b"identity,gzip,deflate"


def prefix(size: int) -> bytes:
    """What stands before an uncompressed message of so many bytes, less than 4 GiB."""
    # The flag byte is 0, so flag and length are together the length as five bytes.
    return size.to_bytes(PREFIX_BYTES, "big")


def frame(message: bytes) -> bytes:
    """Put the prefix before an uncompressed message of less than 4 GiB."""
    return prefix(len(message)) + message


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

    Holds at most one incomplete message, in the pieces in which it came: a large one is copied once, when it is
    complete. Its length is checked as soon as the prefix is there.
    """

    __slots__ = ("_encoding", "_flag", "_max_bytes", "_missing", "_pieces", "_prefix", "buffered")

    def __init__(self, max_bytes: int, encoding: bytes | None) -> None:
        """max_bytes: largest message taken, before and after decompression. encoding: the peer's grpc-encoding."""
        self._max_bytes = max_bytes
        self._encoding = encoding or b"identity"
        # The beginning of a prefix, or after a prefix: its flag, what has come of the message, and how much has not.
        self._prefix = b""
        self._flag = 0
        self._pieces: list[bytes] = []
        self._missing: int | None = None
        # Bytes held, of prefix or message; 0 between messages.
        self.buffered = 0

    @property
    def incomplete(self) -> bool:
        """Whether the bytes so far end within a message or its prefix."""
        return self._missing is not None or bool(self._prefix)

    def feed(self, data: bytes) -> list[bytes]:
        """Take the next bytes of the stream; return the messages they complete, in order.

        Raises RpcError (RESOURCE_EXHAUSTED, INTERNAL) for a message that cannot be taken; the stream is then useless.
        """
        messages: list[bytes] = []
        if self._prefix:
            data = self._prefix + data
            self.buffered -= len(self._prefix)
            self._prefix = b""
        position, end = 0, len(data)
        while True:
            if self._missing is None:
                if end - position < PREFIX_BYTES:
                    self._prefix = data[position:]
                    self.buffered += end - position
                    return messages
                self._begin(data[position : position + PREFIX_BYTES])
                position += PREFIX_BYTES
            missing = self._missing or 0
            if end - position < missing:
                self._keep(data[position:])
                self._missing = missing - (end - position)
                self.buffered += end - position
                return messages
            self._pieces.append(data[position : position + missing])
            position += missing
            messages.append(self._complete())

    def _keep(self, piece: bytes) -> None:
        """Keep a piece. Small ones become one: each by itself would take many times its size."""
        if self._pieces and len(self._pieces[-1]) < _SMALL_PIECE:
            self._pieces[-1] += piece
        else:
            self._pieces.append(piece)

    def _begin(self, prefix: bytes) -> None:
        size = int.from_bytes(prefix[1:], "big")
        if size > self._max_bytes:
            text = f"grpc: received message larger than max ({size} vs. {self._max_bytes})"
            raise RpcError(StatusCode.RESOURCE_EXHAUSTED, text)
        self._flag = prefix[0]
        self._missing = size

    def _complete(self) -> bytes:
        pieces, self._pieces = self._pieces, []
        self._missing = None
        self.buffered = 0
        return self._message(self._flag, pieces[0] if len(pieces) == 1 else b"".join(pieces))

    def _message(self, flag: int, data: bytes) -> bytes:
        if flag == 0:
            return data
        if flag == 1:
            return decompress(data, self._encoding, self._max_bytes)
        raise RpcError(StatusCode.INTERNAL, f"grpc: received unexpected payload format {flag}")
