"""Servers of both kinds with the services of a fake member, and a grpcio client of each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator

import grpc
import pytest
import uvloop

from kvstore.api.errors import translate
from kvstore.api.gate import Gate
from kvstore.api.register import register
from kvstore.rpc import Server
from kvstore.rpc.grpcio import GrpcioServer
from tests.api.harness import Api, FakeMember
from tests.api.real_member import RealMember


@pytest.hookimpl(optionalhook=True)
def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run on the loop of the daemon: its transports are none of asyncio's."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
def member() -> FakeMember:
    return FakeMember()


@pytest.fixture
def gate(member: FakeMember) -> Gate:
    return Gate(member)


async def serve_ngh2(member: FakeMember, gate: Gate) -> AsyncIterator[int]:
    server = Server(translate=translate)
    register(server, member, gate)
    yield await server.listen("127.0.0.1", 0)
    await server.stop()


async def serve_grpcio(member: FakeMember, gate: Gate) -> AsyncIterator[int]:
    server = grpc.aio.server()
    register(GrpcioServer(server, translate=translate), member, gate)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield port
    await server.stop(None)


@pytest.fixture(params=[serve_ngh2, serve_grpcio], ids=["ngh2", "grpcio"])
async def api(request: pytest.FixtureRequest, member: FakeMember, gate: Gate) -> AsyncIterator[Api]:
    async for port in request.param(member, gate):
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield Api(member, channel)


@pytest.fixture(scope="module", params=["ngh2", "grpcio"])
def shared_member(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealMember]:
    """A real member for the tests of a module."""
    member = RealMember(tmp_path_factory.mktemp("member"), request.param)
    member.start()
    yield member
    member.stop()
