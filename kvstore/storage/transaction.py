"""Reading and changing tables within one LMDB transaction, whatever the length of the keys.

Used by whoever holds the transaction: the writer for batches, jobs inside the writer, readers in helper processes.
Knows tables and rows; when a transaction begins and commits is the environment's business (engine.py).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final
from zlib import crc32

import lmdb

from kvstore.storage.batch import (
    APPEND,
    DELETE,
    DELETE_RANGE,
    DROP,
    DUP,
    DUP_CHANGE,
    OPEN,
    PUT,
    SEALED,
    DupChanges,
    Operation,
    Rows,
    ValueSets,
)
from kvstore.storage.errors import StorageError
from kvstore.storage.longkey import CHUNK, locate, prune, reach, walk, walk_back
from kvstore.storage.seal import SEAL_SIZE, Seal, pack_seal

_STEP: Final = 512

Row = tuple[bytes, bytes]


@dataclass(frozen=True, slots=True)
class TableHandle:
    """An opened table: its kind, LMDB's handle, the handle of the table of its layers, and how its rows are sealed."""

    kind: int
    main: Any
    layers: Any
    seal: Seal


Handles = Mapping[str, TableHandle]


class ReadTransaction:
    """What can be read. Rows come with whole keys. `raw` is LMDB's transaction, for what needs to be faster.

    Every row that is read is checked; CorruptStore is raised for one that is not what was written. Iterators end with
    the transaction and, in a write transaction, must not be used across changes to their table.
    """

    def __init__(self, raw: lmdb.Transaction[bytes], handles: Handles) -> None:
        """Work within `raw`, which the caller ends."""
        self.raw = raw
        self._handles = handles

    def handle(self, table: str) -> TableHandle:
        """The LMDB handles of a table. Raises StorageError for a table that the environment was not opened with."""
        try:
            return self._handles[table]
        except KeyError:
            raise StorageError(f"there is no table {table!r}") from None

    def has_long_keys(self, table: str) -> bool:
        """Whether any key of the table is longer than CHUNK. If not, the main table holds plain rows only."""
        return bool(self.raw.stat(self.handle(table).layers)["entries"])

    def count(self, table: str) -> int:
        """Rows of the table, with every value of a DUP table counted; some more if it has long keys."""
        handle = self.handle(table)
        return int(self.raw.stat(handle.main)["entries"]) + int(self.raw.stat(handle.layers)["entries"])

    def check_complete(self) -> None:
        """See that a walk over each table comes by as many rows as it is said to have, in order: some 0.15 us a row.

        Seals find rows that are not what was written; this finds those that a damaged page keeps from being read.
        Raises CorruptStore.
        """
        for handle in self._handles.values():
            for place in (handle.main, handle.layers):
                found = 0
                last = b""
                in_order = True
                with self.raw.cursor(place) as cursor:
                    for key in cursor.iternext(keys=True, values=False):
                        found += 1
                        # A key with several values comes several times.
                        if key <= last and (handle.kind != DUP or key < last):
                            in_order = False
                        last = key
                said = int(self.raw.stat(place)["entries"])
                if found != said or not in_order:
                    what = f"{found} rows are there, not {said}" if found != said else "rows are out of order"
                    raise handle.seal.damaged(f"the way to some rows ({what})")

    def get(self, table: str, key: bytes) -> bytes | None:
        """The value of a key; of a DUP table the lowest one."""
        handle = self.handle(table)
        place = self._locate(handle, key)
        stored = None if place is None else self.raw.get(place[1], None, place[0])
        return None if stored is None else handle.seal.take_off(key, stored)

    def items(self, table: str, start: bytes = b"", end: bytes | None = None) -> Iterator[Row]:
        """Rows start <= key < end, ascending; of a DUP table each key with its lowest value."""
        handle = self.handle(table)
        take_off = handle.seal.take_off
        for key, cursor in walk(self.raw, handle.main, handle.layers, start):
            if end is not None and key >= end:
                return
            yield key, take_off(key, cursor.value())

    def items_back(self, table: str, start: bytes = b"", end: bytes | None = None) -> Iterator[Row]:
        """Rows start <= key < end, descending; of a DUP table each key with its highest value."""
        handle = self.handle(table)
        take_off = handle.seal.take_off
        for key, cursor in walk_back(self.raw, handle.main, handle.layers, end):
            if key < start:
                return
            yield key, take_off(key, cursor.value())

    def values(self, table: str, key: bytes) -> list[bytes]:
        """The values of a key of a DUP table, ascending."""
        handle = self.handle(table)
        place = self._locate(handle, key)
        if place is None:
            return []
        with self.raw.cursor(place[0]) as cursor:
            stored = list(cursor.iternext_dup()) if cursor.set_key(place[1]) else []
        return [handle.seal.take_off(key, value) for value in stored]

    def dup_items(
        self, table: str, start: bytes = b"", end: bytes | None = None
    ) -> Iterator[tuple[bytes, list[bytes]]]:
        """Keys start <= key < end of a DUP table, ascending, each with its values, ascending."""
        handle = self.handle(table)
        take_off = handle.seal.take_off
        for key, cursor in walk(self.raw, handle.main, handle.layers, start):
            if end is not None and key >= end:
                return
            yield key, [take_off(key, value) for value in cursor.iternext_dup()]

    def _locate(self, handle: TableHandle, key: bytes) -> tuple[Any, bytes] | None:
        if len(key) <= CHUNK:
            return handle.main, key
        return locate(self.raw, handle.main, handle.layers, key)


