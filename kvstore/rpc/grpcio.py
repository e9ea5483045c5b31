"""The same servicers on grpcio's asyncio server.

`GrpcioServer` takes registrations as `Server` does and passes them to a grpc.aio.Server, so wrapped that handlers may
do there all that they may do on ours: return bytes, a Promise, a plain message, write to the context without awaiting.
This is the only module of the package that imports grpc.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping
from typing import Any, Final, NoReturn
from urllib.parse import unquote

import grpc

from kvstore.rpc.incoming import EOF, Read, call_ended
from kvstore.rpc.method import CallDetails, GenericHandler, Method, RpcMethodHandler
from kvstore.rpc.observer import Observer, Unobserved
from kvstore.rpc.outgoing import WRITTEN, Buffered, Written
from kvstore.rpc.promise import Promise
from kvstore.rpc.status import Metadata, RpcError, StatusCode

logger = logging.getLogger(__name__)

Translate = Callable[[Exception], RpcError | None]

# The stubs of grpc.aio do not know it.
_GRPCIO_EOF: Final[object] = getattr(grpc.aio, "EOF")  # noqa: B009
_GRPC_CODES: Final = {code.value[0]: code for code in grpc.StatusCode}


def _no_translation(error: Exception) -> RpcError | None:
    return None


class GrpcioContext:
    """The context of a call on grpcio's server, as handlers know it from ours (kvstore.rpc.context, call)."""

    __slots__ = (
        "_began",
        "_buffer_bytes",
        "_buffered",
        "_callbacks",
        "_cancelled",
        "_code",
        "_context",
        "_details",
        "_drain",
        "_finished",
        "_method",
        "_outgoing",
        "_read",
        "_tasks",
        "_trailing",
        "_translate",
        "_writer",
    )

    def __init__(self, method: Method, context: Any, translate: Translate, buffer_bytes: int) -> None:
        self._method = method
        self._context = context
        self._translate = translate
        self._buffer_bytes = buffer_bytes
        self._buffered = 0
        self._callbacks: list[Callable[[Any], object]] = []
        self._cancelled = False
        self._finished = False
        self._code = StatusCode.OK
        self._details = ""
        self._trailing: Metadata = ()
        self._drain: list[Promise[None]] = []
        # What is to be sent, in order: messages, and the initial metadata.
        self._outgoing: deque[bytes | Metadata] = deque()
        self._writer: asyncio.Task[None] | None = None
        self._read: Read | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        method.stats.started += 1
        self._began = time.perf_counter()

    # What handlers ask

    def invocation_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        return tuple((key, value) for key, value in self._context.invocation_metadata() or ())

    def peer(self) -> str:
        return unquote(self._context.peer())

    pressed = waits_for_room = False
    """How much its clients have read only grpcio knows."""

    @staticmethod
    def when_relieved(callback: Callable[[], None]) -> None:
        """Call back at once."""
        callback()

    @staticmethod
    def when_room(callback: Callable[[], None]) -> None:
        """Call back at once."""
        callback()

    def auth_context(self) -> Mapping[str, list[bytes]]:
        return {key: list(values) for key, values in self._context.auth_context().items()}

    def full_method(self) -> str:
        return f"/{self._method.service}/{self._method.name}"

    def time_remaining(self) -> float | None:
        remaining = self._context.time_remaining()
        return None if remaining is None else max(0.0, float(remaining))

    def done(self) -> bool:
        return self._finished

    def cancelled(self) -> bool:
        return self._cancelled

    def add_done_callback(self, callback: Callable[[Any], object]) -> None:
        if self._finished:
            callback(self)
        else:
            self._callbacks.append(callback)

    def set_code(self, code: object) -> None:
        self._code = StatusCode.of(code)

    def set_details(self, details: str) -> None:
        self._details = details

    def code(self) -> StatusCode:
        return self._code

    def details(self) -> str:
        return self._details

    def set_trailing_metadata(self, metadata: Metadata) -> None:
        self._trailing = tuple(metadata)

    def trailing_metadata(self) -> Metadata:
        return self._trailing

    async def abort(self, code: object, details: str = "", trailing_metadata: Metadata = ()) -> NoReturn:
        status = StatusCode.of(code)
        if status is StatusCode.OK:
            raise ValueError("a call cannot be aborted with OK")
        raise RpcError(status, details, tuple(trailing_metadata) or self._trailing)

    # Streams

    def send_initial_metadata(self, metadata: Metadata) -> Written:
        self._send(tuple(metadata))
        return WRITTEN

    @property
    def buffered(self) -> int:
        return self._buffered

    @property
    def writable(self) -> bool:
        return not self._finished and self._buffered < self._buffer_bytes

    def write(self, message: Any) -> Written | Buffered:
        if self._finished:
            return Buffered(self.drain)
        payload = self._encode(message)
        self._buffered += len(payload)
        self._send(payload)
        return WRITTEN if self.writable else Buffered(self.drain)

    def drain(self) -> Promise[None]:
        if self._finished:
            return Promise.failed(call_ended())
        if self.writable:
            return Promise.resolved(None)
        promise: Promise[None] = Promise()
        self._drain.append(promise)
        return promise

    def read(self) -> Promise[Any]:
        read = self._read
        if read is not None and not read.claimed:
            return read
        self._read = read = Read()
        self._spawn(self._read_into(read))
        return read

    def __aiter__(self) -> "GrpcioContext":
        return self

    async def __anext__(self) -> Any:
        message = await self.read()
        if message is EOF:
            raise StopAsyncIteration
        return message

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _read_into(self, read: Read) -> None:
        try:
            payload = await self._context.read()
            message = EOF if payload is _GRPCIO_EOF else self._decode(payload)
        except RpcError as error:
            read.set_exception(error)
        except (Exception, asyncio.CancelledError):
            # grpcio has several ways to say that the call is over.
            if not read.done():
                read.set_exception(call_ended())
        else:
            read.set_result(message)

    def _send(self, item: bytes | Metadata) -> None:
        self._outgoing.append(item)
        if self._writer is None:
            self._writer = self._spawn(self._write_all())

    async def _write_all(self) -> None:
        outgoing = self._outgoing
        try:
            while outgoing:
                item = outgoing[0]
                if isinstance(item, bytes):
                    await self._context.write(item)
                    self._buffered -= len(item)
                else:
                    await self._context.send_initial_metadata(item)
                outgoing.popleft()
                if self._drain and self.writable:
                    waiting, self._drain = self._drain, []
                    for promise in waiting:
                        promise.set_result(None)
        except Exception as error:
            logger.debug("%s can send no more: %s", self.full_method(), error)
            outgoing.clear()
        finally:
            self._writer = None

    # What the server's side of the wrapper does

    def _encode(self, message: Any) -> bytes:
        payload = message if type(message) is bytes else self._method.encode(message)
        self._method.stats.messages_sent += 1
        self._method.stats.bytes_sent += len(payload)
        return payload

    def _decode(self, payload: bytes) -> Any:
        self._method.stats.messages_received += 1
        self._method.stats.bytes_received += len(payload)
        try:
            return self._method.decode(payload)
        except Exception as error:
            text = f"grpc: error unmarshalling request: {error}"
            raise RpcError(StatusCode.INVALID_ARGUMENT, text) from error

    async def run(self, request: bytes | None) -> bytes | None:
        """Call the handler and see the call to its end. request: None when it is a stream.

        Returns the response message, None when it is a stream. Raises what grpcio's abort raises.
        """
        self._context.add_done_callback(self._ended)
        try:
            response = await self._result(self if request is None else self._decode(request))
            if self._code is not StatusCode.OK:
                raise RpcError(self._code, self._details, self._trailing)
        except asyncio.CancelledError:
            self._cancelled = True
            self._finish(StatusCode.CANCELLED)
            raise
        except Exception as error:
            status = self._status_of(error)
            await self._sent()
            self._finish(status.code)
            await self._context.abort(_GRPC_CODES[status.code], status.message, tuple(status.metadata))
            raise
        self._context.set_trailing_metadata(tuple(self._trailing))
        self._finish(StatusCode.OK)
        return response

    async def _result(self, request: Any) -> bytes | None:
        method = self._method
        result = method.handler(request, self)
        if isinstance(result, Awaitable):
            result = await result
        response = None
        if not method.response_streaming:
            response = self._encode(result)
        elif isinstance(result, AsyncIterable):
            await self._pump(aiter(result))
        elif result is not None:
            kind = type(result).__name__
            raise TypeError(f"a streaming handler returned {kind}, not an async iterator or None")
        await self._sent()
        return response

    async def _sent(self) -> None:
        """Wait until everything written is on its way: what follows is the status."""
        while self._writer is not None:
            await asyncio.wait([self._writer])

    async def _pump(self, messages: AsyncIterator[Any]) -> None:
        try:
            async for message in messages:
                written = self.write(message)
                if not written:
                    await written
        finally:
            close = getattr(messages, "aclose", None)
            if close is not None:
                await close()

    def _status_of(self, error: Exception) -> RpcError:
        if isinstance(error, RpcError):
            return RpcError(error.code, error.message, error.metadata or self._trailing)
        translated = self._translate(error)
        if translated is not None:
            return translated
        if self._code is not StatusCode.OK:
            return RpcError(self._code, self._details, self._trailing)
        logger.error("%s failed", self.full_method(), exc_info=error)
        return RpcError(StatusCode.UNKNOWN, f"Unexpected {type(error)}: {error}", self._trailing)

    def _ended(self, _: object) -> None:
        if not self._finished:
            self._cancelled = True
            self._finish(StatusCode.CANCELLED)

    def _finish(self, code: StatusCode) -> None:
        if self._finished:
            return
        self._finished = True
        stats = self._method.stats
        stats.handled[code] += 1
        seconds = time.perf_counter() - self._began
        if seconds >= stats.report_from:
            self._report(code, seconds)
        waiting, self._drain = self._drain, []
        for promise in waiting:
            promise.set_exception(call_ended())
        for task in list(self._tasks):
            task.cancel()
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            try:
                callback(self)
            except Exception:
                logger.exception("a callback of a call failed")

    def _report(self, code: StatusCode, seconds: float) -> None:
        try:
            self._method.stats.report(self, code, seconds)
        except Exception:
            logger.exception("a report of a call failed")


