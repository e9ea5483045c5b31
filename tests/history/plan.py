"""A history sorted by what each call says of the revisions: which one it made, which it saw, or that it cannot tell."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from tests.history.facts import Facts, gather
from tests.history.model import (
    Call,
    Compact,
    Delete,
    Grant,
    GrantResult,
    History,
    KeepAlive,
    KeepAliveResult,
    Op,
    Outcome,
    Put,
    Range,
    Refusal,
    Revoke,
    TimeToLive,
    TimeToLiveResult,
    Txn,
)
from tests.history.report import Violation
from tests.history.store import operations, wrote

SECOND = 1_000_000_000
FOREVER = 1 << 62
_WALKABLE = 100_000
"""Revisions too many that the search may still walk to, to say more exactly what is wrong."""


@dataclass(slots=True)
class Lease:
    """All that a history has of one lease. `grants` has more than one call only where a client chose the id twice.

    alive: calls that show that it was there. gone: calls that show that it was not. expires: the earliest moment at
    which it can have expired.
    """

    id: int
    grants: list[Call] = field(default_factory=list)
    alive: list[Call] = field(default_factory=list)
    gone: list[Call] = field(default_factory=list)
    revokes: list[Call] = field(default_factory=list)
    maybe_revokes: list[Call] = field(default_factory=list)
    expires: int = 0

    @property
    def granted(self) -> int:
        """The earliest moment at which it can have been there."""
        return min((call.start for call in self.grants), default=0)

    @property
    def reused(self) -> bool:
        return len(self.grants) > 1

    def last_alive(self) -> int:
        return max((call.start for call in self.alive), default=0)


@dataclass(slots=True)
class Plan:
    """`writers[r]` made revision r; `readers[r]` saw the store at r; `maybes` may have made any, or none.

    top: the newest revision that anything shows. deadlines[r]: when the first call that shows revision r or a later one
    had ended, so that everything up to r must have begun by then.
    """

    facts: Facts
    universe: list[bytes]
    unrecorded: frozenset[int]
    elsewhere: frozenset[int]
    writers: dict[int, Call] = field(default_factory=dict)
    readers: dict[int, list[Call]] = field(default_factory=dict)
    maybes: list[Call] = field(default_factory=list)
    leases: dict[int, Lease] = field(default_factory=dict)
    compactions: list[Call] = field(default_factory=list)
    refused: list[Call] = field(default_factory=list)
    faults: list[Violation] = field(default_factory=list)
    top: int = 1
    deadlines: list[int] = field(default_factory=list)

    def lease(self, lease_id: int) -> Lease:
        found = self.leases.get(lease_id)
        if found is None:
            found = self.leases[lease_id] = Lease(lease_id)
        return found

    @property
    def partial(self) -> bool:
        """Whether calls are missing from the history, so that only what is there can be held against others."""
        return bool(self.unrecorded or self.elsewhere)


def is_serializable(op: Op) -> bool:
    """Whether an operation may be answered from a member's own, older state."""
    if isinstance(op, Range):
        return op.serializable
    if isinstance(op, Txn):
        return all(isinstance(inner, Range) and inner.serializable for inner in (*op.then, *op.otherwise))
    # The headers of these are the answering member's, which need not be the one that keeps the leases.
    return isinstance(op, KeepAlive | TimeToLive)


def may_write(op: Op) -> bool:
    return any(isinstance(inner, Put | Delete) for inner in operations(op))


def make(history: History, clock_error: float) -> Plan:
    """Sort a history. What is wrong with single calls, or with two of one revision, is in `faults`."""
    facts = gather(history)
    keys = {inner.key for call in history.calls for inner in operations(call.op) if isinstance(inner, Put)}
    keys.update(key for written in facts.writes.values() for key in written)
    plan = Plan(facts, sorted(keys), _all(history.unrecorded), _all(history.elsewhere), faults=list(facts.conflicts))
    for call in history.calls:
        if call.outcome is Outcome.ANSWERED:
            _answered(plan, call)
        elif call.outcome is Outcome.REFUSED:
            _refused(plan, call)
        else:
            _maybe(plan, call)
    for lease in plan.leases.values():
        _expiry(lease, clock_error)
    plan.top = max(
        [plan.top, *plan.writers, *plan.readers, *facts.writes, *(cover.last for cover in facts.coverage)]
        + [max(revisions) for revisions in (plan.unrecorded, plan.elsewhere) if revisions]
    )
    _bound(plan)
    if not plan.faults:
        plan.deadlines = _deadlines(plan)
    return plan


