"""A gRPC server's side of one connection: bytes in, calls of handlers; bytes out.

Does no I/O and reads no clock: whoever owns the socket feeds `receive_data`, writes what `data_to_send` gives, and
lends a `Host` for what needs a loop.

    connection = ServerConnection(methods, ServerOptions(), host)
    connection.receive_data(bytes_from_client); transport.write(connection.data_to_send(n))

The hot path is a unary call: two events, one handler, three calls of the engine. tests/rpc/bench_unary.py shows what it
costs.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Protocol

from kvstore.rpc.call import Call, RefusedCall, StreamCall, UnaryCall
from kvstore.rpc.context import ServerContext
from kvstore.rpc.deadlines import Bucket, Expiring
from kvstore.rpc.framing import ACCEPTED_ENCODINGS, COPY_BYTES, MessageReader, frame, is_supported_encoding, prefix
from kvstore.rpc.h2 import (
    ConnectionClosed,
    ConnectionFailed,
    DataReceived,
    Engine,
    EngineError,
    ErrorCode,
    Event,
    Flooded,
    GoAwayReceived,
    PingAcknowledged,
    PingReceived,
    RequestReceived,
    SettingsReceived,
    StreamClosed,
    TrailersReceived,
    goaway_frame,
)
from kvstore.rpc.keepalive import Keepalive
from kvstore.rpc.metadata import Headers, encode_message, encode_metadata, parse_timeout
from kvstore.rpc.method import Method, MethodTable
from kvstore.rpc.options import ServerOptions
from kvstore.rpc.police import PingPolice, TokenBucket
from kvstore.rpc.status import Metadata, RpcError, StatusCode

logger = logging.getLogger(__name__)

_STATUS_200 = (b":status", b"200")
_CONTENT_TYPE = (b"content-type", b"application/grpc")
_CONTENT_SUBTYPES = (b"application/grpc+", b"application/grpc;")
_RESPONSE_HEADERS = (_STATUS_200, _CONTENT_TYPE)
_GRPC_STATUS = tuple((b"grpc-status", b"%d" % code) for code in StatusCode)
_TRAILERS_OK = (_GRPC_STATUS[StatusCode.OK],)
# How long a client may take to end a stream that has been answered.
_LINGER_SECONDS = 5.0
# What a stream takes that is answered and not closed, beside the answer: measured with answers of 60 bytes.
_STREAM_BYTES = 1_500
_DRAIN_PING = b"draining"
_KEEPALIVE_PING = b"keepaliv"


class Host(Protocol):
    """What a connection needs of the program that owns its socket."""

    def flush_later(self) -> None:
        """There is something to send: write data_to_send once this turn of the loop is over."""

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Future[None]:
        """Run a coroutine beside everything else; cancelling the result cancels it."""

    def now(self) -> float:
        """Seconds on a clock that only goes forward."""

    def expire_at(self, deadline: float, item: Expiring) -> Bucket:
        """Have item expire; see DeadlineWheel.add."""

    def grown(self) -> None:
        """A long answer was added to what waits to be read."""

    def wait_for_room(self) -> None:
        """Call admit once there is room on the server for a long answer, or when it is this connection's turn."""


class LingeringStream:
    """A stream that has its response but not the end of its request.

    It is not reset at once, as RFC 9113 §8.1 would allow: when the engine resets a stream in the middle of one of its
    DATA frames, it never gives back the connection's credit for the part that has arrived.
    """

    __slots__ = ("_connection", "_stream_id")

    def __init__(self, connection: "ServerConnection", stream_id: int) -> None:
        self._connection = connection
        self._stream_id = stream_id

    def expire(self) -> None:
        self._connection.reset_lingering(self._stream_id)


