"""How a version of a key is laid out in rows, and how parts of responses are put on the wire.

A *framed* KeyValue is what field 2 of a RangeResponse and of an Event holds, byte for byte: `0x12 length KeyValue`.
Rows carry it so that answers and events are joined from stored bytes. Knows bytes only: no tables, and no protobuf
library, because the writer process imports this too and should start fast.
"""

import struct
from collections.abc import Iterable
from typing import Final, NamedTuple

from kvstore.storage.seal import SEAL_SIZE
from kvstore.wire import CONTINUED, SHORT, read_varint, varint

PUT = 0
"""Kind byte of a history row: a version that replaced another."""
DELETE = 1
"""Kind byte of a history row: a deletion; its KeyValue holds key and revision only."""
CREATE = 2
"""Kind byte of a history row: the first version of a life of a key."""

TRAILER = struct.Struct(">qqqqIIB4x")
"""End of a `current` row: create revision, mod revision, version, lease, sub revision, where the value field begins,
where the KeyValue begins, and room for the seal that storage puts on it. Both places count from the row's start."""
TRAILER_SIZE = TRAILER.size

MOD_AT: Final = -37
"""Where the mod revision begins in a `current` row: eight bytes, big-endian, so that they compare as the numbers do. It
and those behind it end where the next begins."""
VERSION_AT: Final = -29
LEASE_AT: Final = -21
SUB_AT: Final = -13
OFFSETS_AT: Final = -9

_pack_trailer = TRAILER.pack

# The trailer from the lease on.
_TAIL = struct.Struct(">qIIB4x")
_TAIL_SIZE = _TAIL.size
_unpack_tail = _TAIL.unpack_from
_SEAL_AT: Final = -SEAL_SIZE

REVISION = struct.Struct(">QI")
"""Main and sub revision: key of a history row, and a version in `past`."""
REVISION_SIZE = REVISION.size

MAX_SUB = 0xFFFFFFFF


# Tag and length of a framed KeyValue, by its length.
_FRAMES = tuple(b"\x12" + size for size in SHORT)


class Version(NamedTuple):
    """What the trailer of a `current` row says."""

    create_revision: int
    mod_revision: int
    version: int
    lease: int
    sub: int
    value_at: int
    body_at: int


def encode_version(
    key: bytes, value: bytes, create: int, revision: int, version: int, lease: int, sub: int
) -> tuple[bytes, bytes]:
    """Build the framed KeyValue of a version and its `current` row. About 1 us: this is what a put spends most on."""
    mod_field = (
        CONTINUED[revision & 0x3FFF] + SHORT[revision >> 14] if 0x4000 <= revision < 1 << 28 else varint(revision)
    )
    head = b"".join(
        (
            b"\n",
            SHORT[len(key)] if len(key) < 0x4000 else varint(len(key)),
            key,
            b"\x10",
            mod_field if create == revision else varint(create),
            b"\x18",
            mod_field,
            b" ",
            SHORT[version] if version < 0x4000 else varint(version),
        )
    )
    size = len(head)
    if value:
        head = b"".join((head, b"*", SHORT[len(value)] if len(value) < 0x4000 else varint(len(value)), value))
    if lease:
        head += b"0" + varint(lease)
    frame = b"\x12" + (SHORT[len(head)] if len(head) < 0x4000 else varint(len(head)))
    framed = frame + head
    body_at = len(frame)
    return framed, framed + _pack_trailer(create, revision, version, lease, sub, body_at + size, body_at)


def encode_deletions(keys: list[bytes], revision: int) -> list[bytes]:
    """The history rows of deletions: kind byte and framed KeyValue, with key and revision only.

    A seventh of a microsecond each: of keys of one length all rows begin alike.
    """
    tail = b"\x18" + varint(revision)
    heads: dict[int, bytes] = {}
    for size in set(map(len, keys)):
        head = b"\n" + varint(size)
        heads[size] = b"\x01\x12" + varint(len(head) + size + len(tail)) + head
    return [heads[len(key)] + key + tail for key in keys]


def version_of(row: bytes) -> Version:
    """The trailer of a `current` row."""
    return Version._make(TRAILER.unpack_from(row, len(row) - TRAILER_SIZE))


def value_of(row: bytes) -> bytes:
    """The value that a `current` row holds."""
    at: int
    *_, at, _ = TRAILER.unpack_from(row, len(row) - TRAILER_SIZE)
    if at == len(row) - TRAILER_SIZE or row[at] != 0x2A:
        return b""
    size, start = read_varint(row, at + 1)
    return row[start : start + size]


def without_value(row: bytes) -> bytes:
    """The framed KeyValue of a `current` row as `keys_only` answers it."""
    lease: int
    value_at: int
    body_at: int
    _, _, _, lease, _, value_at, body_at = TRAILER.unpack_from(row, len(row) - TRAILER_SIZE)
    body = row[body_at:value_at]
    if lease:
        body += b"0" + varint(lease)
    return b"\x12" + varint(len(body)) + body


def without_values(rows: Iterable[tuple[bytes, bytes]]) -> bytes:
    """What without_value() makes of many rows, (key, row) each, joined: a tenth of a microsecond a row.

    Neighbours have keys and revisions of the same lengths, as a rule: what is cut out of one is cut out of the next.
    """
    parts: list[bytes] = []
    add = parts.append
    tail, frame, begin, end = b"", b"", 0, 0
    for _, row in rows:
        if row[LEASE_AT:_SEAL_AT] != tail:
            lease, _, value_at, body_at = _unpack_tail(row, len(row) - _TAIL_SIZE)
            size = value_at - body_at
            if lease or size >= 0x4000:
                add(without_value(row))
                continue
            tail, frame, begin, end = row[LEASE_AT:_SEAL_AT], _FRAMES[size], body_at, value_at
        add(frame)
        add(row[begin:end])
    return b"".join(parts)


def key_of_history(row: bytes) -> bytes:
    """The key that a history row (kind byte, framed KeyValue) is about."""
    at = 3
    while row[at - 1] > 0x7F:
        at += 1
    size = row[at + 1]
    at += 2
    if size > 0x7F:
        size, at = read_varint(row, at - 1)
    return row[at : at + size]


def current_row_of_history(row: bytes, sub: int) -> bytes:
    """Rebuild the `current` row of a version from its history row. About 2 us."""
    _, body_at = read_varint(row, 2)
    size, key_at = read_varint(row, body_at + 1)
    create, at = read_varint(row, key_at + size + 1)
    revision, at = read_varint(row, at + 1)
    version, value_at = read_varint(row, at + 1)
    lease = 0
    at = value_at
    if at < len(row) and row[at] == 0x2A:
        size, at = read_varint(row, at + 1)
        at += size
    if at < len(row):
        lease, _ = read_varint(row, at + 1)
        lease = lease - (1 << 64) if lease >> 63 else lease
    # Offsets in a row of `current` do not count the kind byte.
    return row[1:] + TRAILER.pack(create, revision, version, lease, sub, value_at - 1, body_at - 1)
