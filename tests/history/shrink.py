"""The fewest calls that still cannot have been.

A call that is left out is not treated as if it had never been: the revision that it made stays, as one of which nothing
is known, or as one that wrote other keys. So what remains is impossible whatever the others did, and can be checked by
itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TypeVar

from tests.history.candidates import could_write
from tests.history.check import check
from tests.history.model import (
    Call,
    Compact,
    Grant,
    History,
    KeepAlive,
    Op,
    Outcome,
    Put,
    Revoke,
    TimeToLive,
    Watch,
    WatchResponse,
)
from tests.history.plan import Plan, make, may_write
from tests.history.report import CheckOptions, Violation
from tests.history.store import operations, within

T = TypeVar("T")
_CLOSED = {"dirty read", "unexplained revision"}
_COMPACTED = {"wrong refusal", "wrong prev_kv"}
"""Faults that a compaction would excuse."""


class Shrinker:
    """Cuts one history down to one fault."""

    def __init__(self, history: History, violation: Violation, options: CheckOptions, seconds: float) -> None:
        self._history = history
        self._violation = violation
        self._options = options
        self._until = time.monotonic() + seconds
        self._plan: Plan = make(history, options.clock_error)
        self._calls = {call.id: call for call in history.calls}
        self._leased = {
            inner.key
            for call in history.calls
            for inner in operations(call.op)
            if isinstance(inner, Put) and inner.lease
        }

    def run(self) -> History:
        """The smallest history found with the same kind of fault; with the calls that it names if none has."""
        watches = [watch for watch in self._history.watches if watch.id == self._violation.watch]
        named = [self._calls[call] for call in self._violation.calls if call in self._calls]
        kept = self._first_that_fails(named, watches)
        if kept is None:
            return self._cut(named, watches)
        kept = self._fewest(kept, lambda calls: self._fails(calls, watches))
        if watches:
            watches = [self._shorten(kept, watches[0])]
        return self._cut(kept, watches)

    def _first_that_fails(self, named: list[Call], watches: list[Watch]) -> list[Call] | None:
        """The smallest of some growing sets of calls that is enough."""
        keys = {inner.key for call in named for inner in operations(call.op)}
        leases = {lease for call in named for lease in _leases(call)}
        near = [
            call
            for call in self._history.calls
            if any(inner.key in keys for inner in operations(call.op)) or leases & set(_leases(call))
        ]
        for calls in (named, near, [call for call in self._history.calls if call.outcome is Outcome.ANSWERED]):
            if self._fails(calls, watches):
                return calls
        return None

    def _fails(self, calls: Sequence[Call], watches: Sequence[Watch]) -> bool:
        found = check(self._cut(calls, watches), self._options).violations
        return any(fault.kind == self._violation.kind for fault in found)

    def _fewest(self, items: Sequence[T], fails: Callable[[list[T]], bool]) -> list[T]:
        """Delta debugging (Zeller and Hildebrandt, 2002): leave out ever smaller parts while it still fails."""
        current = list(items)
        parts = 2
        while len(current) > 1 and time.monotonic() < self._until:
            size = -(-len(current) // parts)
            for begin in range(0, len(current), size):
                rest = current[:begin] + current[begin + size :]
                if rest and fails(rest):
                    current, parts = rest, max(parts - 1, 2)
                    break
                if time.monotonic() > self._until:
                    break
            else:
                if size == 1:
                    break
                parts = min(len(current), parts * 2)
        return current

    def _shorten(self, calls: list[Call], watch: Watch) -> Watch:
        """Leave out what the watch was told long before and after."""

        def of(log: Iterable[object]) -> Watch:
            kept = [entry for entry in watch.log if any(entry is chosen for chosen in log)]
            return replace(watch, log=kept)

        revision = self._violation.revision
        if revision:
            after = [
                replace(entry, events=tuple(event for event in entry.events if event.kv.mod_revision >= revision))
                for entry in watch.log
                if isinstance(entry, WatchResponse)
                and (max((event.kv.mod_revision for event in entry.events), default=entry.revision) >= revision)
                and not entry.created
            ]
            window = replace(watch, start_revision=revision, log=list(after[:1]))
            return window if self._fails(calls, [window]) else watch
        return of(self._fewest(watch.log, lambda log: self._fails(calls, [of(log)])))

    def _cut(self, calls: Sequence[Call], watches: Sequence[Watch]) -> History:
        """These calls and watches, with what they need to know of the others."""
        kept = {call.id for call in calls}
        spans = [
            (inner.key, b"" if isinstance(inner, Put) else inner.end) for call in calls for inner in operations(call.op)
        ]
        spans += [(watch.key, watch.end) for watch in watches]
        closed = self._violation.revision if self._violation.kind in _CLOSED else 0
        unrecorded: list[int] = []
        elsewhere: list[int] = []
        maybes = [call for call in self._plan.maybes if _touches(call.op, spans)]
        leased = any(within(key, *span) for key in self._leased for span in spans)
        for revision in range(2, self._plan.top + 1):
            writer = self._plan.writers.get(revision)
            if (writer is not None and writer.id in kept) or revision == closed:
                continue
            touched = _touches(writer.op, spans) if writer is not None else bool(maybes) or leased
            facts = self._plan.facts.writes.get(revision)
            if facts and writer is None:
                touched = touched and any(within(key, *span) for key in facts for span in spans)
            (unrecorded if touched else elsewhere).append(revision)
        for call in self._plan.maybes if closed else ():
            facts_at = self._plan.facts.at(closed)
            if not facts_at or any(could_write(call.op, key, kv) for key, kv in facts_at.items()):
                kept.add(call.id)
        if self._violation.kind in _COMPACTED:
            kept.update(call.id for call in self._plan.compactions)
        top = max((call.result.revision for call in calls if call.result), default=0)
        top = max([top, closed, *(entry.revision for watch in watches for entry in _responses(watch))])
        return History(
            [call for call in self._history.calls if call.id in kept],
            list(watches),
            _runs(revision for revision in unrecorded if revision <= top),
            _runs(revision for revision in elsewhere if revision <= top) or ((top + 1, top + 1),),
        )


def shrink(history: History, violation: Violation, options: CheckOptions, seconds: float = 30.0) -> History:
    """The smallest part of a history, found within a time, that shows a fault of the same kind."""
    return Shrinker(history, violation, options, seconds).run()


def _responses(watch: Watch) -> Iterable[WatchResponse]:
    return (entry for entry in watch.log if isinstance(entry, WatchResponse))


def _leases(call: Call) -> list[int]:
    found = [inner.lease for inner in operations(call.op) if isinstance(inner, Put) and inner.lease]
    if isinstance(call.op, Revoke | KeepAlive | TimeToLive | Grant) and call.op.lease:
        found.append(call.op.lease)
    lease = getattr(call.result, "lease", 0)
    return [*found, lease] if lease else found


def _touches(op: Op, spans: Sequence[tuple[bytes, bytes]]) -> bool:
    """Whether an operation can write a key in one of these ranges."""
    if not may_write(op):
        return isinstance(op, Compact)
    for inner in operations(op):
        end = getattr(inner, "end", b"")
        for start, stop in spans:
            if within(inner.key, start, stop) or within(start, inner.key, end):
                return True
    return False


def _runs(revisions: Iterable[int]) -> tuple[tuple[int, int], ...]:
    """Numbers as (first, last) of each unbroken run."""
    runs: list[tuple[int, int]] = []
    for revision in revisions:
        if runs and runs[-1][1] == revision - 1:
            runs[-1] = (runs[-1][0], revision)
        else:
            runs.append((revision, revision))
    return tuple(runs)
