"""What a member finds around it: disks, a network, and chance.

The real ones unless told otherwise. A simulation gives others, and so runs whole members in one process, from a seed.
What time it is, the running event loop says. Knows nothing of what a member does with any of it.
"""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from kvstore.pb.peer_pb2_grpc import PeerServicer
from kvstore.peer import service as peer_service
from kvstore.peer.transport import OpenChannel, open_channel
from kvstore.rpc import Server, ServerOptions
from kvstore.server.config import Config, Url
from kvstore.storage import backend, wal
from kvstore.storage.backend import Backend, BackendOptions
from kvstore.storage.batch import TableSpec
from kvstore.storage.wal import Wal, WalOptions
from kvstore.storage.writer import WriterEvents

PEER_MESSAGE_BYTES: Final = 1 << 30
"""What one message from a peer may hold. Older builds send everything that was ready in a turn in one."""

PEER_SERVER: Final = ServerOptions(
    max_receive_bytes=PEER_MESSAGE_BYTES,
    max_partial_bytes=PEER_MESSAGE_BYTES,
    unfinished_bytes=PEER_MESSAGE_BYTES,
    # Renewals that are passed on are calls of their own: raft's messages must not wait until some of them are answered.
    max_concurrent_streams=100_000,
    keepalive_min_time=1.0,
)


class PeerServer(Protocol):
    """What serves a member's peers."""

    async def stop(self, grace: float) -> None:
        """End it; calls under way have `grace` seconds."""


OpenLog = Callable[[Path, WalOptions, WriterEvents, Sequence[int]], Wal]
"""As wal.open_with_process."""

OpenState = Callable[[Path, Sequence[TableSpec], BackendOptions, WriterEvents, Sequence[int]], Backend]
"""As backend.open_with_process."""

ServePeers = Callable[[Config, PeerServicer], Awaitable[PeerServer]]
"""Listens where the configuration says. Raises OSError for an address that is taken."""


async def serve_peers(config: Config, service: PeerServicer) -> Server:
    """Serve peers on the configured addresses."""
    server = Server(PEER_SERVER)
    peer_service.register(service, server)
    for url in config.listen_peer_urls:
        await server.listen(bind_host(url), url.port, reuse_port=config.socket_reuse_port)
    return server


def bind_host(url: Url) -> str | None:
    """The address to listen on; None for all."""
    # One address for localhost: a machine without IPv6 may still name ::1 so, and it could not be bound.
    return "127.0.0.1" if url.host == "localhost" else url.host or None


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Everything that a member has from outside.

    chance: ids, election timeouts. clock: seconds, for how long work takes within a turn of the loop. open_log,
    open_state: the disks, with the writers before them. open_channel, serve_peers: the network between members, both
    ends.
    """

    chance: random.Random = field(default_factory=random.SystemRandom)
    clock: Callable[[], float] = time.perf_counter
    open_log: OpenLog = wal.open_with_process
    open_state: OpenState = backend.open_with_process
    open_channel: OpenChannel = open_channel
    serve_peers: ServePeers = serve_peers
