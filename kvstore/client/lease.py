"""Leases: granting, renewing in the background, looking at and revoking them."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

from kvstore.client import errors, rpcs
from kvstore.client.results import Header, HeaderOnly, Lease, LeaseInfo, LeaseList
from kvstore.client.transport import Backoff, Transport, is_transient
from kvstore.pb import rpc_pb2


class Leases:
    """The lease calls of a client: `client.lease`."""

    __slots__ = ("_transport",)

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def grant(self, ttl: int, lease_id: int = 0) -> Lease:
        """Create a lease.

        ttl: seconds the lease lives without a renewal; raised to the server's minimum (2 s by default).
        lease_id: 0 lets the server choose a positive 63-bit id.
        Raises LeaseExist if lease_id is taken, LeaseTTLTooLarge above 9,000,000,000 s, NoSpace.
        """
        answer = await self._transport.unary(rpcs.LEASE_GRANT, rpc_pb2.LeaseGrantRequest(TTL=ttl, ID=lease_id))
        return Lease(Header.from_pb(answer.header), answer.ID, answer.TTL)

    async def revoke(self, lease_id: int) -> HeaderOnly:
        """End a lease and delete its keys. Raises LeaseNotFound."""
        answer = await self._transport.unary(rpcs.LEASE_REVOKE, rpc_pb2.LeaseRevokeRequest(ID=lease_id))
        return HeaderOnly(Header.from_pb(answer.header))

    async def time_to_live(self, lease_id: int, *, keys: bool = False) -> LeaseInfo:
        """What remains of a lease and, if asked for, the keys attached to it. An unknown lease is `expired`."""
        request = rpc_pb2.LeaseTimeToLiveRequest(ID=lease_id, keys=keys)
        answer = await self._transport.unary(rpcs.LEASE_TIME_TO_LIVE, request)
        return LeaseInfo(Header.from_pb(answer.header), answer.ID, answer.TTL, answer.grantedTTL, tuple(answer.keys))

    async def leases(self) -> LeaseList:
        """Every lease there is."""
        answer = await self._transport.unary(rpcs.LEASE_LEASES, rpc_pb2.LeaseLeasesRequest())
        return LeaseList(Header.from_pb(answer.header), tuple(lease.ID for lease in answer.leases))

    async def renew(self, lease_id: int) -> Lease:
        """Give a lease its full time again, once. Raises LeaseNotFound."""
        return await _renew(self._transport, lease_id, -1)

    def keep_alive(self, lease_id: int) -> KeepAlive:
        """Renew a lease in the background for as long as the block lasts.

        ::

            async with client.lease.keep_alive(lease.id) as alive:
                ...                      # the lease is renewed after every third of its time
                await alive.wait_lost()  # returns if the lease expires or is revoked all the same

        Entering renews once, and raises LeaseNotFound if there is no such lease. Leaving stops renewing; the lease
        then lives its remaining time.
        """
        return KeepAlive(self._transport, lease_id)


class KeepAlive:
    """The renewals of one lease. Iterating yields each newest renewal and ends when the lease is lost.

    While no member can be reached, renewing goes on until the lease must have expired by this machine's clock.
    """

    def __init__(self, transport: Transport, lease_id: int) -> None:
        self._transport = transport
        self._lease_id = lease_id
        self._task: asyncio.Task[None] | None = None
        self._news = asyncio.Condition()
        self._unseen: Lease | None = None
        self._lost = False
        self._failure: errors.ClientError | None = None
        self.lease: Lease | None = None

    @property
    def lost(self) -> bool:
        """Whether the lease has expired or was revoked, or can no longer be renewed."""
        return self._lost

    async def wait_lost(self) -> None:
        """Return when the lease is lost. Raises the server's error if it refused to renew for another reason."""
        async with self._news:
            await self._news.wait_for(lambda: self._lost)
        if self._failure is not None:
            raise self._failure

    async def __aenter__(self) -> Self:
        self.lease = self._unseen = await _renew(self._transport, self._lease_id, -1)
        self._task = asyncio.create_task(self._run(self.lease))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Lease:
        async with self._news:
            await self._news.wait_for(lambda: self._unseen is not None or self._lost)
            lease, self._unseen = self._unseen, None
        if lease is not None:
            return lease
        if self._failure is not None:
            raise self._failure
        raise StopAsyncIteration

    async def _run(self, lease: Lease) -> None:
        failure: errors.ClientError | None = None
        try:
            while True:
                await asyncio.sleep(lease.ttl / 3)
                lease = await self._renew_in_time(lease.ttl * 2 / 3)
                async with self._news:
                    self.lease = self._unseen = lease
                    self._news.notify_all()
        except (errors.LeaseNotFound, errors.CallTimeout):
            pass  # Lost in one of the two ways there are: gone at the server, or out of reach for its whole time.
        except errors.ClientError as error:
            failure = error
        async with self._news:
            self._lost, self._failure = True, failure
            self._news.notify_all()

    async def _renew_in_time(self, remaining: float) -> Lease:
        """Renew within `remaining` seconds. Raises CallTimeout when they are over."""
        loop = asyncio.get_running_loop()
        until = loop.time() + remaining
        backoff = Backoff()
        while True:
            try:
                return await _renew(self._transport, self._lease_id, max(0.0, until - loop.time()))
            except errors.ServerError as error:
                if not is_transient(error):
                    raise
            await backoff.pause()


async def _renew(transport: Transport, lease_id: int, timeout: float) -> Lease:
    answer = await transport.exchange(
        rpcs.LEASE_KEEP_ALIVE, rpc_pb2.LeaseKeepAliveRequest(ID=lease_id), timeout=timeout
    )
    if answer.TTL <= 0:
        raise errors.LeaseNotFound
    return Lease(Header.from_pb(answer.header), answer.ID, answer.TTL)
