"""Servers of both kinds with the same servicer, and what tests wait with."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc

from kvstore.rpc import RpcError, Server, ServerOptions, StatusCode
from kvstore.rpc.grpcio import GrpcioServer
from kvstore.rpc.observer import MethodStats
from tests.rpc.proto import modules

pb2, pb2_grpc = modules()
Text = pb2.Text
# A type checker cannot look into modules that are made at run time.
EchoServicer: type = pb2_grpc.EchoServicer
grpcio_eof: object = getattr(grpc.aio, "EOF")  # noqa: B009


class Counters:
    """An observer that keeps the counters where a test finds them."""

    def __init__(self) -> None:
        self.methods: dict[str, MethodStats] = {}
        self.kinds: dict[str, str] = {}

    def method(self, service: str, name: str, kind: str) -> MethodStats:
        self.kinds[name] = kind
        return self.methods.setdefault(name, MethodStats())


def translate(error: Exception) -> RpcError | None:
    return RpcError(StatusCode.NOT_FOUND, f"missing {error}") if isinstance(error, KeyError) else None


async def eventually(condition: Callable[[], object], seconds: float = 20.0) -> None:
    """Wait until condition() is true; fail the test if it is not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        await asyncio.sleep(0.002)


@asynccontextmanager
async def serving(
    servicer: Any,
    *,
    options: ServerOptions | None = None,
    observer: Counters | None = None,
) -> AsyncIterator[tuple[Server, int]]:
    """Our server with an Echo servicer, and its port."""
    server = Server(options, observer=observer, translate=translate)
    pb2_grpc.add_EchoServicer_to_server(servicer, server)
    port = await server.listen("127.0.0.1", 0)
    try:
        yield server, port
    finally:
        await server.stop()


@asynccontextmanager
async def serving_on_grpcio(
    servicer: Any, *, max_receive_bytes: int = 4 << 20, observer: Counters | None = None
) -> AsyncIterator[int]:
    """grpcio's server with the same servicer; its port."""
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", max_receive_bytes)])
    pb2_grpc.add_EchoServicer_to_server(servicer, GrpcioServer(server, translate=translate, observer=observer))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield port
    finally:
        await server.stop(None)


@asynccontextmanager
async def stub_of(port: int, **options: Any) -> AsyncIterator[Any]:
    """A grpcio client of a port."""
    arguments = [(f"grpc.{key}", value) for key, value in options.items()]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=arguments) as channel:
        stub = pb2_grpc.EchoStub(channel)
        stub.channel = channel
        yield stub


async def status_of(call: Any) -> tuple[grpc.StatusCode, str]:
    """How a grpcio call ended."""
    return await call.code(), await call.details()
