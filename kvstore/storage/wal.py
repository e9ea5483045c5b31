"""The write-ahead log: raft's entries and hard state, durable, and raft's view of them.

What raft may rely on is what is on disk: an append changes the view only when the writer has answered, just before the
caller is told. Knows raft's entries; what they carry is opaque.

Table `entries` has rows index (8 bytes, big-endian) -> checksum, term, type, data. `meta` has the hard state and the
*cut*: index and term of the last entry that was removed from the front, or that a snapshot stands for. Rows up to the
cut are garbage that is still being removed, in steps.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from struct import Struct
from typing import Final
from zlib import crc32

from kvstore.storage import environment
from kvstore.storage.batch import APPEND, OPEN, TableSpec, WriteBatch
from kvstore.storage.engine import MIB, EngineOptions
from kvstore.storage.environment import Environment
from kvstore.storage.errors import CorruptStore, StorageError
from kvstore.storage.meta import CUT_KEY, HARD_STATE_KEY, META, Identity, Position, decode_identity, decode_position
from kvstore.storage.transaction import ReadTransaction
from kvstore.storage.writer import Done, WriterEvents
from raft.errors import Compacted, InvariantViolation, SnapshotTemporarilyUnavailable, Unavailable
from raft.messages import (
    NO_LIMIT,
    ConfState,
    Entry,
    EntryType,
    HardState,
    Snapshot,
    SnapshotMetadata,
)
from raft.sizes import entry_size, limit_size

ENTRIES: Final = TableSpec("entries", APPEND, OPEN)

_INDEX: Final = Struct(">Q")
_CHECKSUM: Final = Struct(">I")
# Term and type. The checksum before them covers the index, these, and the data.
_HEADER: Final = Struct(">QB")
_DATA: Final = _CHECKSUM.size + _HEADER.size
_HARD_STATE: Final = Struct(">QQQ")
_KINDS: Final = frozenset(EntryType)

_ROWS_REMOVED_AT_ONCE: Final = 500


@dataclass(frozen=True, slots=True)
class WalOptions:
    """cache_bytes, cache_entries: how much of the end of the log is kept in memory."""

    cache_bytes: int = 64 * MIB
    cache_entries: int = 50_000
    engine: EngineOptions = field(default_factory=lambda: EngineOptions(map_size=256 * MIB))


def encode_entry(entry: Entry) -> tuple[bytes, bytes]:
    """The row of an entry."""
    key = _INDEX.pack(entry.index)
    header = _HEADER.pack(entry.term, entry.type)
    data = entry.data
    return key, _CHECKSUM.pack(crc32(data, crc32(key + header))) + header + data


def decode_entry(key: bytes, row: bytes, path: Path) -> Entry:
    """The entry of a row. Raises CorruptStore if it is damaged; path is for the message."""
    data = row[_DATA:]
    if (
        len(key) != _INDEX.size
        or len(row) < _DATA
        or _CHECKSUM.unpack_from(row)[0] != crc32(data, crc32(key + row[_CHECKSUM.size : _DATA]))
    ):
        raise CorruptStore(
            f"{path}: entry {int.from_bytes(key, 'big')} of the log is damaged; "
            "remove this member from the cluster and add it again with an empty data directory"
        )
    term, kind = _HEADER.unpack_from(row, _CHECKSUM.size)
    if kind not in _KINDS:
        raise CorruptStore(
            f"{path}: entry {int.from_bytes(key, 'big')} of the log is of kind {kind}, which this version of kvstore "
            "does not know; use the version that wrote it, or a later one"
        )
    return Entry(term, _INDEX.unpack(key)[0], EntryType(kind), data)


def _no_conf_state() -> ConfState:
    return ConfState()


def _no_snapshot() -> Snapshot:
    raise SnapshotTemporarilyUnavailable


class Wal:
    """The log as raft's Storage. Open it with open_with_process() or open_inline().

    conf_state, snapshot: set by the member; the configuration at the applied index, for initial_state(), and the
    newest snapshot, for snapshot().
    """

    def __init__(self, env: Environment, options: WalOptions | None = None, events: WriterEvents | None = None) -> None:
        """Take over `env`, which close() closes. Raises CorruptStore if the log has gaps, FormatTooNew."""
        self.path = env.path
        self.conf_state: Callable[[], ConfState] = _no_conf_state
        self.snapshot: Callable[[], Snapshot] = _no_snapshot
        self.hard_state = HardState()
        self.identity: Identity | None = None
        self._env = env
        self._options = options or WalOptions()
        self._writer = env.writer
        self._events = events or WriterEvents()
        self._recording: asyncio.Future[None] | None = None
        env.writer.events = replace(self._events, failed=self._failed)
        self._cut = Position()
        # The last entry that is durable, and the last that was sent to the writer.
        self._last = 0
        self._sent = 0
        # The last entry that the environment shows, as far as it is known; those of the appends that it does not show
        # yet. What it does not show must stay in the cache.
        self._shown = 0
        self._unshown: deque[int] = deque()
        # The hard state given last, and the one written last: they may differ in the commit index.
        self._sent_hard_state = HardState()
        self._stored_hard_state = HardState()
        # The end of the log, up to and including the last entry, and how much of it that is.
        self._cache: list[Entry] = []
        self._cached_bytes = 0
        self._removing = False
        self._load()

    def initial_state(self) -> tuple[HardState, ConfState]:
        """The hard state on disk, and the configuration at the applied index."""
        return self.hard_state, self.conf_state()

    def first_index(self) -> int:
        """The index after the cut."""
        return self._cut.index + 1

    def last_index(self) -> int:
        """The index of the last durable entry, or of the cut."""
        return self._last

    @property
    def cut(self) -> Position:
        """Index and term of the last entry that is gone."""
        return self._cut

    def term(self, i: int) -> int:
        """As raft's Storage.term. Raises CorruptStore for a damaged entry."""
        if i <= self._cut.index:
            if i == self._cut.index:
                return self._cut.term
            raise Compacted
        if i > self._last:
            raise Unavailable
        position = i - self._last - 1
        if -position <= len(self._cache):
            return self._cache[position].term
        return self._read(i, i + 1, NO_LIMIT)[0].term

    def entries(self, lo: int, hi: int, max_size: int = NO_LIMIT) -> Sequence[Entry]:
        """As raft's Storage.entries. Raises CorruptStore for a damaged entry."""
        if lo <= self._cut.index:
            raise Compacted
        if hi > self._last + 1:
            raise InvariantViolation(f"entries' hi({hi}) is out of bound lastindex({self._last})")
        if lo > self._last:
            raise Unavailable
        cached = self._last + 1 - len(self._cache)
        if lo >= cached:
            return limit_size(self._cache[lo - cached : hi - cached], max_size)
        found = self._read(lo, min(hi, cached), max_size)
        if len(found) < cached - lo or hi <= cached:
            return found
        return limit_size([*found, *self._cache[: hi - cached]], max_size)

    def append(
        self,
        hard_state: HardState | None,
        entries: Sequence[Entry],
        snapshot: SnapshotMetadata | None,
        done: Done,
    ) -> None:
        """Make durable what a Ready or a MsgStorageAppend asks for: snapshot, entries, hard state.

        snapshot: replaces the whole log; the state it stands for must be durable already. Entries replace those with
        the same and higher indices. done: called on the loop when all is durable and this Storage shows it, in the
        order of the calls. A hard state in which only the commit index changed is not worth a write of its own: it
        becomes durable with the next one.
        """
        batch = WriteBatch()
        if snapshot is not None:
            self._put_cut(batch, Position(snapshot.index, snapshot.term))
        if entries:
            first = entries[0].index
            if first > self._sent + 1 or first <= (self._cut.index if snapshot is None else snapshot.index):
                raise InvariantViolation(f"entries from {first} cannot be appended after {self._sent}")
            if first <= self._sent:
                batch.delete_range(ENTRIES.name, _INDEX.pack(first), None)
            batch.put(ENTRIES.name, [encode_entry(entry) for entry in entries])
            self._sent = entries[-1].index
        if hard_state is not None:
            hard_state = HardState(hard_state.term, hard_state.vote, hard_state.commit)
            self._sent_hard_state = hard_state
        self._put_hard_state(batch)

        def appended() -> None:
            if snapshot is not None:
                self._show_cut(Position(snapshot.index, snapshot.term))
            if entries:
                self._show(entries)
            if hard_state is not None:
                self.hard_state = hard_state
            done()

        self._writer.submit(batch, appended, self._now_shown if entries else None)

    def compact(self, index: int) -> None:
        """Forget the entries up to and including `index`, which must be in the state on disk.

        The view changes at once, the rows are removed in the background. Raises Compacted if they are gone already;
        an index past the log is InvariantViolation.
        """
        if index <= self._cut.index:
            raise Compacted
        if index > self._last:
            raise InvariantViolation(f"compact {index} is out of bound lastindex({self._last})")
        self._cut = Position(index, self.term(index))
        if self._last - index < len(self._cache):
            self._evict(len(self._cache) - (self._last - index))
        batch = WriteBatch()
        batch.put(META.name, [(CUT_KEY, self._cut.encode())])
        if self._removing:
            self._writer.defer(batch, _nothing)
        else:
            self._remove_step(batch)

    def reset(self, position: Position, done: Done) -> None:
        """Start over after `position`: what the state on disk holds has come from a snapshot.

        The hard state is brought to where the snapshot is: at least its term (with the vote forgotten if that is
        newer) and at least its index committed. done: as in append().
        """
        state = self._sent_hard_state
        state = HardState(
            max(state.term, position.term),
            state.vote if state.term >= position.term else 0,
            max(state.commit, position.index),
        )
        self.append(state, (), SnapshotMetadata(index=position.index, term=position.term), done)

    def reconcile(self, applied: Position, done: Done) -> None:
        """Bring the log in line with the state on disk after a start.

        The state is ahead of the log, or of another history, if a crash came between putting a snapshot in the place
        of the state and starting the log over: then that is done now. Otherwise at most the commit index is raised:
        what is applied is committed. Raises CorruptStore if entries between the state and the log are missing.
        """
        if applied.index < self._cut.index:
            raise CorruptStore(
                f"{self.path}: the log begins after {self._cut.index} but the state ends at {applied.index}; "
                "remove this member from the cluster and add it again with an empty data directory"
            )
        if applied.index > self._last or self.term(applied.index) != applied.term:
            self.reset(applied, done)
            return
        if self.hard_state.commit < applied.index:
            self.append(replace(self.hard_state, commit=applied.index), (), None, done)
        else:
            done()

    async def record(self, identity: Identity) -> None:
        """Say whose log it is; durable on return. Raises the writer's error if it fails."""
        batch = WriteBatch()
        batch.put(META.name, identity.rows())
        self._recording = written = asyncio.get_running_loop().create_future()
        self._writer.submit(batch, _nothing)
        self._writer.settle(lambda: written.set_result(None))
        await written
        self._recording = None
        self.identity = identity

    async def close(self) -> None:
        """Finish what was appended and end the writer. The newest commit index is written with it."""
        if self._stored_hard_state != self._sent_hard_state:
            batch = WriteBatch()
            batch.put(META.name, [(HARD_STATE_KEY, encode_hard_state(self._sent_hard_state))])
            self._writer.submit(batch, _nothing)
        await self._env.close()

    def _failed(self, error: StorageError) -> None:
        if self._recording is not None and not self._recording.done():
            self._recording.set_exception(error)
        self._events.failed(error)

    def _load(self) -> None:
        raw, handles = self._env.reading.begin()
        txn = ReadTransaction(raw, handles)
        # All of them: a row whose key is damaged would be missing otherwise.
        for _ in txn.items(META.name):
            pass
        meta = _MetaRows(txn)
        self.identity = decode_identity(meta, self.path)
        if (stored := meta.get(HARD_STATE_KEY)) is not None:
            if len(stored) != _HARD_STATE.size:
                raise CorruptStore(f"{self.path}: the hard state is damaged")
            self.hard_state = HardState(*_HARD_STATE.unpack(stored))
            self._sent_hard_state = self._stored_hard_state = replace(self.hard_state)
        self._cut = decode_position(meta.get(CUT_KEY))
        self._last = self._cut.index
        garbage = False
        with raw.cursor(txn.handle(ENTRIES.name).main) as cursor:
            if cursor.last():
                last = self._index(cursor.key())
                cursor.first()
                first = self._index(cursor.key())
                if last - first + 1 != txn.count(ENTRIES.name) or first > self._cut.index + 1:
                    raise CorruptStore(f"{self.path}: entries of the log are missing between {first} and {last}")
                self._last = max(last, self._last)
                garbage = first <= self._cut.index
        self._sent = self._shown = self._last
        raw.abort()
        if garbage:
            self._remove_step(WriteBatch())

    def _index(self, key: bytes) -> int:
        if len(key) != _INDEX.size:
            raise CorruptStore(
                f"{self.path}: the log has an entry with a key of {len(key)} bytes; "
                "remove this member from the cluster and add it again with an empty data directory"
            )
        return int.from_bytes(key, "big")

    def _read(self, lo: int, hi: int, max_size: int) -> list[Entry]:
        raw, handles = self._env.reading.begin()
        found: list[Entry] = []
        size = 0
        try:
            cursor = raw.cursor(handles[ENTRIES.name].main)
            cursor.set_range(_INDEX.pack(lo))
            rows = cursor.iternext()
            for index in range(lo, hi):
                key, row = next(rows, (b"", b""))
                if key != _INDEX.pack(index):
                    raise CorruptStore(f"{self.path}: entry {index} of the log is missing")
                entry = decode_entry(key, row, self.path)
                size += entry_size(entry)
                if size > max_size and found:
                    break
                found.append(entry)
        finally:
            raw.abort()
        return found

    def _show(self, entries: Sequence[Entry]) -> None:
        """Show entries that have become durable."""
        kept = entries[0].index - 1
        if kept < self._last:
            self._replaced_after(kept)
            del self._cache[max(0, len(self._cache) - (self._last - kept)) :]
            self._cached_bytes = sum(map(entry_size, self._cache))
        self._cache += entries
        self._cached_bytes += sum(map(entry_size, entries))
        self._last = entries[-1].index
        self._unshown.append(self._last)
        options = self._options
        if self._cached_bytes > options.cache_bytes or len(self._cache) > options.cache_entries:
            self._shrink()

    def _shrink(self) -> None:
        """Evict the oldest quarter at least, so that this is rare."""
        most_bytes = self._options.cache_bytes * 3 // 4
        most_entries = self._options.cache_entries * 3 // 4
        size, count = self._cached_bytes, 0
        cache = self._cache
        # The newest entry stays, whatever its size: raft asks for its term all the time.
        most = min(len(cache) - 1, self._shown - (self._last - len(cache)))
        while count < most and (size > most_bytes or len(cache) - count > most_entries):
            size -= entry_size(cache[count])
            count += 1
        self._evict(count)

    def _evict(self, count: int) -> None:
        self._cached_bytes -= sum(map(entry_size, self._cache[:count]))
        del self._cache[:count]

    def _now_shown(self) -> None:
        self._shown = self._unshown.popleft()

    def _replaced_after(self, index: int) -> None:
        """What the environment shows, or will, of the entries after `index` is no longer theirs."""
        self._shown = min(self._shown, index)
        self._unshown = deque(min(last, index) for last in self._unshown)

    def _put_cut(self, batch: WriteBatch, cut: Position) -> None:
        batch.drop(ENTRIES.name)
        batch.put(META.name, [(CUT_KEY, cut.encode())])
        self._sent = cut.index

    def _put_hard_state(self, batch: WriteBatch) -> None:
        sent, stored = self._sent_hard_state, self._stored_hard_state
        if (sent.term, sent.vote) != (stored.term, stored.vote) or (batch.operations and sent != stored):
            batch.put(META.name, [(HARD_STATE_KEY, encode_hard_state(sent))])
            self._stored_hard_state = sent

    def _show_cut(self, cut: Position) -> None:
        self._cut = cut
        self._last = cut.index
        self._replaced_after(cut.index)
        self._evict(len(self._cache))

    def _remove_step(self, batch: WriteBatch) -> None:
        """Remove some rows up to the cut, and go on when that is done."""
        self._removing = True
        batch.delete_range(ENTRIES.name, b"", _INDEX.pack(self._cut.index + 1), _ROWS_REMOVED_AT_ONCE)
        self._writer.defer(batch, self._remove_more)

    def _remove_more(self) -> None:
        raw, handles = self._env.reading.begin()
        try:
            cursor = raw.cursor(handles[ENTRIES.name].main)
            more = cursor.first() and _INDEX.unpack(cursor.key())[0] <= self._cut.index
        finally:
            raw.abort()
        self._removing = more
        if more:
            self._remove_step(WriteBatch())


