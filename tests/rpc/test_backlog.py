"""What answers that nobody reads may hold, and what becomes of calls when there is too much to do."""

from __future__ import annotations

import asyncio
import gc
import socket
import weakref
from typing import Any

import pytest

from kvstore.rpc import Promise, RpcError, ServerOptions, StatusCode
from kvstore.rpc import Server as RpcServer
from kvstore.rpc.backlog import PATIENCE_SECONDS, Backlog, Unfinished
from kvstore.rpc.h2 import H2Limits
from tests.limits import frames as raw
from tests.rpc.harness import EchoServicer, Text, eventually, serving
from tests.rpc.test_handlers import Servicer
from tests.rpc.wire import Exchange, Handler, request_headers

LIMIT = 1_000


class Holder:
    """A connection as the backlog sees it."""

    def __init__(self) -> None:
        self.unread = 0
        self.expelled = False
        self.relieved = 0
        self.waiting = 0
        self.taken = 0

    def measure(self) -> int:
        return self.unread - self.taken

    def expel(self) -> None:
        self.expelled = True

    def relieve(self) -> None:
        self.relieved += 1

    def admit(self) -> bool:
        self.waiting -= 1
        return self.waiting > 0


class Server:
    """A backlog with a clock that the test moves."""

    def __init__(self) -> None:
        self.time = 100.0
        self.turns_wanted = 0
        self.backlog = Backlog(LIMIT, 2 * LIMIT, lambda: self.time, needs_turns=self._want_turns)

    def _want_turns(self) -> None:
        self.turns_wanted += 1


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


def test_who_has_just_read_is_spared_up_to_the_most_that_may_wait() -> None:
    server, one, two = Server(), Holder(), Holder()
    server.backlog.note(one, 900)
    server.backlog.note(two, 900)
    assert server.backlog.pressed
    assert not one.expelled
    server.backlog.note(two, 1_200)
    assert one.expelled
    assert not two.expelled
    assert server.backlog.total == 1_200


def test_there_is_room_again_when_well_below_the_limit_and_who_holds_something_is_told() -> None:
    server, one, two = Server(), Holder(), Holder()
    server.backlog.note(one, 600)
    server.backlog.note(two, 600)
    assert server.backlog.pressed
    assert server.turns_wanted == 1
    server.backlog.note(two, 300)
    assert server.backlog.pressed
    server.backlog.note(two, 100)
    assert not server.backlog.pressed
    assert (one.relieved, two.relieved) == (1, 1)


def test_who_has_read_without_a_word_is_not_closed_for_what_was_there_before() -> None:
    server, honest, stalled, late = Server(), Holder(), Holder(), Holder()
    server.backlog.note(honest, 500)
    server.backlog.note(stalled, 400)
    server.time += 2 * PATIENCE_SECONDS
    honest.taken = 500
    server.backlog.note(late, 200)
    assert not honest.expelled
    assert not stalled.expelled
    assert server.backlog.total == 600
    server.backlog.note(late, 700)
    assert stalled.expelled


async def test_what_the_transport_holds_counts() -> None:
    class Long(Servicer):
        def unary_data(self, request: Any, context: Any) -> Any:
            return Text(data=bytes(30_000))

    # With all the credit there is nothing stays with the engine; below the mark of the transport it is not paused.
    options = ServerOptions(socket_buffer_bytes=64 << 20)
    async with serving(Long(), options=options) as (server, port):
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        client.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(client, ("127.0.0.1", port))
        headers, request = raw.request_headers("/rpctest.Echo/Unary"), Text(text="data").SerializeToString()
        calls = b"".join(raw.call(stream, headers, request) for stream in range(1, 1_000, 2))
        await loop.sock_sendall(client, raw.opening(raw.LARGEST_WINDOW) + raw.SETTINGS_ACK + calls)
        await eventually(lambda: server.backlog.total > 5 << 20)
        client.close()
        await eventually(lambda: server.backlog.total == 0)


