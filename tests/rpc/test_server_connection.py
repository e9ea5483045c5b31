"""The server's side of a connection, without sockets: what goes in, what comes out."""

import asyncio
import gzip
from typing import Any

import pytest

from kvstore.rpc import EOF, Promise, RpcError, ServerOptions, StatusCode
from kvstore.rpc.framing import frame
from kvstore.rpc.h2 import H2Limits
from tests.rpc.harness import Counters
from tests.rpc.wire import Exchange, Handler, request_headers


def echo(request: bytes, context: Any) -> bytes:
    return request


def test_a_unary_call_is_answered_within_receive_data() -> None:
    exchange = Exchange({"Unary": Handler(echo)})
    stream_id = exchange.call(request=b"hello")
    assert exchange.headers[stream_id] == {b":status": b"200", b"content-type": b"application/grpc"}
    assert exchange.data[stream_id] == frame(b"hello")
    assert exchange.trailers[stream_id] == {b"grpc-status": b"0"}
    assert exchange.server.active_calls == 0


def test_promises_resolved_in_one_turn_ask_for_one_flush() -> None:
    promises: list[Promise[bytes]] = []

    def later(request: bytes, context: Any) -> Promise[bytes]:
        promises.append(Promise())
        return promises[-1]

    exchange = Exchange({"Unary": Handler(later)})
    streams = [exchange.call() for _ in range(10)]
    exchange.host.flushes = 0
    for promise in promises:
        promise.set_result(b"x")
    assert exchange.host.flushes == 1
    exchange.transfer()
    assert [exchange.status(stream_id)[0] for stream_id in streams] == [0] * 10


def test_an_error_before_any_message_is_a_lone_header_block() -> None:
    def fail(request: bytes, context: Any) -> bytes:
        raise RpcError(StatusCode.NOT_FOUND, "no such thing")

    exchange = Exchange({"Unary": Handler(fail)})
    stream_id = exchange.call()
    assert exchange.headers[stream_id] is not None
    assert exchange.headers[stream_id] == exchange.trailers[stream_id]
    assert exchange.status(stream_id) == (5, "no such thing")
    assert stream_id not in exchange.data


@pytest.mark.parametrize("size", [1, 3, 7])
def test_a_request_in_pieces_is_put_together(size: int) -> None:
    exchange = Exchange({"Unary": Handler(echo)})
    stream_id = exchange.call(request=None)
    message = frame(b"in pieces")
    for start in range(0, len(message), size):
        exchange.client.send_data(stream_id, message[start : start + size])
        exchange.transfer()
    assert stream_id not in exchange.trailers
    exchange.client.send_data(stream_id, b"", end_stream=True)
    exchange.transfer()
    assert exchange.data[stream_id] == message
    assert exchange.server.partial_bytes == 0


@pytest.mark.parametrize("body", [b"", b"\0\0\0", frame(b"x")[:-1], frame(b"a") + frame(b"b"), frame(b"a") + b"\0"])
def test_a_unary_request_of_other_than_one_message_fails(body: bytes) -> None:
    exchange = Exchange({"Unary": Handler(echo)})
    stream_id = exchange.call(request=None)
    exchange.client.send_data(stream_id, body, end_stream=True)
    exchange.transfer()
    assert exchange.status(stream_id)[0] == StatusCode.INTERNAL
    assert exchange.server.partial_bytes == 0


def test_an_oversized_request_is_refused_before_it_is_sent() -> None:
    exchange = Exchange({"Unary": Handler(echo)}, options=ServerOptions(max_receive_bytes=100))
    stream_id = exchange.call(request=None)
    exchange.client.send_data(stream_id, (101).to_bytes(5, "big"))
    exchange.transfer()
    assert exchange.status(stream_id) == (8, "grpc: received message larger than max (101 vs. 100)")
    # The rest of the request is wanted no more (RFC 9113 §8.1), but a client has time to find out by itself.
    assert stream_id not in exchange.resets
    exchange.host.advance(6)
    exchange.transfer()
    assert exchange.resets[stream_id] == 0
    assert exchange.status(exchange.call(request=bytes(100)))[0] == 0
    assert exchange.status(exchange.call(request=bytes(101)))[0] == 8


