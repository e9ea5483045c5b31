"""Tables as a member's loop sees them: what is committed, read from the environment, under an overlay of what is not.

A table has two generations of changes: `active`, to which every change goes, and `frozen`, which is on its way to the
disk. Backend (backend.py) freezes and drops them and moves the tables to newer read transactions. Nothing here waits
for a disk except where a page that is read is not in memory.

What comes from the environment is checked against its seals; CorruptStore is raised for a row that is not what was
written. Iterators and everything else that was read belongs to the current turn of the loop: the next flush ends it.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterator
from itertools import chain, islice
from typing import Any, Final
from zlib import crc32

import lmdb

from kvstore.storage.batch import DUP, OPEN, SEALED, TableSpec, WriteBatch
from kvstore.storage.errors import CorruptStore, StorageError
from kvstore.storage.longkey import CHUNK, locate, walk, walk_back
from kvstore.storage.overlay import Changes, Remains, Row, SortedKeys, Span, merge, merge_back
from kvstore.storage.seal import INTACT, SEAL_SIZE, Seal, pack_seal, shown
from kvstore.storage.transaction import TableHandle

_FIRST_PIECE: Final = 8
_LAST_PIECE: Final = 1024

# Rows of up to so many bytes are checked together, in lists of about so many. With more than 5,120 bytes crc32() would
# let go of the interpreter lock, and of a few kilobytes it finds any three bits that have flipped.
_SMALL: Final = 1024
_TOGETHER: Final = 3072

# The polynomial of CRC-32, its lowest bit the highest power.
_POLYNOMIAL: Final = 0xEDB88320
_ONES: Final = 0xFFFF_FFFF

_MISSING: Final = object()
_NO_CHANGES: Final[dict[bytes, Any]] = {}


class _Rows:
    """What both kinds of tables have: the committed rows, in pieces."""

    __slots__ = (
        "_bridge",
        "_get",
        "_layered",
        "_layers",
        "_main",
        "_report",
        "_seal",
        "_sealed",
        "_seed",
        "_txn",
        "spec",
    )

    _txn: lmdb.Transaction[bytes]
    _main: Any
    _layers: Any
    _get: Any
    _layered: bool
    _seal: Seal

    def __init__(self, spec: TableSpec, report: Callable[[CorruptStore], None]) -> None:
        """A table that is of no use before the first rebase(). report: told of every damage, before it is raised.

        Raises StorageError if its rows have no seals.
        """
        if spec.seal == OPEN:
            raise StorageError(f"the rows of table {spec.name} cannot be checked")
        self.spec = spec
        self._report = report
        self._sealed = spec.seal == SEALED
        self._seed = 0
        self._bridge = _bridge(0)

    def rebase(self, txn: lmdb.Transaction[bytes], handle: TableHandle) -> None:
        """Read from `txn` from now on."""
        self._txn = txn
        self._get = txn.get
        self._main = handle.main
        self._layers = handle.layers
        self._seal = handle.seal
        if handle.seal.seed != self._seed:
            self._seed = handle.seal.seed
            self._bridge = _bridge(self._seed)
        self._layered = bool(txn.stat(handle.layers)["entries"])

    def _committed(self, start: bytes, end: bytes | None, size: int = _FIRST_PIECE) -> Iterator[list[Row]]:
        """Committed rows start <= key < end in ascending lists; of a DUP table each key once, with its lowest value.

        size: how many rows are likely wanted.
        """
        try:
            yield from self._read(start, end, size)
        except lmdb.Error as error:
            raise self.damaged(f"what follows {shown(start)}") from error

    def _read(self, start: bytes, end: bytes | None, size: int) -> Iterator[list[Row]]:
        rows: Iterator[Row]
        if self._layered:
            rows = _read(walk(self._txn, self._main, self._layers, start))
        else:
            cursor = self._txn.cursor(self._main)
            if not cursor.set_range(start[: CHUNK + 1]):
                return
            step_on = cursor.iternext_nodup if self.spec.kind == DUP else cursor.iternext
            rows = step_on(keys=True, values=True)
        step = min(size, _FIRST_PIECE)
        while piece := list(islice(rows, step)):
            if end is not None and piece[-1][0] >= end:
                if stop := bisect_left(piece, (end,)):
                    yield self._checked(piece[:stop])
                return
            yield self._checked(piece)
            size -= step
            step = _next_step(step, size)

    def _committed_back(self, start: bytes, end: bytes | None, size: int = _FIRST_PIECE) -> Iterator[list[Row]]:
        """As _committed(), descending; of a DUP table with the highest value."""
        try:
            yield from self._read_back(start, end, size)
        except lmdb.Error as error:
            raise self.damaged(f"what follows {shown(start)}") from error

    def _read_back(self, start: bytes, end: bytes | None, size: int) -> Iterator[list[Row]]:
        rows: Iterator[Row]
        if self._layered:
            rows = _read(walk_back(self._txn, self._main, self._layers, end))
        else:
            cursor = self._txn.cursor(self._main)
            beyond = end is not None and cursor.set_range(end[: CHUNK + 1])
            found = cursor.prev_nodup() if beyond else cursor.last()
            rows = cursor.iterprev_nodup(keys=True, values=True) if found else iter(())
        step = min(size, _FIRST_PIECE)
        while piece := list(islice(rows, step)):
            if piece[-1][0] < start:
                if stop := len(piece) - bisect_left(piece[::-1], (start,)):
                    yield self._checked(piece[:stop])
                return
            yield self._checked(piece)
            size -= step
            step = _next_step(step, size)

    def _checked(self, piece: list[Row]) -> list[Row]:
        """The rows as their owner put them; some 0.1 us each."""
        if not self._intact(piece):
            take_off = self._take_off
            return [(key, take_off(key, stored)) for key, stored in piece]
        return [(key, stored[:-SEAL_SIZE]) for key, stored in piece] if self._sealed else piece

    def _intact(self, piece: list[Row]) -> bool:
        """Whether all the rows are what was written, and none has no seal.

        The CRC of a list of small rows is taken at once, with a bridge behind each: two calls a row would cost more
        than their bytes do.
        """
        seed, bridge = self._seed, self._bridge
        parts: list[bytes] = []
        together = 0
        for key, stored in piece:
            size = len(key) + len(stored) + len(bridge)
            if size > _SMALL:
                if crc32(stored, crc32(key, seed)) != INTACT:
                    return False
                continue
            parts.append(key)
            parts.append(stored)
            parts.append(bridge)
            together += size
            if together > _TOGETHER:
                if crc32(b"".join(parts), seed) != seed:
                    return False
                parts.clear()
                together = 0
        return not parts or crc32(b"".join(parts), seed) == seed

    def _take_off(self, key: bytes, stored: bytes) -> bytes:
        """As Seal.take_off, with a report of what is damaged."""
        try:
            return self._seal.take_off(key, stored)
        except CorruptStore as error:
            self._report(error)
            raise

    def _check_neighbours(self, key: bytes) -> None:
        """Raise CorruptStore if a lookup of a key among the committed rows may have gone astray.

        One that does at a damaged key ends beside it. So the neighbours are looked at: whether they are what was
        written, and on their sides of the key.
        """
        if len(key) > CHUNK:
            return
        try:
            with self._txn.cursor(self._main) as cursor:
                beyond = cursor.set_range(key)
                found = self._checked_key(cursor) if beyond else None
                if found is not None and (found < key or (found == key and self.spec.kind != DUP)):
                    raise self.damaged(f"the way to {shown(key)}")
                if (cursor.prev() if beyond else cursor.last()) and self._checked_key(cursor) >= key:
                    raise self.damaged(f"the way to {shown(key)}")
        except lmdb.Error as error:
            raise self.damaged(f"the way to {shown(key)}") from error

    def _checked_key(self, cursor: lmdb.Cursor[bytes]) -> bytes:
        key, stored = cursor.item()
        # The way to longer keys has no seal.
        if len(key) <= CHUNK:
            self._take_off(key, stored)
        return key

    def damaged(self, what: str) -> CorruptStore:
        """What to raise about something in the table that is not as it was written; it is reported."""
        error = self._seal.damaged(what)
        self._report(error)
        return error


class Table(_Rows):
    """An ordered map from keys, not empty and of any length, to values.

    `active` is the newest generation of changes: `table.active[key] = value` is what put() does and
    `table.active[key] = None` what delete() does, for hot paths that cannot afford the call. It is another dict after
    each flush, so look it up each time or once a turn. Never remove a key from it.
    """

    __slots__ = ("_active_keys", "_frozen_keys", "active", "frozen")

    def __init__(self, spec: TableSpec, report: Callable[[CorruptStore], None]) -> None:
        """See Backend.table()."""
        super().__init__(spec, report)
        self.active: dict[bytes, bytes | None] = {}
        self.frozen: dict[bytes, bytes | None] = _NO_CHANGES
        self._active_keys = SortedKeys(self.active)
        self._frozen_keys = SortedKeys(self.frozen)

    def get(self, key: bytes) -> bytes | None:
        """The value of a key, None if there is none. A dict lookup or two, and one in LMDB."""
        value = self.active.get(key, _MISSING)
        if value is not _MISSING:
            return value  # type: ignore[return-value]
        if self.frozen:
            value = self.frozen.get(key, _MISSING)
            if value is not _MISSING:
                return value  # type: ignore[return-value]
        try:
            if len(key) <= CHUNK:
                stored: bytes | None = self._get(key, None, self._main)
            else:
                place = locate(self._txn, self._main, self._layers, key)
                stored = None if place is None else self._get(place[1], None, place[0])
        except lmdb.Error as error:
            raise self.damaged(f"the way to {shown(key)}") from error
        if stored is None:
            return None
        if crc32(stored, crc32(key, self._seed)) != INTACT:
            return self._take_off(key, stored)
        return stored[:-SEAL_SIZE] if self._sealed else stored

    def check_absent(self, key: bytes) -> None:
        """See that a key that get() has not found is not there: some 1.5 us. Raises CorruptStore."""
        if key not in self.active and key not in self.frozen:
            self._check_neighbours(key)

    def rows(self, keys: list[bytes]) -> list[Row]:
        """Those of some different keys that there are, in the order given, with values; faster than as many get()."""
        found: dict[bytes, bytes | None] = dict.fromkeys(keys)
        active, frozen = self.active, self.frozen
        with self._txn.cursor(self._main) as cursor:
            unchanged = [key for key in keys if key not in active and key not in frozen and len(key) <= CHUNK]
            found.update(self._checked(cursor.getmulti(unchanged)))
        for key in keys:
            if found[key] is None:
                found[key] = self.get(key)
        return [(key, value) for key, value in found.items() if value is not None]

    def put(self, key: bytes, value: bytes) -> None:
        """Store a value."""
        self.active[key] = value

    def delete(self, key: bytes) -> None:
        """Delete a key; it need not be there."""
        self.active[key] = None

    def scan(self, start: bytes, end: bytes | None, reverse: bool = False) -> Iterator[Row]:
        """Rows start <= key < end (None: no end) in order. Valid until the next change or flush."""
        return chain.from_iterable(self.pieces_back(start, end) if reverse else self.pieces(start, end))

    def items(self, start: bytes, end: bytes | None, limit: int = 0) -> list[Row]:
        """The first `limit` (0: all) rows start <= key < end: much faster than scan() for many rows."""
        return _first(self.pieces(start, end, _piece_of(limit)), limit)

    def items_back(self, start: bytes, end: bytes | None, limit: int = 0) -> list[Row]:
        """The last `limit` (0: all) rows start <= key < end, descending."""
        return _first(self.pieces_back(start, end, _piece_of(limit)), limit)

    def pieces(self, start: bytes, end: bytes | None, size: int = _FIRST_PIECE) -> Iterator[list[Row]]:
        """Rows start <= key < end, ascending, in lists that are not empty.

        size: how many rows are likely wanted; the first list is short all the same, in case the range is.
        """
        span = self._span(start, end, size)
        committed = self._committed(start, end, size)
        return merge(committed, span) if span else committed

    def pieces_back(self, start: bytes, end: bytes | None, size: int = _FIRST_PIECE) -> Iterator[list[Row]]:
        """As pieces(), descending."""
        span = self._span(start, end, size)
        committed = self._committed_back(start, end, size)
        return merge_back(committed, span) if span else committed

    def freeze(self, batch: WriteBatch) -> None:
        """Add the changes to a batch and keep them as the frozen generation, of which there must be none."""
        if self.active:
            batch.put(self.spec.name, self.active)
            self.frozen, self._frozen_keys = self.active, self._active_keys
            self.active = {}
            self._active_keys = SortedKeys(self.active)

    def drop_frozen(self, remains: Remains) -> None:
        """Forget the frozen generation: it is committed, and the table has been rebased to where it is."""
        if self.frozen:
            remains.add(self.frozen, self._frozen_keys)
            self.frozen = _NO_CHANGES
            self._frozen_keys = SortedKeys(self.frozen)

    def discard(self, remains: Remains) -> None:
        """Forget all changes: the table has been replaced."""
        remains.add(self.active, self._active_keys)
        self.active = {}
        self._active_keys = SortedKeys(self.active)
        self.drop_frozen(remains)

    def changes(self) -> int:
        """How many keys have changed and are not known to be on disk."""
        return len(self.active) + len(self.frozen)

    def _span(self, start: bytes, end: bytes | None, size: int) -> Span:
        generations: list[tuple[Changes, list[bytes]]] = []
        if self.frozen:
            generations.append((self.frozen, self._frozen_keys.get()))
        if self.active:
            generations.append((self.active, self._active_keys.get()))
        return Span(generations, start, end, size)


class DupTable(_Rows):
    """An ordered map from keys to sorted sets of values. Keys are not empty and of any length, values 1 to 511 bytes.

    `active` holds the values added since the last flush, ascending, by key; `removed` those removed, which are not in
    `active` at the same time. A hot path that adds a value higher than any the key has may append to the list in
    `active` (making it if need be) instead of calling add(), provided the value was not removed in this generation.
    """

    __slots__ = ("_active_keys", "_frozen_keys", "active", "frozen", "frozen_removed", "removed")

    def __init__(self, spec: TableSpec, report: Callable[[CorruptStore], None]) -> None:
        """See Backend.table()."""
        super().__init__(spec, report)
        self.active: dict[bytes, list[bytes]] = {}
        # Every key in here is in `active` too, if only with an empty list.
        self.removed: dict[bytes, set[bytes]] = {}
        self.frozen: dict[bytes, list[bytes]] = _NO_CHANGES
        self.frozen_removed: dict[bytes, set[bytes]] = _NO_CHANGES
        self._active_keys = SortedKeys(self.active)
        self._frozen_keys = SortedKeys(self.frozen)

    def add(self, key: bytes, value: bytes) -> None:
        """Add a value to a key's; adding it again changes nothing."""
        added = self.active.get(key)
        if added is None:
            self.active[key] = [value]
            return
        if not added or added[-1] < value:
            added.append(value)
        elif added[bisect_left(added, value)] != value:
            insort(added, value)
        if key in self.removed:
            self.removed[key].discard(value)

    def remove(self, key: bytes, value: bytes) -> None:
        """Remove one of a key's values; it need not be there."""
        added = self.active.setdefault(key, [])
        position = bisect_left(added, value)
        if position < len(added) and added[position] == value:
            del added[position]
        self.removed.setdefault(key, set()).add(value)

    def delete(self, key: bytes) -> None:
        """Remove all of a key's values."""
        for value in self.values(key):
            self.remove(key, value)

    def values(self, key: bytes) -> list[bytes]:
        """A key's values, ascending; empty if it has none. The list is the caller's."""
        values = self._committed_values(key)
        if key in self.frozen:
            values = _changed(values, self.frozen[key], self.frozen_removed.get(key))
        if key in self.active:
            values = _changed(values, self.active[key], self.removed.get(key))
        return values

    def last_at_most(self, key: bytes, bound: bytes) -> bytes | None:
        """The highest of a key's values that is at most `bound`; None if there is none."""
        if key in self.removed or key in self.frozen_removed:
            values = self.values(key)
            position = bisect_right(values, bound)
            return values[position - 1] if position else None
        best = self._committed_last(key, bound)
        for added in (self.frozen.get(key), self.active.get(key)):
            if added and (position := bisect_right(added, bound)):
                candidate = added[position - 1]
                if best is None or candidate > best:
                    best = candidate
        return best

    def check_absent(self, key: bytes) -> None:
        """See that a key of which no value was found has not lost them. Raises CorruptStore."""
        self._check_neighbours(key)

    def keys(self, start: bytes, end: bytes | None) -> Iterator[bytes]:
        """Keys start <= key < end that have a value, ascending."""
        for piece in self._pieces(start, end):
            for key, _ in piece:
                yield key

    def items(self, start: bytes, end: bytes | None) -> Iterator[tuple[bytes, list[bytes]]]:
        """Keys start <= key < end that have a value, ascending, with their values."""
        for piece in self._pieces(start, end):
            for key, _ in piece:
                yield key, self.values(key)

    def items_at_most(self, start: bytes, end: bytes | None, bound: bytes) -> list[Row]:
        """Each key start <= key < end that has a value of at most `bound`, ascending, with the highest such value."""
        found = []
        for piece in self._pieces(start, end):
            for key, lowest in piece:
                if lowest <= bound:
                    value = self.last_at_most(key, bound)
                    if value is not None:
                        found.append((key, value))
        return found

    def freeze(self, batch: WriteBatch) -> None:
        """Add the changes to a batch and keep them as the frozen generation, of which there must be none."""
        if self.active:
            batch.change_dups(self.spec.name, self.active, self.removed)
            self.frozen, self.frozen_removed, self._frozen_keys = self.active, self.removed, self._active_keys
            self._reset()

    def drop_frozen(self, remains: Remains) -> None:
        """Forget the frozen generation: it is committed, and the table has been rebased to where it is."""
        if self.frozen:
            remains.add(self.frozen, self._frozen_keys)
            self.frozen = _NO_CHANGES
            self.frozen_removed = _NO_CHANGES
            self._frozen_keys = SortedKeys(self.frozen)

    def discard(self, remains: Remains) -> None:
        """Forget all changes: the table has been replaced."""
        remains.add(self.active, self._active_keys)
        self._reset()
        self.drop_frozen(remains)

    def changes(self) -> int:
        """How many keys have changed and are not known to be on disk."""
        return len(self.active) + len(self.frozen)

    def _reset(self) -> None:
        self.active = {}
        self.removed = {}
        self._active_keys = SortedKeys(self.active)

    def _pieces(self, start: bytes, end: bytes | None) -> Iterator[list[Row]]:
        """Keys with their lowest values, ascending, in lists."""
        lowest = _Lowest(self)
        generations: list[tuple[Changes, list[bytes]]] = []
        if self.frozen:
            generations.append((lowest, self._frozen_keys.get()))
        if self.active:
            generations.append((lowest, self._active_keys.get()))
        span = Span(generations, start, end, _FIRST_PIECE)
        committed = self._committed(start, end)
        return merge(committed, span) if span else committed

    def _place(self, key: bytes) -> tuple[Any, bytes] | None:
        if len(key) <= CHUNK:
            return self._main, key
        return locate(self._txn, self._main, self._layers, key)

    def _committed_values(self, key: bytes) -> list[bytes]:
        try:
            place = self._place(key)
            if place is None:
                return []
            with self._txn.cursor(place[0]) as cursor:
                stored = list(cursor.iternext_dup()) if cursor.set_key(place[1]) else []
        except lmdb.Error as error:
            raise self.damaged(f"the way to {shown(key)}") from error
        return [self._take_off(key, value) for value in stored]

    def _committed_last(self, key: bytes, bound: bytes) -> bytes | None:
        try:
            return self._find_last(key, bound)
        except lmdb.Error as error:
            raise self.damaged(f"the way to {shown(key)}") from error

    def _find_last(self, key: bytes, bound: bytes) -> bytes | None:
        place = self._place(key)
        if place is None:
            return None
        take_off = self._take_off
        with self._txn.cursor(place[0]) as cursor:
            if cursor.set_range_dup(place[1], bound):
                # The seal comes behind the value, so what is stored for `bound` sorts behind it.
                found = take_off(key, cursor.value())
                if found == bound:
                    return found
                return take_off(key, cursor.value()) if cursor.prev_dup() else None
            return take_off(key, cursor.value()) if cursor.set_key(place[1]) and cursor.last_dup() else None


