"""The lives of leases, within an order of revisions: granted, used while it lives, ended by a revocation or by expiry.

An end that deletes keys makes a revision; the search places it. An end without keys leaves no trace but in answers: it
must fit between the last call that shows the lease alive and the first that shows it gone. A lease that is granted
twice under one id (a client chose it) is not followed, only its keys are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tests.history.model import Call, GrantResult, KeepAliveResult
from tests.history.plan import Lease, Plan
from tests.history.report import Violation
from tests.history.store import Store, Writes


@dataclass(slots=True, frozen=True)
class _Mark:
    """Something that happened to a lease at a revision, whose earliest moment is `moment`."""

    revision: int
    moment: int


class LeaseLives:
    """What has become of each lease, up to the revision that the search has reached."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._used: dict[int, list[_Mark]] = {}
        self._emptied: dict[int, list[_Mark]] = {}
        self._ended: dict[int, list[_Mark]] = {}
        self._journal: list[tuple[int, list[_Mark]]] = []
        revokes = [(call.end, lease, call) for lease in plan.leases.values() for call in lease.revokes]
        self._revokes = sorted(revokes, key=lambda revoke: revoke[0])
        self._revoke_ends = [end for end, _, _ in self._revokes]
        self._settled = 0
        self._last_alive = {lease.id: lease.last_alive() for lease in plan.leases.values()}

    def _followed(self, lease_id: int) -> Lease | None:
        lease = self._plan.leases.get(lease_id)
        return None if self._plan.partial or (lease is not None and lease.reused) else lease or Lease(lease_id)

    def allows(self, writes: Writes) -> bool:
        """Whether all leases that are written to keys can be there."""
        return self._fault(0, None, writes) is None

    def known_ends(self, lease_id: int) -> list[Call]:
        """The calls that ended a lease, or found that it had ended."""
        lease = self._followed(lease_id)
        return [*lease.revokes, *_gone(lease)] if lease is not None else []

    def before(self, revision: int, author: Call | None, writes: Writes, store: Store) -> Violation | None:
        """What speaks against making a revision of these writes."""
        if author is None and not writes:
            return None
        return self._fault(revision, author, writes)

    def _fault(self, revision: int, author: Call | None, writes: Writes) -> Violation | None:
        for key, kv in writes.items():
            if kv is None or not kv.lease:
                continue
            lease = self._followed(kv.lease)
            if lease is None:
                continue
            calls = (author.id,) if author else ()
            if not lease.grants:
                text = f"revision {revision} attaches {key!r} to lease {lease.id}, which no call was granted"
                return Violation("lease from nowhere", text, calls)
            ended = self._ended.get(lease.id)
            if ended:
                text = (
                    f"revision {revision} attaches {key!r} to lease {lease.id}, which had ended at revision "
                    f"{ended[-1].revision}"
                )
                return Violation("dead lease", text, (*calls, *(call.id for call in lease.revokes)))
        return None

    def floor(self, author: Call | None, writes: Writes, ending: int) -> tuple[int, Call | None] | None:
        """The earliest moment for these writes, because of the leases that they use or end, and the call it is for."""
        floor: tuple[int, Call | None] | None = None
        for kv in writes.values():
            if kv is not None and kv.lease:
                lease = self._plan.leases.get(kv.lease)
                if lease is not None and lease.grants:
                    first = min(lease.grants, key=lambda call: call.start)
                    if floor is None or first.start > floor[0]:
                        floor = (first.start, first)
        if ending and not self._plan.leases[ending].reused:
            lease = self._plan.leases[ending]
            for call in lease.alive:
                if floor is None or call.start > floor[0]:
                    floor = (call.start, call)
            if author is None and (floor is None or lease.expires > floor[0]):
                renewals = [call for call in (*lease.grants, *lease.alive) if call.result is not None]
                last = max(renewals or lease.grants, key=lambda call: call.start, default=None)
                floor = (lease.expires, last)
        return floor

    def overdue(self, moment: int, store: Store) -> tuple[Violation, list[bytes]] | None:
        """A revocation that had ended before a moment while its lease still has keys, and these keys."""
        while self._settled < len(self._revokes) and self._revoke_ends[self._settled] < moment:
            _, lease, call = self._revokes[self._settled]
            if self._followed(lease.id) and not self._ended.get(lease.id) and store.attached.get(lease.id):
                key = min(store.attached[lease.id])
                text = (
                    f"lease {lease.id} was revoked by call {call.id}, and {key!r}, which was attached to it, was still "
                    f"there at revision {store.revision}"
                )
                return Violation("revoked lease keeps keys", text, (call.id,)), sorted(store.attached[lease.id])
            self._settled += 1
        return None

    def after(self, revision: int, moment: int, author: Call | None, writes: Writes, store: Store, ending: int) -> None:
        """Note what a revision, just committed, did to leases."""
        mark: _Mark | None = None
        for key, old in store.replaced().items():
            new = writes[key]
            if (old is None or not old.lease) and (new is None or not new.lease):
                continue
            mark = mark or _Mark(revision, moment)
            if new is not None and new.lease:
                self._note(self._used, new.lease, mark)
            if old is not None and old.lease and not store.attached.get(old.lease):
                self._note(self._emptied, old.lease, mark)
        if ending:
            self._note(self._ended, ending, mark or _Mark(revision, moment))

    def _note(self, marks: dict[int, list[_Mark]], lease: int, mark: _Mark) -> None:
        noted = marks.setdefault(lease, [])
        noted.append(mark)
        self._journal.append((mark.revision, noted))

    def undo(self, revision: int) -> None:
        """Forget what revisions from this one on did."""
        self._settled = 0
        while self._journal and self._journal[-1][0] >= revision:
            self._journal.pop()[1].pop()

    def enders(self, store: Store, latest: int) -> Iterator[tuple[int, Call | None]]:
        """Leases with keys that can have ended by a moment, each with the call that can have done it earliest.

        None stands for its expiry.
        """
        for lease_id, keys in store.attached.items():
            lease = self._plan.leases.get(lease_id)
            if not keys or lease is None:
                continue
            if not lease.reused and (self._ended.get(lease_id) or self._last_alive[lease_id] > latest):
                continue
            start, call = _first_ender(lease)
            if start <= latest:
                yield lease_id, call

    def can_end_any(self) -> bool:
        return bool(self._plan.leases)

    # --- ends without a revision, once all revisions stand ----------------------------------------------------------

    def finish(self, moments: list[int], store: Store) -> Iterator[Violation]:
        """What is wrong with the lives of leases in a whole order."""
        for lease in self._plan.leases.values():
            yield from _answers(lease)
            if self._plan.partial:
                yield from _outlived(lease)
            elif not lease.reused:
                yield from self._life(lease, moments, store)

    def _life(self, lease: Lease, moments: list[int], store: Store) -> Iterator[Violation]:
        if len(lease.revokes) > 1:
            text = f"lease {lease.id} was revoked by calls {lease.revokes[0].id} and {lease.revokes[1].id}"
            yield Violation("lease revoked twice", text, (lease.revokes[1].id, lease.revokes[0].id))
        for call in (*lease.alive, *lease.revokes):
            if call.end < lease.granted or not lease.grants:
                text = f"call {call.id} found lease {lease.id} before any call can have been granted it"
                yield Violation("lease from nowhere", text, (call.id,))
        yield from self._end(lease, moments, store)

    def _end(self, lease: Lease, moments: list[int], store: Store) -> Iterator[Violation]:
        gone = _gone(lease)
        ended = self._ended.get(lease.id)
        if ended:
            yield from _too_late(lease, gone, ended[-1].moment, "had not ended yet")
            return
        if not lease.grants or not (lease.revokes or gone):
            return
        attached = store.attached.get(lease.id)
        if attached and lease.revokes:
            text = f"lease {lease.id} was revoked by call {lease.revokes[0].id}, and {min(attached)!r} is still there"
            yield Violation("revoked lease keeps keys", text, (lease.revokes[0].id,))
            return
        alive = self._last_alive[lease.id]
        used = [mark.moment for mark in self._used.get(lease.id, [])]
        emptied = [mark.moment for mark in self._emptied.get(lease.id, [])]
        if attached:
            # It may have ended at a revision that nobody has seen.
            emptied = [moments[-1]]
        start, _ = _first_ender(lease)
        end = max([start, alive, *used[-1:], *emptied[-1:]])
        why = "had not ended yet"
        if end == alive:
            last = max(lease.alive, key=lambda call: call.start)
            why = f"was still alive for call {last.id}, which began later"
            yield from _too_late(lease, [*lease.revokes, *gone], end, why, last)
        else:
            if end == start and not (lease.revokes or lease.maybe_revokes):
                why = "could not have expired yet"
            yield from _too_late(lease, [*lease.revokes, *gone], end, why)


