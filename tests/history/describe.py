"""Calls in a line of text, for messages and the picture."""

from __future__ import annotations

from tests.history.model import (
    Call,
    Compact,
    Delete,
    DeleteResult,
    Event,
    Grant,
    GrantResult,
    KeepAlive,
    KeepAliveResult,
    Op,
    Outcome,
    Put,
    PutResult,
    Range,
    RangeResult,
    Result,
    Revoke,
    TimeToLive,
    TimeToLiveResult,
    Txn,
    TxnResult,
)
from tests.history.store import show


def text(raw: bytes) -> str:
    """A key or a value, short."""
    shown = raw.decode("ascii", "backslashreplace")
    return shown if len(shown) <= 24 else f"{shown[:20]}…({len(raw)})"


def operation(op: Op) -> str:
    """What a call asks for."""
    if isinstance(op, Put):
        lease = f" lease {op.lease}" if op.lease else ""
        return f"put {text(op.key)}={text(op.value)}{lease}"
    if isinstance(op, Range | Delete):
        span = f"{text(op.key)}…{text(op.end)}" if op.end else text(op.key)
        if isinstance(op, Delete):
            return f"delete {span}"
        return (
            ("serializable " if op.serializable else "") + f"get {span}" + (f" @{op.revision}" if op.revision else "")
        )
    if isinstance(op, Txn):
        when = ", ".join(
            f"{compare.target}({text(compare.key)}){compare.relation}"
            f"{text(compare.operand) if isinstance(compare.operand, bytes) else compare.operand}"
            for compare in op.compares
        )
        return f"txn if {when or 'always'}: {_list(op.then)}" + (f" else {_list(op.otherwise)}" if op.otherwise else "")
    if isinstance(op, Compact):
        return f"compact {op.revision}"
    if isinstance(op, Grant):
        return f"grant {op.ttl} s"
    return {Revoke: "revoke", KeepAlive: "keep alive", TimeToLive: "time to live of"}[type(op)] + f" lease {op.lease}"


def _list(ops: tuple[Op, ...]) -> str:
    return "[" + "; ".join(map(operation, ops)) + "]"


def outcome(call: Call) -> str:
    """What became of a call."""
    if call.outcome is Outcome.REFUSED:
        return f"refused: {call.error}"
    if call.outcome is Outcome.UNKNOWN or call.result is None:
        return f"no answer {call.error}".rstrip()
    return f"revision {call.result.revision}{_details(call.result)}"


def _details(result: Result) -> str:
    if isinstance(result, RangeResult):
        rows = ", ".join(f"{text(kv.key)}={show(kv)}" for kv in result.kvs[:8]) or f"{result.count} keys"
        return f": {rows}" + (" …" if len(result.kvs) > 8 else "")
    if isinstance(result, PutResult):
        return f", before: {show(result.prev_kv)}" if result.prev_kv else ""
    if isinstance(result, DeleteResult):
        return f", {result.deleted} deleted"
    if isinstance(result, TxnResult):
        inner = "; ".join(_details(answer).lstrip(":, ") or "done" for answer in result.results)
        return f", {'then' if result.succeeded else 'else'}: {inner}"
    if isinstance(result, GrantResult):
        return f", lease {result.lease} for {result.ttl} s"
    if isinstance(result, KeepAliveResult | TimeToLiveResult):
        return f", {result.ttl} s left"
    return ""


def event(told: Event) -> str:
    """A watch event."""
    what = f"deleted (mod {told.kv.mod_revision})" if told.deleted else show(told.kv)
    return f"{text(told.kv.key)}: {what}" + (f", before: {show(told.prev_kv)}" if told.prev_kv else "")
