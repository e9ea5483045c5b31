"""The server on real sockets, called by grpcio's client."""

import asyncio
import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import aiohttp
import grpc
import pytest
import uvloop
from aiohttp import web
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_reflection.v1alpha._async import ReflectionServicer

from kvstore.rpc import Channel, ChannelOptions, Metadata, RpcError, Server, ServerOptions, StatusCode
from kvstore.rpc.server_connection import ServerConnection
from tests.rpc.certificates import Authority
from tests.rpc.harness import Text, eventually, grpcio_eof, pb2_grpc, serving, status_of, stub_of
from tests.rpc.test_handlers import Servicer


class EchoData(Servicer):
    """Gives back the data of a request."""

    def unary_data(self, request: Any, context: Any) -> Any:
        return request


async def test_large_messages_pass_both_ways() -> None:
    async with (
        serving(EchoData(), options=ServerOptions(max_receive_bytes=20 << 20)) as (_, port),
        stub_of(port, max_receive_message_length=-1) as stub,
    ):
        for size in (16_000, 16_384, 100_000, 10_000_000):
            assert len((await stub.Unary(Text(text="data", data=bytes(size)))).data) == size


async def test_a_request_over_the_limit_is_refused_in_grpcs_words() -> None:
    async with serving(EchoData(), options=ServerOptions(max_receive_bytes=1000)) as (_, port), stub_of(port) as stub:
        request = Text(text="data", data=bytes(2_000_000))
        code, details = await status_of(stub.Unary(request))
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert details == f"grpc: received message larger than max ({request.ByteSize()} vs. 1000)"
        assert (await stub.Unary(Text(text="plain"))).text == "plain"


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
async def test_compressed_requests_are_understood(compression: grpc.Compression) -> None:
    async with serving(EchoData()) as (_, port), stub_of(port) as stub:
        request = Text(text="data", data=b"squeeze me " * 10_000)
        assert (await stub.Unary(request, compression=compression)).data == request.data


async def test_a_thousand_calls_at_once_are_answered() -> None:
    async with serving(Servicer()) as (_, port), stub_of(port) as stub:
        styles = ["plain", "promise", "coroutine", "future"]
        calls = [stub.Unary(Text(text=styles[number % 4], number=number)) for number in range(1000)]
        responses = await asyncio.gather(*calls)
        assert [response.text for response in responses] == styles * 250


async def test_a_hundred_conversations_at_once() -> None:
    async with serving(Servicer()) as (_, port), stub_of(port) as stub:

        async def talk(number: int) -> None:
            call = stub.Chat()
            for word in range(20):
                await call.write(Text(text=f"x{number}-{word}"))
                assert (await call.read()).text == f"X{number}-{word}"
            await call.done_writing()
            assert (await call.read()).text == "bye"
            assert await call.read() is grpcio_eof

        await asyncio.gather(*(talk(number) for number in range(100)))


async def test_a_slow_reader_gets_everything_in_order() -> None:
    options = ServerOptions(stream_buffer_bytes=10_000, socket_buffer_bytes=10_000)
    async with serving(Servicer(), options=options) as (_, port), stub_of(port) as stub:
        expected = 0
        async for response in stub.Expand(Text(text="writes", number=20_000)):
            assert response.number == expected
            expected += 1
        assert expected == 20_000


async def test_a_disconnecting_client_cancels_its_calls() -> None:
    servicer = Servicer()
    async with serving(servicer) as (server, port):
        async with stub_of(port) as stub:
            call = stub.Unary(Text(text="hang"))
            await eventually(lambda: servicer.context)
            del call
        await eventually(lambda: servicer.cancelled)
        await eventually(lambda: server.connections == 0)


# Shutdown


