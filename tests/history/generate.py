"""Histories that are right by construction: made-up clients of a made-up store, all of it decided by a seed.

Every call takes effect at one moment between its start and its end; some get no answer, and of those some take effect,
possibly long after. Written without the checker's own store, so that each can find the other wrong.
"""

from __future__ import annotations

import heapq
import random
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.history.model import (
    Call,
    Compact,
    CompactResult,
    Compare,
    Delete,
    DeleteResult,
    Event,
    Grant,
    GrantResult,
    History,
    KeepAlive,
    KeepAliveResult,
    KeyValue,
    Op,
    Put,
    PutResult,
    Range,
    RangeResult,
    Refusal,
    Result,
    Revoke,
    RevokeResult,
    TimeToLive,
    TimeToLiveResult,
    Txn,
    TxnOp,
    TxnOpResult,
    TxnResult,
    Watch,
)
from tests.history.recorder import Recorder

MILLISECOND = 1_000_000
SECOND = 1_000 * MILLISECOND


@dataclass(slots=True, frozen=True)
class Shape:
    """What a made-up history is like.

    unknown: how many of the calls get no answer, as a fraction. leases: whether there are any. watches: how many, each
    over all keys or some. values: how many different values there are; 0 makes every one different.
    """

    calls: int = 1000
    clients: int = 5
    keys: int = 10
    unknown: float = 0.05
    watches: int = 2
    leases: bool = True
    compactions: bool = True
    values: int = 0


@dataclass(slots=True)
class _Lease:
    ttl: int
    expires: int


