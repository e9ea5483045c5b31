"""One call on a server: from its request to its response.

A handler may return a message, encoded bytes, a Promise, an asyncio.Future or a coroutine; of a streaming response also
an asynchronous iterator, or nothing because it wrote to its context. Only coroutines and iterators cost a task. Knows
its connection by what it needs of it; not sockets.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterable, Awaitable, Callable
from typing import TYPE_CHECKING, Any

from kvstore.rpc.context import ServerContext
from kvstore.rpc.framing import PREFIX_BYTES
from kvstore.rpc.incoming import EOF, Incoming, call_ended
from kvstore.rpc.metadata import Headers
from kvstore.rpc.outgoing import WRITTEN, Buffered, Written
from kvstore.rpc.promise import Promise
from kvstore.rpc.status import RpcError, StatusCode

if TYPE_CHECKING:
    from kvstore.rpc.method import Method
    from kvstore.rpc.server_connection import ServerConnection


class Call(ServerContext):
    """What calls of all kinds have in common: collecting messages, failing, and being cancelled."""

    __slots__ = ()

    def receive(self, data: bytes, end_stream: bool) -> None:
        """A DATA frame of this call has arrived."""
        raise NotImplementedError

    def invoke(self, request: Any) -> None:
        """Call the handler."""
        raise NotImplementedError

    def collect(self, data: bytes) -> deque[bytes]:
        """Put what data completes into the inbox. Raises RpcError for a message that cannot be taken."""
        reader = self.reader
        if reader is None:
            reader = self.reader = self.connection.message_reader(self)
        inbox = self.inbox
        if inbox is None:
            inbox = self.inbox = deque()
        before = reader.buffered
        inbox.extend(reader.feed(data))
        self.connection.hold(reader.buffered - before)
        self.connection.unfinished.note(self, reader.buffered)
        return inbox

    def refuse(self, error: RpcError) -> None:
        """Its request has not become whole, and others need the room."""
        self.connection.finish(self, error.code, error.message, cancelled=True)

    def collect_unary(self, data: bytes, end_stream: bool) -> bytes | None:
        """The one message of a unary request, when the client has half-closed; None before. Raises RpcError."""
        inbox = self.collect(data)
        if len(inbox) > 1:
            raise RpcError(StatusCode.INTERNAL, "grpc: more than one message in the request of a unary call")
        if not end_stream:
            return None
        if not inbox or (self.reader is not None and self.reader.incomplete):
            raise RpcError(StatusCode.INTERNAL, "grpc: the request ended before its message was complete")
        return inbox.popleft()

    def decode(self, payload: bytes) -> Any:
        """Decode a request message. Raises RpcError if it is not one."""
        method = self.method
        method.stats.messages_received += 1
        method.stats.bytes_received += len(payload)
        try:
            return method.decode(payload)
        except Exception as error:
            text = f"grpc: error unmarshalling request: {error}"
            raise RpcError(StatusCode.INVALID_ARGUMENT, text) from error

    def answer(self, message: Any) -> None:
        """End the call with its one response message."""
        try:
            payload = message if type(message) is bytes else self.method.encode(message)
        except Exception as error:
            self.fail(error)
        else:
            self.connection.respond(self, payload)

    def wait_for(self, result: Awaitable[Any]) -> None:
        """Answer when result is there."""
        if isinstance(result, Promise):
            self.pending = result
            result.then(self.settle)
        elif isinstance(result, asyncio.Future):
            self.pending = result
            result.add_done_callback(self.settle)
        else:
            self.pending = self.connection.host.spawn(self.drive(result))

    def settle(self, outcome: "Promise[Any] | asyncio.Future[Any]") -> None:
        """Answer with what was waited for. Runs within the resolver's set_result, so nothing may escape."""
        if self.finished:
            return
        try:
            message = outcome.result()
        except (Exception, asyncio.CancelledError) as error:
            self.fail(error)
        else:
            self.answer(message)

    async def drive(self, result: Awaitable[Any]) -> None:
        try:
            message = await result
        except (Exception, asyncio.CancelledError) as error:
            # Answered here rather than left in the task: the task belongs to the call alone.
            self.fail(error)
        else:
            if not self.finished:
                self.answer(message)

    def when_relieved(self, callback: Callable[[], None]) -> None:
        """Call back when the answer may be made: at once, or when the client has read what was made before.

        For handlers whose answers may be long. Never called when the call has ended meanwhile.
        """

        def relieved() -> None:
            if not self.finished:
                callback()

        self.connection.when_relieved(relieved)

    @property
    def pressed(self) -> bool:
        """Whether a long answer should wait for room: so much waits to be read by all clients together."""
        return self.connection.pressed()

    @property
    def waits_for_room(self) -> bool:
        """Whether another call of the same client already does."""
        return self.connection.waits_for_room

    def when_room(self, callback: Callable[[], None]) -> None:
        """Call back when a long answer may be made, at once if it may. Never called when the call has ended meanwhile.

        The callback makes its answer, or begins to, though the call may be pressed: it is its turn.
        """

        def admitted() -> None:
            if not self.finished:
                callback()

        self.connection.when_room(admitted)

    def fail(self, error: BaseException) -> None:
        """End the call with the status that an exception of its handler stands for."""
        if not self.finished:
            status = self.connection.status_of(error, self)
            self.connection.finish(self, status.code, status.message, status.metadata)

    def expire(self) -> None:
        """The client's deadline has passed."""
        if not self.finished:
            self.connection.finish(self, StatusCode.DEADLINE_EXCEEDED, "context deadline exceeded", cancelled=True)

    def end(self, *, cancelled: bool) -> None:
        if self.reader is not None:
            self.connection.hold(-self.reader.buffered)
            self.connection.unfinished.note(self, 0)
            self.reader = None
        pending, self.pending = self.pending, None
        if cancelled and pending is not None:
            if isinstance(pending, Promise):
                pending.ignore()
            else:
                pending.cancel()
        super().end(cancelled=cancelled)


