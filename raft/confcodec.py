"""The bytes of a configuration change in a log entry: the protobuf encoding of raftpb, written by hand.

Reads what any raftpb implementation writes, unknown fields included. Writes every number, zero or not, as the
first implementations did. Knows nothing of what a change means.
"""

from __future__ import annotations

from raft.errors import CodecError
from raft.messages import (
    ConfChange,
    ConfChangeSingle,
    ConfChangeTransition,
    ConfChangeType,
    ConfChangeV2,
    Entry,
    EntryType,
)

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MAX_VARINT_BYTES = 10
_MAX_FIELD = (1 << 29) - 1

_Field = tuple[int, int | bytes]


def encode_conf_change(change: ConfChange | ConfChangeV2) -> tuple[EntryType, bytes]:
    """The entry type and payload for `change`."""
    if isinstance(change, ConfChange):
        numbers = ((1, change.id), (2, change.type), (3, change.node_id))
        return EntryType.CONF_CHANGE, b"".join(_number(*pair) for pair in numbers) + _context(4, change.context)
    singles = [_number(1, single.type) + _number(2, single.node_id) for single in change.changes]
    encoded = _number(1, change.transition) + b"".join(_chunk(2, single) for single in singles)
    return EntryType.CONF_CHANGE_V2, encoded + _context(3, change.context)


def decode_entry(entry: Entry) -> ConfChange | ConfChangeV2:
    """The change an entry of type CONF_CHANGE or CONF_CHANGE_V2 holds. Raises CodecError."""
    if entry.type == EntryType.CONF_CHANGE:
        return decode_conf_change(entry.data)
    if entry.type == EntryType.CONF_CHANGE_V2:
        return decode_conf_change_v2(entry.data)
    raise CodecError(f"entry {entry.index} is not a configuration change")


def decode_conf_change(data: bytes) -> ConfChange:
    """The ConfChange in `data`; empty data is a zero change. Raises CodecError."""
    change = ConfChange()
    for number, value in _fields(data):
        if number == 1:
            change.id = _as_number(value)
        elif number == 2:
            change.type = _as_change_type(value)
        elif number == 3:
            change.node_id = _as_number(value)
        elif number == 4:
            change.context = _as_bytes(value)
    return change


def decode_conf_change_v2(data: bytes) -> ConfChangeV2:
    """The ConfChangeV2 in `data`; empty data is one that leaves a joint configuration. Raises CodecError."""
    transition, context = ConfChangeTransition.AUTO, b""
    changes: list[ConfChangeSingle] = []
    for number, value in _fields(data):
        if number == 1:
            try:
                transition = ConfChangeTransition(_as_number(value))
            except ValueError as error:
                raise CodecError(f"unknown transition {value!r}") from error
        elif number == 2:
            changes.append(_decode_single(_as_bytes(value)))
        elif number == 3:
            context = _as_bytes(value)
    return ConfChangeV2(transition, tuple(changes), context)


def _decode_single(data: bytes) -> ConfChangeSingle:
    single = ConfChangeSingle()
    for number, value in _fields(data):
        if number == 1:
            single.type = _as_change_type(value)
        elif number == 2:
            single.node_id = _as_number(value)
    return single


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3 | _VARINT) + _varint(value)


def _chunk(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | _BYTES) + _varint(len(value)) + value


def _context(field: int, value: bytes) -> bytes:
    return _chunk(field, value) if value else b""


def _fields(data: bytes) -> list[_Field]:
    """Every field of one message: its number, and its value as a number or as bytes."""
    fields: list[_Field] = []
    position = 0
    while position < len(data):
        tag, position = _read_varint(data, position)
        number, wire = tag >> 3, tag & 7
        if not 0 < number <= _MAX_FIELD:
            raise CodecError(f"field number {number}")
        if wire == _VARINT:
            value, position = _read_varint(data, position)
            fields.append((number, value))
            continue
        if wire == _BYTES:
            size, position = _read_varint(data, position)
        elif wire in (_FIXED64, _FIXED32):
            size = 8 if wire == _FIXED64 else 4
        else:
            raise CodecError(f"wire type {wire} of field {number}")
        if size > len(data) - position:
            raise CodecError(f"field {number} ends after the data")
        fields.append((number, data[position : position + size]))
        position += size
    return fields


def _read_varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    for at in range(position, min(position + _MAX_VARINT_BYTES, len(data))):
        byte = data[at]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >> 64:
                raise CodecError("number above 64 bits")
            return value, at + 1
        shift += 7
    raise CodecError("number without an end")


def _as_number(value: int | bytes) -> int:
    if isinstance(value, int):
        return value
    raise CodecError("bytes where a number is expected")


def _as_bytes(value: int | bytes) -> bytes:
    if isinstance(value, bytes):
        return value
    raise CodecError("a number where bytes are expected")


def _as_change_type(value: int | bytes) -> ConfChangeType:
    try:
        return ConfChangeType(_as_number(value))
    except ValueError as error:
        raise CodecError(f"unknown change type {value!r}") from error
