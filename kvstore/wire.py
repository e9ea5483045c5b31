"""Protobuf's wire format where it is written by hand: varints and length-delimited fields.

Only for what is made so often, or spliced together from parts so large, that building a message would cost too much.
"""

from __future__ import annotations

from typing import Final

_SMALL: Final = tuple(bytes((n,)) for n in range(0x80)) + tuple(
    bytes((n & 0x7F | 0x80, n >> 7)) for n in range(0x80, 0x4000)
)


def varint(number: int) -> bytes:
    """An unsigned number, or a negative one as the 64-bit two's complement that protobuf's int64 uses."""
    if 0 <= number < 0x4000:
        return _SMALL[number]
    if 0 <= number < 0x20_0000:
        return bytes((number & 0x7F | 0x80, number >> 7 & 0x7F | 0x80, number >> 14))
    number &= 0xFFFF_FFFF_FFFF_FFFF
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def length_delimited(field: int, payload: bytes) -> bytes:
    """A field of bytes, a string or a message."""
    return b"".join((varint(field << 3 | 2), varint(len(payload)), payload))
