"""The Peer service: what other members send to this one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import grpc
import structlog

from kvstore import errors
from kvstore.pb import peer_pb2 as pb
from kvstore.pb import rpc_pb2
from kvstore.pb.peer_pb2_grpc import PeerServicer, add_PeerServicer_to_server
from kvstore.peer import identity, snapshot
from kvstore.peer.batches import DamagedBatch
from kvstore.peer.codec import MalformedMessage
from kvstore.peer.observer import PeerObserver, Unobserved
from kvstore.peer.receiving import BatchReader, RaftHost, Receiver
from kvstore.peer.versions import CHECKSUMS, Versions
from kvstore.rpc import Promise, RpcError, StatusCode
from kvstore.storage import pace
from kvstore.storage.errors import CorruptStore

T = TypeVar("T")


class PeerHost(RaftHost, Protocol):
    """The member that the service belongs to."""

    id: int
    cluster_id: int
    snapshot_directory: Path
    """Where incoming copies are stored: in the file system of the state."""

    @property
    def has_room(self) -> bool:
        """Whether there is room on the disk, as far as is known."""

    def speaks(self, member: int, versions: Versions, urls: Sequence[str]) -> None:
        """A member has begun to send messages, and says what it speaks and where it is reached."""

    def receive_snapshot(self, received: snapshot.ReceivedSnapshot) -> None:
        """Take a copy of the state; its file is the host's from now on."""

    @property
    def applied(self) -> int:
        """Index of the newest entry applied."""

    def members(self) -> list[rpc_pb2.Member]:
        """Everybody in the cluster, as of the newest entry applied."""

    async def answer_lease_keep_alive(self, lease_id: int) -> rpc_pb2.LeaseKeepAliveResponse:
        """Renew a lease as the leader."""

    async def answer_lease_time_to_live(
        self, request: rpc_pb2.LeaseTimeToLiveRequest
    ) -> rpc_pb2.LeaseTimeToLiveResponse:
        """Say what is left of a lease as the leader."""

    async def answer_member_promote(self, number: int) -> list[rpc_pb2.Member]:
        """Promote a learner as the leader."""

    async def answer_range(self, request: rpc_pb2.RangeRequest) -> bytes:
        """Read keys, linearizably, from what is here: an encoded response."""

    async def answer_txn(self, request: rpc_pb2.TxnRequest) -> bytes:
        """The same for a transaction. Raises KvstoreError for one that could write."""

    async def hash_kv(self, revision: int) -> rpc_pb2.HashKVResponse:
        """Hash the history up to a revision."""