def test_who_waits_for_room_takes_turns() -> None:
    server, holders = Server(), [Holder(), Holder(), Holder()]
    for holder, waiting in zip(holders, (3, 1, 2), strict=True):
        holder.waiting = waiting
        server.backlog.queue(holder)
        server.backlog.queue(holder)
    assert server.turns_wanted
    for left in ((2, 1, 2), (2, 0, 2), (2, 0, 1)):
        assert server.backlog.turn()
        assert tuple(holder.waiting for holder in holders) == left
    # Who is gone has no turn any more.
    server.backlog.leave(holders[0])
    assert not server.backlog.turn()
    assert tuple(holder.waiting for holder in holders) == (2, 0, 0)


def test_turns_go_on_as_long_as_too_much_waits_and_close_who_reads_nothing() -> None:
    server, one, two = Server(), Holder(), Holder()
    server.backlog.note(one, 900)
    server.backlog.note(two, 700)
    assert server.backlog.turn()
    assert not one.expelled
    server.time += PATIENCE_SECONDS
    assert server.backlog.turn()
    assert (one.expelled, two.expelled) == (True, False)


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
    backlog = Backlog(LIMIT, 2 * LIMIT, lambda: 0.0, freed=lambda: told.append(backlog.total))
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


class _Held(dict[str, list[bytes]]):
    """A context of TLS that can be referred to weakly."""


async def test_what_a_lost_connection_held_is_free_without_the_collector() -> None:
    exchange = Exchange({"Stream": Handler(forever, request_streaming=True, response_streaming=True)})
    exchange.call("/t.T/Stream", request=None)
    await asyncio.sleep(0)
    # What only the connection holds; itself it cannot be referred to weakly where it is compiled.
    held = exchange.server.auth_context = _Held()
    gone = weakref.ref(held)
    del held
    gc.collect()
    gc.disable()
    try:
        exchange.server.connection_lost("the client has left")
        del exchange
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert gone() is None
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
    assert exchange.server.queued() == 3 * 10_005
    exchange.transfer()
    assert all(exchange.status(stream) == (0, "") for stream in streams)


def test_under_pressure_a_client_gets_one_answer_at_a_time() -> None:
    exchange = Exchange({"Unary": Handler(large)}, pressed=lambda: True)
    streams = [exchange.client.send_request(request_headers("/t.T/Unary"), end_stream=False) for _ in range(3)]
    for stream in streams:
        exchange.client.send_data(stream, b"\0\0\0\0\0", end_stream=True)
    exchange.server.receive_data(exchange.client.data_to_send(1 << 20))
    assert exchange.server.queued() == 10_005
    exchange.transfer()
    assert all(exchange.status(stream) == (0, "") for stream in streams)


def small(request: bytes, context: Any) -> bytes:
    """Answers with little, at once."""
    return b"x" * 60


def test_what_is_answered_and_not_read_counts_with_its_streams() -> None:
    exchange = Exchange({"Unary": Handler(small)}, client_limits=H2Limits(stream_window=65_535))
    streams = [exchange.client.send_request(request_headers("/t.T/Unary"), end_stream=False) for _ in range(100)]
    for stream in streams:
        exchange.client.send_data(stream, b"\0\0\0\0\0", end_stream=True)
    exchange.server.receive_data(exchange.client.data_to_send(1 << 20))
    # It is more than a kilobyte for each, whatever the answer: that of the engine and of what it gives its answers.
    assert exchange.server.waiting > 100 * 1_000
    exchange.transfer()
    assert exchange.server.waiting == 0
    assert exchange.call() in exchange.trailers
    assert exchange.server.waiting == 0


