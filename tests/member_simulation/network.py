"""The network: calls and streams between processes, each message late, lost, repeated or out of order as it may be.

Stands where gRPC would: bytes go in at one end and come out, decoded by the method's own codec, at the other. A stream
breaks when its messages cannot get through, and each end finds out in its own time. Knows no etcd and no raft, except
that a message to be repeated must not be a proposal: raft forwards those once.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from kvstore.peer.batches import decode_batch, is_sealed, unseal
from kvstore.rpc import Metadata, Promise, RpcError, StatusCode
from kvstore.rpc.incoming import EOF, Incoming
from raft.messages import MessageType
from tests.member_simulation.timeline import ProcessLoop, Timeline, Violation

RAFT_STREAM: Final = "/kvstorepb.Peer/Messages"

Translate = Callable[[Exception], RpcError | None]


@dataclass(slots=True)
class NetworkHabits:
    """How the network behaves; changed while it runs.

    seconds: of a message, on average. drop, damage, repeat, reorder: shares of raft's messages. Others come in order or
    not at all.
    """

    seconds: float = 0.001
    drop: float = 0.0
    damage: float = 0.0
    repeat: float = 0.0
    reorder: float = 0.0


class Handlers:
    """What generated code registers servicers on: method path -> handler."""

    def __init__(self) -> None:
        self.by_path: dict[str, Any] = {}

    def add_generic_rpc_handlers(self, handlers: tuple[Any, ...], /) -> None:
        """Generated code registers everything twice."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any], /) -> None:
        """Register the handlers of a service."""
        self.by_path.update({f"/{service}/{name}": handler for name, handler in handlers.items()})


@dataclass(slots=True, eq=False)
class Server:
    """A process that listens. translate: the status of a handler's exception, if it is of the domain."""

    network: Network
    loop: ProcessLoop
    handlers: Handlers
    translate: Translate
    calls: dict[Call, None] = field(default_factory=dict)
    open: bool = True

    async def stop(self, grace: float) -> None:
        """Listen no more; calls under way are broken."""
        self.open = False
        for call in list(self.calls):
            call.broken(RpcError(StatusCode.UNAVAILABLE, "the server has stopped"), at_once=True)


class Network:
    """All connections of a world."""

    def __init__(self, timeline: Timeline) -> None:
        self.timeline = timeline
        self.habits = NetworkHabits()
        self.cut: set[tuple[str, str]] = set()
        self.calls: dict[Call, None] = {}
        self._servers: dict[str, Server] = {}

    def listen(self, url: str, loop: ProcessLoop, handlers: Handlers, translate: Translate) -> Server:
        """Serve at an address from now on."""
        server = Server(self, loop, handlers, translate)
        self._servers[url] = server
        return server

    def find(self, url: str) -> Server | None:
        """Who serves at an address."""
        server = self._servers.get(url)
        return server if server is not None and server.open and server.loop.alive else None

    def passes(self, source: str, target: str) -> bool:
        """Whether a message gets through now."""
        return (source, target) not in self.cut

    def delay(self) -> float:
        """Of one message."""
        chance, habits = self.timeline.chance, self.habits
        seconds = habits.seconds * chance.expovariate(1.0)
        return seconds * 20 if chance.random() < 0.005 else seconds

    def process_died(self, loop: ProcessLoop) -> None:
        """Break its calls: the other ends find out."""
        for call in [call for call in self.calls if loop in (call.client, call.server_loop)]:
            call.broken(RpcError(StatusCode.UNAVAILABLE, "the connection was lost"), at_once=False)

    def channel(self, loop: ProcessLoop, url: str) -> Channel:
        """The way of a process to an address."""
        return Channel(self, loop, url)


