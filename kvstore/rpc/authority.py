"""Takes requests whose :authority is a URL, as etcd's clients of the 3.4 line send it for calls to one endpoint.

An authority has no slashes (RFC 3986 §3.2), and libnghttp2 resets streams that say otherwise; gRPC servers in Go never
looked. Nobody here uses the value, so its slashes are made dashes before the engine sees them: a dash takes as many
bits as a slash in HPACK's Huffman code, hence not a byte moves, and both ends' header tables keep the same sizes. A
client names its authority once a connection, in its first HEADERS frame, and refers to the table from then on.
"""

from __future__ import annotations

from typing import Final

from kvstore.rpc.h2 import PREFACE

_FRAME_HEADER: Final = 9
_HEADERS: Final = 1
_END_HEADERS: Final = 0x4
_PADDED: Final = 0x8
_PRIORITY: Final = 0x20
_AUTHORITY_INDEX: Final = 1

_MAX_HELD: Final = 1 << 16
"""A first HEADERS frame larger than this is left to the engine as it is."""

# RFC 7541, appendix B: the symbols with the shortest codes, which are canonical. A URL consists of them.
_SYMBOLS: Final = {
    5: "012aceiost",
    6: " %-./3456789=A_bdfghlmnpru",
    7: ":BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz",
    8: "&*,;XZ",
}


def _canonical_codes() -> dict[tuple[int, int], str]:
    codes = {}
    code = 0
    for length, symbols in _SYMBOLS.items():
        for symbol in symbols:
            codes[length, code] = symbol
            code += 1
        code <<= 1
    return codes


_CODES: Final = _canonical_codes()
_LENGTHS: Final = {symbol: (length, code) for (length, code), symbol in _CODES.items()}


class AuthorityRepair:
    """Looks through the beginning of one connection. After `done` what arrives need not pass here any more."""

    def __init__(self) -> None:
        self.done = False
        self._held = bytearray()
        self._after_preface = False

    def feed(self, data: bytes) -> bytes:
        """What the engine may have of the bytes received so far."""
        self._held += data
        held = self._held
        position = 0
        if not self._after_preface:
            if len(held) < len(PREFACE):
                return b""
            position = len(PREFACE)
            self._after_preface = True
        while len(held) >= position + _FRAME_HEADER:
            length = int.from_bytes(held[position : position + 3], "big")
            if held[position + 3] != _HEADERS and length <= _MAX_HELD:
                if len(held) < position + _FRAME_HEADER + length:
                    break
                position += _FRAME_HEADER + length
                continue
            if length <= _MAX_HELD and len(held) < position + _FRAME_HEADER + length:
                break
            if length <= _MAX_HELD:
                _repair_frame(held, position, length)
            self.done = True
            position = len(held)
        passed = bytes(held[:position])
        del held[:position]
        return passed


def _repair_frame(data: bytearray, start: int, length: int) -> None:
    flags = data[start + 4]
    if not flags & _END_HEADERS:
        return
    position, end = start + _FRAME_HEADER, start + _FRAME_HEADER + length
    if flags & _PADDED:
        end -= data[position]
        position += 1
    if flags & _PRIORITY:
        position += 5
    try:
        _repair_block(data, position, end)
    except IndexError:
        # Not a header block: the engine will say so in its own way.
        return


def _repair_block(data: bytearray, position: int, end: int) -> None:
    while position < end:
        first = data[position]
        if first & 0x80:
            _, position = _integer(data, position, 7)
        elif first & 0xE0 == 0x20:
            _, position = _integer(data, position, 5)
        else:
            name, position = _integer(data, position, 6 if first & 0x40 else 4)
            if not name:
                position = _string_end(data, position)
            if name == _AUTHORITY_INDEX:
                _repair_string(data, position)
                return
            position = _string_end(data, position)


def _integer(data: bytearray, position: int, prefix: int) -> tuple[int, int]:
    """RFC 7541 §5.1: the number whose first byte has `prefix` bits of it, and where it ends."""
    limit = (1 << prefix) - 1
    value = data[position] & limit
    position += 1
    if value < limit:
        return value, position
    shift = 0
    while True:
        byte = data[position]
        position += 1
        value += (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            return value, position
        if shift > 28:
            raise IndexError


def _string_end(data: bytearray, position: int) -> int:
    length, position = _integer(data, position, 7)
    return position + length


def _repair_string(data: bytearray, position: int) -> None:
    huffman = data[position] & 0x80
    length, position = _integer(data, position, 7)
    value = bytes(data[position : position + length])
    if len(value) < length:
        raise IndexError
    repaired = _repair_huffman(value) if huffman else value.replace(b"/", b"-")
    data[position : position + length] = repaired


def _repair_huffman(value: bytes) -> bytes:
    bits = int.from_bytes(value, "big")
    total = left = 8 * len(value)
    dash_length, dash = _LENGTHS["-"]
    while left >= 5:
        for length in range(5, min(8, left) + 1):
            code = bits >> (left - length) & (1 << length) - 1
            symbol = _CODES.get((length, code))
            if symbol is not None:
                break
        else:
            # Padding, or a symbol that no URL has.
            break
        left -= length
        if symbol == "/":
            bits ^= (code ^ dash) << left
            assert length == dash_length, "a dash is as long as a slash"
    return bits.to_bytes(total // 8, "big")
