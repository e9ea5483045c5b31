"""Our client, against our server and grpcio's."""

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from kvstore.rpc import (
    EOF,
    Channel,
    ChannelOptions,
    ChannelState,
    Promise,
    RpcError,
    Server,
    ServerOptions,
    StatusCode,
    UnaryRequest,
)
from kvstore.rpc.framing import frame
from kvstore.rpc.h2 import DataReceived, Engine, H2Limits
from tests.rpc.certificates import Authority
from tests.rpc.harness import Text, eventually, pb2_grpc, serving, serving_on_grpcio
from tests.rpc.test_handlers import Servicer

UNARY, COLLECT, EXPAND, CHAT = (f"/rpctest.Echo/{name}" for name in ("Unary", "Collect", "Expand", "Chat"))
FAST = ChannelOptions(backoff_initial=0.01, backoff_max=0.05)


def text(value: str, **fields: Any) -> bytes:
    return bytes(Text(text=value, **fields).SerializeToString())


async def unary(channel: Channel, value: str, **options: Any) -> Any:
    return Text.FromString(await channel.unary(UNARY, text(value), **options))


async def error_of(call: Any) -> RpcError:
    with pytest.raises(RpcError) as caught:
        await call
    return caught.value


@pytest.fixture(params=["ours", "grpcio"])
async def talk(request: pytest.FixtureRequest) -> AsyncIterator[tuple[Channel, Servicer]]:
    servicer = Servicer()
    if request.param == "ours":
        async with serving(servicer) as (_, port):
            channel = Channel(f"127.0.0.1:{port}")
            yield channel, servicer
            await channel.close()
    else:
        async with serving_on_grpcio(servicer) as port:
            channel = Channel(f"127.0.0.1:{port}")
            yield channel, servicer
            await channel.close()


Talk = tuple[Channel, Servicer]


@pytest.mark.parametrize("style", ["plain", "bytes", "promise", "coroutine"])
async def test_a_unary_call_is_answered(talk: Talk, style: str) -> None:
    assert (await unary(talk[0], style)).text == style


async def test_calls_of_one_turn_are_all_answered(talk: Talk) -> None:
    calls = [talk[0].unary(UNARY, text("promise", number=number)) for number in range(500)]
    assert [Text.FromString(await call).number for call in calls] == list(range(1, 501))


async def test_an_error_brings_code_text_and_metadata(talk: Talk) -> None:
    error = await error_of(talk[0].unary(UNARY, text("error")))
    assert (error.code, error.message) == (StatusCode.OUT_OF_RANGE, "füll: 100%\n")
    assert dict(error.metadata)["raw-bin"] == b"\x00\xff"


async def test_metadata_passes_both_ways(talk: Talk) -> None:
    call = talk[0].unary(UNARY, text("metadata"), metadata=[("greeting", "hi"), ("token-bin", b"\xff\x00")])
    assert Text.FromString(await call).data == b"\xff\x00"
    assert dict(call.initial_metadata())["early-bin"] == b"\x01\x02"
    assert dict(call.trailing_metadata())["late"] == "2"


async def test_an_unknown_method_is_unimplemented(talk: Talk) -> None:
    assert (await error_of(talk[0].unary("/no/Thing", b""))).code is StatusCode.UNIMPLEMENTED


async def test_large_messages_pass_both_ways(talk: Talk) -> None:
    call = talk[0].unary(
        UNARY, text("metadata", data=bytes(3_000_000)), metadata=[("greeting", "x"), ("token-bin", b"")]
    )
    assert Text.FromString(await call).text == "x"
    stream = talk[0].stream(CHAT)
    stream.write(text("y" * 3_000_000))
    assert len(Text.FromString(await stream.read()).text) == 3_000_000
    stream.cancel()


async def test_a_deadline_ends_the_call_on_both_sides(talk: Talk) -> None:
    channel, servicer = talk
    error = await error_of(channel.unary(UNARY, text("hang"), timeout=0.1))
    assert error.code is StatusCode.DEADLINE_EXCEEDED
    await eventually(lambda: servicer.cancelled)


async def test_a_cancelled_call_is_cancelled_on_the_server(talk: Talk) -> None:
    channel, servicer = talk
    call = channel.unary(UNARY, text("hang"))
    await eventually(lambda: servicer.context)
    assert call.cancel()
    assert not call.cancel()
    assert (await error_of(call)).code is StatusCode.CANCELLED
    await eventually(lambda: servicer.cancelled)
    assert (await unary(channel, "plain")).text == "plain"


