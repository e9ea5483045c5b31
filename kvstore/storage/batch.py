"""What is handed to a writer: tables, operations on them, and what is told about a commit.

Plain lists, dicts, bytes and numbers only, because batches cross a socket with marshal. Knows nothing of how they are
executed (transaction.py) or carried (frames.py).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

PLAIN: Final = 0
"""A table of keys and values."""

APPEND: Final = 1
"""A table whose keys mostly arrive in ascending order: its pages are filled completely."""

DUP: Final = 2
"""A table whose keys have sorted sets of values (DUPSORT)."""

MAX_DUP_VALUE: Final = 507
"""Bytes that a value of a DUP table may have; what LMDB allows, less a seal."""

OPEN: Final = 0
"""A table whose rows carry no seal (seal.py): the owner has checksums of its own."""

SEALED: Final = 1
"""A table whose rows are sealed; the owner sees nothing of it."""

ROOM: Final = 2
"""A table whose values end with four bytes that are the seal's: put as zeros, read as whatever. It spares the copy that
taking the seal off is."""

PUT: Final = 1
DELETE: Final = 2
DELETE_RANGE: Final = 3
DROP: Final = 4
DUP_CHANGE: Final = 5


@dataclass(frozen=True, slots=True)
class TableSpec:
    """A table of an environment. `kind`: PLAIN, APPEND or DUP. `seal`: OPEN, SEALED or ROOM.

    bare: keys whose rows have no seal, because builds that know none have to read them.
    """

    name: str
    kind: int = PLAIN
    seal: int = SEALED
    bare: tuple[bytes, ...] = ()

    def fields(self) -> tuple[str, int, int, tuple[bytes, ...]]:
        """The fields in order: TableSpec(*spec.fields()) is the same again."""
        return self.name, self.kind, self.seal, self.bare


Operation = tuple[int, str, Any]
Rows = Mapping[bytes, bytes | None] | Sequence[tuple[bytes, bytes | None]] | Sequence[tuple[bytes, bytes]]
DupChanges = Mapping[bytes, tuple[Sequence[bytes], Sequence[bytes]]]
ValueSets = Mapping[bytes, Collection[bytes]]


@dataclass(slots=True, init=False)
class WriteBatch:
    """Operations that become durable together or not at all, executed in the order they were added.

    What is given is not copied: it must not change until the batch is submitted (a process writer encodes it there)
    or, with an inline writer, done.
    """

    operations: list[Operation]

    def __init__(self, operations: list[Operation] | None = None) -> None:
        self.operations = operations if operations is not None else []

    def put(self, table: str, rows: Rows) -> None:
        """Store rows; None as value deletes the key. A key comes at most once, its rows in any order."""
        self.operations.append((PUT, table, rows))

    def delete(self, table: str, keys: Sequence[bytes]) -> None:
        """Delete keys, with all their values in a DUP table. Those that are not there are no error."""
        self.operations.append((DELETE, table, keys))

    def delete_range(self, table: str, start: bytes, end: bytes | None, limit: int = 0) -> None:
        """Delete the keys start <= key < end (None: no end), at most the first `limit` of them (0: all)."""
        self.operations.append((DELETE_RANGE, table, (start, end, limit)))

    def drop(self, table: str) -> None:
        """Delete every row of the table."""
        self.operations.append((DROP, table, None))

    def parts(self, rows: int) -> Iterator[list[Operation]]:
        """The operations in order, in lists of no more than `rows` rows each, which have the same effect together."""
        part: list[Operation] = []
        room = rows
        for operation in self.operations:
            for piece, count in _pieces(operation, rows):
                if count > room and part:
                    yield part
                    part, room = [], rows
                part.append(piece)
                room -= count
        yield part

    def change_dups(self, table: str, added: ValueSets, removed: ValueSets) -> None:
        """Change value sets of a DUP table: values to remove by key, then values to add by key."""
        self.operations.append((DUP_CHANGE, table, (added, removed)))


def _pieces(operation: Operation, rows: int) -> Iterator[tuple[Operation, int]]:
    """An operation as several of at most so many rows, with their numbers."""
    kind, table, payload = operation
    if kind == PUT and len(payload) > rows:
        items = iter(payload.items() if isinstance(payload, Mapping) else payload)
        while piece := list(islice(items, rows)):
            yield (PUT, table, piece), len(piece)
    elif kind == DUP_CHANGE and len(payload[0]) > rows:
        # What is removed goes first, and all of it: afterwards the order of what is added does not matter.
        added, removed = iter(payload[0].items()), payload[1]
        while changed := dict(islice(added, rows)):
            yield (DUP_CHANGE, table, (changed, removed)), len(changed)
            removed = {}
    else:
        count = len(payload) if kind == PUT else len(payload[0]) if kind == DUP_CHANGE else 1
        yield operation, count


@dataclass(slots=True, init=False)
class WriteStats:
    """One commit, for metrics.

    batches: how many were committed together. rows: rows written or deleted. seconds: the whole transaction;
    commit_seconds: the part that was the durable commit. file_bytes, free_bytes: used length of the data file and
    what of it holds nothing. map_bytes: size of the map.
    """

    batches: int
    rows: int
    seconds: float
    commit_seconds: float
    file_bytes: int
    free_bytes: int
    map_bytes: int

    def __init__(
        self,
        batches: int = 0,
        rows: int = 0,
        seconds: float = 0.0,
        commit_seconds: float = 0.0,
        file_bytes: int = 0,
        free_bytes: int = 0,
        map_bytes: int = 0,
    ) -> None:
        self.batches = batches
        self.rows = rows
        self.seconds = seconds
        self.commit_seconds = commit_seconds
        self.file_bytes = file_bytes
        self.free_bytes = free_bytes
        self.map_bytes = map_bytes

    def as_tuple(self) -> tuple[int, int, float, float, int, int, int]:
        """The fields in order: WriteStats(*stats.as_tuple()) is the same again."""
        return (
            self.batches,
            self.rows,
            self.seconds,
            self.commit_seconds,
            self.file_bytes,
            self.free_bytes,
            self.map_bytes,
        )