class ServerConnection:
    """The server's side of one HTTP/2 connection that carries gRPC calls.

    methods: what may be called. host: lends clock, timer, tasks. peer: the client's address as grpc writes it.
    auth_context: what TLS knows of the client. translate: makes a status of a handler's exception that is not RpcError;
        None if it knows none, the status is then UNKNOWN. clock: times calls; finer than the host's. pressed: whether
        so many answers wait on all connections that a client must read one before it gets another, and that long ones
        wait for room. crowded: whether so much is to be done that clients with many calls are refused further ones.
    """

    __slots__ = (
        "__weakref__",
        "_answered",
        "_by_path",
        "_calls",
        "_control",
        "_crowded",
        "_engine",
        "_for_room",
        "_goaway_sent",
        "_keepalive",
        "_last_stream_id",
        "_methods",
        "_pings",
        "_streams",
        "_translate",
        "_waiting",
        "acknowledge",
        "auth_context",
        "blocked",
        "clock",
        "closed",
        "dirty",
        "draining",
        "failed",
        "host",
        "last_words",
        "max_receive_bytes",
        "options",
        "partial_bytes",
        "peer",
        "pressed",
        "queued",
        "received_at",
        "refused",
        "send_data",
        "send_response",
        "send_trailers",
        "unsent",
    )

    def __init__(
        self,
        methods: MethodTable,
        options: ServerOptions,
        host: Host,
        *,
        peer: str = "",
        auth_context: Mapping[str, list[bytes]] | None = None,
        translate: Callable[[Exception], RpcError | None] | None = None,
        clock: Callable[[], float] = time.perf_counter,
        pressed: Callable[[], bool] = lambda: False,
        crowded: Callable[[], bool] = lambda: False,
    ) -> None:
        self.options = options
        self.clock = clock
        self.received_at = clock()
        self.max_receive_bytes = options.max_receive_bytes
        self.host = host
        self.peer = peer
        self.auth_context = auth_context or {}
        self._translate = translate
        self._methods = methods
        self._by_path = methods.by_path
        self._engine = engine = Engine.server(options.h2_limits())
        self.acknowledge = engine.acknowledge
        self.queued = engine.queued
        self.send_response = engine.send_response
        self.send_data = engine.send_data
        self.send_trailers = engine.send_trailers
        self._calls: dict[int, Call] = {}
        # Streams with somebody waiting in drain().
        self.blocked: dict[StreamCall, None] = {}
        # Whose answers are made when the client has read those before.
        self._waiting: deque[Callable[[], None]] = deque()
        # Whose answers are made when there is room for long ones on the server.
        self._for_room: deque[Callable[[], None]] = deque()
        # Streams that the client has opened and that are not closed.
        self._streams = 0
        self.pressed = pressed
        self._crowded = crowded
        # Bytes of DATA that were left after the last flush.
        self.unsent = 0
        # Calls that were one too many.
        self.refused = 0
        self.partial_bytes = 0
        # A flush is due; whoever sets it has asked the host for it.
        self.dirty = False
        # The engine can do nothing any more.
        self.failed = False
        # To be closed once data_to_send and last_words are written.
        self.closed = False
        self.last_words = b""
        self.draining = False
        self._control = TokenBucket(options.control_burst, options.control_rate)
        self._last_stream_id = 0
        # Something of a call has been said since the last flush.
        self._answered = False
        self._goaway_sent = False
        self._pings = PingPolice(
            options.keepalive_min_time, permit_without_stream=options.keepalive_permit_without_stream
        )
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

    # Receiving

    def receive_data(self, data: bytes) -> None:
        """Take bytes from the client and run what they ask for."""
        if self.failed:
            return
        self._keepalive.last_heard = self.host.now()
        self.received_at = self.clock()
        try:
            self._engine.receive(data)
            self._handle(self._engine.events())
        except ConnectionFailed as failure:
            self._fail(failure)
        except EngineError as error:
            # A frame of this batch ended the session while others were being handled.
            self._fail(ConnectionFailed(ErrorCode.PROTOCOL_ERROR, str(error)))

    def _handle(self, events: list[Any]) -> None:
        calls = self._calls
        for event in events:
            kind = type(event)
            if kind is RequestReceived:
                self._request(event)
            elif kind is DataReceived:
                call = calls.get(event.stream_id)
                data = event.data
                if call is None:
                    self.credit(len(data), event.stream_id)
                elif data or event.end_stream:
                    call.receive(data, event.end_stream)
                else:
                    self._count_control()
            elif kind is StreamClosed:
                self._streams -= 1
                call = calls.pop(event.stream_id, None)
                if call is not None and not call.finished:
                    self._cancelled(call)
            else:
                self._control_event(event)

    def _control_event(self, event: Event) -> None:
        if isinstance(event, PingReceived):
            # Not counted with what carries nothing: clients measure the connection by a ping for every answer.
            if not self._pings.tolerates(self.host.now(), has_calls=bool(self._calls)):
                raise Flooded("too_many_pings")
        elif isinstance(event, SettingsReceived):
            self._count_control()
        elif isinstance(event, TrailersReceived):
            # A client has no trailers to send; it ends the request all the same.
            call = self._calls.get(event.stream_id)
            if call is not None:
                call.receive(b"", True)
        elif isinstance(event, PingAcknowledged):
            if event.opaque_data == _DRAIN_PING:
                self.finish_drain()
        elif isinstance(event, ConnectionClosed):
            self.closed = True
        elif isinstance(event, GoAwayReceived):
            # The client opens no more streams; those that are open go on.
            self.draining = True

    def _request(self, event: RequestReceived) -> None:
        headers = event.headers
        fields = dict(headers)
        self._streams += 1
        self._last_stream_id = stream_id = event.stream_id
        method = self._by_path.get(fields.get(b":path", b""))
        if (
            method is None
            or fields.get(b"content-type") != b"application/grpc"
            or fields.get(b":method") != b"POST"
            or b"grpc-encoding" in fields
        ):
            method = self._examine(stream_id, fields, headers, event.end_stream)
            if method is None:
                return
        call: Call
        if self._streams > self.options.light_calls and self._has_too_many_calls():
            call = RefusedCall(self, stream_id, method, headers)
        elif method.unary:
            call = UnaryCall(self, stream_id, method, headers)
        else:
            call = StreamCall(self, stream_id, method, headers)
        self._calls[stream_id] = call
        method.stats.started += 1
        timeout = fields.get(b"grpc-timeout")
        if timeout is not None and not self._set_deadline(call, timeout):
            return
        if isinstance(call, StreamCall) and method.request_streaming:
            call.invoke(call)
        if event.end_stream and not call.finished:
            call.receive(b"", True)

    def _has_too_many_calls(self) -> bool:
        if self._crowded():
            return True
        if self._streams <= self.options.unread_calls and not self.pressed():
            return False
        return self.congested or bool(self._for_room)

    def _set_deadline(self, call: Call, timeout: bytes) -> bool:
        try:
            seconds = parse_timeout(timeout)
        except ValueError as error:
            self.finish(call, StatusCode.INTERNAL, str(error))
            return False
        call.deadline = deadline = self.host.now() + seconds
        call.bucket = self.host.expire_at(deadline, call)
        return True

    def _examine(self, stream_id: int, fields: dict[bytes, bytes], headers: Headers, end_stream: bool) -> Method | None:
        """Check a request that is not of the usual form; answer it here and return None if it cannot be served."""
        content_type = fields.get(b"content-type", b"")
        if fields.get(b":method") != b"POST":
            text = f"http2: received a request with method {fields.get(b':method', b'').decode('latin-1')!r}, not POST"
            self._refuse(stream_id, b"405", RpcError(StatusCode.INTERNAL, text), end_stream)
            return None
        if content_type != b"application/grpc" and not content_type.startswith(
            (b"application/grpc+", b"application/grpc;")
        ):
            text = f'invalid gRPC request content-type "{content_type.decode("latin-1")}"'
            self._refuse(stream_id, b"415", RpcError(StatusCode.INVALID_ARGUMENT, text), end_stream)
            return None
        try:
            method = self._methods.find(fields.get(b":path", b""), headers)
            encoding = fields.get(b"grpc-encoding", b"identity")
            if not is_supported_encoding(encoding):
                text = f'grpc: Decompressor is not installed for grpc-encoding "{encoding.decode("latin-1")}"'
                raise RpcError(StatusCode.UNIMPLEMENTED, text)
        except RpcError as error:
            self._refuse(stream_id, b"200", error, end_stream)
            return None
        return method

    def _refuse(self, stream_id: int, http_status: bytes, error: RpcError, end_stream: bool) -> None:
        headers = [
            (b":status", http_status),
            _CONTENT_TYPE,
            _GRPC_STATUS[error.code],
            (b"grpc-message", encode_message(error.message)),
        ]
        if error.code is StatusCode.UNIMPLEMENTED:
            headers.append((b"grpc-accept-encoding", ACCEPTED_ENCODINGS))
        try:
            self.send_response(stream_id, headers, end_stream=True)
        except EngineError:
            return
        if not end_stream:
            self._linger(stream_id)
        self.touch()

    # What calls need

    def message_reader(self, call: Call) -> MessageReader:
        return MessageReader(self.max_receive_bytes, dict(call.headers).get(b"grpc-encoding"))

    def hold(self, size: int) -> None:
        """Count the bytes of incomplete messages. Raises RpcError (RESOURCE_EXHAUSTED) when they are too many."""
        self.partial_bytes += size
        if size > 0 and self.partial_bytes > self.options.max_partial_bytes:
            raise RpcError(StatusCode.RESOURCE_EXHAUSTED, "grpc: too many incomplete messages on this connection")

    def has_room(self, stream_id: int) -> bool:
        queued = self.queued(stream_id)
        if queued >= self.options.stream_buffer_bytes:
            return False
        on_all = self.queued()
        if not on_all:
            return True
        return (queued == 0 or on_all < self.options.connection_buffer_bytes) and not self.pressed()

    @property
    def congested(self) -> bool:
        """Whether the client leaves so much unread that no further answer should be made for it now."""
        queued = 0 if self.failed else self.queued()
        return queued > 0 and (queued >= self.options.connection_buffer_bytes or self.pressed())

    @property
    def waiting(self) -> int:
        """Bytes that answers take which are not handed to the socket yet, their streams included."""
        if self.failed:
            return 0
        return self.queued() + _STREAM_BYTES * (self._streams - len(self._calls) + len(self._waiting))

    def when_relieved(self, callback: Callable[[], None]) -> None:
        """Call back once the client has read enough, at once if it has; never if the connection ends."""
        if self._waiting or self.congested:
            self._waiting.append(callback)
        else:
            callback()

    def when_room(self, callback: Callable[[], None]) -> None:
        """Call back when the server has room for a long answer, at once if it has; never if the connection ends."""
        if self._for_room or self.pressed():
            self._for_room.append(callback)
            self.host.wait_for_room()
        else:
            callback()

    @property
    def waits_for_room(self) -> bool:
        """Whether answers wait for room."""
        return bool(self._for_room)

    def admit(self) -> bool:
        """Make one of the answers that wait for room, whether there is any or not; whether more wait."""
        if self._for_room:
            self._for_room.popleft()()
        return bool(self._for_room)

    def credit(self, size: int, stream_id: int) -> None:
        """Consumed later than received: give the client its credit back, if the connection still lives."""
        if self.failed or self.closed:
            return
        try:
            self.acknowledge(size, stream_id)
        except EngineError:
            return
        self.touch()

    def touch(self) -> None:
        """There is something to send."""
        if not self.dirty:
            self.dirty = True
            self.host.flush_later()

    def guard(self, callback: Callable[[Any], object], argument: object) -> None:
        """Call back into the application; what it raises is logged and stops nobody."""
        try:
            callback(argument)
        except Exception:
            logger.exception("a callback of a call failed")

    def status_of(self, error: BaseException, call: Call) -> RpcError:
        """The status that a handler's exception ends its call with."""
        if isinstance(error, RpcError):
            if error.metadata or call.customised is None:
                return error
            return RpcError(error.code, error.message, call.customised.trailing)
        if isinstance(error, asyncio.CancelledError):
            return RpcError(StatusCode.CANCELLED, "the handler was cancelled")
        if self._translate is not None and isinstance(error, Exception):
            translated = self._translate(error)
            if translated is not None:
                return translated
        extras = call.extras
        if extras.code is not StatusCode.OK:
            return RpcError(extras.code, extras.details, extras.trailing)
        logger.error("%s failed", call.full_method(), exc_info=error)
        return RpcError(StatusCode.UNKNOWN, f"Unexpected {type(error)}: {error}", extras.trailing)

    # Sending

    def respond(self, call: Call, payload: bytes) -> None:
        """Answer with one message and OK, or with the status that the handler has set."""
        if call.method.unary and call.customised is None and call.reader is None:
            call.finished = True
            if call.bucket is not None:
                call.bucket.pop(call, None)
            trailers: Headers = _TRAILERS_OK
            headers: Headers = _RESPONSE_HEADERS
        else:
            code = call.extras.code
            if code is not StatusCode.OK:
                self.finish(call, code, call.extras.details, call.extras.trailing)
                return
            headers, trailers = self._fields(call)
            call.end(cancelled=False)
        stream_id = call.stream_id
        stats = call.method.stats
        stats.messages_sent += 1
        stats.bytes_sent += len(payload)
        stats.handled[0] += 1
        seconds = self.clock() - call.began
        if seconds >= stats.report_from:
            self._report(call, StatusCode.OK, seconds)
        self._calls.pop(stream_id, None)
        if len(payload) > COPY_BYTES and not self.failed and self.queued() > self.options.unread_connection_bytes:
            self._fail(Flooded("the answers are not read"))
            return
        try:
            if not call.started:
                self.send_response(stream_id, headers)
            if len(payload) <= COPY_BYTES:
                self.send_data(stream_id, len(payload).to_bytes(5, "big") + payload)
            else:
                self.send_data(stream_id, prefix(len(payload)))
                self.send_data(stream_id, payload)
                self.host.grown()
            self.send_trailers(stream_id, trailers)
        except EngineError:
            # Reset by the client in the bytes being handled, or the connection ends: nobody listens.
            return
        self._answered = True
        if not call.half_closed:
            self._linger(stream_id)
        if not self.dirty:
            self.dirty = True
            self.host.flush_later()

    def send_headers(self, call: ServerContext) -> None:
        """Send the response headers."""
        headers, _ = self._fields(call)
        call.started = True
        try:
            self.send_response(call.stream_id, headers)
        except EngineError:
            return
        self._answered = True
        self.touch()

    def send_message(self, call: Call, payload: bytes) -> None:
        """Send one message of a streaming response."""
        if not call.started:
            self.send_headers(call)
        stats = call.method.stats
        stats.messages_sent += 1
        stats.bytes_sent += len(payload)
        try:
            if len(payload) <= COPY_BYTES:
                self.send_data(call.stream_id, frame(payload))
            else:
                self.send_data(call.stream_id, prefix(len(payload)))
                self.send_data(call.stream_id, payload)
                self.host.grown()
        except EngineError:
            return
        self._answered = True
        if not self.dirty:
            self.dirty = True
            self.host.flush_later()

    def finish_ok(self, call: Call) -> None:
        """End a streaming response with OK, or with the status that the handler has set."""
        extras = call.extras
        self.finish(call, extras.code, extras.details, extras.trailing)

    def finish(
        self, call: Call, code: StatusCode, message: str, metadata: Metadata = (), *, cancelled: bool = False
    ) -> None:
        """End a call with a status and no further message. cancelled: its handler is to be told to stop."""
        fields = [_GRPC_STATUS[code]]
        if message:
            fields.append((b"grpc-message", encode_message(message)))
        try:
            fields += encode_metadata(metadata)
        except ValueError:
            logger.exception("trailing metadata of %s cannot be sent", call.full_method())
        self._count_end(call, code)
        self._calls.pop(call.stream_id, None)
        if not call.finished:
            call.end(cancelled=cancelled)
        try:
            if call.started:
                self.send_trailers(call.stream_id, fields)
            elif code is StatusCode.OK or call.extras.initial:
                headers, _ = self._fields(call)
                self.send_response(call.stream_id, headers)
                self.send_trailers(call.stream_id, fields)
            else:
                self.send_response(call.stream_id, [*_RESPONSE_HEADERS, *fields], end_stream=True)
        except EngineError:
            return
        self._answered = True
        if not call.half_closed:
            self._linger(call.stream_id)
        self.touch()

    def _fields(self, call: ServerContext) -> tuple[Headers, Headers]:
        """Response headers and trailers of a call that ends well, with the handler's metadata."""
        try:
            headers = (*_RESPONSE_HEADERS, *encode_metadata(call.extras.initial))
            trailers = (*_TRAILERS_OK, *encode_metadata(call.extras.trailing))
        except ValueError:
            logger.exception("metadata of %s cannot be sent", call.full_method())
            return _RESPONSE_HEADERS, _TRAILERS_OK
        return headers, trailers

    def data_to_send(self, amount: int) -> bytes:
        """Bytes for the client, at most `amount`; less means that nothing more can go now."""
        if self.failed:
            return b""
        engine = self._engine
        if self._answered:
            self._answered = False
            self._pings.forgive()
        queued = self.queued()
        try:
            data = engine.data_to_send(amount)
        except EngineError as error:
            self._fail(ConnectionFailed(ErrorCode.INTERNAL_ERROR, str(error)))
            return b""
        if queued:
            self.unsent = left = self.queued()
            if left < queued:
                # A part of a long answer: clients measure the connection by pings for as long as data keeps coming.
                self._pings.forgive()
        events = engine.events()
        if events:
            self._handle(events)
        if self.blocked:
            for call in [call for call in self.blocked if call.writable]:
                del self.blocked[call]
                call.resume()
        while self._waiting and not self.congested:
            self._waiting.popleft()()
        return data

    def _linger(self, stream_id: int) -> None:
        """A stream is answered though the client has not sent all: clients then end it themselves, most of them."""
        self.host.expire_at(self.host.now() + _LINGER_SECONDS, LingeringStream(self, stream_id))

    def reset_lingering(self, stream_id: int) -> None:
        """End a stream whose client has not, once the answer is out."""
        if self.failed or self.closed:
            return
        if self.queued(stream_id):
            self._linger(stream_id)
            return
        try:
            self._engine.reset_stream(stream_id, ErrorCode.NO_ERROR)
        except EngineError:
            return
        self.touch()

    # Ending

    def _cancelled(self, call: Call) -> None:
        self._count_end(call, StatusCode.CANCELLED)
        call.end(cancelled=True)

    def _count_end(self, call: Call, code: StatusCode) -> None:
        stats = call.method.stats
        stats.handled[code] += 1
        seconds = self.clock() - call.began
        if seconds >= stats.report_from:
            self._report(call, code, seconds)

    @staticmethod
    def _report(call: Call, code: StatusCode, seconds: float) -> None:
        try:
            call.method.stats.report(call, code, seconds)
        except Exception:
            logger.exception("a report of a call failed")

    def _cancel_all(self) -> None:
        calls, self._calls = list(self._calls.values()), {}
        for call in calls:
            if not call.finished:
                self._cancelled(call)

    def connection_lost(self, reason: str) -> None:
        """The transport is gone: cancel every call."""
        logger.debug("connection of %s lost: %s", self.peer, reason)
        self.failed = self.closed = True
        self._keepalive.stop()
        self._cancel_all()
        self.last_words = b""
        self.unsent = 0
        self.blocked.clear()
        self._waiting.clear()
        self._for_room.clear()

    def _fail(self, failure: ConnectionFailed) -> None:
        logger.debug("connection of %s ended: %s", self.peer, failure)
        try:
            rest = self._engine.data_to_send()
        except EngineError:
            rest = b""
        self.failed = self.closed = True
        self.last_words = rest + goaway_frame(failure.code, str(failure).encode(), self._last_stream_id)
        self._cancel_all()
        self.touch()

    def drain(self) -> None:
        """Ask the client to open no more streams; those that it opens until it has heard are still served."""
        if self.draining or self.closed:
            return
        self.draining = True
        try:
            self._engine.shutdown_notice()
            self._engine.ping(_DRAIN_PING)
        except EngineError:
            self.closed = True
        self.touch()

    def finish_drain(self) -> None:
        """Refuse new streams from now on; the connection closes when the last call is answered."""
        if self.closed or self._goaway_sent:
            return
        self._goaway_sent = True
        try:
            self._engine.send_goaway(ErrorCode.NO_ERROR)
        except EngineError:
            self.closed = True
        self.touch()

    def shut_down(self) -> None:
        """Cancel what is in flight and say good-bye."""
        if not self.closed:
            self._fail(ConnectionFailed(ErrorCode.NO_ERROR, "the server has stopped"))

    def _ping(self) -> None:
        if not self.closed:
            self._engine.ping(_KEEPALIVE_PING)
            self.touch()

    def _give_up(self) -> None:
        if not self.closed:
            self._fail(ConnectionFailed(ErrorCode.NO_ERROR, "keepalive ping timeout"))

    # Policing

    def _count_control(self) -> None:
        if not self._control.take(self.host.now()):
            raise Flooded("too many control frames")
