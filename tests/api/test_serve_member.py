"""The life of a member as the daemon runs it: its end before and after clients are served."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
import structlog

from kvstore.api.serve import serve
from kvstore.pb import rpc_pb2 as pb
from kvstore.pb.rpc_pb2_grpc import KVStub
from kvstore.server.config import Config, Url
from tests.api.real_member import free_url

SECONDS = 30.0


def config(directory: Path, peer: Url, **fields: Any) -> Config:
    own = {"listen_peer_urls": (peer,), "initial_advertise_peer_urls": (peer,)}
    return Config(name="m1", data_dir=directory, **{**own, **fields})


class Running:
    """serve() in a task."""

    def __init__(self, config: Config) -> None:
        self.stop = asyncio.Event()
        self.ready = asyncio.Event()
        self.task = asyncio.ensure_future(serve(config, structlog.get_logger(), self.stop, self.ready.set))

    async def ended(self) -> None:
        async with asyncio.timeout(SECONDS):
            await self.task


async def test_a_client_url_that_is_taken_ends_the_member_which_can_start_again(tmp_path: Path) -> None:
    peer, url = free_url(), free_url()
    flags = config(tmp_path, peer, listen_client_urls=(url,), advertise_client_urls=(url,))
    with socket.socket() as taken:
        taken.bind((url.host, url.port))
        taken.listen()
        running = Running(flags)
        with pytest.raises(OSError, match=str(url.port)):
            await running.ended()
        assert not running.ready.is_set()
    again = Running(flags)
    async with asyncio.timeout(SECONDS):
        await again.ready.wait()
    async with grpc.aio.insecure_channel(url.address) as channel:
        stub: Any = KVStub  # generated code has no types
        assert (await stub(channel).Put(pb.PutRequest(key=b"k"))).header.revision == 2
    again.stop.set()
    await again.ended()


async def test_a_member_that_never_finds_a_quorum_tells_its_health_and_can_be_stopped(tmp_path: Path) -> None:
    peer, other, url, metrics = (free_url() for _ in range(4))
    running = Running(
        config(
            tmp_path,
            peer,
            initial_cluster={"m1": (peer,), "m2": (other,)},
            listen_client_urls=(url,),
            advertise_client_urls=(url,),
            listen_metrics_urls=(metrics,),
        )
    )
    status = await _health(metrics)
    assert status == 503
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(url.host, url.port)
    running.stop.set()
    await running.ended()
    assert not running.ready.is_set()


async def _health(url: Url) -> int:
    async with asyncio.timeout(SECONDS), aiohttp.ClientSession() as session:
        while True:
            try:
                async with session.get(f"{url}/health") as response:
                    return response.status
            except aiohttp.ClientConnectionError:
                await asyncio.sleep(0.01)