def test_incomplete_messages_are_bounded_together() -> None:
    exchange = Exchange({"Unary": Handler(echo)}, options=ServerOptions(max_partial_bytes=1000))
    streams = [exchange.call(request=None) for _ in range(3)]
    for stream_id in streams:
        exchange.client.send_data(stream_id, (600).to_bytes(5, "big") + bytes(400))
        exchange.transfer()
    assert exchange.status(streams[2])[0] == StatusCode.RESOURCE_EXHAUSTED
    assert exchange.server.partial_bytes == 800
    exchange.client.reset_stream(streams[0], 8)
    exchange.client.send_data(streams[1], bytes(200), end_stream=True)
    exchange.transfer()
    assert exchange.status(streams[1])[0] == 0
    assert exchange.server.partial_bytes == 0


def test_a_compressed_request_is_understood_and_answered_plainly() -> None:
    exchange = Exchange({"Unary": Handler(echo)})
    stream_id = exchange.call(request=None, grpc_encoding="gzip")
    data = gzip.compress(b"squeezed")
    exchange.client.send_data(stream_id, b"\x01" + len(data).to_bytes(4, "big") + data, end_stream=True)
    exchange.transfer()
    assert exchange.data[stream_id] == frame(b"squeezed")


def test_an_unknown_compression_is_unimplemented() -> None:
    exchange = Exchange({"Unary": Handler(echo)})
    stream_id = exchange.call(grpc_encoding="snappy")
    code, message = exchange.status(stream_id)
    assert code == StatusCode.UNIMPLEMENTED
    assert "snappy" in message
    assert exchange.trailers[stream_id][b"grpc-accept-encoding"] == b"identity,gzip,deflate"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/t.T/Nothing", "unknown method Nothing for service t.T"),
        ("/t.U/Unary", "unknown service t.U"),
        ("/nothing", 'malformed method name: "/nothing"'),
    ],
)
def test_what_is_not_offered_is_unimplemented(path: str, message: str) -> None:
    exchange = Exchange({"Unary": Handler(echo)})
    assert exchange.status(exchange.call(path)) == (12, message)


@pytest.mark.parametrize("content_type", ["text/plain", "application/grpcx", "application/json"])
def test_other_content_types_are_refused(content_type: str) -> None:
    exchange = Exchange({"Unary": Handler(echo)})
    stream_id = exchange.call(content_type=content_type)
    assert exchange.headers[stream_id][b":status"] == b"415"
    assert exchange.status(stream_id)[0] == StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("content_type", ["application/grpc+proto", "application/grpc;charset=utf-8"])
def test_content_types_of_grpc_are_taken(content_type: str) -> None:
    exchange = Exchange({"Unary": Handler(echo)})
    assert exchange.status(exchange.call(content_type=content_type))[0] == 0


def test_only_post_is_a_call() -> None:
    exchange = Exchange({"Unary": Handler(echo)})
    fields = [(b":method", b"GET"), *request_headers()[1:]]
    stream_id = exchange.client.send_request(fields, end_stream=True)
    exchange.transfer()
    assert exchange.headers[stream_id][b":status"] == b"405"


def test_an_undecodable_request_is_an_invalid_argument() -> None:
    def refuse(data: bytes) -> None:
        raise ValueError("nonsense")

    exchange = Exchange({"Unary": Handler(echo, request_deserializer=refuse)})
    expected = (3, "grpc: error unmarshalling request: nonsense")
    assert exchange.status(exchange.call(request=b"x")) == expected


