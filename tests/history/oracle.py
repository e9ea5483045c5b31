"""The multi-key store as a model for the search of search.py: slow, without any use of revisions as a guide.

For tests: on small histories it must say the same as linear.py. It has no past revisions, compactions or serializable
reads; such calls are left out by `within_reach`.
"""

from __future__ import annotations

from dataclasses import dataclass

from tests.history.model import (
    Call,
    Compact,
    Delete,
    Grant,
    GrantResult,
    History,
    KeepAlive,
    KeepAliveResult,
    KeyValue,
    Outcome,
    Put,
    Range,
    Refusal,
    Revoke,
    TimeToLive,
    TimeToLiveResult,
    Txn,
)
from tests.history.plan import FOREVER, is_serializable, make
from tests.history.search import Search, Timed
from tests.history.store import Impossible, Refused, Store, Writes, operations


@dataclass(slots=True, frozen=True)
class State:
    revision: int
    kvs: tuple[KeyValue, ...]
    leases: frozenset[int]


@dataclass(slots=True, frozen=True)
class Step:
    """A call; or that its answer's header shows a revision; or that a lease expires."""

    call: Call | None
    header: int = 0
    expires: int = 0

    def __hash__(self) -> int:
        return id(self)


class Oracle:
    """One history's model."""

    def __init__(self, history: History) -> None:
        self._history = history
        keys = {inner.key for call in history.calls for inner in operations(call.op)}
        self._universe = sorted(keys)

    def linearizable(self, budget: int) -> bool | None:
        """Whether any order explains the history; None if the search gave up."""
        return Search(list(self._timed()), self._step, budget).run(State(1, (), frozenset())).found

    def _timed(self) -> list[Timed[Step]]:
        timed: list[Timed[Step]] = []
        for call in self._history.calls:
            if call.outcome is Outcome.UNKNOWN:
                timed.append(Timed(call.start, FOREVER, Step(call), must=False))
                continue
            if call.outcome is Outcome.REFUSED and call.error not in (Refusal.LEASE_NOT_FOUND, Refusal.KEY_NOT_FOUND):
                continue
            pure = call.outcome is Outcome.REFUSED or isinstance(call.op, Range | KeepAlive | TimeToLive)
            timed.append(Timed(call.start, call.end, Step(call), pure=pure))
            if isinstance(call.op, Grant | Revoke) and call.result is not None:
                header = Step(None, header=call.result.revision)
                timed.append(Timed(call.start, call.end, header, pure=True))
            elif isinstance(call.op, KeepAlive | TimeToLive) and call.result is not None:
                # Some member's, which may be behind: only never ahead.
                timed.append(Timed(0, call.end, Step(None, header=call.result.revision), pure=True))
        for lease in make(self._history, 0.01).leases.values():
            timed.append(Timed(lease.expires, FOREVER, Step(None, expires=lease.id), must=False))
        return timed

    def _step(self, state: State, step: Step) -> State | None:
        if step.header:
            return state if state.revision == step.header else None
        if step.expires:
            return self._end(state, step.expires) if step.expires in state.leases else None
        call = step.call
        assert call is not None
        op, result = call.op, call.result
        if call.outcome is Outcome.REFUSED:
            return state if self._refuses(state, call) else None
        if isinstance(op, Put | Range | Delete | Txn):
            return self._kv(state, call, op)
        if isinstance(op, Grant):
            lease = result.lease if isinstance(result, GrantResult) else op.lease
            return State(state.revision, state.kvs, state.leases | {lease})
        if isinstance(op, Revoke):
            return self._end(state, op.lease) if op.lease in state.leases else None
        if isinstance(result, KeepAliveResult):
            return state if (result.ttl > 0) == (result.lease in state.leases) else None
        if isinstance(result, TimeToLiveResult):
            return state if (result.granted > 0) == (result.lease in state.leases) else None
        return state

    def _refuses(self, state: State, call: Call) -> bool:
        if call.error == Refusal.LEASE_NOT_FOUND:
            return isinstance(call.op, Put | Revoke | KeepAlive | TimeToLive) and call.op.lease not in state.leases
        return isinstance(call.op, Put) and all(kv.key != call.op.key for kv in state.kvs)

    def _kv(self, state: State, call: Call, op: Put | Range | Delete | Txn) -> State | None:
        store = Store(self._universe, state.revision, {kv.key: kv for kv in state.kvs})
        try:
            writes = store.execute(op, call.result)  # type: ignore[arg-type]
        except (Impossible, Refused):
            return None
        if any(kv is not None and kv.lease and kv.lease not in state.leases for kv in writes.values()):
            return None
        after = self._write(state, writes)
        if call.result is not None and call.result.revision != after.revision:
            return None
        return after

    def _end(self, state: State, lease: int) -> State:
        gone: Writes = {kv.key: None for kv in state.kvs if kv.lease == lease}
        after = self._write(state, gone)
        return State(after.revision, after.kvs, state.leases - {lease})

    def _write(self, state: State, writes: Writes) -> State:
        if not writes:
            return state
        live = {kv.key: kv for kv in state.kvs}
        for key, kv in writes.items():
            if kv is None:
                live.pop(key, None)
            else:
                live[key] = kv
        return State(state.revision + 1, tuple(live[key] for key in sorted(live)), state.leases)


def within_reach(history: History) -> History:
    """The history without the calls that this model does not have; all of those only read."""
    calls = [
        call
        for call in history.calls
        if not isinstance(call.op, Compact)
        and not (isinstance(call.op, Range | Txn) and is_serializable(call.op))
        and not any(isinstance(inner, Range) and inner.revision for inner in operations(call.op))
    ]
    return History(calls=calls)