class WriteTransaction(ReadTransaction):
    """What can be changed, too. `rows` counts the rows written or deleted."""

    def __init__(self, raw: lmdb.Transaction[bytes], handles: Handles) -> None:
        """Work within the write transaction `raw`, which the caller commits."""
        super().__init__(raw, handles)
        self.rows = 0

    def execute(self, operations: Sequence[Operation]) -> None:
        """Carry out the operations of a batch in order."""
        for code, table, payload in operations:
            if code == PUT:
                self.put_rows(table, payload)
            elif code == DUP_CHANGE:
                self.add_and_remove(table, *payload)
            elif code == DELETE:
                self.delete(table, payload)
            elif code == DELETE_RANGE:
                self.delete_range(table, *payload)
            elif code == DROP:
                self.drop(table)
            else:
                raise StorageError(f"there is no operation {code!r}")

    def put_rows(self, table: str, rows: Rows) -> None:
        """Store rows with distinct keys in any order; None as value deletes."""
        handle = self.handle(table)
        seal = handle.seal
        kind, seed, bare = seal.kind, seal.seed, seal.bare
        puts: list[Row] = []
        deletes = []
        long = []
        # Distinct keys: the values are never compared. In order, neighbours share the pages they change.
        for row in sorted(rows.items() if isinstance(rows, Mapping) else rows):
            key, value = row
            if len(key) > CHUNK:
                long.append(row)
            elif value is None:
                deletes.append(key)
            elif kind == OPEN or key in bare:
                puts.append((key, value))
            else:
                # What Seal.put_on does, less the call.
                if kind != SEALED:
                    value = value[:-SEAL_SIZE]
                puts.append((key, value + pack_seal(crc32(value, crc32(key, seed)))))
        for key in deletes:
            self.raw.delete(key, db=handle.main)
        if puts:
            self._put_plain(handle, puts)
        for key, value in long:
            if value is None:
                self._delete_long(handle, key)
            else:
                place, row_key = reach(self.raw, handle.main, handle.layers, key)
                self.raw.put(row_key, seal.put_on(key, value), db=place)
        self.rows += len(rows)

    def delete(self, table: str, keys: Sequence[bytes]) -> None:
        """Delete keys, of a DUP table with all their values."""
        handle = self.handle(table)
        for key in sorted(keys):
            if len(key) > CHUNK:
                self._delete_long(handle, key)
            else:
                self.raw.delete(key, db=handle.main)
        self.rows += len(keys)

    def delete_range(self, table: str, start: bytes, end: bytes | None, limit: int = 0) -> int:
        """Delete the keys start <= key < end, the first `limit` of them if it is not 0. Returns how many."""
        handle = self.handle(table)
        if self.has_long_keys(table):
            count = self._delete_range_layered(handle, start, end, limit)
        else:
            count = 0
            with self.raw.cursor(handle.main) as cursor:
                found = cursor.set_range(start)
                while found and (end is None or cursor.key() < end) and not (limit and count >= limit):
                    # Leaves the cursor on the next row.
                    found = cursor.delete(dupdata=True) and bool(cursor.key())
                    count += 1
        self.rows += count
        return count

    def drop(self, table: str) -> None:
        """Delete every row of the table."""
        handle = self.handle(table)
        self.raw.drop(handle.main, delete=False)
        self.raw.drop(handle.layers, delete=False)

    def change_dups(self, table: str, changes: DupChanges) -> None:
        """Add and remove values of a DUP table: key -> (add, remove)."""
        added = {key: add for key, (add, _) in changes.items()}
        self.add_and_remove(table, added, {key: remove for key, (_, remove) in changes.items()})

    def add_and_remove(self, table: str, added: ValueSets, removed: ValueSets) -> None:
        """Remove values of a DUP table by key, then add values by key."""
        handle = self.handle(table)
        put_on = handle.seal.put_on
        for key, values in sorted(removed.items()):
            self.rows += len(values)
            place = self._locate(handle, key)
            if place is not None:
                for value in values:
                    self.raw.delete(place[1], put_on(key, value), db=place[0])
                if len(key) > CHUNK:
                    prune(self.raw, handle.main, handle.layers, key)
        pairs: list[Row] = []
        for key, values in sorted(added.items()):
            self.rows += len(values)
            if len(key) <= CHUNK:
                pairs += [(key, put_on(key, value)) for value in values]
            elif values:
                place = reach(self.raw, handle.main, handle.layers, key)
                for value in values:
                    self.raw.put(place[1], put_on(key, value), db=place[0])
        if pairs:
            with self.raw.cursor(handle.main) as cursor:
                cursor.putmulti(pairs)

    def _put_plain(self, handle: TableHandle, rows: list[Row]) -> None:
        with self.raw.cursor(handle.main) as cursor:
            if handle.kind == APPEND:
                # Rows behind the last one fill their pages; others would leave them half empty when these split.
                tail = bisect_right(rows, cursor.key(), key=_key) if cursor.last() else 0
                if tail:
                    cursor.putmulti(rows[:tail])
                if tail < len(rows):
                    cursor.putmulti(rows[tail:] if tail else rows, append=True)
            else:
                cursor.putmulti(rows)

    def _delete_long(self, handle: TableHandle, key: bytes) -> None:
        place = locate(self.raw, handle.main, handle.layers, key)
        if place is not None and self.raw.delete(place[1], db=place[0]):
            prune(self.raw, handle.main, handle.layers, key)

    def _delete_range_layered(self, handle: TableHandle, start: bytes, end: bytes | None, limit: int) -> int:
        count = 0
        while not limit or count < limit:
            step = min(_STEP, limit - count) if limit else _STEP
            found = [key for key, _ in islice(walk(self.raw, handle.main, handle.layers, start), step)]
            keys = [key for key in found if end is None or key < end]
            for key in keys:
                if len(key) > CHUNK:
                    self._delete_long(handle, key)
                else:
                    self.raw.delete(key, db=handle.main)
            count += len(keys)
            if len(keys) < step:
                break
        return count


def _key(row: Row) -> bytes:
    return row[0]
