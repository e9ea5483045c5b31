"""A real member of one that serves in a thread of its own, and grpcio clients of it."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import structlog
import uvloop

from kvstore.api.serve import serve
from kvstore.pb import rpc_pb2 as pb
from kvstore.pb import rpc_pb2_grpc
from kvstore.server.config import Config, GrpcServer, Url

START_SECONDS = 20.0


def free_url() -> Url:
    """A URL on this machine whose port nobody uses."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return Url("http", "127.0.0.1", taken.getsockname()[1])


class RealMember:
    """What the daemon runs, in this process. `start` before anything else, `stop` at the end."""

    max_request_bytes = 100_000

    def __init__(self, data_dir: Path, server: GrpcServer) -> None:
        self._peer, self.url = free_url(), free_url()
        self._config = Config(
            name="m1",
            data_dir=data_dir,
            listen_peer_urls=(self._peer,),
            initial_advertise_peer_urls=(self._peer,),
            listen_client_urls=(self.url,),
            advertise_client_urls=(self.url,),
            max_request_bytes=self.max_request_bytes,
            max_learners=0,
            watch_progress_notify_interval=0.2,
            grpc_server=server,
        )
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        await serve(self._config, structlog.get_logger(), self._stop, self._ready.set)

    def start(self) -> None:
        """Return once clients are served."""
        self._thread.start()
        assert self._ready.wait(START_SECONDS), "the member did not come up"
        self.channel = grpc.insecure_channel(self.url.address)
        self.kv = self._stub(rpc_pb2_grpc.KVStub)
        self.lease = self._stub(rpc_pb2_grpc.LeaseStub)
        self.cluster = self._stub(rpc_pb2_grpc.ClusterStub)
        self.maintenance = self._stub(rpc_pb2_grpc.MaintenanceStub)
        self.watch = self._stub(rpc_pb2_grpc.WatchStub)

    def _stub(self, generated: Callable[[grpc.Channel], Any]) -> Any:
        return generated(self.channel)

    @property
    def peer_url(self) -> str:
        """Where it says that its peers reach it."""
        return str(self._peer)

    @property
    def id(self) -> int:
        """Its member id."""
        member_id: int = self.maintenance.Status(pb.StatusRequest()).header.member_id
        return member_id

    def stop(self) -> None:
        """Stop as upon a signal; return once it has."""
        self.channel.close()
        assert self._loop is not None
        assert self._stop is not None
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(START_SECONDS)
        assert not self._thread.is_alive(), "the member did not stop"
