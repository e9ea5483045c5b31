"""The operations on keys and the conditions of a transaction, as values that know their message.

One operation is the same whether it is sent alone or inside a transaction. Knows nothing of how it is sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from kvstore.client.keys import Key, Target, as_bytes, as_range
from kvstore.pb import rpc_pb2


class SortOrder(IntEnum):
    """NONE is the store's own order: ascending, by key unless another target is given."""

    NONE = 0
    ASCEND = 1
    DESCEND = 2


class SortTarget(IntEnum):
    KEY = 0
    VERSION = 1
    CREATE = 2
    MOD = 3
    VALUE = 4


@dataclass(slots=True)
class Get:
    """Read a key or a range.

    limit: at most so many keys; 0 is all. revision: as of then; 0 is now. serializable: from the member that
    answers, without asking a quorum, so possibly stale. The four revision bounds (inclusive, 0 for none) filter
    before the limit.
    """

    target: Target
    limit: int = 0
    revision: int = 0
    order: SortOrder = SortOrder.NONE
    sort_by: SortTarget = SortTarget.KEY
    serializable: bool = False
    keys_only: bool = False
    count_only: bool = False
    min_mod_revision: int = 0
    max_mod_revision: int = 0
    min_create_revision: int = 0
    max_create_revision: int = 0

    def request(self) -> rpc_pb2.RangeRequest:
        keys = as_range(self.target)
        # Ascending by key is how the store reads anyway; asking for it would cost a sort and lose an early stop.
        natural = self.sort_by is SortTarget.KEY and self.order is SortOrder.ASCEND
        return rpc_pb2.RangeRequest(
            key=keys.key,
            range_end=keys.end,
            limit=self.limit,
            revision=self.revision,
            sort_order=rpc_pb2.RangeRequest.SortOrder.ValueType(SortOrder.NONE if natural else self.order),
            sort_target=rpc_pb2.RangeRequest.SortTarget.ValueType(self.sort_by),
            serializable=self.serializable,
            keys_only=self.keys_only,
            count_only=self.count_only,
            min_mod_revision=self.min_mod_revision,
            max_mod_revision=self.max_mod_revision,
            min_create_revision=self.min_create_revision,
            max_create_revision=self.max_create_revision,
        )

    def as_request_op(self) -> rpc_pb2.RequestOp:
        return rpc_pb2.RequestOp(request_range=self.request())


@dataclass(slots=True)
class Put:
    """Write a key. Without a lease the key is detached from the one it had.

    prev_kv: answer with the key as it was. ignore_value, ignore_lease: keep the present one; the key must exist.
    """

    key: Key
    value: Key = b""
    lease: int = 0
    prev_kv: bool = False
    ignore_value: bool = False
    ignore_lease: bool = False

    def request(self) -> rpc_pb2.PutRequest:
        return rpc_pb2.PutRequest(
            key=as_bytes(self.key),
            value=as_bytes(self.value),
            lease=self.lease,
            prev_kv=self.prev_kv,
            ignore_value=self.ignore_value,
            ignore_lease=self.ignore_lease,
        )

    def as_request_op(self) -> rpc_pb2.RequestOp:
        return rpc_pb2.RequestOp(request_put=self.request())


@dataclass(slots=True)
class Delete:
    """Remove a key or a range. prev_kv: answer with what was removed."""

    target: Target
    prev_kv: bool = False

    def request(self) -> rpc_pb2.DeleteRangeRequest:
        keys = as_range(self.target)
        return rpc_pb2.DeleteRangeRequest(key=keys.key, range_end=keys.end, prev_kv=self.prev_kv)

    def as_request_op(self) -> rpc_pb2.RequestOp:
        return rpc_pb2.RequestOp(request_delete_range=self.request())


@dataclass(slots=True)
class TxnOp:
    """A transaction, alone or as one operation of another: if every comparison holds `success` runs, else `failure`."""

    compares: Sequence[Compare] = ()
    success: Sequence[Op] = ()
    failure: Sequence[Op] = ()

    def request(self) -> rpc_pb2.TxnRequest:
        return rpc_pb2.TxnRequest(
            compare=[compare.message for compare in self.compares],
            success=[op.as_request_op() for op in self.success],
            failure=[op.as_request_op() for op in self.failure],
        )

    def as_request_op(self) -> rpc_pb2.RequestOp:
        return rpc_pb2.RequestOp(request_txn=self.request())

    @property
    def read_only(self) -> bool:
        """Whether neither branch can write, so that sending it twice does no harm."""
        return all(
            isinstance(op, Get) or (isinstance(op, TxnOp) and op.read_only) for op in (*self.success, *self.failure)
        )


Op = Get | Put | Delete | TxnOp

_RESULTS = {
    "=": rpc_pb2.Compare.EQUAL,
    "!=": rpc_pb2.Compare.NOT_EQUAL,
    ">": rpc_pb2.Compare.GREATER,
    "<": rpc_pb2.Compare.LESS,
}


def _result(operator: str) -> rpc_pb2.Compare.CompareResult.ValueType:
    try:
        return _RESULTS[operator]
    except KeyError:
        raise ValueError(f"a comparison is one of = != > <, not {operator!r}") from None


@dataclass(slots=True)
class Compare:
    """A condition of a transaction, made by one of the class methods: `Compare.mod_revision("k", "=", 7)`.

    The operator is one of `=`, `!=`, `>`, `<`. A key that does not exist has version, revisions and lease 0, and no
    comparison of its value holds. Over a range the condition must hold for every key in it.
    """

    message: rpc_pb2.Compare

    @classmethod
    def version(cls, target: Target, operator: str, version: int) -> Compare:
        return cls(_compare(target, operator, rpc_pb2.Compare(target=rpc_pb2.Compare.VERSION, version=version)))

    @classmethod
    def create_revision(cls, target: Target, operator: str, revision: int) -> Compare:
        return cls(_compare(target, operator, rpc_pb2.Compare(target=rpc_pb2.Compare.CREATE, create_revision=revision)))

    @classmethod
    def mod_revision(cls, target: Target, operator: str, revision: int) -> Compare:
        return cls(_compare(target, operator, rpc_pb2.Compare(target=rpc_pb2.Compare.MOD, mod_revision=revision)))

    @classmethod
    def value(cls, target: Target, operator: str, value: Key) -> Compare:
        return cls(_compare(target, operator, rpc_pb2.Compare(target=rpc_pb2.Compare.VALUE, value=as_bytes(value))))

    @classmethod
    def lease(cls, target: Target, operator: str, lease: int) -> Compare:
        return cls(_compare(target, operator, rpc_pb2.Compare(target=rpc_pb2.Compare.LEASE, lease=lease)))


def _compare(target: Target, operator: str, message: rpc_pb2.Compare) -> rpc_pb2.Compare:
    keys = as_range(target)
    message.result = _result(operator)
    message.key, message.range_end = keys.key, keys.end
    return message
