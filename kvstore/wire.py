"""Protobuf's wire format where it is written and read by hand: varints and length-delimited fields.

Only for what is made so often, or spliced together from parts so large, that building a message would cost too much.
Imports nothing, for everything may import it: the processes that write, too, and these should start fast.
"""

from __future__ import annotations

from typing import Final

SHORT: Final = tuple(bytes((n,)) for n in range(0x80)) + tuple(
    bytes((n & 0x7F | 0x80, n >> 7)) for n in range(0x80, 0x4000)
)
"""The varints of numbers below 2**14, for those who know that theirs is one: a look-up costs less than a call."""

CONTINUED: Final = tuple(bytes((n & 0x7F | 0x80, n >> 7 | 0x80)) for n in range(0x4000))
"""The lowest 14 bits of a larger number, with which its varint begins; what follows is the varint of the rest."""


def varint(number: int) -> bytes:
    """Encode an int64 or uint64 as protobuf does: negative numbers take ten bytes.

    Two table look-ups for anything below 2**28: about 0.1 us.
    """
    if 0 <= number < 0x4000:
        return SHORT[number]
    if 0 <= number < 0x10000000:
        return CONTINUED[number & 0x3FFF] + SHORT[number >> 14]
    number &= 0xFFFF_FFFF_FFFF_FFFF
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """Decode the varint at an offset; returns it and the offset behind it."""
    byte = data[at]
    if byte < 0x80:
        return byte, at + 1
    number = byte & 0x7F
    shift = 7
    while True:
        at += 1
        byte = data[at]
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at + 1
        shift += 7


def length_prefixed(tag: bytes, body: bytes) -> bytes:
    """A length-delimited field: tag, length, body."""
    return tag + varint(len(body)) + body


def length_delimited(field: int, payload: bytes) -> bytes:
    """A field of bytes, a string or a message, by its number."""
    return b"".join((varint(field << 3 | 2), varint(len(payload)), payload))
