"""The store as it must be: what an operation does to a state, and whether an answer fits it.

One revision at a time, with all earlier ones at hand. After a revision of which it is not known what it changed
(`History.unrecorded`) keys are uncertain until something tells; what is uncertain is never held against an answer.
Knows nothing of times or of other calls: who goes when is the search's business (linear.py, search.py).
"""

from __future__ import annotations

import operator
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tests.history.model import (
    Compare,
    Delete,
    DeleteResult,
    KeyValue,
    Op,
    Put,
    PutResult,
    Range,
    RangeResult,
    Refusal,
    Result,
    Txn,
    TxnOp,
    TxnOpResult,
    TxnResult,
)

ANY = -1
"""Stands in a KeyValue for a number that cannot be known, because unrecorded revisions came before it."""

Writes = dict[bytes, KeyValue | None]
"""What an operation leaves behind for each key it touched: the key as it is now, or None for a deletion."""

_RELATIONS: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
}


class Impossible(Exception):
    """An answer that the state does not allow; the text says why. key: the one that is not as shown, if it is one."""

    def __init__(self, text: str, key: bytes | None = None) -> None:
        super().__init__(text)
        self.key = key


class Refused(Exception):
    """The operation fails in this state and changes nothing. `reason` is one of Refusal."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def within(key: bytes, start: bytes, end: bytes) -> bool:
    """Whether a range, as the API writes it, holds a key."""
    if not end:
        return key == start
    return key >= start and (end == b"\0" or key < end)


def show(kv: KeyValue | None) -> str:
    """A key for people to read."""
    if kv is None:
        return "no key"
    lease = f", lease {kv.lease}" if kv.lease else ""
    return f"{kv.value!r} (mod {kv.mod_revision}, create {kv.create_revision}, version {kv.version}{lease})"


def same(expected: KeyValue | None, seen: KeyValue | None) -> bool:
    """Whether what was seen is what was expected, leaving out what cannot be known."""
    if expected is None or seen is None:
        return expected is seen
    if expected == seen:
        return True
    return (
        expected.key == seen.key
        and expected.value == seen.value
        and expected.mod_revision == seen.mod_revision
        and expected.lease == seen.lease
        and expected.create_revision in (ANY, seen.create_revision)
        and expected.version in (ANY, seen.version)
    )


def operations(op: Op) -> Iterator[Put | Range | Delete]:
    """The plain operations in an operation, of all branches."""
    if isinstance(op, Txn):
        for inner in (*op.then, *op.otherwise):
            yield from operations(inner)
    elif isinstance(op, Put | Range | Delete):
        yield op


def spans(op: Op) -> Iterator[tuple[bytes, bytes]]:
    """The ranges of keys that an operation looks at or writes, as (first key, end)."""
    if isinstance(op, Put):
        yield op.key, b""
    elif isinstance(op, Range | Delete):
        yield op.key, op.end
    elif isinstance(op, Txn):
        for compare in op.compares:
            yield compare.key, compare.end
        for inner in (*op.then, *op.otherwise):
            yield from spans(inner)


def taken(op: Op, result: Result | None) -> Iterator[Put | Range | Delete]:
    """The plain operations that an answered operation ran."""
    if isinstance(op, Put | Range | Delete):
        yield op
    elif isinstance(op, Txn) and isinstance(result, TxnResult):
        branch = op.then if result.succeeded else op.otherwise
        for inner, answer in zip(branch, result.results, strict=False):
            yield from taken(inner, answer)


def wrote(op: Op, result: Result | None) -> bool:
    """Whether an answered operation says of itself that it changed something, and so made its revision."""
    if isinstance(op, Put):
        return True
    if isinstance(result, DeleteResult):
        return result.deleted > 0
    if isinstance(op, Txn) and isinstance(result, TxnResult):
        branch = op.then if result.succeeded else op.otherwise
        return any(wrote(inner, answer) for inner, answer in zip(branch, result.results, strict=False))
    return False


@dataclass(slots=True)
class Store:
    """All states up to `revision`. `universe`: every key that any call can have written, sorted."""

    universe: list[bytes]
    revision: int = 1
    live: dict[bytes, KeyValue] = field(default_factory=dict)
    past: dict[bytes, list[tuple[int, KeyValue | None]]] = field(default_factory=dict)
    attached: dict[int, set[bytes]] = field(default_factory=dict)
    opened: int = 0
    """The newest revision of which it is not known what it changed."""
    known: dict[bytes, int] = field(default_factory=dict)
    """The newest revision at which a key is certainly as it is here; only kept where there are uncertain ones."""
    _ranges: dict[tuple[bytes, bytes], list[bytes]] = field(default_factory=dict)
    _undo: list[Writes] = field(default_factory=list)

    def keys_in(self, start: bytes, end: bytes) -> list[bytes]:
        """The keys of the universe in a range, sorted."""
        keys = self._ranges.get((start, end))
        if keys is None:
            if not end:
                keys = [start]
            else:
                last = len(self.universe) if end == b"\0" else bisect_left(self.universe, end)
                keys = self.universe[bisect_left(self.universe, start) : last]
            self._ranges[start, end] = keys
        return keys

    def certain(self, key: bytes) -> bool:
        return not self.opened or self.known.get(key, 1) >= self.opened

    def at(self, key: bytes, revision: int) -> KeyValue | None:
        """A key as it was at an earlier revision."""
        changes = self.past.get(key)
        if not changes:
            return None
        index = bisect_right(changes, revision, key=lambda change: change[0])
        return changes[index - 1][1] if index else None

    def commit(self, writes: Mapping[bytes, KeyValue | None]) -> None:
        """Make the next revision of these writes."""
        self.revision += 1
        before: Writes = {}
        for key, kv in writes.items():
            old = self.live.get(key)
            before[key] = old
            self._attach(key, old, kv)
            if kv is None:
                self.live.pop(key, None)
            else:
                self.live[key] = kv
            self.past.setdefault(key, []).append((self.revision, kv))
            if self.opened:
                self.known[key] = self.revision
        self._undo.append(before)

    def undo(self) -> None:
        """Take the newest revision back. Only where every revision is known."""
        for key, old in self._undo.pop().items():
            self._attach(key, self.live.get(key), old)
            if old is None:
                self.live.pop(key, None)
            else:
                self.live[key] = old
            self.past[key].pop()
        self.revision -= 1

    def replaced(self) -> Writes:
        """What the newest revision found at the keys that it wrote."""
        return self._undo[-1]

    def open(self, facts: Mapping[bytes, KeyValue | None]) -> None:
        """Pass over a revision of which no more is known than these facts."""
        self.opened = self.revision + 1
        self.commit(facts)

    def _attach(self, key: bytes, old: KeyValue | None, new: KeyValue | None) -> None:
        if old is not None and old.lease:
            self.attached[old.lease].discard(key)
        if new is not None and new.lease:
            self.attached.setdefault(new.lease, set()).add(key)

    def execute(self, op: TxnOp, result: TxnOpResult | None) -> Writes:
        """What an operation writes now, given what it answered; None if it never did.

        Raises Impossible if it cannot have answered that, Refused if it fails.
        """
        if isinstance(op, Put):
            return self._put(op, result, {})
        if isinstance(op, Range):
            self._range(op, result, {})
            return {}
        writes: Writes = {}
        if isinstance(op, Delete):
            self._delete(op, result, writes)
        else:
            self._check(op)
            self._txn(op, result, writes)
        return writes

    def _seen(self, key: bytes, writes: Writes) -> KeyValue | None:
        return writes[key] if key in writes else self.live.get(key)

    def _put(self, op: Put, result: Result | None, writes: Writes) -> Writes:
        key = op.key
        old = writes[key] if key in writes else self.live.get(key)
        certain = self.certain(key)
        if isinstance(result, PutResult):
            if (
                certain
                and (result.prev_kv is not None or (op.prev_kv and old is not None))
                and not same(old, result.prev_kv)
            ):
                raise Impossible(difference_of(key, old, result.prev_kv), key)
            if not certain and result.prev_kv is not None:
                old, certain = result.prev_kv, True
        if old is None and (op.ignore_value or op.ignore_lease) and (certain or result is None):
            raise Refused(Refusal.KEY_NOT_FOUND)
        revision = self.revision + 1
        writes[key] = KeyValue(
            key,
            old.value if op.ignore_value and old else op.value,
            (old.create_revision if old else revision) if certain else ANY,
            revision,
            (1 if old is None else ANY if old.version == ANY else old.version + 1) if certain else ANY,
            old.lease if op.ignore_lease and old else op.lease,
        )
        return writes

    def _delete(self, op: Delete, result: Result | None, writes: Writes) -> None:
        keys = [key for key in self.keys_in(op.key, op.end) if self._seen(key, writes) is not None]
        if isinstance(result, DeleteResult):
            # In a range there may be keys that nothing recorded ever wrote, once anything is uncertain.
            certain = not self.opened or (not op.end and self.certain(op.key))
            if certain and result.deleted != len(keys):
                raise Impossible(f"there were {len(keys)} keys to delete, and the answer says {result.deleted}")
            if op.prev_kv:
                self._compare_rows(op.key, op.end, result.prev_kvs, writes, self.keys_in(op.key, op.end))
            keys = self.keys_in(op.key, op.end) if self.opened else keys
        for key in keys:
            writes[key] = None

    def _range(self, op: Range, result: Result | None, writes: Writes) -> None:
        if op.revision > self.revision:
            raise Refused(Refusal.FUTURE_REV)
        if not isinstance(result, RangeResult):
            return
        for kv in result.kvs:
            if kv.mod_revision > (op.revision or self.revision + bool(writes)):
                raise Impossible(f"{kv.key!r} is shown as of revision {kv.mod_revision}, which was not there yet")
        if op.revision and op.revision < self.revision:
            if not self.opened:
                self._compare_range(op, result, lambda key: self.at(key, op.revision))
            return
        if not self.opened:
            self._compare_range(op, result, lambda key: self._seen(key, writes))
            return
        if not (op.count_only or op.keys_only):
            rows = result.kvs
            keys = self.keys_in(op.key, op.end)
            if op.limit and result.more and rows:
                keys = keys[: bisect_right(keys, rows[-1].key)]
            self._compare_rows(op.key, op.end, rows, writes, keys)

    def _compare_range(self, op: Range, result: RangeResult, look: Callable[[bytes], KeyValue | None]) -> None:
        """Hold a range's whole answer against what is certainly there."""
        rows = [kv for key in self.keys_in(op.key, op.end) if (kv := look(key)) is not None]
        count = len(rows)
        if op.count_only:
            rows = []
        elif op.limit:
            rows = rows[: op.limit]
        if op.keys_only:
            rows = [replace(kv, value=b"") for kv in rows]
        if tuple(rows) != result.kvs:
            raise difference(rows, result.kvs)
        if result.count != count:
            raise Impossible(f"the range holds {count} keys, and the answer counts {result.count}")
        if result.more != (not op.count_only and count > len(rows)):
            raise Impossible(f"`more` is {result.more} with {len(rows)} keys shown of {count}")

    def _compare_rows(
        self, start: bytes, end: bytes, rows: Iterable[KeyValue], writes: Writes, keys: list[bytes]
    ) -> None:
        """Hold rows against those keys that are certain, and learn the others from them."""
        shown = {kv.key: kv for kv in rows}
        for key in shown:
            if not within(key, start, end):
                raise Impossible(f"{key!r} is not in the range")
            if key not in writes and not self.certain(key):
                self._learn(key, shown[key])
        for key in keys:
            if (key in writes or self.certain(key)) and not same(self._seen(key, writes), shown.get(key)):
                raise Impossible(difference_of(key, self._seen(key, writes), shown.get(key)), key)

    def _learn(self, key: bytes, kv: KeyValue) -> None:
        last = self.past.get(key, [(1, None)])[-1]
        if kv.mod_revision < last[0]:
            raise Impossible(
                f"{key!r} is shown as {show(kv)}, but was {'deleted' if last[1] is None else 'written'} "
                f"at revision {last[0]}"
            )
        self._attach(key, self.live.get(key), kv)
        self.live[key] = kv
        self.known[key] = self.revision

    def _check(self, op: Txn) -> None:
        """Refuse a transaction whose operations cannot all run, before any does."""
        for inner in op.then if self.holds(op) else op.otherwise:
            if isinstance(inner, Txn):
                self._check(inner)
            elif isinstance(inner, Range) and inner.revision > self.revision:
                raise Refused(Refusal.FUTURE_REV)
            elif (
                isinstance(inner, Put)
                and (inner.ignore_value or inner.ignore_lease)
                and inner.key not in self.live
                and self.certain(inner.key)
            ):
                raise Refused(Refusal.KEY_NOT_FOUND)

    def _txn(self, op: Txn, result: Result | None, writes: Writes) -> None:
        holds = self.holds(op)
        results: tuple[TxnOpResult | None, ...] = ()
        if isinstance(result, TxnResult):
            if result.succeeded != holds and all(
                not compare.end and self.certain(compare.key) for compare in op.compares
            ):
                raise Impossible(
                    f"the comparisons {'held' if holds else 'did not hold'}, and the answer says otherwise: "
                    + ", ".join(f"{compare.key!r} was {show(self.live.get(compare.key))}" for compare in op.compares)
                )
            if result.succeeded != holds and not self.opened:
                raise Impossible(
                    f"the comparisons {'held' if holds else 'did not hold'}, and the answer says otherwise"
                )
            holds = result.succeeded
            results = result.results
        branch = op.then if holds else op.otherwise
        if result is not None and len(results) != len(branch):
            raise Impossible(f"the branch has {len(branch)} operations, and {len(results)} answered")
        for inner, answer in zip(branch, results or (None,) * len(branch), strict=True):
            if isinstance(inner, Put):
                self._put(inner, answer, writes)
            elif isinstance(inner, Range):
                self._range(inner, answer, writes)
            elif isinstance(inner, Delete):
                self._delete(inner, answer, writes)
            else:
                self._txn(inner, answer, writes)

    def holds(self, op: Txn) -> bool:
        """Whether all comparisons of a transaction hold in the state before it."""
        return all(self._holds(compare) for compare in op.compares)

    def _holds(self, compare: Compare) -> bool:
        rows = [kv for key in self.keys_in(compare.key, compare.end) if (kv := self.live.get(key)) is not None]
        relation = _RELATIONS[compare.relation]
        if compare.target == "value":
            return bool(rows) and all(relation(kv.value, compare.operand) for kv in rows)
        column = {"create": "create_revision", "mod": "mod_revision"}.get(compare.target, compare.target)
        return all(relation(getattr(kv, column), compare.operand) for kv in rows or [KeyValue(b"")])


def difference_of(key: bytes, expected: KeyValue | None, seen: KeyValue | None) -> str:
    return f"{key!r} should be {show(expected)}, and the answer shows {show(seen)}"


def difference(expected: Iterable[KeyValue], seen: Iterable[KeyValue]) -> Impossible:
    """The first thing in which an answer differs from what it should be."""
    wanted = {kv.key: kv for kv in expected}
    shown = {kv.key: kv for kv in seen}
    for key in sorted(wanted.keys() | shown.keys()):
        if wanted.get(key) != shown.get(key):
            return Impossible(difference_of(key, wanted.get(key), shown.get(key)), key)
    return Impossible("the keys are not in order, or not each once")
