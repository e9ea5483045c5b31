"""What a hostile or broken client can do: its own connection ends, everything else goes on."""

import asyncio
import struct
from collections.abc import AsyncIterator
from typing import Any

import pytest

from kvstore.rpc import Promise, ServerOptions
from kvstore.rpc.h2 import Engine, H2Limits
from tests.rpc.harness import Text, eventually, serving, stub_of
from tests.rpc.test_handlers import Servicer
from tests.rpc.wire import (
    CONTINUATION,
    DATA,
    GOAWAY,
    HEADERS,
    HELLO,
    PING,
    SETTINGS,
    WINDOW_UPDATE,
    Exchange,
    Handler,
    frames,
    raw_frame,
    request_headers,
)

CALM = 0xB


def goaways(data: bytes) -> list[tuple[int, bytes]]:
    """Error codes and reasons of the GOAWAY frames in what a server has sent."""
    return [
        (int.from_bytes(payload[4:8], "big"), payload[8:]) for kind, _, _, payload in frames(data) if kind == GOAWAY
    ]


class Attacker:
    """A raw connection to the server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, port: int) -> "Attacker":
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def send(self, data: bytes) -> None:
        """Send, however long the server takes to read; it may hang up meanwhile."""
        try:
            self.writer.write(data)
            await self.writer.drain()
        except ConnectionError:
            return

    async def rest(self) -> bytes:
        """Everything the server sends until it ends the connection."""
        data = b""
        try:
            async with asyncio.timeout(10):
                while part := await self.reader.read(65_536):
                    data += part
        except ConnectionError:
            pass
        self.writer.close()
        return data


@pytest.fixture
async def port() -> AsyncIterator[int]:
    options = ServerOptions(reset_burst=100, reset_rate=10, control_burst=200, control_rate=10, preface_timeout=0.2)
    async with serving(Servicer(), options=options) as (_, port):
        yield port


def requests(count: int, *, reset: bool, padding: str = "") -> bytes:
    """Request headers of a proper client, each followed by its reset if so asked."""
    client = Engine.client(H2Limits())
    data = b""
    for _ in range(count):
        stream_id = client.send_request(request_headers("/rpctest.Echo/Unary", padding=padding))
        data += client.data_to_send(1 << 20)
        if reset:
            client.reset_stream(stream_id, 8)
            data += client.data_to_send(1 << 20)
    return data


def continuation_flood(frame_count: int, payload: bytes) -> bytes:
    opening = raw_frame(HEADERS, 0, 1, b"\x83")
    return HELLO + opening + b"".join(raw_frame(CONTINUATION, 0, 1, payload) for _ in range(frame_count))


FLOODS = {
    "pings": HELLO + raw_frame(PING, 0, 0, bytes(8)) * 5000,
    "settings": HELLO + raw_frame(SETTINGS, 0, 0) * 5000,
    "empty data": requests(1, reset=False) + raw_frame(DATA, 0, 1) * 5000,
    "rapid reset": requests(400, reset=True),
    "continuations": continuation_flood(5000, b""),
    "endless headers": continuation_flood(5000, b"\x40\x01a\x7f\x81\x00" + b"b" * 256),
    "large headers": requests(1, reset=False, padding="x" * 60_000),
    "window overflow": HELLO + raw_frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 0x7FFFFFFF)) * 2,
    "data without stream": HELLO + raw_frame(DATA, 0, 1, b"x"),
    "huge frame": HELLO + b"\xff\xff\xff\x00\x00\x00\x00\x00\x01",
    "garbage after the preface": HELLO + b"\xde\xad\xbe\xef" * 1000,
}


@pytest.mark.parametrize("name", list(FLOODS))
async def test_a_flood_ends_its_own_connection_only(port: int, name: str) -> None:
    async with stub_of(port) as stub:
        assert (await stub.Unary(Text(text="plain"))).text == "plain"
        attacker = await Attacker.connect(port)
        sending = asyncio.ensure_future(attacker.send(FLOODS[name]))
        data = await attacker.rest()
        await sending
        assert (await stub.Unary(Text(text="plain"))).text == "plain"
    # The last of it may be lost to a reset of the connection, as not all that was sent had been read.
    for code, _ in goaways(data):
        assert code != 0


@pytest.mark.parametrize(
    "data", [b"\x00\x01\x02garbage", b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n"]
)
async def test_what_is_not_http2_is_hung_up_on(port: int, data: bytes) -> None:
    attacker = await Attacker.connect(port)
    await attacker.send(data)
    assert await attacker.rest() == b""


@pytest.mark.parametrize("data", [b"", b"PRI * HT"])
async def test_a_connection_that_says_nothing_is_closed(port: int, data: bytes) -> None:
    attacker = await Attacker.connect(port)
    await attacker.send(data)
    assert await attacker.rest() == b""


async def test_a_silent_connection_does_not_outlive_the_server() -> None:
    async with serving(Servicer()) as (server, port):
        attacker = await Attacker.connect(port)
        await eventually(lambda: server.sniffing)
        await server.stop(1)
        assert await attacker.rest() == b""


async def test_a_preface_in_single_bytes_is_understood(port: int) -> None:
    client = Engine.client(H2Limits())
    stream_id = client.send_request(request_headers("/rpctest.Echo/Unary"))
    client.send_data(stream_id, b"\0\0\0\0\x07\x0a\x05plain", end_stream=True)
    attacker = await Attacker.connect(port)
    for byte in client.data_to_send(1 << 20):
        await attacker.send(bytes([byte]))
        await asyncio.sleep(0)
    received = b""
    while b"plain" not in received:
        received += await attacker.reader.read(1000)
    attacker.writer.close()


async def test_a_client_that_reads_nothing_holds_little_of_our_memory() -> None:
    servicer = Servicer()
    options = ServerOptions(stream_buffer_bytes=100_000, socket_buffer_bytes=100_000)
    async with serving(servicer, options=options) as (server, port):
        client = Engine.client(H2Limits(stream_window=(1 << 31) - 1, connection_window=(1 << 31) - 1))
        stream_id = client.send_request(request_headers("/rpctest.Echo/Expand"))
        request = Text(text="flood").SerializeToString()
        client.send_data(stream_id, len(request).to_bytes(5, "big") + request, end_stream=True)
        attacker = await Attacker.connect(port)
        await attacker.send(client.data_to_send(1 << 20))
        await eventually(lambda: servicer.context is not None and not servicer.context.writable)
        protocol = next(iter(server._protocols))
        # Until the socket's buffers are full and the writer waits.
        await eventually(lambda: protocol._paused and not servicer.context.writable)
        assert servicer.context.buffered < 200_000
        assert protocol.transport.get_write_buffer_size() < 600_000
        async with stub_of(port) as stub:
            assert (await stub.Unary(Text(text="plain"))).text == "plain"
        attacker.writer.close()
        await eventually(lambda: servicer.ended)


def test_unread_answers_stop_the_connection_from_asking_more() -> None:
    """Acknowledgements that are not written are bounded: the engine gives up at max_pending_acks."""
    exchange = Exchange({"Unary": Handler(lambda request, context: request)})
    exchange.transfer()
    exchange.server.receive_data(raw_frame(PING, 0, 0, bytes(8)) * 2000)
    assert exchange.server.closed
    assert goaways(exchange.server.last_words)


# Pings


def ping(exchange: Exchange) -> None:
    exchange.client.ping(b"12345678")
    exchange.transfer()


def waiting_exchange(**options: Any) -> Exchange:
    handler = Handler(lambda request, context: Promise())
    exchange = Exchange({"Unary": handler}, options=ServerOptions(keepalive_min_time=5.0, **options))
    exchange.transfer()
    return exchange


def test_pings_too_often_end_the_connection() -> None:
    exchange = waiting_exchange()
    exchange.call()
    for _ in range(3):
        exchange.host.advance(1)
        ping(exchange)
        assert not exchange.server.closed
    exchange.host.advance(1)
    ping(exchange)
    assert exchange.server.closed
    assert goaways(exchange.server.last_words) == [(CALM, b"too_many_pings")]


def test_pings_at_the_permitted_pace_are_welcome() -> None:
    exchange = waiting_exchange()
    exchange.call()
    for _ in range(20):
        exchange.host.advance(5.1)
        ping(exchange)
    assert not exchange.server.closed


def test_an_idle_connection_may_hardly_ping() -> None:
    exchange = waiting_exchange()
    for _ in range(4):
        exchange.host.advance(6)
        ping(exchange)
    assert exchange.server.closed


def test_an_idle_connection_may_ping_when_permitted() -> None:
    exchange = waiting_exchange(keepalive_permit_without_stream=True)
    for _ in range(10):
        exchange.host.advance(6)
        ping(exchange)
    assert not exchange.server.closed


def test_a_client_may_measure_the_connection_with_every_answer() -> None:
    """As grpc-go does to size its windows: a ping for what arrives, and none before that one is answered."""
    exchange = Exchange({"Unary": Handler(lambda request, context: request)})
    exchange.transfer()
    for _ in range(3000):
        stream_id = exchange.client.send_request(request_headers())
        exchange.client.send_data(stream_id, bytes(5), end_stream=True)
        # In the same bytes as the next request.
        ping(exchange)
    assert not exchange.server.closed


def test_a_client_may_measure_the_connection_while_a_long_answer_comes() -> None:
    """grpc-go pings for the data of one answer, too: many times in a second, long before the answer ends."""
    window = H2Limits(stream_window=65_535, connection_window=65_535)
    exchange = Exchange({"Unary": Handler(lambda request, context: bytes(1 << 20))}, client_limits=window)
    exchange.transfer()
    stream_id = exchange.client.send_request(request_headers())
    exchange.client.send_data(stream_id, bytes(5), end_stream=True)
    received = 0
    while stream_id not in exchange.trailers and received < 1000:
        received += 1
        ping(exchange)
        credit = len(exchange.data.get(stream_id, b""))
        if credit:
            exchange.client.acknowledge(credit, stream_id)
            exchange.data[stream_id] = b""
    assert received > 10
    assert not exchange.server.closed
    assert exchange.status(stream_id) == (0, "")


def test_answers_forgive_pings() -> None:
    exchange = Exchange({"Unary": Handler(lambda request, context: request)})
    for _ in range(50):
        exchange.call()
        ping(exchange)
        ping(exchange)
    assert not exchange.server.closed


# Keepalive


def test_a_silent_client_is_pinged_and_given_up() -> None:
    exchange = waiting_exchange(keepalive_interval=10.0, keepalive_timeout=3.0)
    exchange.host.advance(10.1)
    assert (PING, 0) in [(kind, flags) for kind, flags, _, _ in frames(exchange.server.data_to_send(1 << 20))]
    exchange.host.advance(3.1)
    assert exchange.server.closed


def test_a_client_that_answers_pings_stays() -> None:
    exchange = waiting_exchange(keepalive_interval=10.0, keepalive_timeout=3.0)
    for _ in range(5):
        exchange.host.advance(10.1)
        exchange.transfer()
        exchange.host.advance(3.1)
        exchange.transfer()
    assert not exchange.server.closed