class PeerService(PeerServicer):
    """Serves one member's peers."""

    def __init__(self, host: PeerHost, observer: PeerObserver | None = None) -> None:
        self._host = host
        self._observer = observer or Unobserved()
        self._log = structlog.get_logger("kvstore.peer")

    def Messages(self, request_iterator: BatchReader, context: Any) -> Promise[bytes]:
        """Raft messages, for as long as the sender lives; both ways encoded."""
        caller = self._admit(context)
        self._host.speaks(caller.from_, caller.versions, caller.urls)
        sealed = caller.versions[0] >= CHECKSUMS
        return Receiver(request_iterator, caller.from_, sealed, self._host, self._unreadable).answer

    def _unreadable(self, member: int, error: MalformedMessage) -> None:
        self._observer.unreadable(member)
        if isinstance(error, DamagedBatch):
            self._log.warning("damaged messages", member=f"{member:x}", reason=str(error))

    async def SendSnapshot(self, request_iterator: AsyncIterator[pb.SnapshotChunk], context: Any) -> pb.SnapshotResult:
        """A copy of the state; answered when it is stored."""
        caller = self._admit(context)
        self._check_room()
        try:
            with self._observer.receiving_snapshot(caller.from_):
                received = await snapshot.receive(aiter(request_iterator), self._host.snapshot_directory)
        except MalformedMessage as error:
            raise RpcError(StatusCode.INVALID_ARGUMENT, str(error)) from error
        try:
            self._check_room()
        except RpcError:
            pace.remove(received.path)
            raise
        self._observer.synced_snapshot(received.sync_seconds)
        self._host.receive_snapshot(received)
        return pb.SnapshotResult()

    async def Members(self, request: pb.MembersRequest, context: Any) -> pb.MembersResponse:
        """The cluster, for one that is about to join it and does not know its id yet. Refuses one that could not."""
        try:
            identity.check_versions(identity.versions_of(context.invocation_metadata()), self._host.spoken)
        except RpcError as error:
            self._log.warning("refused a peer", peer=context.peer(), reason=error.message)
            raise
        host = self._host
        return pb.MembersResponse(cluster_id=host.cluster_id, members=host.members(), applied=host.applied)

    async def LeaseKeepAlive(
        self, request: rpc_pb2.LeaseKeepAliveRequest, context: Any
    ) -> rpc_pb2.LeaseKeepAliveResponse:
        """A client's renewal, passed on to the leader."""
        self._admit(context)
        return await _answered(self._host.answer_lease_keep_alive(request.ID))

    async def LeaseTimeToLive(
        self, request: rpc_pb2.LeaseTimeToLiveRequest, context: Any
    ) -> rpc_pb2.LeaseTimeToLiveResponse:
        """A client's question, passed on to the leader."""
        self._admit(context)
        return await _answered(self._host.answer_lease_time_to_live(request))

    async def MemberPromote(self, request: rpc_pb2.MemberPromoteRequest, context: Any) -> rpc_pb2.MemberPromoteResponse:
        """A client's request, passed on to the leader, which alone knows who has caught up."""
        self._admit(context)
        members = await _answered(self._host.answer_member_promote(request.ID))
        return rpc_pb2.MemberPromoteResponse(members=members)

    async def Range(self, request: rpc_pb2.RangeRequest, context: Any) -> bytes:
        """A client's read, passed on by a member that cannot keep up; an encoded RangeResponse."""
        self._admit(context)
        return await _answered(self._host.answer_range(request))

    async def Txn(self, request: rpc_pb2.TxnRequest, context: Any) -> bytes:
        """The same for a transaction that only reads; an encoded TxnResponse."""
        self._admit(context)
        return await _answered(self._host.answer_txn(request))

    async def HashKV(self, request: rpc_pb2.HashKVRequest, context: Any) -> rpc_pb2.HashKVResponse:
        """This member's hash, for comparison."""
        self._admit(context)
        return await _answered(self._host.hash_kv(request.revision))

    def _check_room(self) -> None:
        """Raise RpcError if the disk is full: before it is replaced, the old state has to be stored."""
        if not self._host.has_room:
            raise RpcError(StatusCode.UNAVAILABLE, "cannot store the snapshot: the disk is full")

    def _admit(self, context: Any) -> identity.Caller:
        try:
            caller = identity.Caller.parse(context.invocation_metadata())
            identity.check(caller, self._host.cluster_id, self._host.id, self._host.spoken)
            if self._host.is_removed(caller.from_):
                raise RpcError(StatusCode.PERMISSION_DENIED, "the member has been permanently removed from the cluster")
        except RpcError as error:
            self._log.warning("refused a peer", peer=context.peer(), reason=error.message)
            raise
        return caller


async def _without_damage(answer: Awaitable[T]) -> T:
    """The answer. Raises Corrupt if it cannot be read from this member's disk."""
    try:
        return await answer
    except CorruptStore as error:
        raise errors.Corrupt from error


async def _answered(answer: Awaitable[T]) -> T:
    """The answer, or the error's name: the member that passed the request on finds the error again by it."""
    try:
        return await _without_damage(answer)
    except errors.KvstoreError as error:
        raise RpcError(StatusCode.ABORTED, type(error).__name__) from error


class Registry(Protocol):
    """What takes handlers: a server of kvstore.rpc or of grpcio."""

    def add_generic_rpc_handlers(self, handlers: tuple[Any, ...], /) -> None: ...
    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any], /) -> None: ...


def register(service: PeerServicer, registry: Registry) -> None:
    """Have a server serve peers. Raft's messages come to the service encoded, as they are read without protobuf."""
    add_PeerServicer_to_server(service, _WithoutCodec(registry))  # type: ignore[no-untyped-call]


class _WithoutCodec:
    """Stands between generated code and a server, and takes what codes raft's messages away."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def add_generic_rpc_handlers(self, handlers: tuple[Any, ...], /) -> None:
        """Do nothing: generated code registers everything twice, and only by name can a handler be replaced."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any], /) -> None:
        messages = grpc.stream_unary_rpc_method_handler(handlers["Messages"].stream_unary)
        all_handlers = {**handlers, "Messages": messages}
        self._registry.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, all_handlers),))
        self._registry.add_registered_method_handlers(service, all_handlers)
