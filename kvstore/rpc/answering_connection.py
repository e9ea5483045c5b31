"""The answers of a server's connection: how calls become response frames, and how they end.

Sends them with SendingConnection, and knows nothing of what the client says: that is ServerConnection's part. The hot
path is `respond`, the answer of a unary call: three calls of the engine.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final

from kvstore.rpc.call import Call
from kvstore.rpc.context import ServerContext
from kvstore.rpc.framing import ACCEPTED_ENCODINGS, COPY_BYTES, frame, prefix
from kvstore.rpc.h2 import ConnectionFailed, EngineError, ErrorCode, Flooded, goaway_frame
from kvstore.rpc.metadata import Headers, encode_message, encode_metadata
from kvstore.rpc.options import ServerOptions
from kvstore.rpc.sending_connection import Host, SendingConnection
from kvstore.rpc.status import Metadata, RpcError, StatusCode

logger = logging.getLogger(__name__)

_CONTENT_TYPE: Final = (b"content-type", b"application/grpc")
_RESPONSE_HEADERS: Final[Headers] = ((b":status", b"200"), _CONTENT_TYPE)
_GRPC_STATUS = tuple((b"grpc-status", b"%d" % code) for code in StatusCode)
_TRAILERS_OK: Final[Headers] = (_GRPC_STATUS[StatusCode.OK],)
# How long a client may take to end a stream that has been answered.
_LINGER_SECONDS = 5.0


class LingeringStream:
    """A stream that has its response but not the end of its request.

    It is not reset at once, as RFC 9113 §8.1 would allow: when the engine resets a stream in the middle of one of its
    DATA frames, it never gives back the connection's credit for the part that has arrived.
    """

    __slots__ = ("_connection", "_stream_id")

    def __init__(self, connection: "AnsweringConnection", stream_id: int) -> None:
        self._connection = connection
        self._stream_id = stream_id

    def expire(self) -> None:
        self._connection.reset_lingering(self._stream_id)


class AnsweringConnection(SendingConnection):
    """The calls of one connection until they have ended.

    peer: the client's address as grpc writes it. translate: makes a status of a handler's exception that is not
        RpcError; None if it knows none, the status is then UNKNOWN. clock: times calls; finer than the host's.
    """

    __slots__ = ("_answered", "_calls", "_last_stream_id", "_translate", "clock", "last_words", "peer")

    def __init__(
        self,
        options: ServerOptions,
        host: Host,
        *,
        peer: str,
        translate: Callable[[Exception], RpcError | None] | None,
        clock: Callable[[], float],
        pressed: Callable[[], bool],
    ) -> None:
        super().__init__(options, host, pressed)
        self.peer = peer
        self.clock = clock
        self._translate = translate
        self._calls: dict[int, Call] = {}
        # Of the newest stream that the client has opened.
        self._last_stream_id = 0
        # Something of a call has been said since the last flush.
        self._answered = False
        # Written after everything else.
        self.last_words = b""

    @property
    def active_calls(self) -> int:
        return len(self._calls)

    # Answers

    def respond(self, call: Call, payload: bytes) -> None:
        """Answer with one message and OK, or with the status that the handler has set."""
        if call.method.unary and call.customised is None and call.reader is None:
            call.finished = True
            if call.bucket is not None:
                call.bucket.pop(call, None)
            trailers = _TRAILERS_OK
            headers = _RESPONSE_HEADERS
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

    # Failures

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

    def refuse(self, stream_id: int, http_status: bytes, error: RpcError, end_stream: bool) -> None:
        """Answer a request that is no call. end_stream: whether the client has sent all of it."""
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

    # Endings

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
