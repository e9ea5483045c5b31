"""A gRPC client's side of one connection: calls and bytes in, bytes out.

Does no I/O and reads no clock: whoever owns the socket feeds `receive_data` and writes what `data_to_send` gives.
"""

from collections import deque
from contextlib import suppress
from typing import Any, Protocol

from kvstore.rpc.client_call import ClientCall, ClientStream, UnaryRequest, error_of_reset
from kvstore.rpc.framing import COPY_BYTES, prefix
from kvstore.rpc.h2 import (
    ConnectionClosed,
    ConnectionFailed,
    DataReceived,
    Engine,
    EngineError,
    ErrorCode,
    Event,
    GoAwayReceived,
    ResponseReceived,
    Setting,
    SettingsReceived,
    StreamClosed,
    TrailersReceived,
    goaway_frame,
)
from kvstore.rpc.keepalive import Keepalive, Timer
from kvstore.rpc.options import ChannelOptions
from kvstore.rpc.status import RpcError, StatusCode

# Half of the smallest connection window in use, in frames of 16 KiB.
_MAX_CUT_OFF = 512
# RFC 9113 §6.5.2: without a word of the server there is no limit.
_UNLIMITED = (1 << 32) - 1
_KEEPALIVE_PING = b"keepaliv"


class ClientHost(Timer, Protocol):
    """What a connection needs of the channel that owns its socket."""

    def flush(self) -> None:
        """Write data_to_send."""

    def flush_later(self) -> None:
        """There is something to send: write data_to_send once this turn of the loop is over."""

    def ready(self) -> None:
        """The server has spoken; it is a gRPC server as far as one can tell."""

    def unusable(self, reason: str) -> None:
        """No new call can be started here; those under way go on."""

    def again(self, call: ClientCall) -> None:
        """The server has not seen this call, or has refused it: start it, here if possible, else elsewhere."""


