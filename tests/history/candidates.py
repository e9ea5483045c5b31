"""Which call without an answer can have made a revision that no answered call made.

Facts rule out most: what others saw of the revision, what watches would have been told, versions that would not add up,
values that are known to have been written elsewhere. What is left comes in the order of how badly it is needed.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tests.history.leases import LeaseLives
from tests.history.model import Call, Delete, KeyValue, Op, Put, Range, Txn
from tests.history.places import Places
from tests.history.plan import FOREVER, Plan
from tests.history.report import Violation
from tests.history.store import Impossible, Refused, Store, Writes, operations, same, show, spans, taken, within


@dataclass(slots=True)
class Candidate:
    """A call that fits, None if it is a lease that expired; `lease` is the one that ends by it."""

    call: Call | None
    writes: Writes
    lease: int = 0
    rank: tuple[int, int] = (1, 0)

    @property
    def keys(self) -> Iterable[bytes]:
        return self.writes


class Candidates:
    """The calls that may or may not have happened, and have not been placed yet."""

    def __init__(self, plan: Plan, store: Store, lives: LeaseLives) -> None:
        self._plan = plan
        self._store = store
        self._lives = lives
        self._used: set[int] = set()
        self._by_key: dict[bytes, list[Call]] = {}
        self._wide: list[Call] = []
        for call in plan.maybes:
            if isinstance(call.op, Put) or (isinstance(call.op, Delete) and not call.op.end):
                self._by_key.setdefault(call.op.key, []).append(call)
            else:
                self._wide.append(call)
        self._claimed = self._claimed_puts()
        self._pinned = self._pin()
        self._deletions = self._claimed_deletions()
        self._places = Places(plan)
        self._last_uses: dict[int, int] = {}
        self._groups = _Groups(plan, store)

    def take(self, call: Call | None) -> None:
        if call is not None:
            self._used.add(call.id)

    def give_back(self, call: Call | None) -> None:
        if call is not None:
            self._used.discard(call.id)

    def related(self, keys: Iterable[bytes]) -> frozenset[bytes]:
        """The keys whose state can decide what calls without an answer, or ends of leases, did to any of these."""
        return self._groups.of(keys)

    def of(self, revision: int) -> list[Candidate]:
        """What can have made a revision, most needed first."""
        facts = self._plan.facts.at(revision)
        latest = self._plan.deadlines[revision]
        found: list[Candidate] = []
        tried: set[Op] = set()
        for call in self._possible(facts):
            if call.start > latest or call.id in self._used or call.op in tried:
                continue
            if self._pinned.get(call.id, revision) != revision:
                continue
            op = call.op
            assert isinstance(op, Put | Range | Delete | Txn)
            try:
                writes = self._store.execute(op, None)
            except (Refused, Impossible):
                continue
            if writes and self._allowed(revision, writes) and self._fits(revision, writes, facts):
                tried.add(op)
                found.append(Candidate(call, writes, rank=self._rank(revision, writes)))
        for lease, ender in self._lives.enders(self._store, latest):
            ended: Writes = dict.fromkeys(self._store.attached[lease])
            if self._fits(revision, ended, facts):
                rank = self._rank(revision, ended)
                if ender is not None and ender.result is not None:
                    # It was answered, so it has happened by the time of what began after that.
                    last = self._places.window(ender)[1]
                    if last < revision:
                        continue
                    rank = min(rank, (0, last))
                found.append(Candidate(ender, ended, lease, rank))
        found.sort(key=lambda candidate: candidate.rank)
        return found

    def _possible(self, facts: Writes) -> Iterator[Call]:
        if facts:
            yield from self._by_key.get(next(iter(facts)), ())
        else:
            for calls in self._by_key.values():
                yield from calls
        yield from self._wide

    def _allowed(self, revision: int, writes: Writes) -> bool:
        """Whether all leases that are written to keys can be there."""
        leases = {kv.lease for kv in writes.values() if kv is not None and kv.lease}
        return self._lives.allows(writes) and all(revision <= self._last_use(lease) for lease in leases)

    def _last_use(self, lease_id: int) -> int:
        """The highest revision at which a key can have been put on a lease: by then somebody knew that it was gone."""
        last = self._last_uses.get(lease_id)
        if last is None:
            ends = self._lives.known_ends(lease_id)
            last = self._last_uses[lease_id] = min((self._places.window(call)[1] for call in ends), default=FOREVER)
        return last

    def _fits(self, revision: int, writes: Writes, facts: Writes) -> bool:
        if any(key not in writes for key in facts):
            return False
        for key, kv in writes.items():
            if key in facts:
                if not same(kv, facts[key]):
                    return False
            elif self._plan.facts.excludes(revision, key):
                return False
            following = self._plan.facts.next_put(key, revision)
            if following is not None and following.create_revision <= revision:
                # The key lived on until then: no deletion, and room for the puts that are known to come.
                if kv is None:
                    return False
                puts = self._claims_between(key, revision, following.mod_revision)
                if kv.create_revision != following.create_revision or kv.version + puts > following.version:
                    return False
        return True

    def _rank(self, revision: int, writes: Writes) -> tuple[int, int]:
        """How much speaks for these writes here.

        First what a known version or a known absence waits for, the nearest first; then what leaves as many keys as
        there are; last what makes a key that would have to go again, nobody knows how.
        """
        needed, unwanted = FOREVER, 1
        for key, kv in writes.items():
            following = self._plan.facts.next_put(key, revision)
            if following is not None and following.create_revision <= revision:
                needed = min(needed, following.mod_revision)
                continue
            if kv is not None and key in self._store.live:
                continue
            gone = self._gone_by(key, revision, following)
            if kv is None and gone is not None:
                needed = min(needed, gone)
            else:
                unwanted = max(unwanted, 2 if gone is None else 3)
        return (0, needed) if needed < FOREVER else (unwanted, FOREVER)

    def _gone_by(self, key: bytes, revision: int, following: KeyValue | None) -> int | None:
        """When a key is next known not to be there; None if that is nowhere, or an answered call sees to it."""
        absent = self._plan.facts.next_absence(key, revision)
        created = following.create_revision if following is not None else FOREVER
        gone = min(absent if absent is not None else FOREVER, created)
        if gone == FOREVER:
            return None
        deletions = self._deletions.get(key, [])
        index = bisect_right(deletions, revision)
        return None if index < len(deletions) and deletions[index] <= gone else gone

    def _claims_between(self, key: bytes, after: int, until: int) -> int:
        claims = self._claimed.get(key, [])
        return bisect_right(claims, until) - bisect_right(claims, after)

    def _claimed_puts(self) -> dict[bytes, list[int]]:
        """The revisions at which a key was put for sure: by an answered put, or by what a fact shows."""
        claimed: dict[bytes, set[int]] = {}
        for revision, call in self._plan.writers.items():
            for inner in taken(call.op, call.result):
                if isinstance(inner, Put):
                    claimed.setdefault(inner.key, set()).add(revision)
        for revision, written in self._plan.facts.writes.items():
            for key, (kv, _) in written.items():
                if kv is not None:
                    claimed.setdefault(key, set()).add(revision)
        return {key: sorted(revisions) for key, revisions in claimed.items()}

    def _claimed_deletions(self) -> dict[bytes, list[int]]:
        """The revisions at which a key was deleted for sure, by an answered deletion of it alone, or for a watch."""
        claimed: dict[bytes, set[int]] = {}
        for revision, call in self._plan.writers.items():
            for inner in taken(call.op, call.result):
                if isinstance(inner, Delete) and not inner.end:
                    claimed.setdefault(inner.key, set()).add(revision)
        for revision, written in self._plan.facts.writes.items():
            for key, (kv, _) in written.items():
                if kv is None:
                    claimed.setdefault(key, set()).add(revision)
        return {key: sorted(revisions) for key, revisions in claimed.items()}

    def _pin(self) -> dict[int, int]:
        """Calls that alone can have written a value that was seen: the revision where they must go."""
        writers: dict[tuple[bytes, bytes], list[Call]] = {}
        again: set[bytes] = set()
        for call in (*self._plan.maybes, *self._plan.writers.values()):
            for inner in operations(call.op):
                if isinstance(inner, Put):
                    if inner.ignore_value:
                        again.add(inner.key)
                    writers.setdefault((inner.key, inner.value), []).append(call)
        pinned: dict[int, int] = {}
        for revision, written in self._plan.facts.writes.items():
            for key, (kv, _) in written.items():
                if kv is not None and key not in again:
                    calls = writers.get((key, kv.value), [])
                    if len(calls) == 1:
                        pinned[calls[0].id] = revision
        return pinned

    # --- explanations -----------------------------------------------------------------------------------------------

    def unexplained(self, revision: int) -> Violation | None:
        """What no call at all can have written at a revision, whatever the state was; None if some call can have."""
        written = self._plan.facts.writes.get(revision, {})
        for key, (kv, source) in written.items():
            if any(could_write(call.op, key, kv) for call in self._plan.maybes):
                continue
            if kv is None and (self._plan.partial or self._lives.can_end_any()):
                continue
            what = f"deletes {key!r}" if kv is None else f"makes {key!r} {show(kv)}"
            refused = [call for call in self._plan.refused if could_write(call.op, key, kv)]
            who = f"; only call {refused[0].id} tried, and it was refused" if refused else ""
            return Violation(
                "dirty read",
                f"revision {revision} {what} for {source}, and no call can have done that{who}",
                tuple(call.id for call in (source.call, *refused[:1]) if call is not None),
                source.watch.id if source.watch else None,
                revision,
            )
        return None

    def nobody(self, revision: int) -> Violation:
        """No call that is left fits a revision, as the state then was."""
        shown = [call.id for call in self._plan.readers.get(revision, [])]
        seen = [source.call.id for source in self._plan.facts.sources(revision) if source.call]
        written = ", ".join(f"{key!r}: {show(kv)}" for key, kv in self._plan.facts.at(revision).items())
        after = min((later for later in self._plan.writers if later > revision), default=None)
        calls = dict.fromkeys([*seen, *shown[:2], *([self._plan.writers[after].id] if after else [])])
        what = f"wrote {written}" if written else "was made by somebody"
        return Violation(
            "unexplained revision",
            f"revision {revision} {what}, and none of the calls without an answer can have done that then",
            tuple(calls),
            revision=revision,
        )


def could_write(op: Op, key: bytes, kv: KeyValue | None) -> bool:
    """Whether an operation can leave a key like that, in some state."""
    for inner in operations(op):
        if kv is None:
            if isinstance(inner, Delete) and within(key, inner.key, inner.end):
                return True
        elif isinstance(inner, Put) and inner.key == key and (inner.value == kv.value or inner.ignore_value):
            return True
    return False


class _Groups:
    """Keys tied by calls without an answer, or by a lease: the state of one may decide what is done to another."""

    def __init__(self, plan: Plan, store: Store) -> None:
        self._parent: dict[bytes | int, bytes | int] = {}
        for call in plan.maybes:
            self._tie(key for start, end in spans(call.op) for key in store.keys_in(start, end))
        for call in (*plan.maybes, *plan.writers.values()):
            for inner in operations(call.op):
                if isinstance(inner, Put) and inner.lease:
                    self._tie((inner.lease, inner.key))
        self._members: dict[bytes | int, set[bytes]] = {}
        for key in self._parent:
            if isinstance(key, bytes):
                self._members.setdefault(self._root(key), set()).add(key)

    def _tie(self, keys: Iterable[bytes | int]) -> None:
        first: bytes | int | None = None
        for key in keys:
            root = self._root(key)
            self._parent[root] = first = root if first is None else first

    def _root(self, key: bytes | int) -> bytes | int:
        while (parent := self._parent.get(key, key)) != key:
            # Paths stay short: each step halves what is left of them.
            self._parent[key] = self._parent.get(parent, parent)
            key = parent
        return key

    def of(self, keys: Iterable[bytes]) -> frozenset[bytes]:
        found: set[bytes] = set()
        for key in keys:
            if key not in found:
                found.add(key)
                found.update(self._members.get(self._root(key), ()))
        return frozenset(found)
