"""Damaged bytes: a connection may end by them, but nothing else may happen."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from kvstore.rpc import ChannelOptions, Promise, RpcError
from kvstore.rpc.client_call import ClientStream, UnaryRequest
from kvstore.rpc.client_connection import ClientConnection
from kvstore.rpc.framing import frame
from tests.rpc.wire import CONTINUATION, Exchange, Handler, ManualHost, raw_frame, request_headers

mutations = st.lists(st.tuples(st.floats(min_value=0, max_value=1, exclude_max=True), st.integers(0, 255)), max_size=8)
raw_frames = st.lists(
    st.builds(
        raw_frame,
        st.integers(0, CONTINUATION + 2),
        st.integers(0, 255),
        st.integers(0, 9),
        st.binary(max_size=40),
    ),
    max_size=8,
)


def damage(data: bytes, changes: list[tuple[float, int]]) -> bytes:
    damaged = bytearray(data)
    for where, value in changes:
        damaged[int(where * len(damaged))] = value
    return bytes(damaged)


def servers() -> Exchange:
    def chat(requests: Any, context: Any) -> Promise[None]:
        context.read()
        context.write(b"hello")
        return Promise()

    handlers = {
        "Unary": Handler(lambda request, context: request),
        "Chat": Handler(chat, request_streaming=True, response_streaming=True),
    }
    return Exchange(handlers)


def calls(exchange: Exchange) -> bytes:
    """The bytes of a client that makes three calls."""
    client = exchange.client
    for path in ("/t.T/Unary", "/t.T/Chat", "/t.T/Nothing"):
        stream_id = client.send_request(request_headers(path, grpc_timeout="1S"))
        client.send_data(stream_id, frame(b"request"), end_stream=path.endswith("Unary"))
    return client.data_to_send(1 << 20)


@settings(max_examples=300, deadline=None)
@given(mutations, raw_frames, st.integers(1, 200))
def test_a_server_survives_a_damaged_client(changes: list[tuple[float, int]], more: list[bytes], size: int) -> None:
    exchange = servers()
    data = damage(calls(exchange), changes) + b"".join(more)
    for start in range(0, len(data), size):
        exchange.server.receive_data(data[start : start + size])
        exchange.server.data_to_send(1 << 20)
    exchange.host.advance(30)
    exchange.server.data_to_send(1 << 20)
    exchange.server.connection_lost("test")
    assert exchange.server.active_calls == 0
    assert exchange.server.partial_bytes == 0


class Channel(ManualHost):
    """What a client's connection needs of a channel."""

    def flush(self) -> None:
        return

    def ready(self) -> None:
        return

    def unusable(self, reason: str) -> None:
        return

    def again(self, call: Any) -> None:
        call.fail(RpcError(14, "elsewhere"))  # type: ignore[arg-type]


@settings(max_examples=300, deadline=None)
@given(mutations, raw_frames, st.integers(1, 200))
def test_a_client_survives_a_damaged_server(changes: list[tuple[float, int]], more: list[bytes], size: int) -> None:
    client = ClientConnection(ChannelOptions(), Channel())
    unary = UnaryRequest(tuple(request_headers("/t.T/Unary")), b"request", wait_for_ready=False)
    stream = ClientStream(tuple(request_headers("/t.T/Chat")), stream_buffer_bytes=100, wait_for_ready=False)
    assert client.start_unary(unary)
    assert client.start_stream(stream)
    stream.write(b"hello")
    exchange = servers()
    exchange.server.receive_data(client.data_to_send(1 << 20))
    data = damage(exchange.server.data_to_send(1 << 20), changes) + b"".join(more)
    for start in range(0, len(data), size):
        client.receive_data(data[start : start + size])
        client.data_to_send(1 << 20)
    client.connection_lost("test")
    assert unary.done()
    assert stream.finished
    assert client.active_calls == 0