class UnaryCall(Call):
    """One request message, one response message."""

    __slots__ = ()

    def receive(self, data: bytes, end_stream: bool) -> None:
        connection = self.connection
        size = len(data)
        if size:
            connection.acknowledge(size, self.stream_id)
        if self.half_closed:
            return
        self.half_closed = end_stream
        size -= PREFIX_BYTES
        # Nearly every request is one frame of one uncompressed message: its prefix is then its size as five bytes.
        if (
            end_stream
            and self.reader is None
            and 0 <= size <= connection.max_receive_bytes
            and data[:PREFIX_BYTES] == size.to_bytes(PREFIX_BYTES, "big")
        ):
            self.invoke(data[PREFIX_BYTES:])
            return
        try:
            payload = self.collect_unary(data, end_stream)
        except RpcError as error:
            self.fail(error)
            return
        if payload is not None:
            self.invoke(payload)

    def invoke(self, request: bytes) -> None:
        """Call the handler with a message yet to decode; answer at once unless it returned something to wait for."""
        method = self.method
        try:
            result = method.handler(self.decode(request), self)
            kind = type(result)
            if kind is bytes:
                self.connection.respond(self, result)
            elif kind is Promise:
                self.pending = result
                result.then(self.settle)
            elif isinstance(result, Awaitable):
                self.wait_for(result)
            else:
                self.connection.respond(self, method.encode(result))
        except Exception as error:
            self.fail(error)


class RefusedCall(Call):
    """One call too many: its request is not looked at, its handler never called.

    Answered when the request is complete, for a client that is answered earlier leaves a stream to be looked after.
    """

    __slots__ = ()

    def receive(self, data: bytes, end_stream: bool) -> None:
        """Take what belongs to the call, and refuse it at its end, or when it turns out to be long."""
        connection = self.connection
        if data:
            connection.acknowledge(len(data), self.stream_id)
        if end_stream or len(data) > PREFIX_BYTES:
            self.half_closed = end_stream
            connection.refused += 1
            connection.finish(self, StatusCode.RESOURCE_EXHAUSTED, connection.options.refusal)