async def test_streams_that_never_close_are_what_a_client_is_closed_for() -> None:
    """As a client without flow control credit does it: headers go out, and a few bytes of each answer stay."""
    options = ServerOptions(unread_bytes=200_000, unread_most_bytes=300_000)
    async with serving(Servicer(), options=options) as (server, port):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        headers = raw.request_headers("/rpctest.Echo/Unary")
        request = Text(text="plain").SerializeToString()
        calls = b"".join(raw.call(stream, headers, request) for stream in range(1, 1_000, 2))
        writer.write(raw.opening(0) + raw.SETTINGS_ACK + calls)
        await eventually(lambda: server.backlog.expelled)
        await eventually(lambda: server.connections == 0)
        assert server.backlog.total == 0
        writer.close()


def long_after_room(request: bytes, context: Any) -> Promise[bytes]:
    """Answers with 10,000 bytes when there is room."""
    promise: Promise[bytes] = Promise()
    context.when_room(lambda: promise.set_result(b"x" * 10_000))
    return promise


def test_long_answers_wait_for_room_one_after_the_other() -> None:
    pressed = [True]
    exchange = Exchange({"Unary": Handler(long_after_room)}, pressed=lambda: pressed[0])
    first, second, third = (exchange.call() for _ in range(3))
    assert exchange.server.queued() == 0
    assert exchange.server.admit()
    exchange.transfer()
    assert exchange.status(first) == (0, "")
    pressed[0] = False
    # Not past those that were there before.
    fourth = exchange.call()
    assert fourth not in exchange.trailers
    exchange.client.reset_stream(third, 8)
    exchange.transfer()
    assert exchange.server.admit()
    assert exchange.server.admit()
    assert not exchange.server.admit()
    exchange.transfer()
    assert exchange.status(second) == exchange.status(fourth) == (0, "")
    assert exchange.call() in exchange.trailers


def test_under_pressure_a_client_with_many_calls_that_wait_for_room_is_refused_more() -> None:
    options = ServerOptions(light_calls=4, refusal="calm down")
    exchange = Exchange({"Unary": Handler(long_after_room)}, options=options, pressed=lambda: True)
    streams = [exchange.call() for _ in range(6)]
    assert [exchange.status(stream) for stream in streams[4:]] == [(8, "calm down")] * 2
    assert not any(stream in exchange.trailers for stream in streams[:4])


async def hold_open(requests: Any, context: Any) -> None:
    """A stream that only others write to."""
    async for _ in requests:
        pass


async def test_under_pressure_a_stream_is_writable_when_its_client_has_read_everything() -> None:
    pressed = [False]
    contexts: list[Any] = []

    async def stream(requests: Any, context: Any) -> None:
        contexts.append(context)
        await hold_open(requests, context)

    exchange = Exchange(
        {"Stream": Handler(stream, request_streaming=True, response_streaming=True)}, pressed=lambda: pressed[0]
    )
    exchange.call("/t.T/Stream", request=None)
    exchange.call("/t.T/Stream", request=None)
    await asyncio.sleep(0)
    one, two = contexts
    one.write(b"x" * 100)
    assert one.writable
    assert two.writable
    pressed[0] = True
    assert not one.writable
    assert not two.writable
    drained = two.drain()
    assert not drained.done()
    exchange.transfer()
    assert drained.done()
    assert one.writable
    exchange.server.connection_lost("the client has left")
    await asyncio.sleep(0)