def _gone(lease: Lease) -> list[Call]:
    """The calls that found that a lease had ended, and not that there was none yet."""
    granted = max((call.end or call.start for call in lease.grants), default=0)
    return [call for call in lease.gone if lease.grants and call.start > granted]


def _first_ender(lease: Lease) -> tuple[int, Call | None]:
    if lease.revokes:
        return lease.revokes[0].start, lease.revokes[0]
    if lease.maybe_revokes:
        first = min(lease.maybe_revokes, key=lambda call: call.start)
        if first.start < lease.expires:
            return first.start, first
    return lease.expires, None


def _answers(lease: Lease) -> Iterator[Violation]:
    """Seconds that do not fit what was granted."""
    granted = {call.result.ttl for call in lease.grants if isinstance(call.result, GrantResult)}
    for call in lease.alive:
        if isinstance(call.result, KeepAliveResult) and len(granted) == 1 and call.result.ttl not in granted:
            text = (
                f"call {call.id} renewed lease {lease.id} for {call.result.ttl} s, but it was granted {granted.pop()} s"
            )
            yield Violation("wrong lease time", text, (call.id, lease.grants[0].id))
            return


def _outlived(lease: Lease) -> Iterator[Violation]:
    """Only what the times alone tell: a lease alive after its revocation."""
    for revoke in lease.revokes:
        for call in lease.alive:
            if call.start > revoke.end and not lease.reused:
                yield from _too_late(
                    lease, [revoke], call.start, f"was still alive for call {call.id}, which began later", call
                )
                return


def _too_late(lease: Lease, calls: list[Call], moment: int, why: str, other: Call | None = None) -> Iterator[Violation]:
    for call in calls:
        if call.end < moment:
            verb = "revoked" if call in lease.revokes else "did not find"
            ids = (call.id,) if other is None else (other.id, call.id)
            yield Violation("lease life", f"call {call.id} {verb} lease {lease.id}, which {why}", ids)
            return