async def test_a_graceful_stop_finishes_what_is_in_flight() -> None:
    servicer = Servicer()
    async with serving(servicer) as (server, port), stub_of(port) as stub:
        call = stub.Unary(Text(text="pending"))
        await eventually(lambda: servicer.context)
        stopping = asyncio.ensure_future(server.stop(10))
        await eventually(lambda: all(cast(Any, protocol.served)._goaway_sent for protocol in server._protocols))
        assert not stopping.done()
        servicer.promise.set_result(Text(text="done"))
        assert (await call).text == "done"
        await stopping
        assert server.connections == 0
        code, _ = await status_of(stub.Unary(Text(text="plain"), timeout=2))
        assert code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


async def test_a_stop_cancels_what_outlives_its_grace() -> None:
    servicer = Servicer()
    async with serving(servicer) as (server, port), stub_of(port) as stub:
        call = stub.Unary(Text(text="hang"))
        await eventually(lambda: servicer.context)
        await server.stop(0.1)
        assert await call.code() is grpc.StatusCode.UNAVAILABLE
        await eventually(lambda: servicer.cancelled)


async def test_stopping_an_idle_server_takes_no_time() -> None:
    async with serving(Servicer()) as (server, port), stub_of(port) as stub:
        await stub.Unary(Text(text="plain"))
        async with asyncio.timeout(3):
            await server.stop(60)


# Listeners


async def test_unix_sockets_are_served(tmp_path: Path) -> None:
    server = Server()
    pb2_grpc.add_EchoServicer_to_server(Servicer(), server)
    path = tmp_path / "socket"
    await server.listen_unix(str(path))
    async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
        response = await pb2_grpc.EchoStub(channel).Unary(Text(text="context"))
    assert response.text.startswith(f"unix:{path}")
    await server.stop()


async def test_ipv6_is_served() -> None:
    server = Server()
    pb2_grpc.add_EchoServicer_to_server(Servicer(), server)
    try:
        port = await server.listen("::1", 0)
    except OSError:
        pytest.skip("this machine has no IPv6")
    async with grpc.aio.insecure_channel(f"[::1]:{port}") as channel:
        response = await pb2_grpc.EchoStub(channel).Unary(Text(text="context"))
    assert response.text.startswith("ipv6:[::1]:")
    await server.stop()


async def test_two_servers_may_share_a_port() -> None:
    servers = [Server(), Server()]
    port = await servers[0].listen("127.0.0.1", 0, reuse_port=True)
    assert await servers[1].listen("127.0.0.1", port, reuse_port=True) == port
    for server in servers:
        await server.stop()


# HTTP/1.1 on the same port


async def hello(request: web.BaseRequest) -> web.Response:
    return web.Response(text=f"{request.method} {request.path} {len(await request.read())}")


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_http1_and_grpc_share_a_port(run: Callable[[Any], None], tls: bool, tmp_path: Path) -> None:
    run(speak_both(tls, tmp_path))