def test_deadlines_end_calls_that_wait() -> None:
    promise: Promise[bytes] = Promise()
    contexts: list[Any] = []

    def wait(request: bytes, context: Any) -> Promise[bytes]:
        contexts.append(context)
        return promise

    exchange = Exchange({"Unary": Handler(wait)})
    stream_id = exchange.call(grpc_timeout="1500m")
    assert contexts[0].time_remaining() == pytest.approx(1.5)
    exchange.host.advance(1.4)
    exchange.transfer()
    assert stream_id not in exchange.trailers
    exchange.host.advance(0.2)
    exchange.transfer()
    assert exchange.status(stream_id) == (4, "context deadline exceeded")
    assert contexts[0].cancelled()
    promise.set_result(b"late")
    exchange.transfer()
    assert exchange.server.active_calls == 0


def test_a_deadline_ends_a_request_that_never_completes() -> None:
    exchange = Exchange({"Unary": Handler(echo)})
    stream_id = exchange.call(request=None, grpc_timeout="1S")
    exchange.host.advance(1.1)
    exchange.transfer()
    assert exchange.status(stream_id)[0] == StatusCode.DEADLINE_EXCEEDED


def test_an_answered_call_leaves_no_deadline() -> None:
    exchange = Exchange({"Unary": Handler(echo)})
    exchange.server._keepalive.stop()
    exchange.call(grpc_timeout="1S")
    assert exchange.host.wheel.next() is None


def test_a_malformed_timeout_fails_the_call() -> None:
    exchange = Exchange({"Unary": Handler(echo)})
    code, message = exchange.status(exchange.call(grpc_timeout="soon"))
    assert code == StatusCode.INTERNAL
    assert "grpc-timeout" in message


def test_a_reset_in_the_same_bytes_as_its_request_is_no_harm() -> None:
    counters = Counters()
    exchange = Exchange({"Unary": Handler(echo)}, observer=counters)
    stream_id = exchange.client.send_request(request_headers())
    exchange.client.send_data(stream_id, frame(b""), end_stream=True)
    first = exchange.client.data_to_send(1 << 20)
    exchange.client.reset_stream(stream_id, 8)
    exchange.server.receive_data(first + exchange.client.data_to_send(1 << 20))
    exchange.transfer()
    assert exchange.server.active_calls == 0
    assert not exchange.server.closed
    assert exchange.status(exchange.call())[0] == 0


def test_a_lost_connection_cancels_its_calls() -> None:
    ended: list[Any] = []
    promise: Promise[bytes] = Promise()

    def wait(request: bytes, context: Any) -> Promise[bytes]:
        context.add_done_callback(ended.append)
        return promise

    counters = Counters()
    exchange = Exchange({"Unary": Handler(wait)}, observer=counters)
    exchange.call()
    exchange.server.connection_lost("test")
    assert [context.cancelled() for context in ended] == [True]
    promise.set_result(b"")
    assert counters.methods["Unary"].handled[StatusCode.CANCELLED] == 1
    assert counters.methods["Unary"].handled[StatusCode.OK] == 0


def test_a_failing_done_callback_stops_nobody() -> None:
    def callback(_: Any) -> None:
        raise RuntimeError("callback")

    def handler(request: bytes, context: Any) -> bytes:
        context.add_done_callback(callback)
        return request

    exchange = Exchange({"Unary": Handler(handler)})
    assert exchange.status(exchange.call())[0] == 0


def test_metadata_that_cannot_be_sent_does_not_break_the_answer() -> None:
    def handler(request: bytes, context: Any) -> bytes:
        context.set_trailing_metadata((("bad key", "x"),))
        return request

    exchange = Exchange({"Unary": Handler(handler)})
    assert exchange.status(exchange.call(request=b"a"))[0] == 0


# Streams


class Stream:
    """A bidirectional handler whose context a test drives."""

    def __init__(self) -> None:
        self.context: Any = None
        self.end: Promise[None] = Promise()

    def __call__(self, requests: Any, context: Any) -> Promise[None]:
        self.context = context
        return self.end


def chat(options: ServerOptions | None = None, client_limits: H2Limits | None = None) -> tuple[Exchange, Stream, int]:
    stream = Stream()
    handler = Handler(stream, request_streaming=True, response_streaming=True)
    exchange = Exchange({"Chat": handler, "Unary": Handler(echo)}, options=options, client_limits=client_limits)
    return exchange, stream, exchange.call("/t.T/Chat", request=None)


