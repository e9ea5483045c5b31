"""The Peer service: what other members send to this one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

import structlog

from kvstore import errors
from kvstore.pb import peer_pb2 as pb
from kvstore.pb import rpc_pb2
from kvstore.pb.peer_pb2_grpc import PeerServicer
from kvstore.peer import identity, snapshot
from kvstore.peer.codec import DamagedBatch, MalformedMessage, decode_batch, unseal
from kvstore.peer.observer import PeerObserver, Unobserved
from kvstore.peer.versions import CHECKSUMS, Versions
from kvstore.rpc import EOF, Promise, RpcError, StatusCode
from kvstore.storage import pace
from kvstore.storage.errors import CorruptStore
from raft.messages import Message

T = TypeVar("T")


class PeerHost(Protocol):
    """The member that the service belongs to."""

    id: int
    cluster_id: int
    snapshot_directory: Path
    """Where incoming copies are stored: in the file system of the state."""

    @property
    def has_room(self) -> bool:
        """Whether there is room on the disk, as far as is known."""

    @property
    def spoken(self) -> Versions:
        """What the host speaks; the lowest is what the cluster has agreed on."""

    def speaks(self, member: int, versions: Versions, urls: Sequence[str]) -> None:
        """A member has begun to send messages, and says what it speaks and where it is reached."""

    def is_removed(self, member: int) -> bool:
        """Whether a member was removed from the cluster, and is to hear of it."""

    def receive(self, messages: Sequence[Message]) -> None:
        """Take raft messages."""

    def receive_snapshot(self, received: snapshot.ReceivedSnapshot) -> None:
        """Take a copy of the state; its file is the host's from now on."""

    @property
    def applied(self) -> int:
        """Index of the newest entry applied."""

    def members(self) -> list[rpc_pb2.Member]:
        """Everybody in the cluster, as of the newest entry applied."""

    def heard_from(self, member: int, received_bytes: int) -> None:
        """A member is alive."""

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


class BatchReader(Protocol):
    """A call whose requests are read one by one."""

    def read(self) -> Promise[Any]:
        """The next request, or EOF."""


class _Messages:
    """Takes batches as they arrive, within the turn that received them: a task would take a turn more for each.

    answer: the call's, once the sender has ended or a batch could not be taken.
    """

    def __init__(self, reader: BatchReader, receive: Callable[[pb.MessageBatch], None]) -> None:
        self.answer: Promise[pb.MessagesResponse] = Promise()
        self._reader = reader
        self._receive = receive
        self._read()

    def _read(self) -> None:
        while not self.answer.done():
            batch = self._reader.read()
            if not batch.done():
                batch.then(self._arrived)
                return
            self._take(batch)

    def _arrived(self, batch: Promise[Any]) -> None:
        self._take(batch)
        self._read()

    def _take(self, read: Promise[Any]) -> None:
        try:
            batch = read.result()
            if batch is EOF:
                self.answer.set_result(pb.MessagesResponse())
            else:
                self._receive(batch)
        except Exception as error:  # whatever it is, it ends the call and not the connection
            self.answer.set_exception(error)


class PeerService(PeerServicer):
    """Serves one member's peers."""

    def __init__(self, host: PeerHost, observer: PeerObserver | None = None) -> None:
        self._host = host
        self._observer = observer or Unobserved()
        self._log = structlog.get_logger("kvstore.peer")

    def Messages(self, request_iterator: AsyncIterator[pb.MessageBatch], context: Any) -> Promise[pb.MessagesResponse]:
        """Raft messages, for as long as the sender lives."""
        caller = self._admit(context)
        self._host.speaks(caller.from_, caller.versions, caller.urls)
        return _Messages(cast(BatchReader, request_iterator), partial(self._receive, caller)).answer

    def _receive(self, caller: identity.Caller, batch: pb.MessageBatch) -> None:
        host = self._host
        if host.is_removed(caller.from_):
            raise RpcError(StatusCode.PERMISSION_DENIED, "the member has been permanently removed from the cluster")
        host.heard_from(caller.from_, batch.ByteSize())
        try:
            if batch.sealed and host.spoken[1] < CHECKSUMS:
                raise MalformedMessage(f"a sealed batch is not of version {host.spoken[1]}")
            host.receive(decode_batch(unseal(batch)))
        except DamagedBatch as error:
            # The sender connects again at once, and raft repeats what is missing.
            self._observer.unreadable(caller.from_)
            self._log.warning("damaged messages", member=f"{caller.from_:x}", reason=str(error))
            raise RpcError(StatusCode.DATA_LOSS, str(error)) from error
        except MalformedMessage as error:
            self._observer.unreadable(caller.from_)
            raise RpcError(StatusCode.INVALID_ARGUMENT, str(error)) from error

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