class GrpcioServer:
    """Registers servicers on a grpc.aio.Server; generated code takes it for the server.

    server: a grpc.aio.Server that has not been started. observer, translate: as for Server.
    stream_buffer_bytes: responses waiting to be written above which a stream is not writable.
    """

    def __init__(
        self,
        server: grpc.aio.Server,
        *,
        observer: Observer | None = None,
        translate: Translate | None = None,
        stream_buffer_bytes: int = 256 << 10,
    ) -> None:
        self._server = server
        self._observer = observer or Unobserved()
        self._translate = translate or _no_translation
        self._stream_buffer_bytes = stream_buffer_bytes
        self._methods: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}

    def add_generic_rpc_handlers(self, handlers: Iterable[GenericHandler]) -> None:
        """For generated code, and for handlers that find methods of their own accord."""
        self._server.add_generic_rpc_handlers(tuple(_WrappedHandlers(self, handler) for handler in handlers))

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, RpcMethodHandler]) -> None:
        """For generated code."""
        wrapped = {name: self.wrap(service, name, handler) for name, handler in handlers.items()}
        # Newer than the stubs of grpc.aio.
        self._server.add_registered_method_handlers(service, wrapped)  # type: ignore[attr-defined]

    def wrap(self, service: str, name: str, handler: RpcMethodHandler) -> "grpc.RpcMethodHandler[Any, Any]":
        """What grpcio is to call for a method."""
        path = f"/{service}/{name}"
        known = self._methods.get(path)
        if known is not None:
            return known
        method = Method(service, name, handler, self._observer)

        async def serve(request: Any, context: Any) -> bytes | None:
            call = GrpcioContext(method, context, self._translate, self._stream_buffer_bytes)
            return await call.run(None if method.request_streaming else request)

        makers: dict[tuple[bool, bool], Callable[[Any], Any]] = {
            (False, False): grpc.unary_unary_rpc_method_handler,
            (False, True): grpc.unary_stream_rpc_method_handler,
            (True, False): grpc.stream_unary_rpc_method_handler,
            (True, True): grpc.stream_stream_rpc_method_handler,
        }
        made: grpc.RpcMethodHandler[Any, Any] = makers[method.request_streaming, method.response_streaming](serve)
        self._methods[path] = made
        return made


class _WrappedHandlers(grpc.GenericRpcHandler):  # type: ignore[type-arg]
    """A generic handler whose methods are wrapped as they are found."""

    def __init__(self, server: GrpcioServer, handler: GenericHandler) -> None:
        self._server = server
        self._handler = handler

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[Any, Any] | None":
        path = handler_call_details.method
        metadata = tuple(handler_call_details.invocation_metadata)
        found = self._handler.service(CallDetails(path, metadata))
        if found is None:
            return None
        service, _, name = path[1:].rpartition("/")
        return self._server.wrap(service, name, found)
