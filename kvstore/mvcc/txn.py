"""Transactions: which branches run, whether they can, and running them.

Everything that can fail is checked before anything is written, so that a failing transaction has no effect. All
compares, nested ones too, see the state before the transaction; its reads see its own earlier writes. Knows the store
by the few operations of `TxnStore`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from kvstore.errors import Compacted, FutureRev, KeyNotFound, LeaseNotFound
from kvstore.mvcc.encoding import Version, value_of, version_of
from kvstore.mvcc.intervals import end_of
from kvstore.pb import rpc_pb2
from kvstore.wire import length_prefixed, varint

_MISSING = Version(0, 0, 0, 0, 0, 0, 0)
_HEADER = b"\x0a"
_EMPTY_HEADER = b"\x0a\x00"


class TxnStore(Protocol):
    """What a transaction needs of the store. `txn_*` operations write at the revision of the transaction."""

    @property
    def revision(self) -> int: ...
    @property
    def compact_revision(self) -> int: ...
    def current_row(self, key: bytes) -> bytes | None: ...
    def current_rows(self, start: bytes, end: bytes | None) -> Iterator[bytes]: ...
    def lease_exists(self, lease: int) -> bool: ...
    def txn_range(self, request: rpc_pb2.RangeRequest) -> bytes: ...
    def txn_put(self, request: rpc_pb2.PutRequest) -> bytes: ...
    def txn_delete_range(self, request: rpc_pb2.DeleteRangeRequest) -> bytes: ...
    def txn_revision(self) -> int:
        """The revision as an operation of the transaction sees it: one more once something has been written."""
        ...


@dataclass(slots=True)
class Branch:
    """The branch of a transaction that its compares chose, with those of the transactions it nests, in order."""

    succeeded: bool
    operations: Sequence[rpc_pb2.RequestOp]
    nested: list[Branch]


def is_read_only(request: rpc_pb2.TxnRequest) -> bool:
    """Whether neither branch can write: nothing but ranges. Nested transactions count as writes, as etcd has it."""
    return all(operation.HasField("request_range") for operation in (*request.success, *request.failure))


def is_serializable(request: rpc_pb2.TxnRequest) -> bool:
    """Whether a read-only transaction may be answered from local state: all its ranges say so."""
    return all(operation.request_range.serializable for operation in (*request.success, *request.failure))


def choose(store: TxnStore, request: rpc_pb2.TxnRequest) -> Branch:
    """Evaluate all compares against the present state."""
    succeeded = all(_compare(store, compare) for compare in request.compare)
    operations = request.success if succeeded else request.failure
    nested = [choose(store, operation.request_txn) for operation in operations if operation.HasField("request_txn")]
    return Branch(succeeded, operations, nested)


def check(store: TxnStore, branch: Branch) -> None:
    """Raise what would fail: LeaseNotFound, KeyNotFound, FutureRev, Compacted."""
    nested = iter(branch.nested)
    for operation in branch.operations:
        match operation.WhichOneof("request"):
            case "request_put":
                put = operation.request_put
                if put.lease and not store.lease_exists(put.lease):
                    raise LeaseNotFound
                if (put.ignore_value or put.ignore_lease) and store.current_row(put.key) is None:
                    raise KeyNotFound
            case "request_range":
                revision = operation.request_range.revision
                if revision > store.revision:
                    raise FutureRev
                if revision != 0 and revision < store.compact_revision:
                    raise Compacted
            case "request_txn":
                check(store, next(nested))


def run(store: TxnStore, branch: Branch) -> bytes:
    """Carry out a checked branch; the TxnResponse without header."""
    nested = iter(branch.nested)
    parts = [b"\x10\x01"] if branch.succeeded else []
    for operation in branch.operations:
        match operation.WhichOneof("request"):
            case "request_put":
                body = store.txn_put(operation.request_put)
                answer = length_prefixed(b"\x12", _revision_header(store) + body)
            case "request_range":
                body = store.txn_range(operation.request_range)
                answer = length_prefixed(b"\x0a", _revision_header(store) + body)
            case "request_delete_range":
                body = store.txn_delete_range(operation.request_delete_range)
                answer = length_prefixed(b"\x1a", _revision_header(store) + body)
            case "request_txn":
                answer = length_prefixed(b"\x22", _EMPTY_HEADER + run(store, next(nested)))
            case _:
                answer = b""
        parts.append(length_prefixed(b"\x1a", answer))
    return b"".join(parts)


def _revision_header(store: TxnStore) -> bytes:
    return length_prefixed(_HEADER, b"\x18" + varint(store.txn_revision()))


def _compare(store: TxnStore, compare: rpc_pb2.Compare) -> bool:
    if not compare.range_end:
        row = store.current_row(compare.key)
        return _compare_missing(compare) if row is None else _compare_row(compare, row)
    end = end_of(compare.key, compare.range_end)
    found = False
    for row in store.current_rows(compare.key, end):
        found = True
        if not _compare_row(compare, row):
            return False
    return found or _compare_missing(compare)


def _compare_missing(compare: rpc_pb2.Compare) -> bool:
    # An empty value and no value look the same in a request, so no value compares as false to everything.
    if compare.target == rpc_pb2.Compare.VALUE:
        return False
    return _holds(compare.result, _number(compare, _MISSING), _expected(compare))


def _compare_row(compare: rpc_pb2.Compare, row: bytes) -> bool:
    if compare.target == rpc_pb2.Compare.VALUE:
        value, expected = value_of(row), compare.value
        return _holds(compare.result, (value > expected) - (value < expected), 0)
    return _holds(compare.result, _number(compare, version_of(row)), _expected(compare))


def _number(compare: rpc_pb2.Compare, version: Version) -> int:
    match compare.target:
        case rpc_pb2.Compare.VERSION:
            return version.version
        case rpc_pb2.Compare.CREATE:
            return version.create_revision
        case rpc_pb2.Compare.MOD:
            return version.mod_revision
        case rpc_pb2.Compare.LEASE:
            return version.lease
        case _:
            return 0


def _expected(compare: rpc_pb2.Compare) -> int:
    """The number to compare with; 0 if the request gave the one of another target."""
    match compare.target:
        case rpc_pb2.Compare.VERSION:
            return compare.version
        case rpc_pb2.Compare.CREATE:
            return compare.create_revision
        case rpc_pb2.Compare.MOD:
            return compare.mod_revision
        case rpc_pb2.Compare.LEASE:
            return compare.lease
        case _:
            return 0


def _holds(result: int, actual: int, expected: int) -> bool:
    match result:
        case rpc_pb2.Compare.EQUAL:
            return actual == expected
        case rpc_pb2.Compare.NOT_EQUAL:
            return actual != expected
        case rpc_pb2.Compare.GREATER:
            return actual > expected
        case rpc_pb2.Compare.LESS:
            return actual < expected
        case _:
            return True