class ClientConnection:
    """The client's side of one HTTP/2 connection that carries gRPC calls."""

    __slots__ = (
        "_calls",
        "_cut_off",
        "_engine",
        "_host",
        "_keepalive",
        "_max_streams",
        "_queue",
        "_ready",
        "acknowledge",
        "blocked",
        "closed",
        "dirty",
        "failed",
        "last_words",
        "max_receive_bytes",
        "queued",
        "usable",
    )

    def __init__(self, options: ChannelOptions, host: ClientHost) -> None:
        self.max_receive_bytes = options.max_receive_bytes
        self._host = host
        self._engine = engine = Engine.client(options.limits)
        self.acknowledge = engine.acknowledge
        self.queued = engine.queued
        self._calls: dict[int, ClientCall] = {}
        # Calls beyond what the server allows at once. The engine would hold them back too, but not give them up.
        self._queue: deque[ClientCall] = deque()
        self._max_streams = _UNLIMITED
        # Streams with somebody waiting in drain().
        self.blocked: dict[ClientStream, None] = {}
        self.dirty = False
        self.failed = False
        self.closed = False
        self.last_words = b""
        # New calls may be started.
        self.usable = True
        self._ready = False
        self._cut_off = 0
        self._keepalive: Keepalive | None = None
        if options.keepalive_interval is not None:
            self._keepalive = Keepalive(
                host,
                interval=options.keepalive_interval,
                timeout=options.keepalive_timeout,
                ping=self._ping,
                give_up=self._give_up,
            )

    @property
    def active_calls(self) -> int:
        return len(self._calls)

    # Calls

    def start_unary(self, call: UnaryRequest) -> bool:
        """Send a unary request, now or when the server allows. False if this connection takes no more calls."""
        if len(self._calls) >= self._max_streams:
            self._queue.append(call)
            return self.usable
        payload = call.payload
        engine = self._engine
        try:
            call.stream_id = stream_id = engine.send_request(call.request_headers)
            if len(payload) <= COPY_BYTES:
                engine.send_data(stream_id, len(payload).to_bytes(5, "big") + payload, end_stream=True)
            else:
                engine.send_data(stream_id, prefix(len(payload)))
                engine.send_data(stream_id, payload, end_stream=True)
        except EngineError as error:
            self._refuse(str(error))
            return False
        call.connection = self
        self._calls[stream_id] = call
        if not self.dirty:
            self.dirty = True
            self._host.flush_later()
        return True

    def start_stream(self, call: ClientStream) -> bool:
        """Send the headers of a streaming call, and what it has written already. Otherwise as start_unary."""
        if len(self._calls) >= self._max_streams:
            self._queue.append(call)
            return self.usable
        try:
            call.stream_id = self._engine.send_request(call.request_headers)
        except EngineError as error:
            self._refuse(str(error))
            return False
        call.connection = self
        self._calls[call.stream_id] = call
        call.attached()
        self._touch()
        return True

    def send(self, call: ClientStream, data: bytes, *, end_stream: bool = False) -> None:
        """Send framed messages of a stream."""
        try:
            self._engine.send_data(call.stream_id, data, end_stream=end_stream)
        except EngineError:
            # Its end is among the events that are yet to be handled.
            return
        self._touch()

    def flush(self) -> None:
        """Send at once what there is to send."""
        if self.dirty:
            self._host.flush()

    def reset(self, call: ClientCall, code: ErrorCode) -> None:
        """Give up a call."""
        if self._calls.pop(call.stream_id, None) is None or self.failed:
            return
        try:
            self._engine.reset_stream(call.stream_id, code)
        except EngineError:
            return
        self._touch()
        if call.headers:
            # When the engine resets a stream in the middle of one of its DATA frames, it never gives back the
            # connection's credit for the part that has arrived. Before that can add up, calls move to a new connection.
            self._cut_off += 1
            if self._cut_off >= _MAX_CUT_OFF:
                self._refuse("renewed after many cancelled calls")
        self._start_queued()

    def _start_queued(self) -> None:
        while self._queue and self.usable and len(self._calls) < self._max_streams:
            call = self._queue.popleft()
            if not call.over:
                self._host.again(call)

    def credit(self, size: int, stream_id: int) -> None:
        """Consumed later than received: give the server its credit back, if the connection still lives."""
        if self.failed:
            return
        try:
            self.acknowledge(size, stream_id)
        except EngineError:
            return
        self._touch()

    def _touch(self) -> None:
        if not self.dirty:
            self.dirty = True
            self._host.flush_later()

    def _refuse(self, reason: str) -> None:
        if not self.usable:
            return
        self.usable = False
        self._host.unusable(reason)
        queue, self._queue = self._queue, deque()
        for call in queue:
            if not call.over:
                self._host.again(call)

    # Receiving

    def receive_data(self, data: bytes) -> None:
        """Take bytes from the server and resolve what they answer."""
        if self.failed:
            return
        if self._keepalive is not None:
            self._keepalive.last_heard = self._host.now()
        try:
            self._engine.receive(data)
            self._handle(self._engine.events())
        except (ConnectionFailed, EngineError) as failure:
            self._fail(str(failure), getattr(failure, "code", ErrorCode.PROTOCOL_ERROR))
            return
        if self._queue:
            self._start_queued()

    def _handle(self, events: list[Any]) -> None:
        calls = self._calls
        for event in events:
            kind = type(event)
            if kind is DataReceived:
                call = calls.get(event.stream_id)
                if call is not None:
                    call.receive(event.data)
                elif event.data:
                    self.credit(len(event.data), event.stream_id)
            elif kind is TrailersReceived:
                self._finish(event.stream_id, event.headers)
            elif kind is StreamClosed:
                call = calls.pop(event.stream_id, None)
                if call is not None:
                    # A local error: its request headers could no longer be sent.
                    code = ErrorCode.REFUSED_STREAM if event.local_error is not None else event.error_code
                    self._closed_early(call, code)
            elif kind is ResponseReceived:
                call = calls.get(event.stream_id)
                if call is not None:
                    call.headers = event.headers
                    if event.end_stream:
                        self._finish(event.stream_id, event.headers)
            else:
                self._control_event(event)

    def _finish(self, stream_id: int, trailers: Any) -> None:
        call = self._calls.pop(stream_id, None)
        if call is None:
            return
        if not call.half_closed:
            # The server has answered without waiting for the rest of the request; it wants none of it.
            with suppress(EngineError):
                self._engine.reset_stream(stream_id, ErrorCode.NO_ERROR)
        call.finish(trailers)

    def _closed_early(self, call: ClientCall, code: int) -> None:
        if code == ErrorCode.REFUSED_STREAM and isinstance(call, UnaryRequest) and not call.retried:
            call.retried = True
            call.connection = None
            self._host.again(call)
            return
        if code == ErrorCode.NO_ERROR:
            call.finish(call.headers)
        else:
            call.fail(error_of_reset(code))

    def _control_event(self, event: Event) -> None:
        if isinstance(event, SettingsReceived):
            self._max_streams = event.settings.get(Setting.MAX_CONCURRENT_STREAMS, self._max_streams)
            if not self._ready:
                self._ready = True
                self._host.ready()
        elif isinstance(event, GoAwayReceived):
            reason = event.debug_data.decode("utf-8", "replace")
            self._refuse(f"the server is going away (error code {event.error_code}) {reason}".rstrip())
        elif isinstance(event, ConnectionClosed):
            self.closed = True

    # Sending

    @property
    def has_news(self) -> bool:
        """Whether something is to be written, or the connection is to be closed."""
        return self.closed or self._engine.has_news

    def data_to_send(self, amount: int) -> bytes:
        """Bytes for the server, at most `amount`; less means that nothing more can go now."""
        if self.failed:
            return b""
        engine = self._engine
        try:
            data = engine.data_to_send(amount)
            events = engine.events()
            if events:
                self._handle(events)
        except EngineError as error:
            self._fail(str(error), ErrorCode.INTERNAL_ERROR)
            return b""
        if self.blocked:
            for call in [call for call in self.blocked if call.writable]:
                del self.blocked[call]
                call.resume()
        return data

    # Ending

    def _ping(self) -> None:
        if not self.closed:
            self._engine.ping(_KEEPALIVE_PING)
            self._touch()

    def _give_up(self) -> None:
        self._fail("keepalive ping timeout", ErrorCode.NO_ERROR)

    def _fail(self, reason: str, code: ErrorCode) -> None:
        if self.failed:
            return
        self.last_words = goaway_frame(code, reason.encode())
        self._end(reason)
        self._touch()

    def close(self) -> None:
        """Say good-bye; calls under way fail."""
        self._fail("the channel is closed", ErrorCode.NO_ERROR)

    def connection_lost(self, reason: str) -> None:
        """The transport is gone: every call fails."""
        self._end(reason)

    def _end(self, reason: str) -> None:
        if self.failed:
            return
        self.failed = self.closed = True
        if self._keepalive is not None:
            self._keepalive.stop()
        self._refuse(reason)
        calls, self._calls = list(self._calls.values()), {}
        for call in calls:
            call.fail(RpcError(StatusCode.UNAVAILABLE, f"connection lost: {reason}"))
