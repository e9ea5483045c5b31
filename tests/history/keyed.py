"""Each key by itself, as a register: what is read is what was written last. Does not trust revisions to order anything.

Transactions and deletions are taken apart into what they say of each key; a lease is a deletion that may come; reads
of ranges are left out. A linearizable history is so key by key (Herlihy and Wing, 1990), so this finds nothing that the
order of revisions would not, as long as that is right: it is the second opinion.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from tests.history.model import (
    Call,
    Delete,
    DeleteResult,
    History,
    KeyValue,
    Op,
    Outcome,
    Put,
    PutResult,
    Range,
    RangeResult,
    Result,
    Txn,
    TxnResult,
)
from tests.history.plan import FOREVER, is_serializable
from tests.history.report import Violation
from tests.history.search import Search, Timed
from tests.history.store import operations

Cell = tuple[bytes, int] | None
"""What a key holds: its value and the revision that wrote it, 0 if that is not known. None: no key."""


@dataclass(slots=True, frozen=True)
class Touch:
    """What one call says of one key: that it saw something, that it wrote something, or both at once."""

    call: Call
    reads: bool
    seen: Cell
    writes: bool
    written: Cell = None
    maybe: bool = False


def _after(state: tuple[Cell], touch: Touch) -> tuple[Cell] | None:
    """One step of the register. The state is in a tuple, since "no key" is a state and None means "impossible"."""
    cell = state[0]
    if touch.reads:
        if (cell is None) != (touch.seen is None):
            return None
        if cell is not None and touch.seen is not None and not _alike(cell, touch.seen):
            return None
    return (touch.written,) if touch.writes else state


def _alike(one: tuple[bytes, int], two: tuple[bytes, int]) -> bool:
    return one[0] == two[0] and (not one[1] or not two[1] or one[1] == two[1])


def check_keys(history: History, budget: int) -> tuple[list[Violation], list[str]]:
    """Faults, and keys for which the search gave up."""
    faults: list[Violation] = []
    undecided: list[str] = []
    for key, touches in sorted(_by_key(history).items()):
        order = Search(_timed(touches), _after, budget).run((None,))
        if order.found is None:
            undecided.append(f"{key!r} alone: no order found in {budget:,} steps")
        elif not order.found and order.stuck is not None:
            call = order.stuck.call
            text = f"no order of the calls that touch {key!r} explains call {call.id}"
            faults.append(Violation("no order for a key", text, (call.id,)))
    return faults, undecided


def _by_key(history: History) -> dict[bytes, list[Touch]]:
    found: dict[bytes, list[Touch]] = defaultdict(list)
    ops = [inner for call in history.calls for inner in operations(call.op) if isinstance(inner, Put)]
    # A put that keeps the value it finds cannot be told as one write.
    keys = sorted({op.key for op in ops} - {op.key for op in ops if op.ignore_value})
    known = set(keys)
    for call in history.calls:
        if call.outcome is Outcome.REFUSED or is_serializable(call.op):
            continue
        merged: dict[bytes, Touch] = {}
        for key, touch in _touches(call, call.op, call.result, keys):
            if key not in known:
                continue
            if call.result is None:
                found[key].append(touch)
            else:
                merged[key] = _merge(merged[key], touch) if key in merged else touch
        for key, touch in merged.items():
            found[key].append(touch)
    for call in history.calls:
        for inner in operations(call.op):
            if isinstance(inner, Put) and inner.lease and inner.key in known and call.outcome is not Outcome.REFUSED:
                found[inner.key].append(Touch(call, False, None, True, None, maybe=True))
    return found


def _merge(one: Touch, two: Touch) -> Touch:
    """Two operations of one transaction on a key: what the first saw, what the last wrote."""
    reads, seen = (two.reads, two.seen) if not one.reads and not one.writes else (one.reads, one.seen)
    writes, written = (two.writes, two.written) if two.writes else (one.writes, one.written)
    return Touch(one.call, reads, seen, writes, written)


def _touches(call: Call, op: Op, result: Result | None, keys: list[bytes]) -> Iterator[tuple[bytes, Touch]]:
    if isinstance(op, Put):
        shown = isinstance(result, PutResult) and (op.prev_kv or result.prev_kv is not None)
        seen = _cell(result.prev_kv) if isinstance(result, PutResult) else None
        revision = call.result.revision if call.result else 0
        yield op.key, Touch(call, shown, seen, True, (op.value, revision), maybe=result is None)
    elif isinstance(op, Delete):
        rows = {kv.key: kv for kv in result.prev_kvs} if isinstance(result, DeleteResult) else {}
        inside = [op.key]
        if op.end:
            last = len(keys) if op.end == b"\0" else bisect_left(keys, op.end)
            inside = keys[bisect_left(keys, op.key) : last]
        for key in inside:
            shown = op.prev_kv and result is not None
            yield key, Touch(call, shown, _cell(rows.get(key)), True, None, maybe=result is None)
    elif isinstance(op, Range):
        if isinstance(result, RangeResult) and not (op.end or op.revision or op.keys_only or op.count_only):
            yield op.key, Touch(call, True, _cell(result.kvs[0] if result.kvs else None), False)
    elif isinstance(op, Txn):
        if isinstance(result, TxnResult):
            branch = op.then if result.succeeded else op.otherwise
            for inner, answer in zip(branch, result.results, strict=False):
                yield from _touches(call, inner, answer, keys)
        elif result is None:
            for inner in (*op.then, *op.otherwise):
                yield from _touches(call, inner, None, keys)


def _cell(kv: KeyValue | None) -> Cell:
    return None if kv is None else (kv.value, kv.mod_revision)


def _timed(touches: list[Touch]) -> list[Timed[Touch]]:
    """The touches with their times. One that may not have happened, and that nobody saw, did not."""
    seen_by: dict[bytes | None, int] = {}
    written: dict[bytes | None, int] = defaultdict(int)
    for touch in touches:
        if touch.reads:
            value = touch.seen[0] if touch.seen else None
            seen_by[value] = min(seen_by.get(value, FOREVER), touch.call.end)
        if touch.writes:
            written[touch.written[0] if touch.written else None] += 1
    timed = []
    for touch in touches:
        if not touch.maybe:
            timed.append(Timed(touch.call.start, touch.call.end, touch, pure=not touch.writes))
            continue
        value = touch.written[0] if touch.written else None
        if value not in seen_by:
            continue
        if value is not None and written[value] == 1:
            # Nobody else can have written it: it happened before the first that saw it had ended.
            end = seen_by[value]
            timed.append(Timed(touch.call.start, max(end, touch.call.start), touch))
        else:
            timed.append(Timed(touch.call.start, FOREVER, touch, must=False))
    return timed
