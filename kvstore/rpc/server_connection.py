"""A gRPC server's side of one connection: bytes in, calls of handlers; bytes out.

Does no I/O and reads no clock: whoever owns the socket feeds `receive_data`, writes what `data_to_send` gives, and
lends a `Host` for what needs a loop.

    connection = ServerConnection(methods, ServerOptions(), host)
    connection.receive_data(bytes_from_client); transport.write(connection.data_to_send(n))

What the client's frames do is here: they start calls, and end the connection where they are too many or wrong. How
answers are sent is AnsweringConnection's part, and what waits to be sent SendingConnection's. The hot path is a unary
call: two events, one handler, three calls of the engine. tests/rpc/bench_unary.py shows what it costs.
"""

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from kvstore.rpc.answering_connection import AnsweringConnection
from kvstore.rpc.backlog import Unfinished
from kvstore.rpc.call import Call, RefusedCall, StreamCall, UnaryCall
from kvstore.rpc.framing import MessageReader
from kvstore.rpc.h2 import (
    ConnectionClosed,
    ConnectionFailed,
    DataReceived,
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
)
from kvstore.rpc.keepalive import Keepalive
from kvstore.rpc.metadata import Headers, parse_timeout
from kvstore.rpc.method import Method, MethodTable
from kvstore.rpc.options import ServerOptions
from kvstore.rpc.police import PingPolice, TokenBucket
from kvstore.rpc.requests import NotACall, find_method
from kvstore.rpc.sending_connection import Host
from kvstore.rpc.status import RpcError, StatusCode

logger = logging.getLogger(__name__)

# What a stream takes that is answered and not closed, beside the answer: measured with answers of 60 bytes.
_STREAM_BYTES = 1_500
_DRAIN_PING = b"draining"
_KEEPALIVE_PING = b"keepaliv"
# What happens all the time; a name of this module's own is found sooner than one that was imported.
_REQUEST: Final = RequestReceived
_DATA: Final = DataReceived
_CLOSED: Final = StreamClosed


class ServerConnection(AnsweringConnection):
    """The server's side of one HTTP/2 connection that carries gRPC calls.

    methods: what may be called. host: lends clock, timer, tasks. peer: the client's address as grpc writes it.
    auth_context: what TLS knows of the client. translate, clock, pressed: see the classes below this one.
    crowded: whether so much is to be done that clients with many calls are refused further ones. unfinished: counts
        what has arrived of requests that are not whole, with those of other connections.
    """

    __slots__ = (
        "__weakref__",
        "_by_path",
        "_control",
        "_crowded",
        "_goaway_sent",
        "_keepalive",
        "_last_headers",
        "_last_method",
        "_methods",
        "_pings",
        "_streams",
        "acknowledge",
        "auth_context",
        "draining",
        "max_receive_bytes",
        "partial_bytes",
        "received_at",
        "refused",
        "unfinished",
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
        unfinished: Unfinished | None = None,
    ) -> None:
        super().__init__(options, host, peer=peer, translate=translate, clock=clock, pressed=pressed)
        self.received_at = clock()
        self.max_receive_bytes = options.max_receive_bytes
        self.auth_context = auth_context or {}
        self._methods = methods
        self._by_path = methods.by_path
        self.acknowledge = self._engine.acknowledge
        self._crowded = crowded
        # Of the last request of the usual form, without a timeout.
        self._last_headers: Headers = ()
        self._last_method: Method | None = None
        # Streams that the client has opened and that are not closed.
        self._streams = 0
        # Calls that were one too many.
        self.refused = 0
        # Of messages that are not complete.
        self.partial_bytes = 0
        self.unfinished = unfinished or Unfinished(options.unfinished_bytes)
        self.draining = False
        self._goaway_sent = False
        self._control = TokenBucket(options.control_burst, options.control_rate)
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
            if kind is _REQUEST:
                self._request(event)
            elif kind is _DATA:
                call = calls.get(event.stream_id)
                data = event.data
                if call is None:
                    self.credit(len(data), event.stream_id)
                elif data or event.end_stream:
                    call.receive(data, event.end_stream)
                else:
                    self._count_control()
            elif kind is _CLOSED:
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
        self._streams += 1
        self._last_stream_id = stream_id = event.stream_id
        timeout: bytes | None = None
        if headers == self._last_headers:
            # Clients repeat themselves, and to see that costs less than to look up what they say.
            method = self._last_method
        else:
            fields = dict(headers)
            method = self._by_path.get(fields.get(b":path", b""))
            timeout = fields.get(b"grpc-timeout")
            if (
                method is None
                or fields.get(b"content-type") != b"application/grpc"
                or fields.get(b":method") != b"POST"
                or b"grpc-encoding" in fields
            ):
                try:
                    method = find_method(self._methods, fields, headers)
                except NotACall as error:
                    self.refuse(stream_id, error.http_status, error.status, event.end_stream)
                    return
            elif timeout is None:
                self._last_headers, self._last_method = headers, method
        assert method is not None
        call: Call
        if self._streams > self.options.light_calls and self._has_too_many_calls():
            call = RefusedCall(self, stream_id, method, headers)
        elif method.unary:
            call = UnaryCall(self, stream_id, method, headers)
        else:
            call = StreamCall(self, stream_id, method, headers)
        self._calls[stream_id] = call
        method.stats.started += 1
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

    # What calls need

    def message_reader(self, call: Call) -> MessageReader:
        return MessageReader(self.max_receive_bytes, dict(call.headers).get(b"grpc-encoding"))

    def hold(self, size: int) -> None:
        """Count the bytes of incomplete messages. Raises RpcError (RESOURCE_EXHAUSTED) when they are too many."""
        self.partial_bytes += size
        if size > 0 and self.partial_bytes > self.options.max_partial_bytes:
            raise RpcError(StatusCode.RESOURCE_EXHAUSTED, "grpc: too many incomplete messages on this connection")

    def credit(self, size: int, stream_id: int) -> None:
        """Consumed later than received: give the client its credit back, if the connection still lives."""
        if self.failed or self.closed:
            return
        try:
            self.acknowledge(size, stream_id)
        except EngineError:
            return
        self.touch()

    # Sending

    @property
    def has_news(self) -> bool:
        """Whether something is to be written, or the connection is to be closed."""
        return self.closed or self._engine.has_news

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
        if self.blocked or self._waiting:
            self.go_on()
        return data

    @property
    def waiting(self) -> int:
        """Bytes that answers take which are not handed to the socket yet, their streams included."""
        if self.failed:
            return 0
        return self.queued() + _STREAM_BYTES * (self._streams - len(self._calls) + len(self._waiting))

    # Ending

    def connection_lost(self, reason: str) -> None:
        """The transport is gone: cancel every call."""
        logger.debug("connection of %s lost: %s", self.peer, reason)
        self.failed = self.closed = True
        self._keepalive.stop()
        self._cancel_all()
        self.last_words = b""
        self.forget_waiting()

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
