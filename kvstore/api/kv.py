"""The KV service."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from kvstore.mvcc import puts
from kvstore.mvcc.puts import Put
from kvstore.pb import rpc_pb2 as pb
from kvstore.pb.rpc_pb2_grpc import KVServicer
from kvstore.rpc import Promise
from kvstore.server.member import Member

DECODERS: Final[Mapping[str, Callable[[bytes], Any]]] = {"/etcdserverpb.KV/Put": puts.decode}
"""How requests are decoded that the service takes in another form than that of the generated code."""


class KVService(KVServicer):
    """Hands requests to the member; its promise of the encoded response is the answer, so a call costs no task."""

    def __init__(self, member: Member) -> None:
        self._member = member

    def Range(self, request: pb.RangeRequest, context: Any) -> Promise[bytes]:
        """Keys and values of a range."""
        return self._member.range(request, context)

    async def RangeStream(self, request: pb.RangeRequest, context: Any) -> None:
        """The same as many messages, at the pace of the client."""
        async for message in self._member.range_stream(request, context):
            written = context.write(message)
            # Kept by the connection as long as it must be: the next may have to wait for long.
            del message
            await written

    def Put(self, request: Put, context: Any) -> Promise[bytes]:
        """Set a key. See DECODERS."""
        return self._member.put(request)

    def DeleteRange(self, request: pb.DeleteRangeRequest, context: Any) -> Promise[bytes]:
        """Delete a range."""
        return self._member.delete_range(request)

    def Txn(self, request: pb.TxnRequest, context: Any) -> Promise[bytes]:
        """Compare, then do one of two lists of operations."""
        return self._member.txn(request, context)

    def Compact(self, request: pb.CompactionRequest, context: Any) -> Promise[bytes]:
        """Forget the history up to a revision."""
        return self._member.compact(request)
