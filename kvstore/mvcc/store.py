"""The store: every version of every key, changed by requests in the order of the log, the same on every member.

Changes are checked before anything is written, so a request that fails has changed nothing. Everything runs on the
member's loop and in memory: what is written goes to the backend's overlay, which is flushed by whoever owns the
backend. Knows no raft, no connections and no clock. Leases are known by the few operations of `Leases`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Final, Protocol, TypeVar

from kvstore.errors import Compacted, FutureRev, KeyNotFound, LeaseNotFound
from kvstore.mvcc import counts, puts, txn
from kvstore.mvcc.compaction import CompactionConfig, Compactor, Immediately, Later
from kvstore.mvcc.encoding import (
    CREATE,
    DELETE,
    LEASE_AT,
    MAX_SUB,
    MOD_AT,
    OFFSETS_AT,
    PUT,
    REVISION,
    REVISION_SIZE,
    SUB_AT,
    TRAILER,
    TRAILER_SIZE,
    VERSION_AT,
    encode_deletions,
    encode_version,
    value_of,
    version_of,
)
from kvstore.mvcc.events import Event
from kvstore.mvcc.intervals import end_of
from kvstore.mvcc.puts import Put
from kvstore.mvcc.ranges import RangeQuery, StreamPart, answer_key, range_steps, stream_parts
from kvstore.mvcc.reader import Reader, Row
from kvstore.mvcc.watch import WatchHub
from kvstore.mvcc.watchers import WatchConfig
from kvstore.mvcc.writer_jobs import COMPACT_KEY
from kvstore.pb import rpc_pb2
from kvstore.storage.backend import Backend
from kvstore.storage.batch import APPEND, DUP, ROOM, TableSpec
from kvstore.wire import varint

TABLES: Final = (
    TableSpec("current", seal=ROOM),
    TableSpec("history", APPEND),
    TableSpec("past", DUP),
    TableSpec("counts"),
)
"""The tables that a store needs of its backend."""

REVISION_KEY: Final = "revision"
"""Name in `meta` of a revision that the store is at least at. A restored snapshot may be above its rows."""

_pack_revision: Final = REVISION.pack
_KINDS: Final = (b"\x00", b"\x01", b"\x02")
_VERSION: Final = b"\0"
_DELETION: Final = b"\1"
_FIRST_VERSION: Final = (1).to_bytes(8, "big")
_NO_LEASE: Final = bytes(8)
_DELETE_STEP: Final = 10_000
"""Keys that a deletion takes at a time: each time the changes so far are put in order."""

Y = TypeVar("Y")
R = TypeVar("R")


class Leases(Protocol):
    """What the store needs of leases: `kvstore.lease.Lessor` has it."""

    def exists(self, lease_id: int, /) -> bool: ...
    def attach(self, lease_id: int, key: bytes, /) -> None: ...
    def detach(self, lease_id: int, key: bytes, /) -> None: ...
    def detach_all(self, lease_id: int, keys: Iterable[bytes], /) -> None: ...


def _no_header(revision: int) -> bytes:
    return b""


class Store:
    """All keys of a member.

    The apply side (`put`, `delete_range`, `txn`, `compact`, `delete_keys`) is called in the order of the log. Every
    answer is the encoded response without its header.
    """

    def __init__(
        self,
        backend: Backend,
        leases: Leases,
        *,
        header: Callable[[int], bytes] = _no_header,
        later: Later | None = None,
        compaction: CompactionConfig | None = None,
        watch: WatchConfig | None = None,
    ) -> None:
        """Open what the backend holds; takes the same time whatever is in it.

        header: encodes field 1 of a watch response for a revision. later: calls a function after some seconds
        (`loop.call_later`); without one, compaction runs through at once.
        """
        self._backend = backend
        self._leases = leases
        self._pins: dict[int, int] = {}
        self._events: list[Event] = []
        self.revision = 1
        self.compact_revision = -1
        self._txn_revision = 0
        self._sub = 0
        self.puts = 0
        self.deletes = 0
        self.txns = 0
        self.ranges = 0
        self.put_bytes = 0
        self._loads = 0
        self._current = backend.table("current")
        self._history = backend.table("history")
        self._past = backend.dup_table("past")
        self._reader = Reader(self._current, self._past, self._history)
        self.compactor = Compactor(
            backend, self._unpinned_below, later or Immediately(), compaction or CompactionConfig()
        )
        self._open()
        self.watches = WatchHub(self, header, watch)
        self.compactor.load(self.compact_revision)

    def _open(self) -> None:
        meta = self._backend.meta
        self.compact_revision = int.from_bytes(meta.get(COMPACT_KEY, b"\xff"), "big", signed=True)
        # The newest row of history is never compacted, so it tells the revision.
        newest = self._history.items_back(b"", None, 1)
        stored = int.from_bytes(meta.get(REVISION_KEY, b"\x01"), "big")
        self.revision = max(1, stored, int.from_bytes(newest[0][0][:8], "big") if newest else 1)
        assert self.compact_revision <= self.revision, "compacted at a revision that is not there"
        self._counts = counts.load(self._backend.table("counts"), self._reader.middle)
        self._reader.reset(self._counts, self.revision)
        self._loads += 1

    def reload(self) -> None:
        """Go on from what the backend holds now: a snapshot has replaced it. Watches continue from history."""
        self._open()
        self.compactor.load(self.compact_revision)
        self.watches.reload()

    @property
    def keys(self) -> int:
        """Number of live keys."""
        return self._counts.number

    # Applying.

    def put(self, put: Put) -> bytes:
        """Set a key; the PutResponse. Raises LeaseNotFound, KeyNotFound."""
        lease = put.lease
        if lease and not self._leases.exists(lease):
            raise LeaseNotFound
        key = put.key
        old = self._current.get(key)
        revision = self.revision + 1
        if put.prev_kv or put.ignore_value or put.ignore_lease:
            if old is None and (put.ignore_value or put.ignore_lease):
                raise KeyNotFound
            body = self._put_merged(put, old, revision, 0)
        else:
            self._write(key, put.value, lease, old, revision, 0)
            body = b""
        self.revision = self._reader.head = revision
        return body

    def delete_range(self, request: rpc_pb2.DeleteRangeRequest) -> bytes:
        """Delete keys; the DeleteRangeResponse."""
        self._begin()
        body = self.txn_delete_range(request)
        self._end()
        return body

    def delete_keys(self, keys: list[bytes]) -> int:
        """Delete those of the keys, ascending, that there are, in one revision; how many. For the end of a lease."""
        self._begin()
        found = self._current.rows(keys)
        self._remove(found)
        self._end()
        return len(found)

    def txn(self, request: rpc_pb2.TxnRequest) -> bytes:
        """Run a transaction; the TxnResponse. A read-only one may be asked at any time, not only in log order.

        Raises LeaseNotFound, KeyNotFound, FutureRev, Compacted, and then has changed nothing.
        """
        branch = txn.choose(self, request)
        txn.check(self, branch)
        self.txns += 1
        self._begin()
        body = txn.run(self, branch)
        self._end()
        return body

    def compact(self, revision: int) -> bytes:
        """Make the past before a revision unreachable; the CompactionResponse. Space is freed later, see `compactor`.

        Raises Compacted at or below the last compaction, FutureRev above the present revision.
        """
        if revision <= self.compact_revision:
            raise Compacted
        if revision > self.revision:
            raise FutureRev
        self.compact_revision = revision
        self._backend.meta[COMPACT_KEY] = revision.to_bytes(8, "big", signed=True)
        self.compactor.schedule(revision)
        return b""

    def _begin(self) -> None:
        self._txn_revision = self.revision + 1
        self._sub = 0

    def _end(self) -> None:
        if self._sub:
            assert self._txn_revision == self.revision + 1, "revisions go up one by one"
            self.revision = self._txn_revision
        self._txn_revision = 0

    def _put_merged(self, put: Put, old: bytes | None, revision: int, sub: int) -> bytes:
        """Put what a request leaves to the version before; the PutResponse."""
        value, lease = put.value, put.lease
        if old is not None:
            if put.ignore_value:
                value = value_of(old)
            if put.ignore_lease:
                lease = version_of(old).lease
        self._write(put.key, value, lease, old, revision, sub)
        return old[:-TRAILER_SIZE] if put.prev_kv and old is not None else b""

    def _write(self, key: bytes, value: bytes, lease: int, old: bytes | None, revision: int, sub: int) -> None:
        if old is None:
            framed, row = encode_version(key, value, revision, revision, 1, lease, sub)
            kind = CREATE
            old_lease = 0
            self._current.active[key] = row
            self._history.active[_pack_revision(revision, sub)] = b"\x02" + framed
            self._counts.add(key)
        else:
            create, version, old_lease = self._supersede(key, old)
            framed, row = encode_version(key, value, create, revision, version + 1, lease, sub)
            kind = PUT
            self._current.active[key] = row
            self._history.active[_pack_revision(revision, sub)] = b"\x00" + framed
        if lease != old_lease:
            if old_lease:
                self._leases.detach(old_lease, key)
            if lease:
                self._leases.attach(lease, key)
        self.puts += 1
        self.put_bytes += len(row)
        if self.watches.watchers:
            self._events.append(Event(revision, kind, key, framed, old))

    def _supersede(self, key: bytes, old: bytes) -> tuple[int, int, int]:
        """Make the newest version of a key a past one; its create revision, version and lease."""
        create, mod, version, lease, sub, _, _ = TRAILER.unpack_from(old, len(old) - TRAILER_SIZE)
        place = _pack_revision(mod, sub)
        # What DupTable.add does, less the call: a replaced version is newer than all past ones.
        past = self._past.active
        if key in past:
            past[key].append(place + _VERSION)
        else:
            past[key] = [place + _VERSION]
        if mod <= self.compact_revision:
            # Compaction may have removed the row from history, or may be about to: until now it was in `current` too.
            self._history.active[place] = (_KINDS[CREATE] if version == 1 else _KINDS[PUT]) + old[:-TRAILER_SIZE]
        return create, version, lease

    def _remove(self, rows: list[Row]) -> None:
        """Delete keys that there are, given in order with their newest rows. 0.8 us a key: each step takes all of them.

        What is past and what hangs on leases is as _supersede and _write have it.
        """
        if not rows:
            return
        revision, sub = self._txn_revision, self._sub
        keys = [key for key, _ in rows]
        places = [_pack_revision(revision, sub + number) for number in range(len(rows))]
        # The numbers in a row are big-endian as those of a place are.
        replaced = [row[MOD_AT:VERSION_AT] + row[SUB_AT:OFFSETS_AT] + _VERSION for _, row in rows]
        past = self._past.active
        if past.keys().isdisjoint(keys):
            # A deletion is the newest of the key's past, too.
            added = [[old, place + _DELETION] for old, place in zip(replaced, places, strict=True)]
            past.update(zip(keys, added, strict=True))
        else:
            for key, old, place in zip(keys, replaced, places, strict=True):
                past[key] = [*past.get(key, ()), old, place + _DELETION]
        history = self._history.active
        if self.compact_revision > 0:
            bound = _pack_revision(self.compact_revision, MAX_SUB) + _DELETION
            for (_, row), old in zip(rows, replaced, strict=True):
                if old < bound:
                    kind = _KINDS[CREATE] if row[VERSION_AT:LEASE_AT] == _FIRST_VERSION else _KINDS[PUT]
                    history[old[:REVISION_SIZE]] = kind + row[:-TRAILER_SIZE]
        events = encode_deletions(keys, revision)
        history.update(zip(places, events, strict=True))
        self._current.active.update(dict.fromkeys(keys))
        if leased := [(key, row[LEASE_AT:SUB_AT]) for key, row in rows if row[LEASE_AT:SUB_AT] != _NO_LEASE]:
            self._detach(leased)
        if self.watches.watchers:
            for (key, row), event in zip(rows, events, strict=True):
                self._events.append(Event(revision, DELETE, key, event[1:], row))
        self._sub += len(rows)
        self._reader.head = revision
        self._counts.remove(keys)
        self.deletes += len(rows)

    def _detach(self, leased: list[tuple[bytes, bytes]]) -> None:
        """Take keys off their leases, given as rows have them."""
        by_lease: dict[bytes, list[bytes]] = {}
        for key, lease in leased:
            by_lease.setdefault(lease, []).append(key)
        for lease, keys in by_lease.items():
            self._leases.detach_all(int.from_bytes(lease, "big", signed=True), keys)

    def _wrote(self) -> None:
        self._sub += 1
        self._reader.head = self._txn_revision

    # What transactions are made of: see txn.TxnStore.

    def txn_revision(self) -> int:
        """The revision that an operation of the running transaction answers with."""
        return self._txn_revision if self._sub else self.revision

    def txn_put(self, request: rpc_pb2.PutRequest) -> bytes:
        """Put within the running transaction; it has been checked."""
        put = puts.of_message(request)
        body = self._put_merged(put, self._current.get(put.key), self._txn_revision, self._sub)
        self._wrote()
        return body

    def txn_delete_range(self, request: rpc_pb2.DeleteRangeRequest) -> bytes:
        """Delete within the running transaction."""
        count = 0
        previous: list[bytes] = []
        keep = request.prev_kv
        end = end_of(request.key, request.range_end)
        following: bytes | None = request.key
        while following is not None:
            rows = self._current.items(following, end, _DELETE_STEP)
            self._remove(rows)
            if keep:
                previous += [b"\x1a" + row[1:-TRAILER_SIZE] for _, row in rows]
            count += len(rows)
            following = rows[-1][0] + b"\0" if len(rows) == _DELETE_STEP else None
        return (b"\x10" + varint(count) if count else b"") + b"".join(previous)

    def txn_range(self, request: rpc_pb2.RangeRequest) -> bytes:
        """Read within the running transaction; it has been checked."""
        self.ranges += 1
        revision = request.revision if request.revision > 0 else self._reader.head
        if not request.range_end:
            return answer_key(request, self._reader.row_at(request.key, revision))
        return _drain(range_steps(self._reader, RangeQuery.of(request, revision)))

    def current_row(self, key: bytes) -> bytes | None:
        """The newest row of a key."""
        return self._current.get(key)

    def current_rows(self, start: bytes, end: bytes | None) -> Iterator[bytes]:
        """The newest rows of a range."""
        for _, row in self._current.scan(start, end):
            yield row

    def lease_exists(self, lease: int) -> bool:
        """Whether there is such a lease."""
        return self._leases.exists(lease)

    # Reading.

    def range(self, request: rpc_pb2.RangeRequest) -> bytes:
        """Answer a range at once, however large; the RangeResponse. Raises Compacted, FutureRev."""
        return _drain(self.range_steps(request))

    def range_steps(self, request: rpc_pb2.RangeRequest) -> Generator[None, None, bytes]:
        """Answer a range in steps of a few milliseconds: yields between them, returns the RangeResponse.

        All steps read at the revision of the first; close the generator if it is not run to its end. Raises Compacted,
        FutureRev at once.
        """
        revision = self.read_revision(request.revision)
        self.ranges += 1
        if not request.range_end:
            return _answered(answer_key(request, self._reader.row_at(request.key, revision)))
        query = RangeQuery.of(request, revision)
        return self._pinned(revision, range_steps(self._reader, query))

    def range_stream(self, request: rpc_pb2.RangeRequest) -> Generator[StreamPart | None, None, None]:
        """Answer a range in the messages of a RangeStream; None where only other work should have its turn.

        As `range_steps` otherwise.
        """
        query = RangeQuery.of(request, self.read_revision(request.revision))
        self.ranges += 1
        return self._pinned(query.revision, stream_parts(self._reader, query))

    def read_revision(self, revision: int) -> int:
        """The revision that a read asking for `revision` is served at. Raises Compacted, FutureRev."""
        if revision <= 0:
            return self.revision
        if revision > self.revision:
            raise FutureRev
        if revision < self.compact_revision:
            raise Compacted
        return revision

    def row_at(self, key: bytes, revision: int) -> bytes | None:
        """The row of a key at a revision; None if there was none, or it is compacted."""
        if revision < self.compact_revision or revision < 1:
            return None
        return self._reader.row_at(key, revision)

    def history(self, first: int) -> Iterator[tuple[int, bytes]]:
        """History rows from a main revision on, with it."""
        return self._reader.events_from(first)

    def take_events(self) -> list[Event]:
        """The changes since the last call, if anybody watches."""
        events, self._events = self._events, []
        return events

    def _pinned(self, revision: int, steps: Generator[Y, None, R]) -> Generator[Y, None, R]:
        if revision < self.compact_revision:
            # The caller has waited too long with the first step.
            raise Compacted
        pins, loads = self._pins, self._loads
        pins[revision] = pins.get(revision, 0) + 1
        try:
            while True:
                if loads != self._loads and revision < self.compact_revision:
                    # No pin holds what a snapshot has replaced.
                    raise Compacted
                try:
                    # Not kept here: it may be large, and long until somebody asks for the next.
                    yield next(steps)
                except StopIteration as stop:
                    result: R = stop.value
                    return result
        finally:
            pins[revision] -= 1
            if not pins[revision]:
                del pins[revision]
                self.compactor.poke()

    def _unpinned_below(self, revision: int) -> bool:
        return not any(pinned < revision for pinned in self._pins)

    async def hash_kv(self, revision: int) -> rpc_pb2.HashKVResponse:
        """Hash the keys as of a revision (0: the present), outside the loop; a response without header.

        Members at the same revision and compacted revision get the same. Raises Compacted, FutureRev.
        """
        if revision > self.revision:
            raise FutureRev
        if revision < 0 or 0 < revision < self.compact_revision:
            raise Compacted
        revision = revision or self.revision
        result = await self._backend.run_reader("kvstore.mvcc.writer_jobs:hash_revisions", (revision,))
        digest, compacted = result
        if revision < compacted:
            raise Compacted
        return rpc_pb2.HashKVResponse(hash=digest, compact_revision=compacted, hash_revision=revision)

    async def hash(self) -> rpc_pb2.HashResponse:
        """Hash the whole state, outside the loop; a response without header."""
        digest = await self._backend.run_reader("kvstore.mvcc.writer_jobs:hash_state", ())
        return rpc_pb2.HashResponse(hash=digest)


def _answered(body: bytes) -> Generator[None, None, bytes]:
    """Steps of which there are none."""
    return body
    yield


def _drain(steps: Generator[object, None, R]) -> R:
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            result: R = stop.value
            return result