class Channel:
    """As kvstore.rpc.Channel, as far as it is used."""

    def __init__(self, network: Network, loop: ProcessLoop, url: str) -> None:
        self._network = network
        self._loop = loop
        self._url = url
        self._calls: dict[Call, None] = {}

    def unary(
        self, method: str, request: bytes, *, metadata: Metadata = (), timeout: float | None = None
    ) -> Promise[bytes]:
        """Call a method with one message each way."""
        promise: Promise[bytes] = Promise()
        call = self._open(method, metadata)

        def answered(read: Promise[Any]) -> None:
            call.finish()
            if timer is not None:
                timer.cancel()
            if promise.done():
                return
            error = read.exception()
            if error is not None:
                promise.set_exception(error)
            elif read.result() is EOF:
                promise.set_exception(RpcError(StatusCode.INTERNAL, "no answer"))
            else:
                promise.set_result(read.result())

        def expired() -> None:
            if not promise.done():
                promise.set_exception(RpcError(StatusCode.DEADLINE_EXCEEDED, "context deadline exceeded"))
                call.cancel()

        timer = self._loop.call_later(timeout, expired) if timeout is not None else None
        call.read().then(answered)
        call.write(request)
        call.half_close()
        return promise

    def stream(self, method: str, *, metadata: Metadata = ()) -> Call:
        """Call a method with streams."""
        return self._open(method, metadata)

    async def close(self) -> None:
        """End its calls."""
        for call in list(self._calls):
            call.cancel()

    def _open(self, method: str, metadata: Metadata) -> Call:
        call = Call(self._network, self._loop, self._url, method, metadata)
        self._calls[call] = None
        call.on_finished = lambda: self._calls.pop(call, None)
        return call


class Call:
    """One call, from the client's end; ServerEnd is the other.

    Messages of one direction arrive in order, unless they are raft's. on_finished: when the client is done with it.
    """

    def __init__(self, network: Network, client: ProcessLoop, url: str, method: str, metadata: Metadata) -> None:
        self.client = client
        self.server_loop: ProcessLoop | None = None
        self.method = method
        self.metadata = metadata
        self.on_finished: Callable[[], object] = lambda: None
        self._network = network
        self._timeline = network.timeline
        self._url = url
        self._incoming = Incoming(_same, _ignore)
        self._server: Server | None = None
        self._end: ServerEnd | None = None
        self._broken: RpcError | None = None
        self._finished = False
        self._arrival = {True: 0.0, False: 0.0}
        self._raft = method == RAFT_STREAM
        network.calls[self] = None
        self._travel(True, self._connect, always_in_order=True)

    # The client's end: ClientStream, as far as it is used.

    @property
    def connected(self) -> bool:
        """Whether the server has taken it, and nothing has become of that."""
        return self._end is not None and self.writable

    @property
    def writable(self) -> bool:
        """Whether more should be written."""
        return not self._finished and self._broken is None

    def write(self, message: bytes, /) -> None:
        """Send one message."""
        if not self._finished:
            self._send(True, message, self._to_server)

    def flush(self) -> None:
        """What is written is on its way."""

    def drain(self) -> Promise[None]:
        """Never waits: who reads too slowly is simulated at the other end."""
        if self._finished:
            return Promise.failed(RpcError(StatusCode.CANCELLED, "the call has ended"))
        return Promise.resolved(None)

    def half_close(self) -> None:
        """Say that no more messages follow."""
        if not self._finished:
            self._travel(True, self._half_closed, always_in_order=True)

    def read(self) -> Promise[Any]:
        """The next message, or EOF."""
        return self._incoming.read()

    def cancel(self) -> None:
        """Give it up."""
        if not self._finished:
            self.finish()
            self._incoming.abandon(RpcError(StatusCode.CANCELLED, "cancelled by the caller"))
            if self.client.alive:
                self._travel(True, self._cancel_server, always_in_order=True)

    def finish(self) -> None:
        """The client is done with it."""
        if not self._finished:
            self._finished = True
            self.on_finished()
            if self._end is None or self._end.finished:
                self._network.calls.pop(self, None)

    def acknowledge(self) -> None:
        """The client has read a message; who slows down writing finds out."""
        self._travel(True, self._acknowledged, always_in_order=True)

    # On the way.

    def to_client(self, message: bytes) -> None:
        """For the server's end: send a message."""
        self._send(False, message, self._incoming_put)

    def end_with(self, error: RpcError | None) -> None:
        """For the server's end: the handler is done."""
        self._travel(False, lambda: self._ended(error), always_in_order=True)

    def broken(self, error: RpcError, at_once: bool) -> None:
        """Nothing gets through any more. Both ends find out, each in its own time."""
        if self._broken is not None:
            return
        self._broken = error
        chance = self._timeline.chance

        def found_out() -> None:
            if not self._finished:
                self.finish()
                self._incoming.abandon(error)

        def noticed() -> float:
            return chance.uniform(0.0, 0.01) if at_once or chance.random() < 0.5 else chance.uniform(0.0, 8.0)

        self._timeline.after(noticed(), lambda: self.client.call_soon(found_out))
        if self._server is not None:
            server = self._server
            self._timeline.after(noticed(), lambda: server.loop.call_soon(self._cancel_server))

    def _send(self, to_server: bool, message: bytes, deliver: Callable[[bytes], None]) -> None:
        habits, chance = self._network.habits, self._timeline.chance
        if self._raft and to_server:
            if habits.drop and chance.random() < habits.drop:
                self._timeline.trace.mark(b"drop")
                return
            if habits.damage and chance.random() < habits.damage:
                message = _damaged(message, chance)
            elif habits.repeat and chance.random() < habits.repeat and not _proposes(message):
                self._travel(True, lambda: deliver(message))
        self._timeline.trace.mark(len(message).to_bytes(4, "big"))
        self._travel(to_server, lambda: deliver(message))

    def _travel(self, to_server: bool, arrive: Callable[[], None], always_in_order: bool = False) -> None:
        timeline, network = self._timeline, self._network
        when = timeline.now + network.delay()
        reordered = self._raft and not always_in_order and timeline.chance.random() < network.habits.reorder
        if not reordered:
            when = self._arrival[to_server] = max(when, self._arrival[to_server] + 1e-6)
        timeline.at(when, lambda: self._arrive(to_server, arrive))

    def _arrive(self, to_server: bool, arrive: Callable[[], None]) -> None:
        if self._broken is not None:
            return
        network = self._network
        if self._server is None:
            # The first message: the connection.
            self._server = network.find(self._url)
            if self._server is not None:
                self.server_loop = self._server.loop
        server = self._server
        if server is None or not server.open or not server.loop.alive:
            self.broken(RpcError(StatusCode.UNAVAILABLE, "connection refused"), at_once=True)
            return
        client = self.client
        ends = (client.name, server.loop.name) if to_server else (server.loop.name, client.name)
        if not client.alive or not network.passes(*ends):
            self.broken(RpcError(StatusCode.UNAVAILABLE, "the connection was lost"), at_once=False)
            return
        (server.loop if to_server else client).call_soon(arrive)

    # Arrived at the server.

    def _connect(self) -> None:
        server = self._server
        assert server is not None
        if self._broken is None:
            self._end = ServerEnd(self, server)
            server.calls[self] = None
            self._end.start()

    def _to_server(self, message: bytes) -> None:
        if self._end is not None:
            self._end.put(message)

    def _half_closed(self) -> None:
        if self._end is not None:
            self._end.half_closed()

    def _acknowledged(self) -> None:
        if self._end is not None:
            self._end.acknowledged()

    def _cancel_server(self) -> None:
        if self._end is not None:
            self._end.cancel()

    def server_finished(self) -> None:
        """For the server's end: it has let go."""
        if self._server is not None:
            self._server.calls.pop(self, None)
        if self._finished:
            self._network.calls.pop(self, None)

    # Arrived at the client.

    def _incoming_put(self, message: bytes) -> None:
        if not self._finished:
            self._incoming.put((message,))

    def _ended(self, error: RpcError | None) -> None:
        if not self._finished:
            self.finish()
            self._incoming.close(error or EOF)


