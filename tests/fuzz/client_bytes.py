"""Target: what a server's end brings to a client's connection."""

from __future__ import annotations

from typing import Any, Final

from hypothesis import strategies as st

from kvstore.rpc import ChannelOptions, RpcError, StatusCode
from kvstore.rpc.client_call import ClientStream, UnaryRequest
from kvstore.rpc.client_connection import ClientConnection
from tests.fuzz.mutations import changes, pieces, spoil
from tests.fuzz.rpc_bytes import disorder, exchange_of_all_kinds, rearranged
from tests.fuzz.target import Target, by_itself
from tests.rpc.wire import ManualHost, request_headers

_STREAM_BUFFER_BYTES: Final = 100


class Channel(ManualHost):
    """What a client's connection needs of a channel."""

    def flush(self) -> None:
        """Nothing is sent by itself."""

    def ready(self) -> None:
        """Nobody waits for it."""

    def unusable(self, reason: str) -> None:
        """Nobody opens another one."""

    def again(self, call: Any) -> None:
        """There is no other connection."""
        call.fail(RpcError(StatusCode.UNAVAILABLE, "elsewhere"))


def answers() -> st.SearchStrategy[Any]:
    """(paths and payloads of unary calls, messages on a stream, what is done to frames, to bytes, size of reads)"""
    call = st.tuples(st.sampled_from(("/t.T/Unary", "/t.T/Later", "/t.T/Nothing")), st.binary(max_size=40))
    messages = st.lists(st.binary(max_size=60), max_size=4)
    sizes = st.sampled_from((1 << 16, 1 << 16, 100, 7))
    return st.tuples(st.lists(call, min_size=1, max_size=4), messages, disorder(), changes(3), sizes)


def check_answers(value: Any) -> None:
    """A client's connection takes anything: it may end, but nothing escapes it and every call ends with it."""
    asked, messages, strange, made, size = value
    client = ClientConnection(ChannelOptions(), Channel())
    calls = [UnaryRequest(tuple(request_headers(path)), payload, wait_for_ready=False) for path, payload in asked]
    stream = ClientStream(
        tuple(request_headers("/t.T/Chat")), stream_buffer_bytes=_STREAM_BUFFER_BYTES, wait_for_ready=False
    )
    assert all(client.start_unary(call) for call in calls)
    assert client.start_stream(stream)
    for message in messages:
        stream.write(message)
    exchange = exchange_of_all_kinds()
    exchange.server.receive_data(client.data_to_send(1 << 20))
    received = sent = 0
    for piece in pieces(spoil(rearranged(exchange.server.data_to_send(1 << 24), strange), made), size):
        received += len(piece)
        client.receive_data(piece)
        sent += len(client.data_to_send(1 << 24))
    assert sent < 10_000 + 50 * received, "what is said back is out of proportion"
    client.connection_lost("test")
    assert all(call.done() for call in calls)
    assert stream.finished
    assert client.active_calls == 0


TARGETS: Final = (Target("http2-client", answers, by_itself(check_answers), examples=90, cpu_seconds=5.0),)
