"""The client: one object with everything the store can do, and the connections behind it."""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import Self

from kvstore.client.cluster import Cluster
from kvstore.client.endpoint import ChannelConfig
from kvstore.client.keys import Target
from kvstore.client.kv import KV
from kvstore.client.lease import Leases
from kvstore.client.maintenance import Maintenance
from kvstore.client.tls import TLSConfig
from kvstore.client.transport import Transport
from kvstore.client.watch import Filter, Watcher


class Client:
    """A client of a cluster, for one event loop.

    ::

        async with Client(["10.0.0.1:2379", "10.0.0.2:2379"]) as client:
            await client.kv.put("greeting", "hello")
            print((await client.kv.get("greeting")).value)

    endpoints: where members listen, as `host:port`, `http://`, `https://`, `unix://` or `unixs://`. Calls go to the
    connected ones in turn; a member that cannot be reached is passed over until it can.
    tls: how connections are secured. Without it `https://` endpoints are verified with the system's authorities, and
    bare addresses are not secured.
    user, password: log in before the first call, and again when the token expires.
    timeout: seconds for a whole call with its repetitions; None is no limit. Watches and snapshots have none.
    dial_timeout: seconds for one attempt to connect. keepalive_time, keepalive_timeout: a connection that is silent
    so long, in seconds, is asked for a sign of life, and given up if there is none.

    Making one neither blocks nor connects: the first call does. Raises NoEndpoints or ValueError for endpoints that
    make no sense. Closed at the end of the block, or by `close`.
    """

    def __init__(
        self,
        endpoints: Iterable[str] | str,
        *,
        tls: TLSConfig | None = None,
        user: str = "",
        password: str = "",
        timeout: float | None = 5.0,
        dial_timeout: float = 2.0,
        keepalive_time: float = 10.0,
        keepalive_timeout: float = 6.0,
    ) -> None:
        addresses = [endpoints] if isinstance(endpoints, str) else list(endpoints)
        config = ChannelConfig(tls, dial_timeout, keepalive_time, keepalive_timeout)
        self._dial_timeout = dial_timeout
        self._transport = Transport(addresses, config, timeout, user, password)
        self.kv = KV(self._transport)
        self.lease = Leases(self._transport)
        self.cluster = Cluster(self._transport)
        self.maintenance = Maintenance(self._transport)

    @property
    def endpoints(self) -> tuple[str, ...]:
        """The endpoints as they were given."""
        return self._transport.addresses

    def watch(
        self,
        target: Target,
        *,
        start_revision: int = 0,
        prev_kv: bool = False,
        progress_notify: bool = False,
        filters: Iterable[Filter] = (),
        require_leader: bool = False,
    ) -> Watcher:
        """Follow the changes of a key or range.

        start_revision: from then on, 0 is from now on. prev_kv: with each event the key as it was before.
        progress_notify: a response without events now and then while nothing changes. filters: events to leave out.
        require_leader: end with NoLeader rather than wait at a member that has lost the cluster.
        """
        return Watcher(
            self._transport,
            target,
            start_revision=start_revision,
            prev_kv=prev_kv,
            progress_notify=progress_notify,
            filters=filters,
            require_leader=require_leader,
        )

    async def connect(self, timeout: float | None = None) -> None:
        """Wait until a member is connected, at most `timeout` seconds, or else the dial timeout.

        Raises ConnectionFailed.
        """
        await self._transport.connect(self._dial_timeout if timeout is None else timeout)

    async def close(self) -> None:
        """Close every connection; calls and watches in progress fail."""
        await self._transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
