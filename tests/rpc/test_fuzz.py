"""Damaged bytes: a connection may end by them, but nothing else may happen. tests/fuzz has both ends of it."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from kvstore.rpc import Promise
from kvstore.rpc.framing import frame
from tests.rpc.wire import CONTINUATION, Exchange, Handler, raw_frame, request_headers

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
