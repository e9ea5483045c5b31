"""Looking after members: their state, alarms, space, and copies of their data."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc.aio

from kvstore.client import errors, rpcs
from kvstore.client.results import (
    Alarm,
    AlarmList,
    AlarmType,
    Hash,
    HashKV,
    Header,
    HeaderOnly,
    SnapshotChunk,
    Status,
)
from kvstore.client.transport import Deadline, Transport, ended_by_closing, error_of, is_local_timeout
from kvstore.pb import rpc_pb2


class Maintenance:
    """The maintenance calls of a client: `client.maintenance`.

    Those about one member take the endpoint at which it listens, as the client's endpoints are written; it need not
    be among them.
    """

    __slots__ = ("_transport",)

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def status(self, endpoint: str) -> Status:
        """How the member at `endpoint` is."""
        return Status.from_pb(await self._transport.unary_at(endpoint, rpcs.STATUS, rpc_pb2.StatusRequest()))

    async def defragment(self, endpoint: str) -> HeaderOnly:
        """Give back the space that the member's store does not use. The member serves nothing else meanwhile."""
        answer = await self._transport.unary_at(endpoint, rpcs.DEFRAGMENT, rpc_pb2.DefragmentRequest())
        return HeaderOnly(Header.from_pb(answer.header))

    async def hash(self, endpoint: str) -> Hash:
        """The checksum of the member's whole backend."""
        answer = await self._transport.unary_at(endpoint, rpcs.HASH, rpc_pb2.HashRequest())
        return Hash(Header.from_pb(answer.header), answer.hash)

    async def hash_kv(self, endpoint: str, revision: int = 0) -> HashKV:
        """The checksum of the history up to `revision`, 0 for all. Raises Compacted, FutureRev."""
        request = rpc_pb2.HashKVRequest(revision=revision)
        answer = await self._transport.unary_at(endpoint, rpcs.HASH_KV, request)
        return HashKV(Header.from_pb(answer.header), answer.hash, answer.compact_revision, answer.hash_revision)

    async def alarms(self) -> AlarmList:
        """The alarms that are raised, on whichever member."""
        request = rpc_pb2.AlarmRequest(action=rpc_pb2.AlarmRequest.GET)
        return _alarms(await self._transport.unary(rpcs.ALARM_LIST, request))

    async def disarm(self, alarm: Alarm) -> AlarmList:
        """Take an alarm back, and answer with it."""
        request = rpc_pb2.AlarmRequest(
            action=rpc_pb2.AlarmRequest.DEACTIVATE,
            memberID=alarm.member_id,
            alarm=rpc_pb2.AlarmType.ValueType(alarm.type),
        )
        return _alarms(await self._transport.unary(rpcs.ALARM, request))

    async def disarm_all(self) -> AlarmList:
        """Take back every alarm that is raised, and answer with them."""
        header: Header | None = None
        disarmed: list[Alarm] = []
        for alarm in (await self.alarms()).alarms:
            answer = await self.disarm(alarm)
            header = answer.header
            disarmed += answer.alarms
        return AlarmList(header, tuple(disarmed))

    async def move_leader(self, endpoint: str, target_id: int) -> HeaderOnly:
        """Hand leadership to another member; `endpoint` must be the leader's.

        Raises NotLeader, BadLeaderTransferee.
        """
        request = rpc_pb2.MoveLeaderRequest(targetID=target_id)
        answer = await self._transport.unary_at(endpoint, rpcs.MOVE_LEADER, request)
        return HeaderOnly(Header.from_pb(answer.header))

    async def snapshot(self, *, timeout: float | None = None) -> AsyncIterator[SnapshotChunk]:
        """A consistent copy of one member's data, in pieces, in order. timeout: seconds for all of it.

        Every piece counts: a stream that breaks raises, and what came before is worth nothing.
        """
        deadline = Deadline(timeout)
        try:
            call = await self._transport.open_server_stream(rpcs.SNAPSHOT, rpc_pb2.SnapshotRequest(), deadline)
            async for answer in call:
                yield SnapshotChunk(answer.blob, answer.remaining_bytes, answer.version)
        except asyncio.CancelledError:
            if ended_by_closing():
                raise errors.ClientClosed from None
            raise
        except errors.ConnectionFailed as error:
            raise errors.CallTimeout from error
        except grpc.aio.AioRpcError as status:
            if is_local_timeout(status):
                raise errors.CallTimeout from status
            raise error_of(status) from status


def _alarms(answer: rpc_pb2.AlarmResponse) -> AlarmList:
    header = Header.from_pb(answer.header) if answer.HasField("header") else None
    return AlarmList(header, tuple(Alarm(alarm.memberID, AlarmType(alarm.alarm)) for alarm in answer.alarms))
