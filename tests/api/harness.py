"""A member that answers as a test tells it to, behind the real services on a real socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from typing import Any

import grpc

from kvstore.errors import KvstoreError
from kvstore.mvcc.encoding import CREATE
from kvstore.mvcc.events import Event
from kvstore.mvcc.puts import Put
from kvstore.mvcc.watch import WatchHub
from kvstore.pb import rpc_pb2 as pb
from kvstore.pb import rpc_pb2_grpc
from kvstore.rpc import Promise, StatusCode
from kvstore.server.long_answers import EAGER, Asker
from kvstore.server.member import Member
from kvstore.wire import length_delimited

DEADLINE = 5.0
"""Seconds that anything in these tests may take."""


class FakeStore:
    """A store of nothing but events that a test makes up; what a WatchHub needs of a store."""

    def __init__(self, header: Callable[[int], bytes]) -> None:
        self.revision = 1
        self.compact_revision = 0
        self._events: list[Event] = []
        self.watches = WatchHub(self, header)

    def take_events(self) -> Sequence[Event]:
        events, self._events = self._events, []
        return events

    def history(self, first: int) -> Iterator[tuple[int, bytes]]:
        return iter(())

    def row_at(self, key: bytes, revision: int) -> bytes | None:
        return None

    def put(self, key: bytes, value: bytes) -> None:
        """Make up a put, and tell the watches of it."""
        self.revision += 1
        kv = pb_key_value(key, value, self.revision)
        self._events.append(Event(self.revision, CREATE, key, length_delimited(2, kv), None))
        self.watches.notify()


def pb_key_value(key: bytes, value: bytes, revision: int) -> bytes:
    """An encoded KeyValue."""
    response = pb.RangeResponse()
    kv = response.kvs.add()
    kv.key, kv.value, kv.mod_revision, kv.create_revision, kv.version = key, value, revision, revision, 1
    return kv.SerializeToString()


class FakeMember(Member):
    """Answers every request with a header and what `bodies` has for its method; `error` fails them all.

    requests: what was asked, in order. held: while it is a list, promises are put there instead of being resolved.
    """

    has_leader = True
    is_leader = False
    is_learner = False

    protocol_version = 2

    def __init__(self) -> None:
        self.requests: list[tuple[str, Any]] = []
        self.bodies: dict[str, Any] = {}
        self.error: KvstoreError | None = None
        self.held: list[Promise[Any]] | None = None
        self.lost: list[Callable[[], None]] = []
        self.fake_store = FakeStore(self.header)
        self.store = self.fake_store  # type: ignore[assignment]

    def lose_leader(self) -> None:
        """Be without a leader for longer than an election timeout."""
        self.has_leader = False
        for callback in list(self.lost):
            callback()

    def on_leader_lost(self, callback: Callable[[], None]) -> Callable[[], None]:
        self.lost.append(callback)
        return lambda: self.lost.remove(callback)

    def header(self, revision: int | None = None) -> bytes:
        return length_delimited(1, self.header_message(revision).SerializeToString())

    def header_message(self, revision: int | None = None) -> pb.ResponseHeader:
        return pb.ResponseHeader(
            cluster_id=1, member_id=2, revision=self.store.revision if revision is None else revision, raft_term=3
        )

    def _promise(self, method: str, request: object, result: Any) -> Promise[Any]:
        self.requests.append((method, request))
        if self.held is not None:
            promise: Promise[Any] = Promise()
            self.held.append(promise)
            return promise
        return Promise.resolved(result) if self.error is None else Promise.failed(self.error)

    def _encoded(self, method: str, request: object) -> Promise[bytes]:
        return self._promise(method, request, self.header() + self.bodies.get(method, b""))

    async def _result(self, method: str, request: object, default: Any) -> Any:
        return await self._promise(method, request, self.bodies.get(method, default))

    def range(self, request: pb.RangeRequest, asker: Asker = EAGER) -> Promise[bytes]:
        return self._encoded("range", request)

    async def range_stream(self, request: pb.RangeRequest, asker: Asker = EAGER) -> AsyncIterator[bytes]:
        for part in await self._result("range_stream", request, ()):
            yield part

    def put(self, put: Put) -> Promise[bytes]:
        return self._encoded("put", pb.PutRequest.FromString(put.encoded))

    def delete_range(self, request: pb.DeleteRangeRequest) -> Promise[bytes]:
        return self._encoded("delete_range", request)

    def txn(self, request: pb.TxnRequest, asker: Asker = EAGER) -> Promise[bytes]:
        return self._encoded("txn", request)

    def compact(self, request: pb.CompactionRequest) -> Promise[bytes]:
        return self._encoded("compact", request)

    def lease_grant(self, request: pb.LeaseGrantRequest) -> Promise[bytes]:
        return self._encoded("lease_grant", request)

    def lease_revoke(self, request: pb.LeaseRevokeRequest) -> Promise[bytes]:
        return self._encoded("lease_revoke", request)

    def lease_renew(self, lease_id: int) -> Promise[int]:
        return self._promise("lease_renew", lease_id, self.bodies.get("lease_renew", {}).get(lease_id, 0))

    async def lease_time_to_live(self, request: pb.LeaseTimeToLiveRequest) -> bytes:
        return await self._encoded("lease_time_to_live", request)

    async def lease_leases(self) -> bytes:
        return await self._encoded("lease_leases", None)

    async def member_list(self, linearizable: bool) -> list[pb.Member]:
        result: list[pb.Member] = await self._result("member_list", linearizable, [])
        return result

    async def member_add(self, peer_urls: Sequence[str], is_learner: bool) -> tuple[pb.Member, list[pb.Member]]:
        added = pb.Member(ID=9, peerURLs=peer_urls, isLearner=is_learner)
        members: list[pb.Member] = await self._result("member_add", (list(peer_urls), is_learner), [added])
        return added, members

    async def member_remove(self, number: int) -> list[pb.Member]:
        result: list[pb.Member] = await self._result("member_remove", number, [])
        return result

    async def member_update(self, number: int, peer_urls: Sequence[str]) -> list[pb.Member]:
        result: list[pb.Member] = await self._result("member_update", (number, list(peer_urls)), [])
        return result

    async def member_promote(self, number: int) -> list[pb.Member]:
        result: list[pb.Member] = await self._result("member_promote", number, [])
        return result

    def status(self) -> pb.StatusResponse:
        self.requests.append(("status", None))
        if self.error is not None:
            raise self.error
        return pb.StatusResponse(header=self.header_message(), version="3.6.0", storageVersion="3.6.0")

    async def alarm(self, request: pb.AlarmRequest) -> pb.AlarmResponse:
        result: pb.AlarmResponse = await self._result("alarm", request, pb.AlarmResponse(header=self.header_message()))
        return result

    async def hash(self) -> int:
        result: int = await self._result("hash", None, 77)
        return result

    async def hash_kv(self, revision: int) -> pb.HashKVResponse:
        default = pb.HashKVResponse(header=self.header_message(), hash=78, hash_revision=revision)
        result: pb.HashKVResponse = await self._result("hash_kv", revision, default)
        return result

    async def snapshot(self) -> AsyncGenerator[pb.SnapshotResponse, None]:
        for chunk in await self._result("snapshot", None, ()):
            yield chunk

    async def defragment(self) -> None:
        await self._result("defragment", None, None)

    async def move_leader(self, target: int) -> None:
        await self._result("move_leader", target, None)

    async def linearizable(self) -> None:
        await self._result("linearizable", None, None)


async def until(condition: Callable[[], bool]) -> None:
    """Return once the condition holds. Raises TimeoutError after DEADLINE."""
    async with asyncio.timeout(DEADLINE):
        while not condition():  # noqa: ASYNC110 (nothing tells when)
            await asyncio.sleep(0.002)


class Api:
    """The services of a member as a grpcio client finds them."""

    def __init__(self, member: Member, channel: grpc.aio.Channel) -> None:
        self.member = member
        self.channel = channel
        self.kv = self.stub(rpc_pb2_grpc.KVStub)
        self.watch = self.stub(rpc_pb2_grpc.WatchStub)
        self.lease = self.stub(rpc_pb2_grpc.LeaseStub)
        self.cluster = self.stub(rpc_pb2_grpc.ClusterStub)
        self.maintenance = self.stub(rpc_pb2_grpc.MaintenanceStub)
        self.auth = self.stub(rpc_pb2_grpc.AuthStub)

    def stub(self, generated: Callable[[grpc.aio.Channel], Any]) -> Any:
        """A client of another service. Generated code has no types."""
        return generated(self.channel)


async def status_of(call: Any) -> tuple[StatusCode, str]:
    """How a call ends: its status and its text. A stream is read to its end."""
    try:
        async with asyncio.timeout(DEADLINE):
            if isinstance(call, grpc.aio.UnaryUnaryCall):
                await call
            else:
                while await call.read():
                    continue
    except grpc.aio.AioRpcError as error:
        return StatusCode.of(error.code()), error.details() or ""
    return StatusCode.OK, ""
