"""What a record of a journal is on the disk, and how it can be told from one that is not there in full.

A last record that is not whole was either cut off with the power, and nobody was told that it is there, or it has been
damaged since, and is missed. Disks write sectors, of 512 bytes or more, whole or not at all; each sector of a record
therefore ends with its *stamp*. A stamp follows from the record's id and sequence and proves itself: its second half
is the checksum of the first. A sector that has the stamp of something else was never reached, so the record was cut
off. If there is none, all of it was written, and it is damaged. The sectors of a new journal have the stamp of nothing.

    checksum, of all that follows, stamps included
    length of the payload, sequence, id, and a checksum of these
    payload, zeros up to whole blocks
    all of that cut into pieces of 504 bytes, with the stamp behind each

Knows bytes and numbers; not the files they lie in.
"""

from __future__ import annotations

from struct import Struct
from typing import Final, NamedTuple
from zlib import crc32

BLOCK: Final = 4096
"""Records are whole blocks, of the page's size: overwriting whole pages, the kernel never has to read one first."""

_SECTOR: Final = 512
_STAMP_SIZE: Final = 8
# Of a sector, before its stamp. What copies a sector begins at its front: one that it leaves in half is not stamped.
_PIECE: Final = _SECTOR - _STAMP_SIZE
_NO_PIECE: Final = bytes(_PIECE)
_PIECES: Final = BLOCK // _SECTOR

_CHECKSUM: Final = Struct("<I")
_FIELDS: Final = Struct("<IQ8s")
_HEAD_SIZE: Final = 2 * _CHECKSUM.size + _FIELDS.size


class Found(NamedTuple):
    """A record that is whole. end: where the next one may begin."""

    payload: bytes
    sequence: int
    id: bytes
    end: int


def size_of(length: int) -> int:
    """Bytes on the disk of a record with a payload of so many."""
    return -(-(_HEAD_SIZE + length) // (_PIECES * _PIECE)) * BLOCK


def encode(identifier: bytes, sequence: int, payload: bytes) -> tuple[bytes, bytes]:
    """A record, to be written at the beginning of a block, in two parts. identifier: 8 bytes."""
    fields = _FIELDS.pack(len(payload), sequence, identifier)
    fields += _checksum(fields)
    first = _PIECE - _HEAD_SIZE
    pieces = [fields + payload[:first]]
    pieces += [payload[start : start + _PIECE] for start in range(first, len(payload), _PIECE)]
    pieces[-1] += bytes(-(_HEAD_SIZE + len(payload)) % _PIECE)
    pieces += [_NO_PIECE] * (-len(pieces) % _PIECES)
    # There is a stamp behind the last one, too.
    pieces.append(b"")
    rest = _stamp(identifier, sequence).join(pieces)
    return _CHECKSUM.pack(crc32(rest)), rest


def blank(size: int) -> bytes:
    """So many bytes of sectors that nothing was written into yet."""
    return (_NO_PIECE + _self_proving(0)) * (size // _SECTOR)


def decode(data: bytes, offset: int) -> Found | None:
    """The record at an offset of a journal; None if there is none that is whole."""
    fields = _fields(data, offset)
    if fields is None:
        return None
    length, sequence, identifier = fields
    end = offset + size_of(length)
    if end > len(data) or _CHECKSUM.unpack_from(data, offset)[0] != crc32(data[offset + _CHECKSUM.size : end]):
        return None
    content = b"".join([data[start : start + _PIECE] for start in range(offset, end, _SECTOR)])
    return Found(content[_HEAD_SIZE : _HEAD_SIZE + length], sequence, identifier, end)


def decode_unstamped(data: bytes, offset: int) -> Found | None:
    """As decode(), for what builds have written that knew no stamps."""
    start = offset + _CHECKSUM.size + _FIELDS.size
    if start > len(data):
        return None
    length, sequence, identifier = _FIELDS.unpack_from(data, offset + _CHECKSUM.size)
    end = start + length
    payload = data[start:end]
    if len(payload) < length:
        return None
    if _CHECKSUM.unpack_from(data, offset)[0] != crc32(payload, crc32(data[offset + _CHECKSUM.size : start])):
        return None
    return Found(payload, sequence, identifier, end + -end % BLOCK)


def is_unwritten(data: bytes, offset: int, identifier: bytes, sequence: int) -> bool:
    """Whether it shows that a record, which is not whole, was never written at this offset, or not to its end.

    If it does not show, the record was written there, as far as can be told, and has been damaged.
    """
    expected = _stamp(identifier, sequence)
    fields = _fields(data, offset)
    if fields is not None and fields[1:] == (sequence, identifier):
        end = min(offset + size_of(fields[0]), len(data))
    else:
        # It was never begun, or how many sectors it has is not known.
        end = offset + _SECTOR
    for after in range(offset + _SECTOR, end + 1, _SECTOR):
        stamp = data[after - _STAMP_SIZE : after]
        if stamp != expected and _is_stamp(stamp):
            return True
    return False


def _stamp(identifier: bytes, sequence: int) -> bytes:
    """A record's stamp. Those of different sequences below 2**32 are different."""
    return _self_proving(crc32(_FIELDS.pack(0, sequence, identifier)))


def _self_proving(number: int) -> bytes:
    half = _CHECKSUM.pack(number)
    return half + _checksum(half)


def _checksum(data: bytes) -> bytes:
    """What proves a part of a record, which has it behind it.

    Not the plain CRC: bytes followed by theirs are alike to a CRC of everything, whatever the bytes.
    """
    return _CHECKSUM.pack(crc32(data + data))


def _is_stamp(stamp: bytes) -> bool:
    """Whether it is the stamp of any record, or of nothing. A few flipped bits do not make one of another."""
    return stamp == _self_proving(_CHECKSUM.unpack_from(stamp)[0])


def _fields(data: bytes, offset: int) -> tuple[int, int, bytes] | None:
    """Length, sequence and id of the record at an offset; None if there is none, or they are damaged."""
    start = offset + _CHECKSUM.size
    end = start + _FIELDS.size
    if offset + _SECTOR > len(data) or data[end : end + _CHECKSUM.size] != _checksum(data[start:end]):
        return None
    length, sequence, identifier = _FIELDS.unpack_from(data, start)
    return length, sequence, identifier