def _all(revisions: tuple[tuple[int, int], ...]) -> frozenset[int]:
    return frozenset(revision for first, last in revisions for revision in range(first, last + 1))


def _bound(plan: Plan) -> None:
    """Refuse a revision that is absurdly higher than all calls together can have made."""
    ends = sum(len(lease.revokes) + len(lease.maybe_revokes) + len(lease.grants) for lease in plan.leases.values())
    possible = 1 + len(plan.writers) + len(plan.maybes) + ends + len(plan.unrecorded) + len(plan.elsewhere)
    if plan.top > possible + _WALKABLE and not plan.partial:
        shown = [call.id for call in (*plan.readers.get(plan.top, ()), plan.writers.get(plan.top)) if call]
        text = f"revision {plan.top} was seen, and all calls together can have made {possible} at most"
        plan.faults.append(Violation("unexplained revision", text, tuple(shown), revision=plan.top))


def _answered(plan: Plan, call: Call) -> None:
    op, result = call.op, call.result
    if result is None:
        plan.faults.append(Violation("bad record", f"call {call.id} is answered and has no result", (call.id,)))
        return
    revision = result.revision
    if call.end < call.start or revision < 1:
        plan.faults.append(
            Violation("bad record", f"call {call.id} ends before it starts, or has no revision", (call.id,))
        )
        return
    if wrote(op, result) and revision == 1:
        text = f"call {call.id} is answered that it made revision 1, which is the empty store's"
        plan.faults.append(Violation("wrong answer", text, (call.id,)))
    elif wrote(op, result):
        other = plan.writers.setdefault(revision, call)
        if other is not call:
            plan.faults.append(
                Violation(
                    "revision made twice",
                    f"calls {other.id} and {call.id} were both answered that they made revision {revision}",
                    (call.id, other.id),
                )
            )
    else:
        plan.readers.setdefault(revision, []).append(call)
    if isinstance(op, Compact):
        plan.compactions.append(call)
    elif isinstance(op, Grant) and isinstance(result, GrantResult):
        plan.lease(result.lease).grants.append(call)
        if result.ttl < op.ttl:
            plan.faults.append(
                Violation(
                    "lease too short", f"call {call.id} asked for {op.ttl} s and was granted {result.ttl} s", (call.id,)
                )
            )
    elif isinstance(op, Revoke):
        plan.lease(op.lease).revokes.append(call)
    elif isinstance(op, KeepAlive) and isinstance(result, KeepAliveResult):
        lease = plan.lease(op.lease)
        (lease.alive if result.ttl > 0 else lease.gone).append(call)
    elif isinstance(op, TimeToLive) and isinstance(result, TimeToLiveResult):
        lease = plan.lease(op.lease)
        (lease.alive if result.granted > 0 else lease.gone).append(call)


def _refused(plan: Plan, call: Call) -> None:
    if call.error == Refusal.LEASE_NOT_FOUND and isinstance(call.op, Put | Revoke | KeepAlive | TimeToLive):
        plan.lease(call.op.lease).gone.append(call)
    else:
        plan.refused.append(call)


def _maybe(plan: Plan, call: Call) -> None:
    if isinstance(call.op, Revoke):
        plan.lease(call.op.lease).maybe_revokes.append(call)
    elif isinstance(call.op, Grant) and call.op.lease:
        plan.lease(call.op.lease).grants.append(call)
    elif isinstance(call.op, Compact):
        plan.compactions.append(call)
    elif may_write(call.op):
        plan.maybes.append(call)


def _expiry(lease: Lease, clock_error: float) -> None:
    """Every answered renewal came before the expiry, so each holds it off for a full TTL from its start."""
    for call in (*lease.grants, *lease.alive):
        if isinstance(call.result, GrantResult | KeepAliveResult):
            lease.expires = max(lease.expires, call.start + int(call.result.ttl * SECOND * (1 - clock_error)))


def _deadlines(plan: Plan) -> list[int]:
    deadlines = [FOREVER] * (plan.top + 2)
    for revision in range(plan.top, 0, -1):
        shown: Iterable[Call] = plan.readers.get(revision, ())
        writer = plan.writers.get(revision)
        ends = [call.end for call in shown]
        if writer is not None:
            ends.append(writer.end)
        deadlines[revision] = min([deadlines[revision + 1], *ends])
    return deadlines