@dataclass(slots=True)
class _World:
    """The store that the clients talk to."""

    revision: int = 1
    compacted: int = 0
    live: dict[bytes, KeyValue] = field(default_factory=dict)
    past: dict[bytes, list[tuple[int, KeyValue | None]]] = field(default_factory=dict)
    events: list[list[Event]] = field(default_factory=lambda: [[], []])
    leases: dict[int, _Lease] = field(default_factory=dict)
    granted: int = 1000
    _pending: dict[bytes, KeyValue | None] = field(default_factory=dict)

    def apply(self, op: Op, now: int) -> Result | str:
        """Run an operation; its result, or the name of its refusal."""
        if isinstance(op, Put | Range | Delete | Txn):
            refusal = self._refusal(op)
            if refusal:
                return refusal
            self._pending = {}
            revision = self.revision + self._writes(op)
            result = self._run(op, revision)
            self._finish()
            return result
        return self._apply_lease(op, now)

    def _apply_lease(self, op: Op, now: int) -> Result | str:
        if isinstance(op, Compact):
            if op.revision > self.revision:
                return Refusal.FUTURE_REV
            if op.revision <= self.compacted:
                return Refusal.COMPACTED
            self.compacted = op.revision
            return CompactResult(self.revision)
        if isinstance(op, Grant):
            self.granted += 1
            self.leases[self.granted] = _Lease(op.ttl, now + op.ttl * SECOND)
            return GrantResult(self.revision, self.granted, op.ttl)
        assert isinstance(op, Revoke | KeepAlive | TimeToLive)
        lease = self.leases.get(op.lease)
        if isinstance(op, Revoke):
            if lease is None:
                return Refusal.LEASE_NOT_FOUND
            self.end_lease(op.lease)
            return RevokeResult(self.revision)
        if isinstance(op, KeepAlive):
            if lease is None:
                return KeepAliveResult(self.revision, op.lease, 0)
            lease.expires = now + lease.ttl * SECOND
            return KeepAliveResult(self.revision, op.lease, lease.ttl)
        if lease is None:
            return TimeToLiveResult(self.revision, op.lease, -1, 0)
        return TimeToLiveResult(self.revision, op.lease, max(0, (lease.expires - now) // SECOND), lease.ttl)

    def end_lease(self, lease: int) -> None:
        self._pending = {key: None for key, kv in self.live.items() if kv.lease == lease}
        del self.leases[lease]
        self._finish()

    def _finish(self) -> None:
        if not self._pending:
            return
        self.revision += 1
        events = []
        for key, kv in self._pending.items():
            old = self.live.get(key)
            if kv is None:
                del self.live[key]
                events.append(Event(True, KeyValue(key, mod_revision=self.revision), old))
            else:
                self.live[key] = kv
                events.append(Event(False, kv, old))
            self.past.setdefault(key, []).append((self.revision, kv))
        self.events.append(events)
        self._pending = {}

    def _refusal(self, op: TxnOp) -> str:
        if isinstance(op, Put):
            if op.lease and op.lease not in self.leases:
                return Refusal.LEASE_NOT_FOUND
            if (op.ignore_value or op.ignore_lease) and op.key not in self.live:
                return Refusal.KEY_NOT_FOUND
        elif isinstance(op, Range) and op.revision:
            if op.revision > self.revision:
                return Refusal.FUTURE_REV
            if op.revision < self.compacted:
                return Refusal.COMPACTED
        elif isinstance(op, Txn):
            return next((refusal for inner in self._branch(op) if (refusal := self._refusal(inner))), "")
        return ""

    def _branch(self, op: Txn) -> tuple[TxnOp, ...]:
        return op.then if all(map(self._holds, op.compares)) else op.otherwise

    def _holds(self, compare: Compare) -> bool:
        kv = self.live.get(compare.key)
        if compare.target == "value":
            return kv is not None and (kv.value == compare.operand) == (compare.relation == "=")
        kv = kv or KeyValue(compare.key)
        number = {
            "version": kv.version,
            "create": kv.create_revision,
            "mod": kv.mod_revision,
            "lease": kv.lease,
        }[compare.target]
        assert isinstance(compare.operand, int)
        if compare.relation == ">":
            return number > compare.operand
        if compare.relation == "<":
            return number < compare.operand
        return (number == compare.operand) == (compare.relation == "=")

    def _writes(self, op: TxnOp) -> bool:
        if isinstance(op, Put):
            return True
        if isinstance(op, Delete):
            return any(_inside(key, op.key, op.end) for key in self.live)
        return isinstance(op, Txn) and any(self._writes(inner) for inner in self._branch(op))

    def _now(self, key: bytes) -> KeyValue | None:
        return self._pending[key] if key in self._pending else self.live.get(key)

    def _run(self, op: TxnOp, revision: int) -> TxnOpResult:
        if isinstance(op, Put):
            old = self._now(op.key)
            self._pending[op.key] = KeyValue(
                key=op.key,
                value=old.value if old and op.ignore_value else op.value,
                create_revision=old.create_revision if old else revision,
                mod_revision=revision,
                version=old.version + 1 if old else 1,
                lease=old.lease if old and op.ignore_lease else op.lease,
            )
            return PutResult(revision, old if op.prev_kv else None)
        if isinstance(op, Range):
            return self.range(op, revision)
        if isinstance(op, Delete):
            keys = self.live.keys() | self._pending.keys()
            inside = [key for key in sorted(keys) if _inside(key, op.key, op.end)]
            old_kvs = [kv for key in inside if (kv := self._now(key)) is not None]
            self._pending.update((kv.key, None) for kv in old_kvs)
            return DeleteResult(revision, len(old_kvs), tuple(old_kvs) if op.prev_kv else ())
        branch = self._branch(op)
        return TxnResult(revision, branch is op.then, tuple(self._run(inner, revision) for inner in branch))

    def range(self, op: Range, revision: int, at: int = 0) -> RangeResult:
        """`at`: the older state that a serializable read is given."""
        target = op.revision or at
        if target:
            found = [self._then(key, target) for key in sorted(self.past) if _inside(key, op.key, op.end)]
        else:
            keys = self.live.keys() | self._pending.keys()
            found = [self._now(key) for key in sorted(keys) if _inside(key, op.key, op.end)]
        rows = [kv for kv in found if kv is not None]
        shown = [] if op.count_only else rows[: op.limit or None]
        return RangeResult(at or revision, tuple(shown), len(rows), len(shown) < len(rows) and not op.count_only)

    def _then(self, key: bytes, revision: int) -> KeyValue | None:
        changes = self.past[key]
        index = bisect_right(changes, revision, key=lambda change: change[0])
        return changes[index - 1][1] if index else None


def _inside(key: bytes, start: bytes, end: bytes) -> bool:
    if not end:
        return key == start
    return start <= key and (key < end or end == b"\0")


class _Simulation:
    """Clients, one call each at a time, in made-up time."""

    def __init__(self, seed: int, shape: Shape) -> None:
        self.now = 0
        self._random = random.Random(seed)
        self._shape = shape
        self._recorder = Recorder(clock=lambda: self.now)
        self._world = _World()
        self._queue: list[tuple[int, int, Callable[[], object]]] = []
        self._order = 0
        self._left = shape.calls
        self._value = 0
        self._known_leases: list[int] = []
        self._known_compaction = 0
        self._told: dict[int, int] = {}
        self._seen: dict[int, int] = {}

    def run(self) -> History:
        for number in range(self._shape.watches):
            self._at(self._random.randrange(50 * MILLISECOND), lambda number=number: self._watch(number))  # type: ignore[misc]
        for number in range(self._shape.clients):
            self._at(self._delay(), lambda number=number: self._call(f"client-{number}"))  # type: ignore[misc]
        while self._queue:
            self.now, _, action = heapq.heappop(self._queue)
            action()
        return self._recorder.history()

    def _at(self, delay: int, action: Callable[[], object]) -> None:
        self._order += 1
        heapq.heappush(self._queue, (self.now + delay, self._order, action))

    def _delay(self) -> int:
        return self._random.randrange(1, 10 * MILLISECOND)

    # --- calls ------------------------------------------------------------------------------------------------------

    def _call(self, client: str) -> None:
        if not self._left:
            return
        self._left -= 1
        call = self._recorder.begin(client, self._operation())
        if self._random.random() < self._shape.unknown:
            fate = self._random.random()
            if fate < 0.5:
                late = self._random.choice((1, 1, 100))
                self._at(self._delay() * late, lambda: self._apply(call))
            self._at(self._delay() * 3, lambda: self._recorder.unknown(call, "deadline"))
            self._at(self._delay() * 3, lambda: self._call(client))
            return
        self._at(self._delay(), lambda: self._answer(call, self._apply(call)))

    def _apply(self, call: Call) -> Result | str:
        op = call.op
        if isinstance(op, Range) and op.serializable and not op.revision:
            newest = self._world.revision
            return self._world.range(op, newest, self._random.randint(max(1, newest - 5), newest))
        result = self._world.apply(op, self.now)
        if isinstance(result, GrantResult):
            self._at(result.ttl * SECOND, lambda: self._expire(result.lease))
        return result

    def _answer(self, call: Call, result: Result | str) -> None:
        def finish() -> None:
            if isinstance(result, str):
                self._recorder.refused(call, result)
            else:
                self._recorder.answered(call, result)
            if isinstance(result, GrantResult):
                self._known_leases.append(result.lease)
            self._at(self._random.choice((0, 0, self._delay())), lambda: self._call(call.client))

        self._at(self._delay(), finish)

    def _expire(self, lease: int) -> None:
        entry = self._world.leases.get(lease)
        if entry is None:
            return
        if self.now >= entry.expires:
            self._world.end_lease(lease)
        else:
            self._at(entry.expires - self.now + self._delay(), lambda: self._expire(lease))

    def _key(self) -> bytes:
        return b"k%03d" % self._random.randrange(self._shape.keys)

    def _new_value(self) -> bytes:
        self._value += 1
        return b"v%d" % (self._random.randrange(self._shape.values) if self._shape.values else self._value)

    def _lease(self) -> int:
        return self._random.choice(self._known_leases[-5:]) if self._known_leases else 0

    def _operation(self) -> Op:
        pick = self._random.random()
        if pick < 0.35:
            lease = self._lease() if self._random.random() < 0.1 else 0
            return Put(self._key(), self._new_value(), lease, prev_kv=self._random.random() < 0.3)
        if pick < 0.65:
            return Range(self._key(), serializable=self._random.random() < 0.2)
        if pick < 0.72:
            return self._wide_read()
        if pick < 0.80:
            if self._random.random() < 0.1:
                return Delete(b"k00", b"k00" + bytes([b"0"[0] + self._random.randrange(1, 10)]), prev_kv=True)
            return Delete(self._key(), prev_kv=self._random.random() < 0.5)
        if pick < 0.90:
            return self._txn()
        return self._rare()

    def _wide_read(self) -> Op:
        kind = self._random.randrange(5)
        newest = self._world.revision
        if kind == 0:
            return Range(b"k", b"l", limit=self._random.randrange(1, 4))
        if kind == 1:
            return Range(b"k", b"l", count_only=True)
        if kind == 2:
            return Range(self._key(), revision=self._random.randint(max(1, newest - 10), newest))
        if kind == 3:
            return Put(self._key(), b"", ignore_value=True)
        return Range(b"k", b"l", serializable=self._random.random() < 0.3)

    def _txn(self) -> Op:
        one, two = self._key(), self._key()
        kind = self._random.randrange(3)
        if kind == 0:
            known = self._world.live.get(one)
            compare = Compare(one, "mod", "=", known.mod_revision if known else 0)
            return Txn((compare,), (Put(one, self._new_value()),), (Range(one),))
        if kind == 1 and one != two:
            value = self._new_value()
            return Txn((), (Put(one, value), Put(two, value), Range(one)))
        return Txn(
            (Compare(one, "version", ">", 0),),
            (Delete(one, prev_kv=True), *((Put(two, self._new_value()),) if one != two else ())),
            (Txn((Compare(two, "create", "=", 0),), (Put(one, self._new_value()),), (Range(two),)),),
        )

    def _rare(self) -> Op:
        pick = self._random.random()
        if self._shape.compactions and pick < 0.03:
            return Compact(max(1, self._world.revision - self._random.randrange(1, 20)))
        lease = self._lease()
        if not self._shape.leases:
            return Range(self._key())
        if not lease or pick < 0.2:
            return Grant(self._random.randrange(1, 4))
        if pick < 0.3:
            return Revoke(lease)
        return KeepAlive(lease) if pick < 0.8 else TimeToLive(lease)

    # --- watches ----------------------------------------------------------------------------------------------------

    def _watch(self, number: int) -> None:
        wide = number % 2 == 0
        past = self._random.random() < 0.5
        watch = self._recorder.watch(
            f"watch-{number}",
            b"k" if wide else self._key(),
            b"l" if wide else b"",
            start_revision=1 + self._random.randrange(self._world.revision) if past else 0,
            prev_kv=number % 3 != 2,
            no_put=number % 5 == 3,
            no_delete=number % 5 == 4,
        )
        self._recorder.created(watch, self._world.revision)
        self._told[watch.id] = (watch.start_revision or self._world.revision + 1) - 1
        self._at(self._delay(), lambda: self._tell(watch))

    def _tell(self, watch: Watch) -> None:
        """Send some of what the watch was not told yet, or a progress notification, or lose the stream."""
        last = self._told[watch.id]
        until = min(self._world.revision, last + self._random.randrange(1, 5))
        events = [
            Event(event.deleted, event.kv, event.prev_kv if watch.prev_kv else None)
            for revision in range(last + 1, until + 1)
            for event in self._world.events[revision]
            if _inside(event.kv.key, watch.key, watch.end) and not (watch.no_delete if event.deleted else watch.no_put)
        ]
        self._told[watch.id] = max(last, until)
        if events:
            self._seen[watch.id] = events[-1].kv.mod_revision
            self._recorder.events(watch, self._world.revision, tuple(events))
        elif until == self._world.revision and self._random.random() < 0.2:
            self._recorder.progress(watch, until)
        elif self._random.random() < 0.05:
            seen = self._seen.get(watch.id, 0)
            if 0 < self._told[watch.id] - seen < 20:
                self._told[watch.id] = seen
                self._recorder.resumed(watch, seen + 1)
        if self._left or last < self._world.revision:
            self._at(self._delay() if self._left else 1, lambda: self._tell(watch))


def generate(seed: int, shape: Shape | None = None) -> History:
    """A history without a fault. The same seed and shape give the same one."""
    return _Simulation(seed, shape or Shape()).run()
