"""The Lease service."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final

from kvstore.pb import rpc_pb2 as pb
from kvstore.pb.rpc_pb2_grpc import LeaseServicer
from kvstore.rpc import Promise
from kvstore.server.member import Member
from kvstore.wire import varint

MAX_RENEWALS: Final = 1024
"""Renewals that one stream may have on their way; a client with more waits."""


class LeaseService(LeaseServicer):
    """Hands requests to the member."""

    def __init__(self, member: Member) -> None:
        self._member = member

    def LeaseGrant(self, request: pb.LeaseGrantRequest, context: Any) -> Promise[bytes]:
        """Create a lease."""
        return self._member.lease_grant(request)

    def LeaseRevoke(self, request: pb.LeaseRevokeRequest, context: Any) -> Promise[bytes]:
        """End a lease and delete its keys."""
        return self._member.lease_revoke(request)

    async def LeaseTimeToLive(self, request: pb.LeaseTimeToLiveRequest, context: Any) -> bytes:
        """What is left of a lease."""
        return await self._member.lease_time_to_live(request)

    async def LeaseLeases(self, request: pb.LeaseLeasesRequest, context: Any) -> bytes:
        """All leases."""
        return await self._member.lease_leases()

    async def LeaseKeepAlive(self, requests: AsyncIterator[pb.LeaseKeepAliveRequest], context: Any) -> None:
        """Renew leases, answering in the order of the requests.

        A renewal on a follower is a round trip to the leader, and one stream may carry thousands of leases: they are
        on their way together, and only the answers wait for each other.
        """
        renewals: asyncio.Queue[_Renewal | None] = asyncio.Queue(MAX_RENEWALS)
        reading = asyncio.ensure_future(self._renew(requests, renewals))
        answering = asyncio.ensure_future(_answer(renewals, context))
        try:
            await asyncio.gather(reading, answering)
        finally:
            reading.cancel()
            answering.cancel()

    async def _renew(
        self, requests: AsyncIterator[pb.LeaseKeepAliveRequest], renewals: asyncio.Queue[_Renewal | None]
    ) -> None:
        member = self._member
        async for request in requests:
            # The header comes first: a revision of after the renewal could be that of the lease's end.
            head = member.header() + b"\x10" + varint(request.ID)
            await renewals.put((head, member.lease_renew(request.ID)))
        await renewals.put(None)


_Renewal = tuple[bytes, Promise[int]]


async def _answer(renewals: asyncio.Queue[_Renewal | None], context: Any) -> None:
    while (renewal := await renewals.get()) is not None:
        head, ttl = renewal
        await context.write(head + b"\x18" + varint(await ttl))