async def test_what_waited_for_others_goes_on_when_there_is_room_again() -> None:
    pressed = [False]
    contexts: list[Any] = []

    async def stream(requests: Any, context: Any) -> None:
        contexts.append(context)
        await hold_open(requests, context)

    exchange = Exchange(
        {"Stream": Handler(stream, request_streaming=True, response_streaming=True)},
        pressed=lambda: pressed[0],
        client_limits=H2Limits(stream_window=65_535),
    )
    exchange.call("/t.T/Stream", request=None)
    exchange.call("/t.T/Stream", request=None)
    await asyncio.sleep(0)
    one, two = contexts
    # More than the client gives credit for, which leaves the connection with something to send.
    one.write(b"x" * 100_000)
    exchange.transfer()
    pressed[0] = True
    drained = two.drain()
    exchange.transfer()
    assert not drained.done()
    pressed[0] = False
    exchange.server.touch()
    exchange.transfer()
    assert drained.done()
    exchange.server.connection_lost("the client has left")
    await asyncio.sleep(0)


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
    # The first is answered at once, and holds its stream; nine more may wait for the client to read it.
    assert [exchange.status(stream) for stream in streams] == [(0, "")] * 10 + [(8, "calm down")] * 10
    assert exchange.server.refused == 10


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
    # Twenty that are free now, whatever other tests have left open in between.
    free = [socket.socket() for _ in range(20)]
    highest = max(each.fileno() for each in free)
    for each in free:
        each.close()
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


# Requests that are not whole


class Sender:
    """A call as what is unfinished sees it."""

    def __init__(self) -> None:
        self.refused: list[RpcError] = []

    def refuse(self, error: RpcError) -> None:
        self.refused.append(error)


def test_requests_that_began_longest_ago_are_refused_when_all_are_too_much() -> None:
    unfinished = Unfinished(LIMIT)
    first, second, third = (Sender() for _ in range(3))
    for sender in (first, second):
        unfinished.note(sender, 400)
    # Not who has sent last.
    unfinished.note(first, 500)
    unfinished.note(third, 300)
    assert [len(sender.refused) for sender in (first, second, third)] == [1, 0, 0]
    assert first.refused[0].code is StatusCode.RESOURCE_EXHAUSTED
    assert unfinished.total == 700
    assert unfinished.refused == 1


def test_a_request_that_is_whole_makes_room_and_begins_anew_behind_the_others() -> None:
    unfinished = Unfinished(LIMIT)
    stream, other = Sender(), Sender()
    unfinished.note(stream, 600)
    unfinished.note(other, 400)
    unfinished.note(stream, 0)
    unfinished.note(stream, 600)
    unfinished.note(stream, 601)
    assert len(other.refused) == 1
    assert not stream.refused
    unfinished.note(stream, 0)
    unfinished.note(other, 0)
    assert unfinished.total == 0


def test_a_request_that_is_too_much_by_itself_is_told_so_at_once() -> None:
    unfinished = Unfinished(LIMIT)
    sender = Sender()
    with pytest.raises(RpcError, match="too many incomplete messages"):
        unfinished.note(sender, LIMIT + 1)
    assert not sender.refused
    assert unfinished.total == 0


async def test_requests_in_pieces_on_many_connections_are_bounded_together() -> None:
    options = ServerOptions(unfinished_bytes=300_000)
    async with serving(EchoServicer(), options=options) as (server, port):
        writers = []
        readers = []
        for _ in range(5):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            headers = raw.request_headers("/rpctest.Echo/Unary")
            said = raw.opening() + raw.SETTINGS_ACK + raw.frame(raw.HEADERS, raw.END_HEADERS, 1, headers)
            said += raw.frame(raw.DATA, 0, 1, raw.message(bytes(200_000))[:16_384])
            for _ in range(5):
                said += raw.frame(raw.DATA, 0, 1, bytes(16_384))
            writer.write(said)
            writers.append(writer)
            readers.append(reader)
            await eventually(lambda: server.unfinished.total > 0)
        await eventually(lambda: server.unfinished.refused == 2)
        assert 250_000 < server.unfinished.total <= 300_000
        for reader in readers[:2]:
            assert await refused(reader)
        for writer in writers:
            writer.close()
        await eventually(lambda: not server.unfinished.total)


async def refused(reader: asyncio.StreamReader) -> bool:
    """Read on; whether the call was answered, which has not got its whole request."""
    cut = raw.FrameReader()
    while data := await reader.read(65_536):
        for kind, flags, _, _ in cut.feed(data):
            if kind == raw.HEADERS and flags & raw.END_STREAM:
                return True
    return False
