"""Calls when members are away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc.aio
import pytest

from kvstore.client import Client, errors
from kvstore.pb import rpc_pb2, rpc_pb2_grpc
from tests.cluster.harness import ClusterFactory, Member

NOBODY = "127.0.0.1:1"
"""Nothing listens on the first port of a machine."""


async def test_an_endpoint_that_cannot_be_reached_is_passed_over(member: Member, key: str) -> None:
    async with Client([NOBODY, member.endpoint, "127.0.0.1:2"]) as client:
        for number in range(6):
            await client.kv.put(key, str(number))
        assert (await client.kv.get(key)).value == b"5"


async def test_calls_take_the_members_in_turn(make_cluster: ClusterFactory, key: str) -> None:
    cluster = make_cluster(size=3)
    async with Client([member.endpoint for member in cluster.members]) as client:
        await client.kv.put(key, "v")
        async with asyncio.timeout(20):
            answered: set[int] = set()
            while len(answered) < 3:
                answered.add((await client.kv.get(key)).header.member_id)
    assert answered == {member.id for member in cluster.members}


async def test_reads_and_writes_go_on_when_a_member_dies(make_cluster: ClusterFactory, key: str) -> None:
    cluster = make_cluster(size=3)
    victim = cluster.followers()[0]
    async with Client([member.endpoint for member in cluster.members]) as client:
        for number in range(6):
            await client.kv.put(key, str(number))
        await asyncio.to_thread(victim.kill)
        for _ in range(6):
            assert (await client.kv.get(key)).value == b"5"
        for number in range(6, 12):
            await client.kv.put(key, str(number))
        assert (await client.kv.get(key)).kvs[0].version == 12


async def test_a_call_waits_for_the_member_to_come_back(make_cluster: ClusterFactory, key: str) -> None:
    member = make_cluster(size=1).members[0]
    async with Client(member.endpoint, timeout=30) as client:
        await client.kv.put(key, "v")
        await asyncio.to_thread(member.kill)
        reading = asyncio.create_task(client.kv.get(key))
        member.start()
        assert (await reading).value == b"v"


async def test_a_call_that_reaches_nobody_ends_in_time_and_names_the_endpoints() -> None:
    async with Client([NOBODY], timeout=0.2) as client:
        began = asyncio.get_running_loop().time()
        with pytest.raises(errors.CallTimeout, match="context deadline exceeded") as caught:
            await client.kv.get("k")
        assert asyncio.get_running_loop().time() - began < 2
        assert NOBODY in str(caught.value.__cause__)
        with pytest.raises(errors.ConnectionFailed, match=NOBODY):
            await client.connect(0.1)


async def test_a_call_that_waits_for_a_connection_ends_when_the_client_is_closed() -> None:
    client = Client(NOBODY, timeout=None)
    waiting = asyncio.create_task(client.kv.get("k"))
    with pytest.raises(errors.ConnectionFailed):
        await client.connect(0.05)
    await client.close()
    async with asyncio.timeout(10):
        with pytest.raises(errors.ClientClosed):
            await waiting


async def test_a_cancelled_call_does_not_stay_behind(member: Member) -> None:
    async with Client([NOBODY], timeout=None) as client:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.kv.get("k"), 0.05)
    async with Client(member.endpoint) as client:
        await client.connect()
        await client.close()
        with pytest.raises(errors.ClientClosed):
            await client.kv.get("k")


class Flaky(rpc_pb2_grpc.KVServicer):
    """Answers every first call with an error that will pass, and counts."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    async def _fail_once(self, name: str, context: grpc.aio.ServicerContext[object, object]) -> None:
        self.calls.append(name)
        if self.calls.count(name) == 1:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "etcdserver: leader changed")

    async def Range(self, request: object, context: grpc.aio.ServicerContext[object, object]) -> object:
        await self._fail_once("range", context)
        return rpc_pb2.RangeResponse(count=7)

    async def Put(self, request: object, context: grpc.aio.ServicerContext[object, object]) -> object:
        await self._fail_once("put", context)
        return rpc_pb2.PutResponse()


@pytest.fixture
async def flaky() -> AsyncIterator[tuple[Flaky, str]]:
    server, servicer = grpc.aio.server(), Flaky()
    rpc_pb2_grpc.add_KVServicer_to_server(servicer, server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield servicer, f"127.0.0.1:{port}"
    await server.stop(None)


async def test_a_read_is_repeated_and_a_write_is_not(flaky: tuple[Flaky, str]) -> None:
    servicer, endpoint = flaky
    async with Client(endpoint) as client:
        assert (await client.kv.get("k")).count == 7
        with pytest.raises(errors.LeaderChanged):
            await client.kv.put("k", "v")
    assert servicer.calls == ["range", "range", "put"]