def test_a_stream_is_read_and_written_without_tasks() -> None:
    exchange, stream, stream_id = chat()
    read = stream.context.read()
    assert not read.done()
    exchange.client.send_data(stream_id, frame(b"one") + frame(b"two"))
    exchange.transfer()
    assert read.result() == b"one"
    assert stream.context.read().result() == b"two"
    assert stream.context.write(b"three")
    exchange.transfer()
    assert exchange.data[stream_id] == frame(b"three")
    exchange.client.send_data(stream_id, b"", end_stream=True)
    exchange.transfer()
    assert stream.context.read().result() is EOF
    stream.end.set_result(None)
    exchange.transfer()
    assert exchange.status(stream_id)[0] == 0


async def test_a_message_is_not_lost_to_a_reader_that_gave_up() -> None:
    exchange, stream, stream_id = chat()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(stream.context.read(), 0.001)
    exchange.client.send_data(stream_id, frame(b"one") + frame(b"two"))
    exchange.transfer()
    assert await stream.context.read() == b"one"
    assert await stream.context.read() == b"two"


def test_a_handler_that_does_not_read_stops_its_client() -> None:
    exchange, stream, stream_id = chat(ServerOptions(stream_window=65_535))
    exchange.client.send_data(stream_id, frame(bytes(1000)) * 200)
    exchange.transfer()
    assert exchange.client.queued(stream_id) > 100_000
    total = 0
    while total < 200:
        read = stream.context.read()
        exchange.transfer()
        assert read.result() == bytes(1000)
        total += 1
    assert exchange.client.queued(stream_id) == 0


def test_an_unread_stream_does_not_stop_other_calls() -> None:
    exchange, _, stream_id = chat(ServerOptions(stream_window=65_535))
    exchange.client.send_data(stream_id, frame(bytes(1000)) * 200)
    exchange.transfer()
    assert exchange.status(exchange.call(request=bytes(200_000)))[0] == 0


def test_a_large_message_passes_a_small_window() -> None:
    exchange, stream, stream_id = chat(ServerOptions(stream_window=65_535))
    exchange.client.send_data(stream_id, frame(bytes(1_000_000)))
    read = stream.context.read()
    exchange.transfer()
    assert len(read.result()) == 1_000_000


def test_the_connections_credit_returns_when_a_call_ends_unread() -> None:
    options = ServerOptions(stream_window=65_535, connection_window=100_000)
    exchange, stream, stream_id = chat(options)
    for _ in range(20):
        exchange.client.send_data(stream_id, frame(bytes(1000)) * 60)
        exchange.transfer()
        stream.end.set_result(None)
        exchange.transfer()
        stream.end = Promise()
        stream_id = exchange.call("/t.T/Chat", request=None)
    assert exchange.status(exchange.call(request=bytes(90_000)))[0] == 0


def test_a_client_that_does_not_read_makes_the_stream_unwritable() -> None:
    limits = H2Limits(stream_window=65_535)
    exchange, stream, stream_id = chat(ServerOptions(stream_buffer_bytes=50_000), limits)
    context = stream.context
    written = 0
    while context.write(bytes(1000)):
        written += 1
        exchange.transfer()
    # What the client's window takes, and the buffer.
    assert 65 + 49 <= written + 1 <= 65 + 52
    assert not context.writable
    assert 50_000 <= context.buffered <= 52_000
    drained = context.drain()
    exchange.transfer()
    assert not drained.done()
    exchange.client.acknowledge(len(exchange.data[stream_id]), stream_id)
    exchange.transfer()
    assert drained.done()
    assert context.writable


