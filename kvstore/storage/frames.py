"""Values between a member and its processes: a length (4 bytes, little-endian) and the value in marshal's format.

Both ends run the same interpreter and nobody else holds the socket, which is what makes marshal a safe choice here.
Version 2 of the format is the newest that does not search for shared objects while it writes.
"""

from __future__ import annotations

import marshal
from socket import socket
from typing import Any, Final

_LENGTH: Final = 4
_READ_SIZE: Final = 256 * 1024
_FORMAT: Final = 2


def encode(value: Any) -> tuple[bytes, bytes]:
    """The two parts of a frame, apart so that a large one need not be copied."""
    body = marshal.dumps(value, _FORMAT)
    return len(body).to_bytes(_LENGTH, "little"), body


def split(data: bytes) -> tuple[Any, bytes] | None:
    """The value that data begins with, and the bytes after it; None if it is not whole."""
    stop = _LENGTH + int.from_bytes(data[:_LENGTH], "little")
    if len(data) < _LENGTH or len(data) < stop:
        return None
    return marshal.loads(memoryview(data)[_LENGTH:stop]), data[stop:]


class FrameReader:
    """Takes bytes as they arrive, gives back whole values."""

    def __init__(self) -> None:
        """Start with nothing read."""
        self._buffer = bytearray()

    @property
    def buffered(self) -> int:
        """Bytes of frames that are not whole yet."""
        return len(self._buffer)

    def feed(self, data: bytes | memoryview) -> list[Any]:
        """Add bytes; the values that are now whole, in order."""
        buffer = self._buffer
        buffer += data
        values = []
        position = 0
        end = len(buffer)
        with memoryview(buffer) as view:
            while end - position >= _LENGTH:
                start = position + _LENGTH
                stop = start + int.from_bytes(view[position:start], "little")
                if stop > end:
                    break
                values.append(marshal.loads(view[start:stop]))
                position = stop
        if position:
            del buffer[:position]
        return values


def receive(channel: socket) -> Any:
    """The first value that comes through a blocking socket, behind which nothing follows; None if it ends before."""
    reader = FrameReader()
    while data := channel.recv(_READ_SIZE):
        if values := reader.feed(data):
            return values[0]
    return None