class _Lowest:
    """Looks up the lowest value that a key of a DupTable has now."""

    __slots__ = ("_table",)

    def __init__(self, table: DupTable) -> None:
        self._table = table

    def __getitem__(self, key: bytes) -> bytes | None:
        values = self._table.values(key)
        return values[0] if values else None


def _changed(values: list[bytes], added: list[bytes], removed: set[bytes] | None) -> list[bytes]:
    if removed:
        values = [value for value in values if value not in removed]
    if not added:
        return values
    if not values or values[-1] < added[0]:
        return values + added
    return sorted({*values, *added})


def _bridge(seed: int) -> bytes:
    """Four bytes that, behind a row that is intact, take its CRC back to what the CRC of the next one begins with.

    Found backwards: which register the four bytes, XORed into that of INTACT, are to leave to be shifted out.
    """
    register = seed ^ _ONES
    for _ in range(32):
        high = register >> 31
        register = ((register ^ _POLYNOMIAL) << 1 | 1) & _ONES if high else register << 1
    return pack_seal(register ^ INTACT ^ _ONES)


def _piece_of(limit: int) -> int:
    return limit or _FIRST_PIECE


def _read(found: Iterator[tuple[bytes, lmdb.Cursor[bytes]]]) -> Iterator[Row]:
    for key, cursor in found:
        yield key, cursor.value()


def _next_step(step: int, wanted: int) -> int:
    """How many rows to read after a list of `step`, with `wanted` more to come, or a range longer than was thought."""
    return min(wanted if wanted > 0 else 4 * step, _LAST_PIECE)


def _first(pieces: Iterator[list[Row]], limit: int) -> list[Row]:
    rows: list[Row] = []
    for piece in pieces:
        rows += piece
        if limit and len(rows) >= limit:
            del rows[limit:]
            break
    return rows