class ServerEnd:
    """A call as its handler sees it: its context, and its iterator over requests.

    WINDOW: messages that a client may have unread before it stops the handler.
    """

    WINDOW: Final = 8

    def __init__(self, call: Call, server: Server) -> None:
        self.finished = False
        self._call = call
        self._server = server
        self._handler = server.handlers.by_path[call.method]
        self._incoming = Incoming(self._decode, _ignore)
        self._task: asyncio.Task[Any] | None = None
        self._unread = 0
        self._drain: list[Promise[None]] = []

    # What a handler may do.

    def invocation_metadata(self) -> Metadata:
        """The client's."""
        return self._call.metadata

    def peer(self) -> str:
        """Who calls."""
        return self._call.client.name

    def read(self) -> Promise[Any]:
        """The next request, or EOF."""
        return self._incoming.read()

    def __aiter__(self) -> ServerEnd:
        return self

    async def __anext__(self) -> Any:
        message = await self._incoming.read()
        if message is EOF:
            raise StopAsyncIteration
        return message

    @property
    def writable(self) -> bool:
        """Whether the client keeps up."""
        return not self.finished and self._unread < self.WINDOW

    def write(self, message: Any) -> _Write:
        """Send a response."""
        if self.finished:
            return _Write(self)
        self._unread += 1
        self._call.to_client(self._encode(message))
        return _Write(self)

    def drain(self) -> Promise[None]:
        """Resolved when more may be written."""
        if self.finished:
            return Promise.failed(RpcError(StatusCode.CANCELLED, "the call has ended"))
        if self.writable:
            return Promise.resolved(None)
        promise: Promise[None] = Promise()
        self._drain.append(promise)
        return promise

    def when_relieved(self, callback: Callable[[], None]) -> None:
        """Call back when the answer may be made: at once, or when the client has read more."""

        def relieved() -> None:
            if not self.finished:
                callback()

        chance = self._server.network.timeline.chance
        if chance.random() < 0.9:
            relieved()
        else:
            self._server.loop.call_later(chance.uniform(0.0, 0.1), relieved)

    @property
    def pressed(self) -> bool:
        """Whether a long answer should wait for room."""
        return self._server.network.timeline.chance.random() < 0.1

    waits_for_room = False

    def when_room(self, callback: Callable[[], None]) -> None:
        """Call back when a long answer may be made."""
        self.when_relieved(callback)

    # What happens to it.

    def start(self) -> None:
        """Call the handler of a method that takes a stream; others wait for their message."""
        if self._handler.request_streaming:
            self._invoke(self)

    def put(self, message: bytes) -> None:
        """A request has arrived."""
        if self.finished:
            return
        if self._handler.request_streaming:
            self._incoming.put((message,))
        else:
            self._invoke(self._decode(message))

    def half_closed(self) -> None:
        """No more requests."""
        self._incoming.close(EOF)

    def acknowledged(self) -> None:
        """The client has read one."""
        self._unread -= 1
        if self.writable:
            waiting, self._drain = self._drain, []
            for promise in waiting:
                promise.set_result(None)

    def cancel(self) -> None:
        """The client is gone."""
        if self.finished:
            return
        self._over()
        if self._task is not None:
            self._task.cancel()

    def _over(self) -> None:
        self.finished = True
        ended = RpcError(StatusCode.CANCELLED, "the call has ended")
        self._incoming.abandon(ended)
        waiting, self._drain = self._drain, []
        for promise in waiting:
            promise.set_exception(ended)
        self._call.server_finished()

    def _decode(self, message: bytes) -> Any:
        decode = self._handler.request_deserializer
        # As for gRPC: a method without a codec takes bytes.
        return message if decode is None else decode(message)

    def _encode(self, message: Any) -> bytes:
        encoded: bytes = message if type(message) is bytes else self._handler.response_serializer(message)
        return encoded

    def _invoke(self, argument: Any) -> None:
        handler = self._handler
        function = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
        try:
            result = function(argument, self)
        except Exception as error:
            self._fail(error)
            return
        if isinstance(result, Promise):
            result.then(self._settle)
        elif isinstance(result, Coroutine):
            self._task = self._server.loop.create_task(result)
            self._task.add_done_callback(self._returned)
        else:
            self._answer(result)

    def _settle(self, promise: Promise[Any]) -> None:
        error = promise.exception()
        if isinstance(error, Exception):
            self._fail(error)
        else:
            self._answer(promise.result())

    def _returned(self, task: asyncio.Task[Any]) -> None:
        if task.cancelled():
            return
        error = task.exception()
        if isinstance(error, Exception):
            self._fail(error)
        else:
            self._answer(task.result())

    def _answer(self, result: Any) -> None:
        if not self.finished:
            if not self._handler.response_streaming:
                self._call.to_client(self._encode(result))
            self._call.end_with(None)
            self._over()

    def _fail(self, error: Exception) -> None:
        status = error if isinstance(error, RpcError) else self._server.translate(error)
        if status is None:
            violation = Violation(f"{self._server.loop.name}: {self._call.method} failed: {error!r}")
            violation.__cause__ = error
            self._server.network.timeline.fail(violation)
            return
        if not self.finished:
            self._call.end_with(status)
            self._over()


class _Write:
    """What write() gives: false when no more should be written; awaited, it waits until it may."""

    def __init__(self, end: ServerEnd) -> None:
        self._end = end

    def __bool__(self) -> bool:
        return self._end.writable

    def __await__(self) -> Any:
        return self._end.drain().__await__()


def _proposes(message: bytes) -> bool:
    messages = decode_batch(unseal(message) if is_sealed(message) else message)
    return any(each.type == MessageType.PROP for each in messages)


def _damaged(message: bytes, chance: random.Random) -> bytes:
    """The message with a bit turned over, if it has a checksum by which that can be told."""
    if not is_sealed(message):
        return message
    # Behind the tag and the length, before the checksum: what the checksum covers.
    position = chance.randrange(len(message) // 2, len(message) - 5)
    return message[:position] + bytes((message[position] ^ 1 << chance.randrange(8),)) + message[position + 1 :]


def _same(message: bytes) -> bytes:
    return message


def _ignore(_: int) -> None:
    pass
