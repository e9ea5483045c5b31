"""Both ends of a connection without sockets: a host with a clock of its own, a bare client engine, raw frames."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from kvstore.rpc import MethodStats, Observer, ServerOptions
from kvstore.rpc.deadlines import Bucket, DeadlineWheel, Expiring
from kvstore.rpc.framing import frame
from kvstore.rpc.h2 import PREFACE, DataReceived, Engine, H2Limits, ResponseReceived, StreamClosed, TrailersReceived
from kvstore.rpc.method import MethodTable
from kvstore.rpc.observer import Unobserved
from kvstore.rpc.server_connection import ServerConnection

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9


def raw_frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    """An HTTP/2 frame, well-formed or not."""
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream_id.to_bytes(4, "big") + payload


HELLO = PREFACE + raw_frame(SETTINGS, 0, 0)


def frames(data: bytes) -> list[tuple[int, int, int, bytes]]:
    """Cut bytes into (kind, flags, stream id, payload)."""
    found = []
    while data:
        size = int.from_bytes(data[:3], "big")
        found.append((data[3], data[4], int.from_bytes(data[5:9], "big"), data[9 : 9 + size]))
        data = data[9 + size :]
    return found


def request_headers(path: str = "/t.T/Unary", **more: str) -> list[tuple[bytes, bytes]]:
    fields = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "test"}
    fields |= {"content-type": "application/grpc", "te": "trailers"}
    fields |= {key.replace("_", "-"): value for key, value in more.items()}
    return [(key.encode(), value.encode()) for key, value in fields.items()]


class Handler:
    """An RpcMethodHandler of raw bytes."""

    response_serializer: Callable[[Any], bytes] | None
    unary_unary: Callable[[Any, Any], Any] | None
    unary_stream: Callable[[Any, Any], Any] | None
    stream_unary: Callable[[Any, Any], Any] | None
    stream_stream: Callable[[Any, Any], Any] | None

    def __init__(
        self,
        function: Callable[[Any, Any], Any],
        *,
        request_streaming: bool = False,
        response_streaming: bool = False,
        request_deserializer: Callable[[bytes], Any] | None = None,
    ) -> None:
        self.request_streaming = request_streaming
        self.response_streaming = response_streaming
        self.request_deserializer = request_deserializer
        self.response_serializer = None
        self.unary_unary = self.unary_stream = self.stream_unary = self.stream_stream = function


class ManualHost:
    """A host whose clock moves when a test says so."""

    def __init__(self) -> None:
        self.time = 1000.0
        self.flushes = 0
        self.wheel = DeadlineWheel()

    def flush_later(self) -> None:
        self.flushes += 1

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> "asyncio.Future[None]":
        return asyncio.ensure_future(coroutine)

    def now(self) -> float:
        return self.time

    def expire_at(self, deadline: float, item: Expiring) -> Bucket:
        return self.wheel.add(deadline, item)

    def grown(self) -> None:
        """Nobody adds up what waits."""

    def wait_for_room(self) -> None:
        """A test admits what waits by itself."""

    def advance(self, seconds: float) -> None:
        self.time += seconds
        self.wheel.sweep(self.time)


class Exchange:
    """A server connection and a bare HTTP/2 client, joined by calling transfer()."""

    def __init__(
        self,
        handlers: dict[str, Handler],
        *,
        options: ServerOptions | None = None,
        observer: Observer | None = None,
        client_limits: H2Limits | None = None,
        pressed: Callable[[], bool] = lambda: False,
        crowded: Callable[[], bool] = lambda: False,
    ) -> None:
        self.host = ManualHost()
        methods = MethodTable(observer or Unobserved())
        methods.add_registered_method_handlers("t.T", handlers)
        self.server = ServerConnection(
            methods, options or ServerOptions(), self.host, peer="test", pressed=pressed, crowded=crowded
        )
        self.client = Engine.client(client_limits or H2Limits())
        self.headers: dict[int, dict[bytes, bytes]] = {}
        self.data: dict[int, bytes] = {}
        self.trailers: dict[int, dict[bytes, bytes]] = {}
        self.resets: dict[int, int] = {}

    def transfer(self) -> None:
        """Carry bytes both ways until nobody has any."""
        while True:
            upward = self.client.data_to_send(1 << 30)
            if upward:
                self.server.receive_data(upward)
            downward = self.server.data_to_send(1 << 30)
            self.server.dirty = False
            if downward:
                self.client.receive(downward)
                self.note()
            if not upward and not downward:
                return

    def note(self) -> None:
        """Keep what the client has received."""
        for event in self.client.events():
            if isinstance(event, ResponseReceived):
                self.headers[event.stream_id] = dict(event.headers)
                if event.end_stream:
                    self.trailers[event.stream_id] = dict(event.headers)
            elif isinstance(event, DataReceived):
                self.data[event.stream_id] = self.data.get(event.stream_id, b"") + event.data
            elif isinstance(event, TrailersReceived):
                self.trailers[event.stream_id] = dict(event.headers)
            elif isinstance(event, StreamClosed):
                self.resets[event.stream_id] = event.error_code

    def call(self, path: str = "/t.T/Unary", request: bytes | None = b"", **headers: str) -> int:
        """Send a unary request (headers only if request is None) and carry what comes of it."""
        stream_id = self.client.send_request(request_headers(path, **headers))
        if request is not None:
            self.client.send_data(stream_id, frame(request), end_stream=True)
        self.transfer()
        return stream_id

    def status(self, stream_id: int) -> tuple[int, str]:
        fields = self.trailers[stream_id]
        return int(fields[b"grpc-status"]), fields.get(b"grpc-message", b"").decode()


__all__ = ["Exchange", "Handler", "ManualHost", "MethodStats"]
