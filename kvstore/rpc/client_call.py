"""Calls of a client: unary requests that are promises, and streams.

A call is made before it has a connection: the channel hands it to one as soon as it can. Knows its connection by what
it needs of it; not sockets.
"""

import asyncio
from collections.abc import Callable, Generator, Mapping
from typing import TYPE_CHECKING, Any

from kvstore.rpc.deadlines import Bucket
from kvstore.rpc.framing import COPY_BYTES, PREFIX_BYTES, MessageReader, frame, prefix
from kvstore.rpc.h2 import EngineError, ErrorCode
from kvstore.rpc.incoming import EOF, Incoming, call_ended
from kvstore.rpc.metadata import Headers, decode_message, decode_metadata
from kvstore.rpc.outgoing import WRITTEN, Buffered, Written
from kvstore.rpc.promise import Promise
from kvstore.rpc.status import RpcError, StatusCode

if TYPE_CHECKING:
    from kvstore.rpc.client_connection import ClientConnection

# What an HTTP status means where a gRPC status is missing (PROTOCOL-HTTP2 companion, http-grpc-status-mapping).
_OF_HTTP: Mapping[bytes, StatusCode] = {
    b"400": StatusCode.INTERNAL,
    b"401": StatusCode.UNAUTHENTICATED,
    b"403": StatusCode.PERMISSION_DENIED,
    b"404": StatusCode.UNIMPLEMENTED,
    b"429": StatusCode.UNAVAILABLE,
    b"502": StatusCode.UNAVAILABLE,
    b"503": StatusCode.UNAVAILABLE,
    b"504": StatusCode.UNAVAILABLE,
}
# What the reason of a RST_STREAM means; INTERNAL for all others.
_OF_RESET: Mapping[int, StatusCode] = {
    ErrorCode.REFUSED_STREAM: StatusCode.UNAVAILABLE,
    ErrorCode.CANCEL: StatusCode.CANCELLED,
    ErrorCode.ENHANCE_YOUR_CALM: StatusCode.RESOURCE_EXHAUSTED,
    ErrorCode.INADEQUATE_SECURITY: StatusCode.PERMISSION_DENIED,
}
_TRAILERS_OK: Headers = ((b"grpc-status", b"0"),)


def error_of(trailers: Headers, headers: Headers) -> RpcError | None:
    """The error that a response ends with; None for OK. headers: those of the response."""
    if trailers == _TRAILERS_OK:
        return None
    fields = dict(trailers)
    status = fields.get(b"grpc-status")
    if status is None:
        http_status = dict(headers).get(b":status", b"")
        text = f"the response has no gRPC status; its HTTP status is {http_status.decode('latin-1')}"
        return RpcError(_OF_HTTP.get(http_status, StatusCode.UNKNOWN), text)
    if status == b"0":
        return None
    known = status.isdigit() and int(status) < len(StatusCode)
    code = StatusCode(int(status)) if known else StatusCode.UNKNOWN
    return RpcError(code, decode_message(fields.get(b"grpc-message", b"")), decode_metadata(trailers))


def error_of_reset(code: int) -> RpcError:
    """The error of a stream that ended without trailers."""
    return RpcError(
        _OF_RESET.get(code, StatusCode.INTERNAL), f"stream terminated by RST_STREAM with error code: {code}"
    )


