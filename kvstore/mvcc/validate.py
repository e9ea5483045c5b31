"""What can be told of a request's form without looking at the store: checked once, before it is proposed.

A request that passes can still be refused when it is applied (a lease that is gone, a revision that is compacted).
"""

from collections.abc import Iterable
from typing import Final

from kvstore.errors import (
    DuplicateKey,
    EmptyKey,
    InvalidSortOption,
    KeyNotFound,
    TooManyOps,
)
from kvstore.mvcc import puts
from kvstore.mvcc.intervals import IntervalSet
from kvstore.pb import rpc_pb2

MAX_NESTING: Final = 40
"""Transactions inside one another. Decoders of protobuf stop at 100 levels, of which a nested transaction takes two; an
entry of the log adds two of its own, and one that cannot be decoded ends every member that has to apply it."""

_SORT_ORDERS = frozenset(rpc_pb2.RangeRequest.SortOrder.values())
_SORT_TARGETS = frozenset(rpc_pb2.RangeRequest.SortTarget.values())


def check_range(request: rpc_pb2.RangeRequest) -> None:
    """Raises EmptyKey, InvalidSortOption."""
    if not request.key:
        raise EmptyKey
    if request.sort_order not in _SORT_ORDERS or request.sort_target not in _SORT_TARGETS:
        raise InvalidSortOption


def check_delete_range(request: rpc_pb2.DeleteRangeRequest) -> None:
    """Raises EmptyKey."""
    if not request.key:
        raise EmptyKey


def check_txn(request: rpc_pb2.TxnRequest, max_ops: int) -> None:
    """Check a transaction with all that it nests.

    max_ops: the most compares, success or failure operations; a nested transaction may use what its parent left.
    Raises TooManyOps (also for more than MAX_NESTING levels), DuplicateKey, KeyNotFound (an operation without a
    request) and what its operations raise.
    """
    _check_operations(request, max_ops, MAX_NESTING)
    _writes_of(request.success)
    _writes_of(request.failure)


def _check_operations(request: rpc_pb2.TxnRequest, max_ops: int, max_nesting: int) -> None:
    used = max(len(request.compare), len(request.success), len(request.failure))
    if used > max_ops or max_nesting < 0:
        raise TooManyOps
    for compare in request.compare:
        if not compare.key:
            raise EmptyKey
    for operations in (request.success, request.failure):
        for operation in operations:
            match operation.WhichOneof("request"):
                case "request_put":
                    puts.of_message(operation.request_put).check()
                case "request_range":
                    check_range(operation.request_range)
                case "request_delete_range":
                    check_delete_range(operation.request_delete_range)
                case "request_txn":
                    _check_operations(operation.request_txn, max_ops - used, max_nesting - 1)
                case _:
                    raise KeyNotFound


def _writes_of(operations: Iterable[rpc_pb2.RequestOp]) -> tuple[set[bytes], IntervalSet]:
    """The keys that a branch may put and the ranges that it may delete.

    A put that meets another put, or a deletion of its own branch or of a nested transaction before it, is DuplicateKey:
    the order of operations would otherwise decide what a single revision holds.
    """
    operations = list(operations)
    deletes = IntervalSet()
    for operation in operations:
        if operation.HasField("request_delete_range"):
            deletion = operation.request_delete_range
            deletes.add(deletion.key, deletion.range_end)
    puts: set[bytes] = set()
    for operation in operations:
        if operation.HasField("request_txn"):
            nested = operation.request_txn
            then_puts, then_deletes = _writes_of(nested.success)
            else_puts, else_deletes = _writes_of(nested.failure)
            # Only one of the two branches runs, so they may put the same keys.
            for key in then_puts | else_puts:
                if key in puts or deletes.contains(key):
                    raise DuplicateKey
            puts |= then_puts | else_puts
            deletes.update(then_deletes)
            deletes.update(else_deletes)
    for operation in operations:
        if operation.HasField("request_put"):
            key = operation.request_put.key
            if key in puts or deletes.contains(key):
                raise DuplicateKey
            puts.add(key)
    return puts, deletes
