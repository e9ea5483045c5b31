"""A member's listeners: what is served where, and how they close."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
import grpc
import pytest
import structlog
from prometheus_client.parser import text_string_to_metric_families

from kvstore import errors
from kvstore.api.errors import STATUS
from kvstore.api.serve import ClientApi
from kvstore.pb import rpc_pb2 as pb
from kvstore.rpc import StatusCode
from kvstore.server.config import Config, GrpcServer, Url
from kvstore.server.metrics import Metrics
from tests.api.harness import DEADLINE, Api, FakeMember, status_of, until

Open = Callable[..., Awaitable[ClientApi]]
ANY_PORT = (Url("http", "127.0.0.1", 0),)
BOTH: list[GrpcServer] = ["ngh2", "grpcio"]


def free_url() -> Url:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return Url("http", "127.0.0.1", taken.getsockname()[1])


@pytest.fixture
async def open_api(member: FakeMember) -> AsyncIterator[Open]:
    """Opens listeners with a configuration of the given fields; all are closed at the end."""
    opened: list[ClientApi] = []

    async def open_(**fields: Any) -> ClientApi:
        config = Config(**{"listen_client_urls": ANY_PORT, **fields})
        api = ClientApi(member, config, Metrics(), structlog.get_logger())
        opened.append(api)
        await api.open_http()
        await api.open_grpc()
        return api

    yield open_
    for api in opened:
        await api.close()


def client(member: FakeMember, api: ClientApi) -> Api:
    return Api(member, grpc.aio.insecure_channel(api.urls[0].address))


async def get(url: Url, path: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(f"{url}{path}") as response:
        return response.status, await response.text()


@pytest.mark.parametrize("server", BOTH)
async def test_every_client_url_serves_grpc(open_api: Open, member: FakeMember, server: GrpcServer) -> None:
    urls = (Url("http", "127.0.0.1", 0), free_url())
    api = await open_api(listen_client_urls=urls, grpc_server=server)
    assert len(api.urls) == 2
    assert api.urls[1] == urls[1]
    for url in api.urls:
        async with grpc.aio.insecure_channel(url.address) as channel:
            assert (await Api(member, channel).kv.Put(pb.PutRequest(key=b"k"))).header.member_id == 2


@pytest.mark.parametrize("server", BOTH)
async def test_client_urls_serve_http_as_well(open_api: Open, server: GrpcServer) -> None:
    api = await open_api(grpc_server=server)
    status, text = await get(api.urls[0], "/version")
    assert (status, json.loads(text)["etcdserver"]) == (200, "3.6.0")


@pytest.mark.parametrize("server", BOTH)
async def test_http_urls_take_http_away_from_the_client_urls(
    open_api: Open, member: FakeMember, server: GrpcServer
) -> None:
    http = free_url()
    api = await open_api(listen_client_http_urls=(http,), grpc_server=server)
    made = client(member, api)
    assert await status_of(made.kv.Put(pb.PutRequest(key=b"k"))) == (StatusCode.OK, "")
    await made.channel.close(None)
    assert (await get(http, "/version"))[0] == 200
    with pytest.raises(aiohttp.ClientError):
        await get(api.urls[0], "/version")


@pytest.mark.parametrize("server", BOTH)
async def test_metrics_urls_serve_the_counters_of_calls(open_api: Open, member: FakeMember, server: GrpcServer) -> None:
    metrics = free_url()
    api = await open_api(listen_metrics_urls=(metrics,), grpc_server=server)
    made = client(member, api)
    await made.kv.Put(pb.PutRequest(key=b"k"))
    _, text = await get(metrics, "/metrics")
    samples = {
        sample.labels["grpc_code"]: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "grpc_server_handled_total" and sample.labels["grpc_method"] == "Put"
    }
    assert samples == {"OK": 1}
    await made.channel.close(None)


@pytest.mark.parametrize("server", BOTH)
async def test_a_request_above_the_limit_is_refused_by_grpc(
    open_api: Open, member: FakeMember, server: GrpcServer
) -> None:
    api = await open_api(max_request_bytes=1000, grpc_server=server)
    made = client(member, api)
    within = pb.PutRequest(key=b"k", value=bytes(512 * 1024))
    assert await status_of(made.kv.Put(within)) == (StatusCode.OK, "")
    above = pb.PutRequest(key=b"k", value=bytes(512 * 1024 + 1001))
    assert (await status_of(made.kv.Put(above)))[0] is StatusCode.RESOURCE_EXHAUSTED
    await made.channel.close(None)


@pytest.mark.parametrize("server", BOTH)
async def test_a_url_that_is_taken_is_an_os_error(open_api: Open, server: GrpcServer) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        url = Url("http", "127.0.0.1", taken.getsockname()[1])
        with pytest.raises(OSError, match=str(url.port)):
            await open_api(listen_client_urls=(url,), grpc_server=server)


@pytest.mark.parametrize("server", BOTH)
async def test_closing_lets_calls_in_flight_finish_and_ends_streams(
    open_api: Open, member: FakeMember, server: GrpcServer
) -> None:
    api = await open_api(grpc_server=server)
    made = client(member, api)
    watch = made.watch.Watch()
    await watch.write(pb.WatchRequest(create_request=pb.WatchCreateRequest(key=b"k")))
    assert (await watch.read()).created
    member.held = []
    put = made.kv.Put(pb.PutRequest(key=b"k"))
    await until(lambda: bool(member.held))
    closing = asyncio.ensure_future(api.close())
    assert await status_of(watch) == STATUS[errors.Stopped]
    assert not closing.done()
    member.held[0].set_result(member.header(9))
    async with asyncio.timeout(DEADLINE):
        assert (await put).header.revision == 9
        await made.channel.close(None)
        await closing
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(api.urls[0].host, api.urls[0].port)