def test_streams_share_the_connections_buffer_but_none_starves() -> None:
    options = ServerOptions(stream_buffer_bytes=50_000, connection_buffer_bytes=60_000)
    exchange, stream, _ = chat(options, H2Limits(stream_window=65_535))
    first = stream.context
    while first.write(bytes(1000)):
        exchange.transfer()
    stream.end = Promise()
    exchange.call("/t.T/Chat", request=None)
    second = stream.context
    assert second.writable
    while second.write(bytes(1000)):
        exchange.transfer()
    assert second.buffered < 15_000


def test_refusing_uploads_in_midframe_costs_the_connection_nothing() -> None:
    options = ServerOptions(max_receive_bytes=10_000, connection_window=100_000)
    exchange = Exchange({"Unary": Handler(echo)}, options=options)
    exchange.transfer()
    for _ in range(50):
        stream_id = exchange.client.send_request(request_headers())
        exchange.client.send_data(stream_id, frame(bytes(20_000)), end_stream=True)
        upload = exchange.client.data_to_send(1 << 20)
        # The answer is on its way while a DATA frame is half received.
        exchange.server.receive_data(upload[:10_000])
        answer = exchange.server.data_to_send(1 << 20)
        exchange.server.receive_data(upload[10_000:20_000])
        answer += exchange.server.data_to_send(1 << 20)
        exchange.server.receive_data(upload[20_000:])
        exchange.client.receive(answer)
        exchange.note()
        exchange.transfer()
        assert exchange.trailers.pop(stream_id)[b"grpc-status"] == b"8"
    assert exchange.status(exchange.call(request=bytes(9_000)))[0] == 0


def test_writing_to_an_ended_call_is_refused_gently() -> None:
    exchange, stream, stream_id = chat()
    exchange.client.reset_stream(stream_id, 8)
    exchange.transfer()
    assert stream.context.cancelled()
    assert not stream.context.write(b"x")
    assert not stream.context.writable
    for promise in (stream.context.drain(), stream.context.read()):
        assert isinstance(promise.exception(), RpcError)


def test_a_cancelled_call_fails_its_read_and_its_drain() -> None:
    exchange, stream, stream_id = chat(ServerOptions(stream_buffer_bytes=1), H2Limits(stream_window=65_535))
    while stream.context.write(bytes(10_000)):
        exchange.transfer()
    stream.context.write(bytes(100_000))
    read, drain = stream.context.read(), stream.context.drain()
    exchange.transfer()
    exchange.client.reset_stream(stream_id, 8)
    exchange.transfer()
    assert isinstance(read.exception(), RpcError)
    assert isinstance(drain.exception(), RpcError)


def test_an_oversized_message_in_a_stream_ends_the_call() -> None:
    exchange, stream, stream_id = chat(ServerOptions(max_receive_bytes=100))
    exchange.client.send_data(stream_id, frame(b"fine") + frame(bytes(101)))
    exchange.transfer()
    assert exchange.status(stream_id) == (8, "grpc: received message larger than max (101 vs. 100)")
    assert stream.context.cancelled()


@pytest.mark.parametrize("tail", [b"\0\0", frame(b"xyz")[:5], frame(b"xyz")[:-1]])
def test_a_stream_that_ends_within_a_message_fails(tail: bytes) -> None:
    exchange, stream, stream_id = chat()
    exchange.client.send_data(stream_id, frame(b"whole") + tail, end_stream=True)
    exchange.transfer()
    assert exchange.status(stream_id)[0] == StatusCode.INTERNAL
    assert stream.context.cancelled()


def test_no_more_calls_run_than_the_limit() -> None:
    promises: list[Promise[bytes]] = []

    def wait(request: bytes, context: Any) -> Promise[bytes]:
        promises.append(Promise())
        return promises[-1]

    exchange = Exchange({"Unary": Handler(wait)}, options=ServerOptions(max_concurrent_streams=3))
    exchange.transfer()
    calls = [exchange.call() for _ in range(4)]
    assert exchange.server.active_calls == 3
    promises[0].set_result(b"")
    exchange.transfer()
    assert exchange.status(calls[0])[0] == 0
    # The client held back what the server would have refused.
    assert exchange.server.active_calls == 3
    assert exchange.resets == {calls[0]: 0}
