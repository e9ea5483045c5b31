"""The Maintenance service. Downgrade is left unimplemented: there is no older format to go back to."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from kvstore.pb import rpc_pb2 as pb
from kvstore.pb.rpc_pb2_grpc import MaintenanceServicer
from kvstore.rpc import RpcError, StatusCode
from kvstore.server.member import Member


class MaintenanceService(MaintenanceServicer):
    """Hands requests to the member.

    stall_seconds: after that long in which its client takes nothing of a snapshot, that is given up: few can be under
    way, and the state cannot reuse what is being copied.
    """

    def __init__(self, member: Member, stall_seconds: float = 60.0) -> None:
        self._member = member
        self._stall_seconds = stall_seconds

    def Status(self, request: pb.StatusRequest, context: Any) -> pb.StatusResponse:
        """How this member is."""
        return self._member.status()

    async def Alarm(self, request: pb.AlarmRequest, context: Any) -> pb.AlarmResponse:
        """List, raise or disarm alarms."""
        return await self._member.alarm(request)

    async def Hash(self, request: pb.HashRequest, context: Any) -> pb.HashResponse:
        """A hash of this member's whole state."""
        # The header comes first: a later revision would claim that the hash covers it.
        header = self._member.header_message()
        return pb.HashResponse(header=header, hash=await self._member.hash())

    async def HashKV(self, request: pb.HashKVRequest, context: Any) -> pb.HashKVResponse:
        """A hash of the history up to a revision."""
        return await self._member.hash_kv(request.revision)

    async def Snapshot(self, request: pb.SnapshotRequest, context: Any) -> None:
        """A consistent copy of this member's state, at the pace of the client."""
        async with contextlib.aclosing(self._member.snapshot()) as chunks:
            async for chunk in chunks:
                try:
                    async with asyncio.timeout(self._stall_seconds):
                        await context.write(chunk)
                except TimeoutError:
                    text = f"nothing of the snapshot was read for {self._stall_seconds:g} seconds"
                    raise RpcError(StatusCode.RESOURCE_EXHAUSTED, text) from None

    async def Defragment(self, request: pb.DefragmentRequest, context: Any) -> pb.DefragmentResponse:
        """Give unused space of this member's state back to the file system."""
        await self._member.defragment()
        return pb.DefragmentResponse(header=self._member.header_message())

    async def MoveLeader(self, request: pb.MoveLeaderRequest, context: Any) -> pb.MoveLeaderResponse:
        """Let another member lead."""
        await self._member.move_leader(request.targetID)
        return pb.MoveLeaderResponse(header=self._member.header_message())
