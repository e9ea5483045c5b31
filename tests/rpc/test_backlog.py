"""What answers that nobody reads may hold, and what becomes of calls when there is too much to do."""

from __future__ import annotations

import asyncio
import gc
import socket
import weakref
from typing import Any

import pytest

from kvstore.rpc import Promise, ServerOptions
from kvstore.rpc import Server as RpcServer
from kvstore.rpc.backlog import PATIENCE_SECONDS, Backlog
from kvstore.rpc.h2 import H2Limits
from tests.rpc.harness import EchoServicer, eventually, serving
from tests.rpc.wire import Exchange, Handler, request_headers

LIMIT = 1_000


class Holder:
    """A connection as the backlog sees it."""

    def __init__(self) -> None:
        self.unread = 0
        self.expelled = False

    def expel(self) -> None:
        self.expelled = True


class Server:
    """A backlog with a clock that the test moves."""

    def __init__(self) -> None:
        self.time = 100.0
        self.backlog = Backlog(LIMIT, lambda: self.time)


def test_within_the_limit_nobody_is_closed() -> None:
    server, one, two = Server(), Holder(), Holder()
    server.backlog.note(one, 600)
    server.time += 1_000
    server.backlog.note(two, 400)
    assert server.backlog.total == LIMIT
    assert not server.backlog.pressed
    assert not one.expelled
    assert not two.expelled


def test_beyond_it_who_has_read_nothing_for_longest_is_closed_first() -> None:
    server, reader, stalled, late = Server(), Holder(), Holder(), Holder()
    server.backlog.note(reader, 500)
    server.backlog.note(stalled, 400)
    server.time += 2 * PATIENCE_SECONDS
    server.backlog.note(reader, 450)
    server.backlog.note(late, 300)
    assert (reader.expelled, stalled.expelled, late.expelled) == (False, True, False)
    assert server.backlog.total == 750
    assert not server.backlog.pressed


def test_who_has_just_read_is_spared_up_to_twice_the_limit() -> None:
    server, one, two = Server(), Holder(), Holder()
    server.backlog.note(one, 900)
    server.backlog.note(two, 900)
    assert server.backlog.pressed
    assert not one.expelled
    server.backlog.note(two, 1_200)
    assert one.expelled
    assert not two.expelled
    assert server.backlog.total == 1_200


def test_a_connection_that_is_gone_holds_nothing() -> None:
    server, one, two = Server(), Holder(), Holder()
    server.backlog.note(one, 900)
    server.backlog.note(one, 0)
    server.time += 10
    server.backlog.note(two, 900)
    assert server.backlog.total == 900
    assert not one.expelled


def test_what_happens_often_is_logged_now_and_then(caplog: pytest.LogCaptureFixture) -> None:
    server = Server()
    for _ in range(50):
        server.backlog.note(Holder(), 3 * LIMIT)
    assert len(caplog.records) == 1
    assert "left 3000 bytes of answers unread" in caplog.text
    server.time += 60
    server.backlog.note(Holder(), 3 * LIMIT)
    assert "(50 since the last such line)" in caplog.text
    assert server.backlog.expelled == 51