class StreamCall(Call):
    """A call with more than one message in at least one direction."""

    __slots__ = ("_drain", "_incoming")

    def __init__(self, connection: "ServerConnection", stream_id: int, method: "Method", headers: Headers) -> None:
        super().__init__(connection, stream_id, method, headers)
        self._incoming = Incoming(self.decode, self._credit)
        self._drain: list[Promise[None]] = []

    def _credit(self, size: int) -> None:
        self.connection.credit(size, self.stream_id)

    def receive(self, data: bytes, end_stream: bool) -> None:
        self._incoming.count(len(data))
        if self.half_closed:
            return
        self.half_closed = end_stream
        try:
            if self.method.request_streaming:
                self._receive_streaming(data, end_stream)
            else:
                payload = self.collect_unary(data, end_stream)
                if payload is not None:
                    self.invoke(self.decode(payload))
        except RpcError as error:
            # A handler that is already at work learns of it as a cancellation.
            self.connection.finish(self, error.code, error.message, error.metadata, cancelled=True)

    def _receive_streaming(self, data: bytes, end_stream: bool) -> None:
        messages = self.collect(data)
        if messages:
            self._incoming.put(messages)
            messages.clear()
        if end_stream:
            if self.reader is not None and self.reader.incomplete:
                raise RpcError(StatusCode.INTERNAL, "grpc: the request ended before its message was complete")
            self._incoming.close(EOF)

    def read(self) -> Promise[Any]:
        """The next request message, or EOF when the client has half-closed. One read at a time.

        Fails with RpcError: CANCELLED when the call has ended, INVALID_ARGUMENT for what is not a message.
        """
        return self._incoming.read()

    def __aiter__(self) -> "StreamCall":
        return self

    async def __anext__(self) -> Any:
        message = await self._incoming.read()
        if message is EOF:
            raise StopAsyncIteration
        return message

    @property
    def buffered(self) -> int:
        """Bytes written and not yet handed to the socket, for want of credit or because the client does not read."""
        return self.connection.queued(self.stream_id)

    @property
    def writable(self) -> bool:
        """Whether more should be written now; false when the call has ended."""
        return not self.finished and self.connection.has_room(self.stream_id)

    def write(self, message: Any) -> Written | Buffered:
        """Send one response message, or bytes that already are one. Never blocks; sent at the end of the turn.

        The result is false when no more should be written for now: then await it, or drain(), or stop until writable.
        To a call that has ended nothing is written, and awaiting the result raises RpcError (CANCELLED).
        """
        if self.finished:
            return Buffered(self.drain)
        self.connection.send_message(self, message if type(message) is bytes else self.method.encode(message))
        return WRITTEN if self.writable else Buffered(self.drain)

    def drain(self) -> Promise[None]:
        """Resolved when more may be written. Fails with RpcError (CANCELLED) when the call has ended."""
        if self.finished:
            return Promise.failed(call_ended())
        if self.writable:
            return Promise.resolved(None)
        promise: Promise[None] = Promise()
        self._drain.append(promise)
        self.connection.blocked[self] = None
        return promise

    def resume(self) -> None:
        """Room was made: wake whoever waits in drain. For the connection."""
        waiting, self._drain = self._drain, []
        for promise in waiting:
            promise.set_result(None)

    def invoke(self, request: Any) -> None:
        """Call the handler with its request message or with this call as the iterator over them."""
        try:
            result = self.method.handler(request, self)
            if isinstance(result, Awaitable):
                self.wait_for(result)
            elif self.method.response_streaming and isinstance(result, AsyncIterable):
                self.pending = self.connection.host.spawn(self.pump(result))
            else:
                self.answer(result)
        except Exception as error:
            self.fail(error)

    def answer(self, message: Any) -> None:
        if not self.method.response_streaming:
            super().answer(message)
        elif message is None:
            self.connection.finish_ok(self)
        else:
            self.fail(
                TypeError(f"a streaming handler returned {type(message).__name__}, not an async iterator or None")
            )

    async def pump(self, messages: AsyncIterable[Any]) -> None:
        """Write what an asynchronous iterator yields, at the pace of the client."""
        try:
            async for message in messages:
                written = self.write(message)
                if not written:
                    await written
        except (Exception, asyncio.CancelledError) as error:
            self.fail(error)
            close = getattr(messages, "aclose", None)
            if close is not None:
                await close()
        else:
            if not self.finished:
                self.connection.finish_ok(self)

    def end(self, *, cancelled: bool) -> None:
        super().end(cancelled=cancelled)
        self.connection.blocked.pop(self, None)
        waiting, self._drain = self._drain, []
        for promise in waiting:
            promise.set_exception(call_ended())
        self._incoming.abandon(call_ended())