class _MetaRows:
    """The `meta` rows of a transaction."""

    def __init__(self, txn: ReadTransaction) -> None:
        self._txn = txn

    def get(self, key: bytes, /) -> bytes | None:
        return self._txn.get(META.name, key)


def encode_hard_state(state: HardState) -> bytes:
    """The row of a hard state."""
    return _HARD_STATE.pack(state.term, state.vote, state.commit)


def _nothing() -> None:
    pass


def open_inline(
    path: Path,
    options: WalOptions | None = None,
    events: WriterEvents | None = None,
    schedule: Callable[[Done], object] | None = None,
) -> Wal:
    """A log that is written in this process, for tests and tools. `path` is its directory, which must exist.

    See InlineWriter about `schedule`. Raises what Engine and Wal raise.
    """
    options = options or WalOptions()
    return Wal(environment.open_inline(path, [META, ENTRIES], options.engine, schedule), options, events)


def open_with_process(
    path: Path,
    options: WalOptions | None = None,
    events: WriterEvents | None = None,
    keep_open: Sequence[int] = (),
) -> Wal:
    """A log with a writer process, for a member; call it on the loop. keep_open: descriptors the process inherits.

    Raises what Engine and Wal raise.
    """
    options = options or WalOptions()
    return Wal(environment.open_with_journal(path, [META, ENTRIES], options.engine, keep_open), options, events)
