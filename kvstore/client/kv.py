"""Reading and writing keys."""

from __future__ import annotations

from kvstore.client import rpcs
from kvstore.client.keys import Key, Target
from kvstore.client.ops import Compare, Delete, Get, Op, Put, SortOrder, SortTarget, TxnOp
from kvstore.client.results import DeleteResult, GetResult, Header, HeaderOnly, PutResult, TxnResult
from kvstore.client.transport import Transport
from kvstore.pb import rpc_pb2


class KV:
    """The key-value calls of a client: `client.kv`.

    Every call may raise `CallTimeout` and the errors of the server, see `kvstore.client.errors`. Reads, and
    transactions that only read, are repeated over other members while these cannot be reached.
    """

    __slots__ = ("_transport",)

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def get(
        self,
        target: Target,
        *,
        limit: int = 0,
        revision: int = 0,
        order: SortOrder = SortOrder.NONE,
        sort_by: SortTarget = SortTarget.KEY,
        serializable: bool = False,
        keys_only: bool = False,
        count_only: bool = False,
    ) -> GetResult:
        """Read a key or a range (`prefix("a")`, `key_range("a", "b")`, `from_key("a")`).

        limit: at most so many keys, 0 is all. revision: as of then, 0 is now. serializable: whatever one member has,
        without asking a quorum; possibly stale. For bounds on revisions see `ops.Get` and `read`.
        Raises Compacted, FutureRev, EmptyKey.
        """
        return await self.read(Get(target, limit, revision, order, sort_by, serializable, keys_only, count_only))

    async def read(self, op: Get) -> GetResult:
        """Read what an operation says."""
        return GetResult.from_pb(await self._transport.unary(rpcs.RANGE, op.request()))

    async def put(
        self,
        key: Key,
        value: Key = b"",
        *,
        lease: int = 0,
        prev_kv: bool = False,
        ignore_value: bool = False,
        ignore_lease: bool = False,
    ) -> PutResult:
        """Write a key, attached to a lease if one is given.

        prev_kv: answer with the key as it was. ignore_value, ignore_lease: keep the present one; the key must exist.
        Raises KeyNotFound, ValueProvided, LeaseProvided, LeaseNotFound, NoSpace, RequestTooLarge.
        """
        op = Put(key, value, lease, prev_kv, ignore_value, ignore_lease)
        return PutResult.from_pb(await self._transport.unary(rpcs.PUT, op.request()))

    async def delete(self, target: Target, *, prev_kv: bool = False) -> DeleteResult:
        """Remove a key or a range. prev_kv: answer with what was removed."""
        op = Delete(target, prev_kv)
        return DeleteResult.from_pb(await self._transport.unary(rpcs.DELETE, op.request()))

    def txn(self) -> Txn:
        """Build a transaction: `await kv.txn().when(...).then(...).otherwise(...).commit()`."""
        return Txn(self._transport)

    async def compact(self, revision: int, *, physical: bool = False) -> HeaderOnly:
        """Forget history before `revision`. physical: answer only when the space has been freed.

        Raises Compacted at or below the last compaction, FutureRev above the current revision.
        """
        request = rpc_pb2.CompactionRequest(revision=revision, physical=physical)
        answer = await self._transport.unary(rpcs.COMPACT, request)
        return HeaderOnly(Header.from_pb(answer.header))


class Txn:
    """A transaction in the making. Each method adds to what was given before, and returns the transaction."""

    __slots__ = ("_compares", "_failure", "_success", "_transport")

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._compares: list[Compare] = []
        self._success: list[Op] = []
        self._failure: list[Op] = []

    def when(self, *compares: Compare) -> Txn:
        """The conditions, all of which must hold. None at all hold."""
        self._compares += compares
        return self

    def then(self, *ops: Op) -> Txn:
        """What runs if the conditions hold."""
        self._success += ops
        return self

    def otherwise(self, *ops: Op) -> Txn:
        """What runs if one does not."""
        self._failure += ops
        return self

    def as_op(self) -> TxnOp:
        """This transaction as one operation of another."""
        return TxnOp(tuple(self._compares), tuple(self._success), tuple(self._failure))

    async def commit(self) -> TxnResult:
        """Run it, in one revision. Raises DuplicateKey, TooManyOps and what its operations raise."""
        op = self.as_op()
        rpc = rpcs.READ_TXN if op.read_only else rpcs.TXN
        return TxnResult.from_pb(await self._transport.unary(rpc, op.request()))