async def test_a_call_is_cancelled_with_the_task_that_awaits_it(talk: Talk) -> None:
    channel, servicer = talk
    waiting = asyncio.ensure_future(unary(channel, "hang"))
    await eventually(lambda: servicer.context)
    waiting.cancel()
    await eventually(lambda: servicer.cancelled)


async def test_a_client_stream_gets_one_answer(talk: Talk) -> None:
    stream = talk[0].stream(COLLECT)
    for number in range(1000):
        if not stream.write(text(str(number))):
            await stream.drain()
    stream.half_close()
    assert Text.FromString(await stream.read()).number == 1000
    assert await stream.read() is EOF
    assert stream.error is None


async def test_a_server_stream_is_iterated(talk: Talk) -> None:
    stream = talk[0].stream(EXPAND)
    stream.write(text("generator", number=500))
    stream.half_close()
    assert [Text.FromString(message).number async for message in stream] == list(range(500))


async def test_a_failing_stream_raises_after_its_messages(talk: Talk) -> None:
    ended: list[Any] = []
    stream = talk[0].stream(EXPAND)
    stream.add_done_callback(ended.append)
    stream.write(text("error"))
    stream.half_close()
    await stream.read()
    error = await error_of(stream.read())
    assert (error.code, error.message) == (StatusCode.UNAVAILABLE, "gone")
    assert dict(error.metadata)["why"] == "because"
    assert ended == [stream]


async def test_a_conversation_goes_both_ways(talk: Talk) -> None:
    stream = talk[0].stream(CHAT)
    for word in ("one", "two"):
        assert stream.write(text(word))
        assert Text.FromString(await stream.read()).text == word.upper()
    stream.half_close()
    assert Text.FromString(await stream.read()).text == "bye"
    assert await stream.read() is EOF


async def test_a_stream_that_the_server_ends_first_is_over(talk: Talk) -> None:
    stream = talk[0].stream(CHAT)
    stream.write(text("stop"))
    assert await stream.read() is EOF
    assert stream.finished
    assert not stream.write(text("more"))
    assert isinstance(stream.drain().exception(), RpcError)
    assert (await unary(talk[0], "plain")).text == "plain"


async def test_a_cancelled_stream_is_cancelled_on_the_server(talk: Talk) -> None:
    channel, servicer = talk
    stream = channel.stream(EXPAND)
    stream.write(text("forever"))
    stream.half_close()
    await stream.read()
    stream.cancel()
    await eventually(lambda: servicer.cancelled)
    assert isinstance(stream.error, RpcError)
    assert stream.error.code is StatusCode.CANCELLED


async def test_a_server_that_does_not_read_makes_the_stream_unwritable() -> None:
    class Deaf(Servicer):
        def Chat(self, request_iterator: Any, context: Any) -> Any:
            self.context = context
            return self.promise

    servicer = Deaf()
    async with serving(servicer, options=ServerOptions(stream_window=65_535)) as (_, port):
        channel = Channel(f"127.0.0.1:{port}", options=ChannelOptions(stream_buffer_bytes=100_000))
        stream = channel.stream(CHAT)
        await eventually(lambda: servicer.context)
        # More than the server's window and the buffer together; each check lets the loop send.
        await eventually(lambda: not stream.write(text("x" * 1000)))
        assert 100_000 <= stream.buffered < 102_000
        drained = stream.drain()
        assert not drained.done()
        for _ in range(100):
            await servicer.context.read()
        await asyncio.wait_for(drained, 5)
        assert stream.writable
        await channel.close()


# Connectivity


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


async def test_a_call_fails_at_once_when_nobody_listens() -> None:
    channel = Channel(f"127.0.0.1:{free_port()}", options=FAST)
    error = await error_of(channel.unary(UNARY, b""))
    assert error.code is StatusCode.UNAVAILABLE
    assert channel.state is ChannelState.TRANSIENT_FAILURE
    stream = channel.stream(CHAT)
    assert (await error_of(stream.read())).code is StatusCode.UNAVAILABLE
    await eventually(lambda: channel.state is ChannelState.IDLE)
    await channel.close()


async def test_a_stream_says_whether_it_has_a_connection(talk: Talk) -> None:
    channel, _ = talk
    stream = channel.stream(CHAT)
    # What is written now waits, and is lost if there is no connection in the end.
    assert stream.writable
    assert not stream.connected
    stream.write(text("hello"))
    assert Text.FromString(await stream.read()).text
    assert stream.connected
    stream.cancel()
    assert not stream.connected


