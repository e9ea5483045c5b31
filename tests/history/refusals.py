"""Compactions, and refusals that tell something of the state. None has a revision; each must fit somewhere.

They change no key, so each can go to the first place that fits: whatever that is, no other call minds.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.history.model import Call, Compact, Outcome, Put, Range, Refusal
from tests.history.places import Places
from tests.history.plan import FOREVER, Plan, is_serializable
from tests.history.report import Violation
from tests.history.store import Store, operations


def check_compactions(plan: Plan, made: list[int]) -> Iterator[Violation]:
    """Compactions in the order of their revisions, after what they need and after the reads that they would refuse."""
    reads: list[tuple[int, int, Call]] = []
    for revision, readers in plan.readers.items():
        for call in (*readers, *([plan.writers[revision]] if revision in plan.writers else [])):
            if is_serializable(call.op):
                continue
            for inner in operations(call.op):
                if isinstance(inner, Range) and inner.revision and isinstance(call.op, Range):
                    reads.append((inner.revision, max(call.start, made[revision]), call))
    reads.sort(key=lambda read: read[0])
    last = 0
    index = 0
    before: Call | None = None
    done: Call | None = None
    for call in sorted(
        (call for call in plan.compactions if call.result), key=lambda call: (_target(call), call.start)
    ):
        target = _target(call)
        if done is not None and _target(done) == target:
            text = f"calls {done.id} and {call.id} both compacted at revision {target}"
            yield Violation("compacted twice", text, (call.id, done.id))
            return
        while index < len(reads) and reads[index][0] < target:
            if reads[index][1] > last:
                last, before = reads[index][1], reads[index][2]
            index += 1
        if call.start > last:
            last, before = call.start, call
        needed = made[target] if target < len(made) else FOREVER
        if needed > call.end:
            text = f"call {call.id} compacted at revision {target}, which was not there yet"
            yield Violation("compaction of the future", text, (call.id,))
            return
        if last > call.end and before is not None:
            text = f"call {call.id} compacted at revision {target}, and call {before.id}, begun later, took no notice"
            yield Violation("read of the compacted", text, (before.id, call.id))
            return
        done = call


def _target(call: Call) -> int:
    assert isinstance(call.op, Compact)
    return call.op.revision


def check_refusals(plan: Plan, store: Store) -> Iterator[Violation]:
    """Refusals that the state cannot have called for at any moment of the call."""
    if plan.partial:
        return
    places = Places(plan)
    for call in plan.refused:
        if call.error == Refusal.COMPACTED:
            yield from _compacted(plan, call)
        elif call.error == Refusal.FUTURE_REV:
            asked = max((_asked(call)), default=0)
            lowest, _ = places.window(call)
            if not is_serializable(call.op) and asked <= lowest:
                text = (
                    f"call {call.id} asked for revision {asked}, which was there, and was told that it is in the future"
                )
                yield Violation("wrong refusal", text, (call.id,))
        elif call.error == Refusal.KEY_NOT_FOUND and isinstance(call.op, Put):
            lowest, highest = places.window(call)
            if not _absent(store, call.op.key, lowest, highest):
                text = f"call {call.id} was told that {call.op.key!r} is not there, which it was all the time"
                yield Violation("wrong refusal", text, (call.id,))


def _asked(call: Call) -> list[int]:
    if isinstance(call.op, Compact):
        return [call.op.revision]
    return [inner.revision for inner in operations(call.op) if isinstance(inner, Range)]


def _compacted(plan: Plan, call: Call) -> Iterator[Violation]:
    asked = min((revision for revision in _asked(call) if revision), default=FOREVER)
    # A compaction at the same revision again is refused; a read at it is not.
    least = asked if isinstance(call.op, Compact) else asked + 1
    if not any(
        other is not call and other.outcome is not Outcome.REFUSED and _target(other) >= least
        for other in plan.compactions
        if other.start <= call.end
    ):
        text = f"call {call.id} was told that revision {asked} is compacted, and no call had asked for that"
        yield Violation("wrong refusal", text, (call.id,))


def _absent(store: Store, key: bytes, lowest: int, highest: int) -> bool:
    """Whether a key was not there at one of these revisions."""
    if store.at(key, lowest) is None:
        return True
    return any(lowest < revision <= highest and kv is None for revision, kv in store.past.get(key, []))