async def speak_both(tls: bool, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    web_server = web.Server(hello)
    server = Server(http1_factory=web_server)
    pb2_grpc.add_EchoServicer_to_server(Servicer(), server)
    context = authority.server_context(demand_client=False) if tls else None
    port = await server.listen("127.0.0.1", 0, ssl=context)
    scheme = "https" if tls else "http"
    client_context = authority.client_context() if tls else True
    async with aiohttp.ClientSession() as session:
        for method, body in (("GET", b""), ("POST", bytes(100_000)), ("PUT", b"x")):
            url = f"{scheme}://localhost:{port}/path"
            async with session.request(method, url, data=body, ssl=client_context) as response:
                assert await response.text() == f"{method} /path {len(body)}"
    channel = Channel(f"localhost:{port}", ssl=authority.client_context() if tls else None)
    request = Text(text="metadata", data=bytes(1_000_000)).SerializeToString()
    metadata: Metadata = [("greeting", "hello"), ("token-bin", b"1")]
    answer = await channel.unary("/rpctest.Echo/Unary", request, metadata=metadata)
    assert Text.FromString(answer).text == "hello"
    await channel.close()
    await web_server.shutdown()
    await server.stop()


async def test_the_clients_certificate_is_known_to_the_handler(tmp_path: Path) -> None:
    servicer = Servicer()
    authority = Authority(tmp_path)
    server = Server()
    pb2_grpc.add_EchoServicer_to_server(servicer, server)
    port = await server.listen("127.0.0.1", 0, ssl=authority.server_context(demand_client=True))
    certificate, key = authority.issue("alice")
    credentials = grpc.ssl_channel_credentials(authority.path.read_bytes(), key.read_bytes(), certificate.read_bytes())
    async with grpc.aio.secure_channel(f"localhost:{port}", credentials) as channel:
        await pb2_grpc.EchoStub(channel).Unary(Text(text="plain"))
    identity = servicer.context.auth_context()
    assert identity["x509_common_name"] == [b"alice"]
    assert b"localhost" in identity["x509_subject_alternative_name"]
    assert identity["transport_security_type"] == [b"ssl"]
    # Without a certificate there is no connection.
    channel2 = Channel(f"localhost:{port}", ssl=authority.client_context())
    with pytest.raises(RpcError) as caught:
        await channel2.unary("/rpctest.Echo/Unary", b"", timeout=5)
    assert caught.value.code is StatusCode.UNAVAILABLE
    await channel2.close()
    await server.stop()


# Services that come with grpcio


async def test_health_and_reflection_run_unchanged() -> None:
    server = Server()
    health = HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    names = ["grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"]
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(ReflectionServicer(names), server)
    port = await server.listen("127.0.0.1", 0)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        assert (await stub.Check(health_pb2.HealthCheckRequest())).status == 1
        code, _ = await status_of(stub.Check(health_pb2.HealthCheckRequest(service="nobody")))
        assert code is grpc.StatusCode.NOT_FOUND
        watch = stub.Watch(health_pb2.HealthCheckRequest(service="etcd"))
        assert (await watch.read()).status == 3
        await health.set("etcd", health_pb2.HealthCheckResponse.SERVING)
        assert (await watch.read()).status == 1
        watch.cancel()
        reflect = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo()
        await reflect.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        answer = await reflect.read()
        assert [service.name for service in answer.list_services_response.service] == names
        await reflect.done_writing()
        assert await reflect.read() is grpcio_eof
    await server.stop()


def test_everything_runs_on_uvloop_too() -> None:
    async def scenario() -> str:
        async with serving(Servicer()) as (server, port):
            channel = Channel(f"127.0.0.1:{port}")
            response = await channel.unary("/rpctest.Echo/Unary", Text(text="coroutine").SerializeToString())
            stream = channel.stream("/rpctest.Echo/Expand")
            stream.write(Text(text="generator", number=1000).SerializeToString())
            stream.half_close()
            count = len([message async for message in stream])
            await channel.close()
            await server.stop(1)
            return f"{Text.FromString(response).text} {count}"

    runner: Callable[[Any], str] = uvloop.run
    assert runner(scenario()) == "coroutine 1000"


class Long(Servicer):
    """Answers with more than a client's window takes."""

    def Unary(self, request: Any, context: Any) -> Any:
        return Text(data=bytes(8 << 20)).SerializeToString()


async def test_a_client_that_leaves_in_a_long_answer_leaves_nothing_behind() -> None:
    """Not even until the collector comes, which in a server of many objects may take long."""

    def connections() -> int:
        return sum(isinstance(thing, ServerConnection) for thing in gc.get_objects())

    gc.collect()
    before = connections()
    gc.disable()
    try:
        async with serving(Long()) as (server, port):
            channel = Channel(f"127.0.0.1:{port}", options=ChannelOptions(stream_window=65_535))
            stream = channel.stream("/rpctest.Echo/Unary")
            stream.write(Text().SerializeToString())
            stream.half_close()
            await eventually(lambda: connections() > before)
            await channel.close()
            await eventually(lambda: server.connections == 0)
            await eventually(lambda: connections() == before)
    finally:
        gc.enable()
