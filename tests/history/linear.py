"""Is there an order of all calls that explains all answers? Found with the revisions as the guide.

An answer's revision tells its place: the call that made revision r goes between those that saw r-1 and those that saw
r. So there is no choice as long as every revision has its call, and the order only has to be held against the times: a
call happens as soon as it can, after all that go before it, and must not yet have ended. Where a revision was made by a
call without an answer, or by a lease's end, the search guesses one that fits the facts and takes it back if it leads
nowhere: not the last guess, but the last that can have to do with what does not fit. What is accepted comes with an
order that was replayed; what is rejected had every guess tried that could matter.

Leases and compactions have no revision of their own; leases.py places them when all others stand.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field

from tests.history.candidates import Candidate, Candidates
from tests.history.leases import LeaseLives
from tests.history.model import Call, Delete, Put, Range, Txn
from tests.history.plan import Plan, is_serializable
from tests.history.refusals import check_compactions, check_refusals
from tests.history.report import Violation
from tests.history.store import Impossible, Refused, Store, Writes, operations, same, show, spans


class GaveUp(Exception):
    """More revisions taken back than the budget allows."""


class Failure(Exception):
    """The order cannot go on. `keys`: those whose state does not fit; None if it may be anything.

    timely: whether it would not go on either if earlier calls had happened earlier.
    """

    def __init__(self, violation: Violation, keys: Iterable[bytes] | None = None, timely: bool = True) -> None:
        super().__init__(str(violation))
        self.violation = violation
        self.keys = None if keys is None else frozenset(keys)
        self.timely = timely


@dataclass(slots=True)
class Timeline:
    """The order that was found: what each revision wrote, who wrote it, and the earliest moment that it can have been.

    made[r]: when revision r was made at the earliest. moments[r] and by[r]: when all that saw it had, at the earliest,
    and the call that makes it so late.
    """

    store: Store
    made: list[int] = field(default_factory=lambda: [0, 0])
    moments: list[int] = field(default_factory=lambda: [0, 0])
    by: list[Call | None] = field(default_factory=lambda: [None, None])
    authors: list[Call | None] = field(default_factory=lambda: [None, None])
    writes: list[Writes] = field(default_factory=lambda: [{}, {}])


Keys = frozenset[bytes]


@dataclass(slots=True)
class _Guess:
    """A revision at which there was a choice, and what came of it so far.

    blamed: the keys whose state was why the choices so far failed; None if it may be anything. barred: for each failure
    of a choice that did not touch its keys, those keys: all other choices that do not touch them fail as well.
    """

    revision: int
    found: list[Candidate]
    chosen: int = 0
    blamed: Keys | None = frozenset()
    barred: list[Keys] = field(default_factory=list)

    def touches(self, keys: Keys) -> bool:
        """Whether any choice here can have to do with these keys."""
        return any(not keys.isdisjoint(candidate.keys) for candidate in self.found)

    def failed(self, keys: Keys | None) -> Candidate | None:
        """The present choice failed, for the state of these keys: the next one to try."""
        if keys is None:
            self.blamed = None
        else:
            self.blamed = None if self.blamed is None else self.blamed | keys
            if keys.isdisjoint(self.found[self.chosen].keys):
                self.barred.append(keys)
        while self.chosen + 1 < len(self.found):
            self.chosen += 1
            following = self.found[self.chosen]
            if not any(keys.isdisjoint(following.keys) for keys in self.barred):
                return following
        return None

    def why(self) -> Keys | None:
        """The keys for which all choices failed; None if it may be anything.

        A call that an earlier revision took could be a further choice here. It would fail like the one that was tried
        and does not touch these keys, if there is such a one.
        """
        blamed = self.blamed
        if blamed is None or all(not blamed.isdisjoint(candidate.keys) for candidate in self.found):
            return None
        return blamed


class Replay:
    """One search over one history."""

    def __init__(self, plan: Plan, budget: int) -> None:
        self.plan = plan
        self.timeline = Timeline(Store(plan.universe))
        self.lives = LeaseLives(plan)
        self._candidates = Candidates(plan, self.timeline.store, self.lives)
        self._budget = budget
        self._guesses: list[_Guess] = []
        self._deepest: tuple[int, Violation] | None = None

    def run(self) -> Violation | None:
        """The fault that cannot be got around, or None if there is an order. Raises GaveUp."""
        revision = 1
        pending: Candidate | None = None
        while True:
            try:
                if revision == 1:
                    self._readers(1)
                    revision = 2
                while revision <= self.plan.top:
                    self._make(revision, pending)
                    pending = None
                    self._readers(revision)
                    revision += 1
                self._finish()
            except Failure as failure:
                found = self._back(failure, revision)
                if found is None:
                    assert self._deepest is not None
                    return self._deepest[1]
                revision, pending = found
            else:
                return None

    # --- going back -------------------------------------------------------------------------------------------------

    def _back(self, failure: Failure, revision: int) -> tuple[int, Candidate] | None:
        """Undo to the last guess that can have to do with a failure, and take the next one there."""
        if self._deepest is None or revision > self._deepest[0]:
            self._deepest = (revision, failure.violation)
        keys = self._related(failure)
        while self._guesses:
            guess = self._guesses[-1]
            if keys is not None and not guess.touches(keys):
                self._guesses.pop()
                continue
            following = guess.failed(keys)
            if following is None:
                self._guesses.pop()
                keys = guess.why()
                continue
            self._budget -= 1 + self.timeline.store.revision - guess.revision
            if self._budget < 0:
                raise GaveUp
            self._undo(guess.revision)
            return guess.revision, following
        return None

    def _related(self, failure: Failure) -> Keys | None:
        """The keys whose state can have led to a failure; None if it may be anything."""
        return self._candidates.related(failure.keys) if failure.keys is not None and failure.timely else None

    def _undo(self, revision: int) -> None:
        timeline = self.timeline
        while timeline.store.revision >= revision:
            timeline.store.undo()
            timeline.made.pop()
            timeline.moments.pop()
            timeline.by.pop()
            self._candidates.give_back(timeline.authors.pop())
            timeline.writes.pop()
        self.lives.undo(revision)

    # --- going on ---------------------------------------------------------------------------------------------------

    def _make(self, revision: int, pending: Candidate | None) -> None:
        """Let the call happen that made a revision."""
        plan = self.plan
        author = plan.writers.get(revision)
        if author is not None:
            self._commit(revision, author, self._writes(author, revision))
        elif revision in plan.unrecorded:
            self._open(revision)
        elif revision in plan.elsewhere:
            self._commit(revision, None, {})
        elif plan.partial:
            fault = self._candidates.unexplained(revision)
            if fault is not None:
                raise Failure(fault)
            self._open(revision)
        else:
            candidate = pending or self._guess(revision)
            self._commit(revision, candidate.call, candidate.writes, candidate.lease)
            self._candidates.take(candidate.call)

    def _open(self, revision: int) -> None:
        facts = self.plan.facts.at(revision)
        self.timeline.store.open(facts)
        self._append(None, facts, self.timeline.moments[-1], self.timeline.by[-1])

    def _guess(self, revision: int) -> Candidate:
        found = self._candidates.of(revision)
        if not found:
            fault = self._candidates.unexplained(revision)
            raise Failure(fault or self._candidates.nobody(revision))
        # Also where there is but one: another may be kept from here by an earlier guess.
        self._guesses.append(_Guess(revision, found))
        return found[0]

    def _writes(self, call: Call, revision: int) -> Writes:
        op, result = call.op, call.result
        assert isinstance(op, Put | Range | Delete | Txn)
        try:
            writes = self.timeline.store.execute(op, result)  # type: ignore[arg-type]
        except Impossible as error:
            text = f"call {call.id}, which made revision {revision}: {error}"
            raise self._failure("wrong answer", text, call, error) from error
        except Refused as error:
            text = f"call {call.id} should have failed: {error.reason}"
            raise self._failure("wrong answer", text, call, error) from error
        for key, (kv, source) in self.plan.facts.writes.get(revision, {}).items():
            if key not in writes or not same(writes[key], kv):
                made = show(writes[key]) if key in writes else "not touched"
                calls = (source.call.id, call.id) if source.call else (call.id,)
                raise Failure(
                    Violation(
                        "two truths",
                        f"revision {revision} of {key!r} is {show(kv)} for {source}, "
                        f"but call {call.id} made that revision, and by it the key was {made}",
                        calls,
                        source.watch.id if source.watch else None,
                        revision,
                    ),
                    (key,),
                )
        return writes

    def _commit(self, revision: int, author: Call | None, writes: Writes, ending: int = 0) -> None:
        timeline = self.timeline
        moment, by = timeline.moments[-1], timeline.by[-1]
        if author is not None and author.start > moment:
            moment, by = author.start, author
        lease_fault = self.lives.before(revision, author, writes, timeline.store)
        if lease_fault is not None:
            raise Failure(lease_fault)
        floor = self.lives.floor(author, writes, ending)
        if floor is not None and floor[0] > moment:
            moment, by = floor
        late = self.lives.overdue(moment, timeline.store)
        if late is not None:
            raise Failure(*late, timely=False)
        if author is not None and author.result is not None and moment > author.end:
            raise Failure(_out_of_order(author, revision, by))
        timeline.store.commit(writes)
        self._append(author, writes, moment, by)
        self.lives.after(revision, moment, author, writes, timeline.store, ending)

    def _append(self, author: Call | None, writes: Writes, moment: int, by: Call | None) -> None:
        timeline = self.timeline
        timeline.authors.append(author)
        timeline.writes.append(writes)
        timeline.made.append(moment)
        timeline.moments.append(moment)
        timeline.by.append(by)

    def _readers(self, revision: int) -> None:
        """Hold everything that saw the store at a revision against it, and against the times."""
        readers = self.plan.readers.get(revision)
        if not readers:
            return
        timeline = self.timeline
        written, by = timeline.moments[-1], timeline.by[-1]
        moment = written
        store = timeline.store
        for call in readers:
            op = call.op
            if isinstance(op, Put | Range | Delete | Txn):
                try:
                    store.execute(op, call.result)  # type: ignore[arg-type]
                except Impossible as error:
                    text = f"call {call.id}, at revision {revision}: {error}"
                    raise self._failure("wrong read", text, call, error, self._culprits(call)) from error
                except Refused as error:
                    text = f"call {call.id} should have failed: {error.reason}"
                    raise self._failure("wrong read", text, call, error) from error
            if written > call.end:
                raise Failure(_out_of_order(call, revision, timeline.by[-1]))
            if call.start > moment and not is_serializable(op):
                moment, by = call.start, call
        timeline.moments[-1], timeline.by[-1] = moment, by

    def _failure(
        self, kind: str, message: str, call: Call, error: Impossible | Refused, others: Iterable[Call] = ()
    ) -> Failure:
        """An answer does not fit the state of the keys that the call looked at."""
        ids = dict.fromkeys([call.id, *(other.id for other in others)])
        keys: set[bytes] = set()
        if isinstance(error, Impossible) and error.key is not None:
            keys.add(error.key)
        else:
            for start, end in spans(call.op):
                keys.update(self.timeline.store.keys_in(start, end))
        return Failure(Violation(kind, message, tuple(ids)), keys)

    def _culprits(self, call: Call) -> Iterable[Call]:
        """The calls that wrote last what a read shows wrongly, so that the picture has both."""
        store = self.timeline.store
        for inner in operations(call.op):
            end = b"" if isinstance(inner, Put) else inner.end
            for key in store.keys_in(inner.key, end)[:50]:
                changes = store.past.get(key)
                if changes:
                    author = self.timeline.authors[changes[-1][0]]
                    if author is not None:
                        yield author

    def _finish(self) -> None:
        """Place what has no revision of its own; everything else stands."""
        for fault in self.lives.finish(self.timeline.moments, self.timeline.store):
            raise Failure(fault)
        for fault in check_compactions(self.plan, self.timeline.made):
            raise Failure(fault)
        for fault in check_refusals(self.plan, self.timeline.store):
            raise Failure(fault)


class HastyReplay(Replay):
    """A search that looks for the cause of a failure at no other keys than those that show it.

    It may pass over the order that there is. What it finds is an order all the same.
    """

    def _related(self, failure: Failure) -> Keys | None:
        return failure.keys


def find_order(plan: Plan, budget: int) -> tuple[Timeline | None, Violation | None]:
    """The order, or the fault that cannot be got around. Raises GaveUp."""
    with suppress(GaveUp):
        hasty = HastyReplay(plan, budget // 4)
        if hasty.run() is None:
            return hasty.timeline, None
    replay = Replay(plan, budget)
    fault = replay.run()
    return (replay.timeline, None) if fault is None else (None, fault)


def _out_of_order(late: Call, revision: int, by: Call | None) -> Violation:
    """`late` had ended before `by` began, yet `by` has its place in the order before it."""
    assert by is not None
    shown = by.result.revision if by.result else revision
    if by.result is None:
        text = (
            f"call {late.id} saw or made revision {revision} and had ended before call {by.id} began, which made an "
            f"earlier one"
        )
        return Violation("read of the future", text, (late.id, by.id))
    if shown == revision:
        text = f"call {late.id} shows revision {revision}, but had ended before call {by.id} began, which made it"
        return Violation("read of the future", text, (late.id, by.id))
    text = (
        f"call {by.id} is at revision {shown}, although it began after call {late.id} had ended, "
        f"which was at revision {revision}"
    )
    return Violation("stale", text, (by.id, late.id))
