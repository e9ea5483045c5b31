"""What a history says for certain, whoever saw it: which revision wrote what, and what it cannot have written.

Every key shown by any answer or event tells of the write that made it. Two that tell differently of one revision
contradict each other, whatever the order of the calls.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.history.model import (
    Call,
    Delete,
    DeleteResult,
    History,
    KeyValue,
    Put,
    PutResult,
    Range,
    RangeResult,
    Result,
    Txn,
    TxnOp,
    TxnResult,
    Watch,
    WatchResponse,
    WatchResumed,
)
from tests.history.report import Violation
from tests.history.store import show, within, wrote


@dataclass(slots=True)
class Source:
    """Who saw a fact: a call or a watch."""

    call: Call | None = None
    watch: Watch | None = None

    def __str__(self) -> str:
        return f"call {self.call.id}" if self.call else f"watch {self.watch.id}" if self.watch else "nobody"


@dataclass(slots=True)
class Coverage:
    """A watch told everything that happened in a range from `first` to `last`."""

    watch: Watch
    first: int
    last: int


@dataclass(slots=True)
class Facts:
    """`writes[revision][key]` is what a revision made of a key, with the first that saw it."""

    writes: dict[int, dict[bytes, tuple[KeyValue | None, Source]]] = field(default_factory=dict)
    coverage: list[Coverage] = field(default_factory=list)
    conflicts: list[Violation] = field(default_factory=list)
    _puts: dict[bytes, list[tuple[int, KeyValue]]] = field(default_factory=dict)
    _mods: dict[bytes, list[int]] = field(default_factory=dict)
    _until: dict[tuple[bytes, int], int] = field(default_factory=dict)
    _absences: dict[bytes, list[int]] = field(default_factory=dict)

    def at(self, revision: int) -> dict[bytes, KeyValue | None]:
        return {key: kv for key, (kv, _) in self.writes.get(revision, {}).items()}

    def sources(self, revision: int) -> list[Source]:
        return [source for _, source in self.writes.get(revision, {}).values()]

    def note(self, kv: KeyValue, source: Source, until: int) -> None:
        """A key was seen as written at its mod_revision and still the same at revision `until`."""
        self.note_unchanged(kv.key, kv.mod_revision, until)
        written = self.writes.setdefault(kv.mod_revision, {})
        seen = written.get(kv.key)
        if seen is None:
            written[kv.key] = (kv, source)
            insort(self._puts.setdefault(kv.key, []), (kv.mod_revision, kv), key=lambda put: put[0])
        elif seen[0] != kv:
            self._conflict(kv.key, kv.mod_revision, seen, (kv, source))

    def note_unchanged(self, key: bytes, mod: int, until: int) -> None:
        """A key was as revision `mod` had written it, still at revision `until`."""
        known = self._until.get((key, mod))
        if known is None:
            insort(self._mods.setdefault(key, []), mod)
        if known is None or until > known:
            self._until[key, mod] = until

    def note_absence(self, key: bytes, revision: int) -> None:
        """A key was seen not to be there at a revision."""
        insort(self._absences.setdefault(key, []), revision)

    def note_deletion(self, key: bytes, revision: int, source: Source) -> None:
        written = self.writes.setdefault(revision, {})
        seen = written.setdefault(key, (None, source))
        if seen[0] is not None:
            self._conflict(key, revision, seen, (None, source))

    def _conflict(
        self, key: bytes, revision: int, one: tuple[KeyValue | None, Source], two: tuple[KeyValue | None, Source]
    ) -> None:
        calls = tuple(source.call.id for _, source in (two, one) if source.call)
        watches = [source.watch.id for _, source in (two, one) if source.watch]
        self.conflicts.append(
            Violation(
                "two truths",
                f"revision {revision} of {key!r} is {show(one[0])} for {one[1]}, and {show(two[0])} for {two[1]}",
                calls,
                watches[0] if watches else None,
                revision,
            )
        )

    def excludes(self, revision: int, key: bytes) -> bool:
        """Whether a revision certainly did not write a key, which no fact says that it did."""
        mods = self._mods.get(key)
        if mods:
            index = bisect_left(mods, revision)
            if index and self._until[key, mods[index - 1]] >= revision:
                return True
        return any(
            cover.first <= revision <= cover.last and within(key, cover.watch.key, cover.watch.end)
            for cover in self.coverage
        )

    def next_put(self, key: bytes, revision: int) -> KeyValue | None:
        """The first put of a key that is known to have happened after a revision."""
        puts = self._puts.get(key)
        if not puts:
            return None
        index = bisect_left(puts, revision + 1, key=lambda put: put[0])
        return puts[index][1] if index < len(puts) else None

    def next_absence(self, key: bytes, revision: int) -> int | None:
        """The first revision from this one on at which a key was seen not to be there."""
        absences = self._absences.get(key)
        if not absences:
            return None
        index = bisect_left(absences, revision)
        return absences[index] if index < len(absences) else None


def gather(history: History) -> Facts:
    """All facts of a history."""
    facts = Facts()
    for call in history.calls:
        if call.result is not None:
            before = call.result.revision - wrote(call.op, call.result)
            _gather_result(facts, call.op, call.result, Source(call=call), before)
            _gather_absences(facts, call.op, call.result, before)
    for watch in history.watches:
        source = Source(watch=watch)
        for entry in watch.log:
            if isinstance(entry, WatchResponse):
                _gather_response(facts, entry, source)
        facts.coverage += covered(watch)
    return facts


def covered(watch: Watch) -> Iterator[Coverage]:
    """The stretches of revisions of which a watch was told all; empty for one that leaves kinds of events out."""
    if watch.no_put or watch.no_delete:
        return
    first = watch.start_revision
    last = 0
    for entry in watch.log:
        if isinstance(entry, WatchResumed):
            if first and entry.start_revision > last + 1:
                yield Coverage(watch, first, last)
                first = entry.start_revision
        elif entry.created:
            first = first or entry.revision + 1
        elif entry.canceled:
            continue
        elif entry.events:
            first = first or entry.events[0].kv.mod_revision
            last = max(last, entry.events[-1].kv.mod_revision - entry.fragment)
        else:
            last = max(last, entry.revision)
    if first and last >= first:
        yield Coverage(watch, first, last)


def _gather_result(facts: Facts, op: object, result: Result, source: Source, before: int) -> None:
    """Keys that an answer shows. before: the revision whose state the operation found."""
    rows: tuple[KeyValue, ...] = ()
    if isinstance(op, Range) and isinstance(result, RangeResult):
        rows, before = () if op.keys_only else result.kvs, op.revision or before
    elif isinstance(op, Put) and isinstance(result, PutResult):
        rows = (result.prev_kv,) if result.prev_kv is not None else ()
    elif isinstance(op, Delete) and isinstance(result, DeleteResult):
        rows = result.prev_kvs
    elif isinstance(op, Txn) and isinstance(result, TxnResult):
        branch: tuple[TxnOp, ...] = op.then if result.succeeded else op.otherwise
        for inner, answer in zip(branch, result.results, strict=False):
            _gather_result(facts, inner, answer, source, before)
    for kv in rows:
        # What an earlier operation of the same transaction wrote is newer than what it found.
        facts.note(kv, source, max(before, kv.mod_revision))


def _gather_absences(facts: Facts, op: object, result: Result, before: int) -> None:
    """What an answer tells of keys that it does not show: that they were not there, or had not changed since."""
    absent = False
    if isinstance(op, Range) and isinstance(result, RangeResult):
        absent, before = not result.count, op.revision or before
    elif isinstance(op, Put) and isinstance(result, PutResult):
        absent = op.prev_kv and result.prev_kv is None
    elif isinstance(op, Delete) and isinstance(result, DeleteResult):
        absent = not result.deleted
    elif isinstance(op, Txn) and isinstance(result, TxnResult) and result.succeeded:
        for compare in op.compares:
            number = compare.operand
            if compare.end or compare.relation != "=" or not isinstance(number, int):
                continue
            if not number and compare.target in ("mod", "create", "version"):
                facts.note_absence(compare.key, before)
            elif number and compare.target == "mod":
                facts.note_unchanged(compare.key, number, max(before, number))
    if absent and isinstance(op, Put | Range | Delete) and (isinstance(op, Put) or not op.end):
        facts.note_absence(op.key, before)


def _gather_response(facts: Facts, response: WatchResponse, source: Source) -> None:
    for event in response.events:
        revision = event.kv.mod_revision
        if event.deleted:
            facts.note_deletion(event.kv.key, revision, source)
        else:
            facts.note(event.kv, source, revision)
        if event.prev_kv is not None:
            facts.note(event.prev_kv, source, max(revision - 1, event.prev_kv.mod_revision))