class UnaryRequest(Promise[bytes]):
    """A unary call: a promise of the response message. When a task that awaits it is cancelled, so is the call."""

    __slots__ = (
        "_reader",
        "_response",
        "bucket",
        "connection",
        "headers",
        "payload",
        "request_headers",
        "retried",
        "stream_id",
        "trailers",
        "wait_for_ready",
    )

    # Their end of the stream is all of the request, so nothing of it is left to reset once the response is there.
    half_closed = True

    def __init__(self, request_headers: Headers, payload: bytes, *, wait_for_ready: bool) -> None:
        super().__init__()
        self.request_headers = request_headers
        self.payload = payload
        self.wait_for_ready = wait_for_ready
        self.connection: ClientConnection | None = None
        self.bucket: Bucket | None = None
        self.stream_id = 0
        self.headers: Headers = ()
        self.trailers: Headers = ()
        # A server that did not process the request says so; it is then sent once more.
        self.retried = False
        self._reader: MessageReader | None = None
        self._response: bytes | None = None

    def initial_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        return decode_metadata(self.headers)

    def trailing_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        return decode_metadata(self.trailers)

    def __await__(self) -> Generator[object, None, bytes]:
        try:
            return (yield from super().__await__())
        except asyncio.CancelledError:
            self.cancel()
            raise

    @property
    def over(self) -> bool:
        """Whether the call has ended."""
        return self.done()

    def cancel(self) -> bool:
        """Give up the call: it fails with CANCELLED, the server is told. False if it has ended."""
        return self._abandon(RpcError(StatusCode.CANCELLED, "cancelled by the caller"))

    def expire(self) -> None:
        """The deadline has passed."""
        self._abandon(RpcError(StatusCode.DEADLINE_EXCEEDED, "context deadline exceeded"))

    def _abandon(self, error: RpcError) -> bool:
        if self.done():
            return False
        if self.connection is not None:
            self.connection.reset(self, ErrorCode.CANCEL)
        self.fail(error)
        return True

    def receive(self, data: bytes) -> None:
        """A DATA frame of the response has arrived."""
        connection = self.connection
        assert connection is not None
        size = len(data)
        if not size:
            return
        try:
            connection.acknowledge(size, self.stream_id)
        except EngineError:
            # The connection ends with these bytes; they are good all the same.
            self.connection = None
        size -= PREFIX_BYTES
        if (
            self._reader is None
            and self._response is None
            and 0 <= size <= connection.max_receive_bytes
            and data[:PREFIX_BYTES] == size.to_bytes(PREFIX_BYTES, "big")
        ):
            self._response = data[PREFIX_BYTES:]
            return
        try:
            self._receive_part(data, connection)
        except RpcError as error:
            self._abandon(error)

    def _receive_part(self, data: bytes, connection: "ClientConnection") -> None:
        if self._reader is None:
            self._reader = MessageReader(connection.max_receive_bytes, dict(self.headers).get(b"grpc-encoding"))
        for message in self._reader.feed(data):
            if self._response is not None:
                raise RpcError(StatusCode.INTERNAL, "more than one message in the response of a unary call")
            self._response = message

    def finish(self, trailers: Headers) -> None:
        """The response is complete."""
        self.trailers = trailers
        error = None if trailers == _TRAILERS_OK else error_of(trailers, self.headers)
        response = self._response
        if error is None and response is not None:
            if self.bucket is not None:
                self.bucket.pop(self, None)
            if not self.done():
                self.set_result(response)
        else:
            self.fail(error or RpcError(StatusCode.INTERNAL, "the response of a unary call has no message"))

    def fail(self, error: RpcError) -> None:
        """The call ends without a response."""
        if self.bucket is not None:
            self.bucket.pop(self, None)
        if not self.done():
            self.set_exception(error)