async def test_a_call_may_wait_for_the_server_to_come_up() -> None:
    port = free_port()
    channel = Channel(f"127.0.0.1:{port}", options=FAST)
    states: list[ChannelState] = []
    channel.on_state(states.append)
    call = channel.unary(UNARY, text("plain"), wait_for_ready=True, timeout=10)
    await eventually(lambda: ChannelState.TRANSIENT_FAILURE in states)
    server = Server()
    pb2_grpc.add_EchoServicer_to_server(Servicer(), server)
    await server.listen("127.0.0.1", port)
    assert Text.FromString(await call).text == "plain"
    assert states[0] is ChannelState.CONNECTING
    assert states[-1] is ChannelState.READY
    await channel.close()
    await server.stop()


async def test_a_waiting_call_still_has_its_deadline() -> None:
    channel = Channel(f"127.0.0.1:{free_port()}", options=FAST)
    error = await error_of(channel.unary(UNARY, b"", wait_for_ready=True, timeout=0.1))
    assert error.code is StatusCode.DEADLINE_EXCEEDED
    await channel.close()


async def test_the_channel_connects_again_after_its_server_restarted() -> None:
    port = free_port()
    channel = Channel(f"127.0.0.1:{port}", options=FAST)
    for _ in range(3):
        server = Server()
        pb2_grpc.add_EchoServicer_to_server(Servicer(), server)
        await server.listen("127.0.0.1", port)
        assert (await unary(channel, "plain", wait_for_ready=True, timeout=10)).text == "plain"
        await server.stop()
        await eventually(lambda: channel.state is not ChannelState.READY)
    await channel.close()


async def test_a_lost_connection_fails_what_is_under_way() -> None:
    servicer = Servicer()
    async with serving(servicer) as (server, port):
        channel = Channel(f"127.0.0.1:{port}", options=FAST)
        call = channel.unary(UNARY, text("pending"))
        stream = channel.stream(CHAT)
        reading = stream.read()
        await eventually(lambda: servicer.context)
        for protocol in list(server._protocols):
            protocol.transport.abort()
        assert (await error_of(call)).code is StatusCode.UNAVAILABLE
        assert (await error_of(reading)).code is StatusCode.UNAVAILABLE
        assert (await unary(channel, "plain", wait_for_ready=True)).text == "plain"
        await channel.close()


async def test_calls_under_way_survive_the_servers_goaway() -> None:
    servicer = Servicer()
    async with serving(servicer) as (server, port):
        channel = Channel(f"127.0.0.1:{port}", options=FAST)
        call = channel.unary(UNARY, text("pending"))
        await eventually(lambda: servicer.context)
        stopping = asyncio.ensure_future(server.stop(10))
        await eventually(lambda: channel.state is ChannelState.IDLE)
        servicer.promise.set_result(Text(text="survived"))
        assert Text.FromString(await call).text == "survived"
        await stopping
        await channel.close()


async def test_a_call_that_a_leaving_server_did_not_take_is_made_elsewhere() -> None:
    """More calls than the server runs at once: those it had not begun when it left go to its successor."""
    port = free_port()
    first, servicer = Server(ServerOptions(max_concurrent_streams=1)), Servicer()
    pb2_grpc.add_EchoServicer_to_server(servicer, first)
    await first.listen("127.0.0.1", port)
    channel = Channel(f"127.0.0.1:{port}", options=FAST)
    pending = channel.unary(UNARY, text("pending"))
    await eventually(lambda: servicer.context)
    waiting = [channel.unary(UNARY, text("plain"), wait_for_ready=True) for _ in range(5)]
    stopping = asyncio.ensure_future(first.stop(10))
    second = Server()
    pb2_grpc.add_EchoServicer_to_server(Servicer(), second)
    await eventually(lambda: channel.state is not ChannelState.READY)
    await second.listen("127.0.0.1", port)
    assert [Text.FromString(await call).text for call in waiting] == ["plain"] * 5
    servicer.promise.set_result(Text(text="last"))
    assert Text.FromString(await pending).text == "last"
    await stopping
    await channel.close()
    await second.stop()


async def test_closing_the_channel_ends_its_calls() -> None:
    servicer = Servicer()
    async with serving(servicer) as (server, port):
        channel = Channel(f"127.0.0.1:{port}")
        call = channel.unary(UNARY, text("pending"))
        await eventually(lambda: servicer.context)
        await channel.close()
        assert (await error_of(call)).code is StatusCode.UNAVAILABLE
        assert (await error_of(channel.unary(UNARY, b""))).code is StatusCode.UNAVAILABLE
        assert isinstance(channel.ready().exception(), RpcError)
        await eventually(lambda: server.connections == 0)