def test_that_much_has_become_free_is_told_once() -> None:
    told: list[int] = []
    backlog = Backlog(LIMIT, lambda: 0.0, lambda: told.append(backlog.total))
    one, two = Holder(), Holder()
    backlog.note(one, LIMIT // 10)
    backlog.note(one, 0)
    assert told == []
    backlog.note(one, 400)
    backlog.note(two, 500)
    backlog.note(one, 0)
    assert told == []
    backlog.note(two, 100)
    backlog.note(two, 0)
    assert told == [100]


async def forever(requests: Any, context: Any) -> None:
    """A stream that goes on until its client leaves."""
    async for _ in requests:
        context.write(b"x" * 1_000)


async def test_what_a_lost_connection_held_is_free_without_the_collector() -> None:
    exchange = Exchange({"Stream": Handler(forever, request_streaming=True, response_streaming=True)})
    exchange.call("/t.T/Stream", request=None)
    await asyncio.sleep(0)
    connection = weakref.ref(exchange.server)
    gc.collect()
    gc.disable()
    try:
        exchange.server.connection_lost("the client has left")
        del exchange
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert connection() is None
    finally:
        gc.enable()


def large(request: bytes, context: Any) -> Promise[bytes]:
    """Answers with 10,000 bytes as soon as the client has read what came before."""
    promise: Promise[bytes] = Promise()
    context.when_relieved(lambda: promise.set_result(b"x" * 10_000))
    return promise


def test_answers_are_made_as_the_client_reads() -> None:
    options = ServerOptions(connection_buffer_bytes=25_000)
    exchange = Exchange({"Unary": Handler(large)}, options=options, client_limits=H2Limits(stream_window=65_535))
    streams = [exchange.client.send_request(request_headers("/t.T/Unary"), end_stream=False) for _ in range(8)]
    for stream in streams:
        exchange.client.send_data(stream, b"\0\0\0\0\0", end_stream=True)
    exchange.server.receive_data(exchange.client.data_to_send(1 << 20))
    # Nothing has been carried back yet: three answers pass 25,000 bytes, the others wait.
    assert exchange.server.waiting == 3 * 10_005
    exchange.transfer()
    assert all(exchange.status(stream) == (0, "") for stream in streams)


def test_under_pressure_a_client_gets_one_answer_at_a_time() -> None:
    exchange = Exchange({"Unary": Handler(large)}, pressed=lambda: True)
    streams = [exchange.client.send_request(request_headers("/t.T/Unary"), end_stream=False) for _ in range(3)]
    for stream in streams:
        exchange.client.send_data(stream, b"\0\0\0\0\0", end_stream=True)
    exchange.server.receive_data(exchange.client.data_to_send(1 << 20))
    assert exchange.server.waiting == 10_005
    exchange.transfer()
    assert all(exchange.status(stream) == (0, "") for stream in streams)


def test_calls_of_a_client_that_does_not_read_are_refused_when_they_are_many() -> None:
    options = ServerOptions(connection_buffer_bytes=5_000, unread_calls=10, light_calls=4, refusal="calm down")
    exchange = Exchange({"Unary": Handler(large)}, options=options)
    streams = []
    for _ in range(20):
        stream = exchange.client.send_request(request_headers("/t.T/Unary"), end_stream=False)
        exchange.client.send_data(stream, b"\0\0\0\0\0", end_stream=True)
        exchange.server.receive_data(exchange.client.data_to_send(1 << 20))
        streams.append(stream)
    exchange.transfer()
    # The first is answered at once; ten more may wait for the client to read it.
    assert [exchange.status(stream) for stream in streams] == [(0, "")] * 11 + [(8, "calm down")] * 9
    assert exchange.server.refused == 9


def never(request: bytes, context: Any) -> Promise[bytes]:
    """Is not answered."""
    return Promise()


def test_when_it_is_crowded_clients_with_many_calls_are_refused_more_and_others_are_not() -> None:
    crowd = [False]
    options = ServerOptions(light_calls=5, refusal="too many requests")
    exchange = Exchange({"Unary": Handler(never)}, options=options, crowded=lambda: crowd[0])
    for _ in range(10):
        exchange.call()
    assert exchange.server.active_calls == 10
    crowd[0] = True
    refused = exchange.call()
    assert exchange.status(refused) == (8, "too many requests")
    # Headers alone are not answered: the client would have to be looked after until it has sent the rest.
    half = exchange.call(request=None)
    assert half not in exchange.trailers
    exchange.client.send_data(half, b"\0\0\0\0\0", end_stream=True)
    exchange.transfer()
    assert exchange.status(half) == (8, "too many requests")

    other = Exchange({"Unary": Handler(never)}, options=options, crowded=lambda: True)
    streams = [other.call() for _ in range(5)]
    assert not any(stream in other.trailers for stream in streams)
    crowd[0] = False
    assert exchange.call() not in exchange.trailers


async def test_connections_beyond_the_highest_descriptor_are_closed() -> None:
    with socket.socket() as probe:
        highest = probe.fileno() + 20
    async with serving(EchoServicer(), options=ServerOptions(highest_descriptor=highest)) as (server, port):
        loop = asyncio.get_running_loop()
        clients = []
        for _ in range(30):
            client = socket.socket()
            client.setblocking(False)
            await loop.sock_connect(client, ("127.0.0.1", port))
            clients.append(client)
        # Both ends are in this process: some twenty descriptors are ten connections.
        await eventually(lambda: 0 < len(server.sniffing) < 20)
        closed = 0
        for client in clients[-5:]:
            closed += await asyncio.wait_for(loop.sock_recv(client, 1), 5) == b""
        assert closed == 5
        for client in clients:
            client.close()


def test_a_connection_rests_in_proportion_to_what_refusing_took() -> None:
    server = RpcServer()
    first = server.rest(10.0, 0.1)
    second = server.rest(10.0, 0.1)
    assert 10.0 < first < second
    assert second - first == pytest.approx(first - 10.0)
    assert server.rest(20.0, 0.1) == pytest.approx(20.0 + first - 10.0)