class ClientStream:
    """A streaming call: messages out, messages in, until both sides have ended.

    What is written before there is a connection is kept, and counts as buffered.
    """

    __slots__ = (
        "_callbacks",
        "_drain",
        "_early",
        "_incoming",
        "_limit",
        "_reader",
        "bucket",
        "connection",
        "error",
        "finished",
        "half_closed",
        "headers",
        "request_headers",
        "retried",
        "stream_id",
        "trailers",
        "wait_for_ready",
    )

    def __init__(self, request_headers: Headers, *, stream_buffer_bytes: int, wait_for_ready: bool) -> None:
        self.request_headers = request_headers
        self.wait_for_ready = wait_for_ready
        self.connection: ClientConnection | None = None
        self.bucket: Bucket | None = None
        self.stream_id = 0
        self.headers: Headers = ()
        self.trailers: Headers = ()
        # Messages already given to a connection cannot be sent again.
        self.retried = True
        self.half_closed = False
        self.finished = False
        # How the call ended; None until it has, and when it ended with OK.
        self.error: RpcError | None = None
        self._limit = stream_buffer_bytes
        self._early: list[bytes] = []
        self._incoming = Incoming(bytes, self._credit)
        self._reader: MessageReader | None = None
        self._drain: list[Promise[None]] = []
        self._callbacks: list[Callable[[ClientStream], object]] = []

    # For the application

    @property
    def buffered(self) -> int:
        """Bytes written and not yet handed to the socket."""
        if self.connection is None:
            return sum(map(len, self._early))
        return self.connection.queued(self.stream_id)

    @property
    def connected(self) -> bool:
        """Whether what is written now is on its way, and does not wait for a connection that may never come."""
        return self.connection is not None and not self.finished

    @property
    def writable(self) -> bool:
        """Whether more should be written now; false when the call has ended or is half-closed."""
        return not self.finished and not self.half_closed and self.buffered < self._limit

    def write(self, message: bytes) -> Written | Buffered:
        """Send one message. Never blocks; sent at the end of the turn.

        The result is false when no more should be written for now: then await it, or drain(), or stop until writable.
        To a call that has ended nothing is written, and awaiting the result raises the call's error.
        Raises RuntimeError after half_close.
        """
        if self.finished:
            return Buffered(self.drain)
        if self.half_closed:
            raise RuntimeError("the stream is half-closed")
        if self.connection is None:
            self._early.append(frame(message))
        else:
            if len(message) <= COPY_BYTES:
                self.connection.send(self, frame(message))
            else:
                self.connection.send(self, prefix(len(message)))
                self.connection.send(self, message)
        return WRITTEN if self.buffered < self._limit else Buffered(self.drain)

    def flush(self) -> None:
        """Send what is written now, not at the end of the turn: for who is about to keep the loop busy."""
        if self.connection is not None:
            self.connection.flush()

    def drain(self) -> Promise[None]:
        """Resolved when more may be written. Fails with the call's error when it has ended."""
        if self.finished:
            return Promise.failed(self.error or call_ended())
        if self.writable:
            return Promise.resolved(None)
        promise: Promise[None] = Promise()
        self._drain.append(promise)
        if self.connection is not None:
            self.connection.blocked[self] = None
        return promise

    def half_close(self) -> None:
        """Say that no more messages follow."""
        if self.half_closed or self.finished:
            return
        self.half_closed = True
        if self.connection is not None:
            self.connection.send(self, b"", end_stream=True)

    def read(self) -> Promise[Any]:
        """The next response message, or EOF when the call has ended with OK. One read at a time.

        Fails with the call's error after the last message of a call that has not.
        """
        return self._incoming.read()

    def __aiter__(self) -> "ClientStream":
        return self

    async def __anext__(self) -> bytes:
        message = await self._incoming.read()
        if message is EOF:
            raise StopAsyncIteration
        response: bytes = message
        return response

    def cancel(self) -> bool:
        """Give up the call: it ends with CANCELLED, the server is told. False if it has ended."""
        return self._abandon(RpcError(StatusCode.CANCELLED, "cancelled by the caller"))

    def initial_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        """The server's metadata; empty before its first message."""
        return decode_metadata(self.headers)

    def trailing_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        """The metadata that came with the status; empty before."""
        return decode_metadata(self.trailers)

    def add_done_callback(self, callback: "Callable[[ClientStream], object]") -> None:
        """Call callback(stream) once the call has ended; at once if it has. `error` then says how."""
        if self.finished:
            callback(self)
        else:
            self._callbacks.append(callback)

    # For the connection

    @property
    def over(self) -> bool:
        """Whether the call has ended."""
        return self.finished

    def attached(self) -> None:
        """There is a connection now: send what was written before."""
        connection = self.connection
        assert connection is not None
        early, self._early = self._early, []
        if early or self.half_closed:
            connection.send(self, b"".join(early), end_stream=self.half_closed)
        if self._drain:
            connection.blocked[self] = None

    def resume(self) -> None:
        """Room was made: wake whoever waits in drain."""
        waiting, self._drain = self._drain, []
        for promise in waiting:
            promise.set_result(None)

    def _credit(self, size: int) -> None:
        if self.connection is not None:
            self.connection.credit(size, self.stream_id)

    def receive(self, data: bytes) -> None:
        """A DATA frame of the response has arrived."""
        connection = self.connection
        assert connection is not None
        if self._reader is None:
            self._reader = MessageReader(connection.max_receive_bytes, dict(self.headers).get(b"grpc-encoding"))
        self._incoming.count(len(data))
        try:
            self._incoming.put(self._reader.feed(data))
        except RpcError as error:
            self._abandon(error)

    def finish(self, trailers: Headers) -> None:
        """The response is complete."""
        self.trailers = trailers
        self._end(error_of(trailers, self.headers))

    def fail(self, error: RpcError) -> None:
        """The call ends without a status from the server."""
        self._end(error)

    def expire(self) -> None:
        """The deadline has passed."""
        self._abandon(RpcError(StatusCode.DEADLINE_EXCEEDED, "context deadline exceeded"))

    def _abandon(self, error: RpcError) -> bool:
        if self.finished:
            return False
        if self.connection is not None:
            self.connection.reset(self, ErrorCode.CANCEL)
        self._end(error)
        return True

    def _end(self, error: RpcError | None) -> None:
        if self.finished:
            return
        self.finished = True
        self.error = error
        self._early.clear()
        if self.bucket is not None:
            self.bucket.pop(self, None)
        if self.connection is not None:
            self.connection.blocked.pop(self, None)
        waiting, self._drain = self._drain, []
        for promise in waiting:
            promise.set_exception(error or call_ended())
        self._incoming.close(error or EOF)
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback(self)


ClientCall = UnaryRequest | ClientStream