async def test_a_server_that_answers_nothing_fails_the_attempt() -> None:
    silent = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    channel = Channel(f"127.0.0.1:{port}", options=ChannelOptions(connect_timeout=0.1))
    assert (await error_of(channel.unary(UNARY, b""))).code is StatusCode.UNAVAILABLE
    await channel.close()
    silent.close()


async def test_a_server_of_another_protocol_fails_the_attempt() -> None:
    async def web(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    other = await asyncio.start_server(web, "127.0.0.1", 0)
    channel = Channel(f"127.0.0.1:{other.sockets[0].getsockname()[1]}")
    assert (await error_of(channel.unary(UNARY, b""))).code is StatusCode.UNAVAILABLE
    await channel.close()
    other.close()


async def test_a_server_that_leaves_at_once_is_not_called_again_and_again() -> None:
    goodbye = b"\0\0\0\x04\0\0\0\0\0" + b"\0\0\x08\x07\0\0\0\0\0" + bytes(8)
    connections = 0

    def leave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        writer.write(goodbye)

    other = await asyncio.start_server(leave, "127.0.0.1", 0)
    channel = Channel(f"127.0.0.1:{other.sockets[0].getsockname()[1]}")
    assert (await error_of(channel.unary(UNARY, b""))).code is StatusCode.UNAVAILABLE
    assert (await error_of(channel.unary(UNARY, b""))).code is StatusCode.UNAVAILABLE
    assert connections == 1
    await channel.close()
    other.close()


async def test_keepalive_notices_a_dead_server() -> None:
    """A server that accepts, speaks, and falls silent."""
    settings = b"\0\0\0\x04\0\0\0\0\0"
    other = await asyncio.start_server(lambda reader, writer: writer.write(settings), "127.0.0.1", 0)
    options = ChannelOptions(keepalive_interval=0.05, keepalive_timeout=0.05)
    channel = Channel(f"127.0.0.1:{other.sockets[0].getsockname()[1]}", options=options)
    error = await error_of(channel.unary(UNARY, b"", timeout=10))
    assert error.code is StatusCode.UNAVAILABLE
    assert "keepalive" in error.message
    await channel.close()
    other.close()


async def test_too_many_calls_do_not_pile_up_without_a_connection() -> None:
    channel = Channel(f"127.0.0.1:{free_port()}", options=ChannelOptions(max_pending_calls=3))
    calls = [channel.unary(UNARY, b"", wait_for_ready=True) for _ in range(4)]
    assert isinstance(calls[3].exception(), RpcError)
    await channel.close()
    assert all(call.done() for call in calls)


async def test_unix_sockets_and_tls(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    servicer = Servicer()
    server = Server()
    pb2_grpc.add_EchoServicer_to_server(servicer, server)
    context = authority.server_context(demand_client=True)
    port = await server.listen("127.0.0.1", 0, ssl=context)
    await server.listen_unix(str(tmp_path / "plain"))
    for channel in (
        Channel(f"localhost:{port}", ssl=authority.client_context("bob")),
        Channel(f"unix:{tmp_path}/plain"),
    ):
        assert (await unary(channel, "plain")).text == "plain"
        assert (await unary(channel, "coroutine")).text == "coroutine"
        await channel.close()
    await server.stop()


async def test_a_call_is_a_promise() -> None:
    async with serving(Servicer()) as (_, port):
        channel = Channel(f"127.0.0.1:{port}")
        await channel.ready()
        answered: Promise[str] = Promise()

        def note(call: Promise[bytes]) -> None:
            answered.set_result(Text.FromString(call.result()).text)

        call = channel.unary(UNARY, text("plain"))
        assert isinstance(call, UnaryRequest)
        call.then(note)
        assert await answered == "plain"
        await channel.close()


async def test_what_is_flushed_is_with_the_server_before_the_turn_ends() -> None:
    loop = asyncio.get_running_loop()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.setblocking(False)
        channel = Channel(f"127.0.0.1:{listener.getsockname()[1]}")
        stream = channel.stream(CHAT)
        stream.flush()
        connection, _ = await loop.sock_accept(listener)
        with connection:
            server = Engine.server(H2Limits())
            while stream.connection is None:
                await loop.sock_sendall(connection, server.data_to_send(1 << 16))
                server.receive(await loop.sock_recv(connection, 1 << 16))
            server.receive(await loop.sock_recv(connection, 1 << 16))
            server.events()
            stream.write(b"at once")
            stream.flush()
            # The loop gets no turn between the two.
            connection.setblocking(True)
            connection.settimeout(10)
            server.receive(connection.recv(1 << 16))
            received = [event.data for event in server.events() if isinstance(event, DataReceived)]
            assert received == [frame(b"at once")]
        await channel.close()
