"""HTTP/2 as bytes, made by hand: cheap enough for thousands of clients in one process.

Only what a misbehaving client needs: a preface, settings, gRPC requests. Header fields are literals, so that a request
is the same bytes on every connection but for its stream id.
"""

from __future__ import annotations

from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0x0, 0x1, 0x3, 0x4, 0x6, 0x7, 0x8
END_STREAM: Final = 0x1
END_HEADERS: Final = 0x4
ACK: Final = 0x1
INITIAL_WINDOW_SIZE: Final = 0x4
LARGEST_WINDOW: Final = (1 << 31) - 1
DEFAULT_WINDOW: Final = 65_535
LARGEST_FRAME: Final = 16_384


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame."""
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def opening(window: int = DEFAULT_WINDOW) -> bytes:
    """What a client says first. window: credit of each stream and, as far as it can be raised, of the connection."""
    settings = INITIAL_WINDOW_SIZE.to_bytes(2, "big") + window.to_bytes(4, "big")
    said = PREFACE + frame(SETTINGS, 0, 0, settings)
    if window > DEFAULT_WINDOW:
        said += frame(WINDOW_UPDATE, 0, 0, (window - DEFAULT_WINDOW).to_bytes(4, "big"))
    return said


SETTINGS_ACK: Final = frame(SETTINGS, ACK, 0)


def request_headers(method: str, timeout: str | None = None) -> bytes:
    """A header block for a call. timeout: grpc-timeout, such as 2S."""
    fields = [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", method.encode()),
        (b":authority", b"limits"),
        (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
    ]
    if timeout is not None:
        fields.append((b"grpc-timeout", timeout.encode()))
    return b"".join(b"\x00" + bytes((len(name),)) + name + bytes((len(value),)) + value for name, value in fields)


def message(payload: bytes) -> bytes:
    """A gRPC message."""
    return b"\x00" + len(payload).to_bytes(4, "big") + payload


def call(stream: int, headers: bytes, payload: bytes, *, half_close: bool = True) -> bytes:
    """A call with one request message."""
    data = frame(DATA, END_STREAM if half_close else 0, stream, message(payload))
    return frame(HEADERS, END_HEADERS, stream, headers) + data


class FrameReader:
    """Cuts received bytes into frames."""

    def __init__(self) -> None:
        self._held = b""

    def feed(self, data: bytes) -> list[tuple[int, int, int, bytes]]:
        """Kind, flags, stream and payload of each frame that is complete."""
        held, position = self._held + data, 0
        found = []
        while len(held) >= position + 9:
            end = position + 9 + int.from_bytes(held[position : position + 3], "big")
            if len(held) < end:
                break
            stream = int.from_bytes(held[position + 5 : position + 9], "big")
            found.append((held[position + 3], held[position + 4], stream, held[position + 9 : end]))
            position = end
        self._held = held[position:]
        return found
