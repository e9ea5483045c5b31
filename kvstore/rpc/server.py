"""The asyncio side of the server: listeners, transports, the timer, and the flush at the end of a turn.

Each connection's transport is written once per turn of the loop, whatever happened in it: at the end of data_received
for what was answered at once, and after the turn for what was resolved elsewhere. Knows nothing of any service.
"""

import asyncio
import logging
import ssl as tls
import time
from collections.abc import Callable, Iterable, Mapping
from typing import cast

from kvstore.rpc.backlog import Backlog, Unfinished, Warnings
from kvstore.rpc.deadlines import Bucket
from kvstore.rpc.h2 import PREFACE
from kvstore.rpc.loop import LoopHost
from kvstore.rpc.method import GenericHandler, MethodTable, RpcMethodHandler
from kvstore.rpc.observer import Observer, Unobserved
from kvstore.rpc.options import ServerOptions
from kvstore.rpc.server_protocol import GrpcProtocol
from kvstore.rpc.status import RpcError

logger = logging.getLogger(__name__)

# How long a client may take to hear that we are leaving, before streams it opens are refused.
_DRAIN_NOTICE_SECONDS = 1.0

# Refusing calls takes at most one part of the time in so many and one.
_REST_FACTOR = 2.0

# Long answers that wait for room are let in at this pace even without it: those who read slowly must not keep out the
# others for good.
_SECONDS_BETWEEN_TURNS = 0.05

Http1Factory = Callable[[], asyncio.Protocol]


class SniffingProtocol(asyncio.Protocol):
    """Reads the first bytes of a connection and hands it to HTTP/2 or to HTTP/1.1 for good."""

    def __init__(self, server: "Server", loop_host: LoopHost) -> None:
        self._server = server
        self._loop_host = loop_host
        self._received = b""
        self._bucket: Bucket | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if self._server.is_full(self._transport):
            self._transport.abort()
            return
        self._server.sniffing.add(self)
        options = self._server.options
        self._bucket = self._loop_host.expire_at(self._loop_host.now() + options.preface_timeout, self)

    def expire(self) -> None:
        """It has not said what it speaks in time."""
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        received = self._received = self._received + data
        if received.startswith(PREFACE):
            self._hand_over(GrpcProtocol(self._server, self._loop_host))
        elif not PREFACE.startswith(received):
            http1 = self._server.http1_factory
            if http1 is not None and not received.startswith(PREFACE[:16]):
                self._hand_over(http1())
            elif self._transport is not None:
                self._forget()
                self._transport.abort()

    def _forget(self) -> None:
        self._server.sniffing.discard(self)
        if self._bucket is not None:
            self._bucket.pop(self, None)
            self._bucket = None

    def _hand_over(self, protocol: asyncio.Protocol) -> None:
        transport, self._transport = self._transport, None
        assert transport is not None
        self._forget()
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        protocol.data_received(self._received)

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        self._transport = None


class Server:
    """A gRPC server: methods, listeners, connections.

    options: limits and times. observer: gives out the counters of each method. http1_factory: makes the protocol of a
    connection that does not speak HTTP/2 (aiohttp's web.Server is one); without it such connections are closed.
    translate: makes a status of a handler's exception that is not an RpcError; None if it knows none.
    crowded: whether so much is to be done that clients with many calls in flight are refused further ones.
    give_back: called when many answers had waited to be read and most of them are gone.

    Servicers are added by generated code: add_KVServicer_to_server(servicer, server).
    """

    def __init__(
        self,
        options: ServerOptions | None = None,
        *,
        observer: Observer | None = None,
        http1_factory: Http1Factory | None = None,
        translate: Callable[[Exception], RpcError | None] | None = None,
        crowded: Callable[[], bool] = lambda: False,
        give_back: Callable[[], None] = lambda: None,
    ) -> None:
        self.options = options or ServerOptions()
        self.methods = MethodTable(observer or Unobserved())
        self.http1_factory = http1_factory
        self.translate = translate
        self.crowded = crowded
        self._listeners: list[asyncio.Server] = []
        self._protocols: set[GrpcProtocol] = set()
        # Connections that have not said what they speak. For the server's own protocols.
        self.sniffing: set[SniffingProtocol] = set()
        self._loop_host: LoopHost | None = None
        now = time.monotonic
        limit, most = self.options.unread_bytes, self.options.unread_most_bytes
        self.unfinished = Unfinished(self.options.unfinished_bytes)
        self.backlog = Backlog(limit, most, now, freed=give_back, needs_turns=self._begin_turns)
        self._turns: asyncio.Handle | None = None
        self._full = Warnings(now)
        self._resting_until = 0.0
        self._all_closed = asyncio.Event()
        self._all_closed.set()

    def add_generic_rpc_handlers(self, handlers: Iterable[GenericHandler]) -> None:
        """For generated code, and for handlers that find methods of their own accord."""
        self.methods.add_generic_rpc_handlers(handlers)

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, RpcMethodHandler]) -> None:
        """For generated code."""
        self.methods.add_registered_method_handlers(service, handlers)

    @property
    def connections(self) -> int:
        """Open HTTP/2 connections."""
        return len(self._protocols)

    def rest(self, now: float, spent: float) -> float:
        """Until when a connection rests whose refused calls have taken so many seconds.

        One after the other, whatever their number: together they get the same share of the time.
        """
        self._resting_until = max(now, self._resting_until) + _REST_FACTOR * spent
        return self._resting_until

    def is_pressed(self) -> bool:
        """Whether so many answers wait to be read on all connections that long ones should wait for room."""
        return self.backlog.pressed

    def _begin_turns(self) -> None:
        if self._turns is None:
            self._turns = asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        again = self.backlog.turn()
        self._turns = None
        if again:
            pause = _SECONDS_BETWEEN_TURNS if self.backlog.pressed else 0.0
            self._turns = asyncio.get_running_loop().call_later(pause, self._turn)

    def is_full(self, transport: asyncio.Transport) -> bool:
        """Whether a new connection is one too many; says so in the log."""
        highest = self.options.highest_descriptor
        sock = transport.get_extra_info("socket") if highest else None
        # A process is given the lowest descriptor that is free.
        if sock is None or sock.fileno() <= highest:
            return False
        self._full.warn(f"too many connections: refused one, {self.connections} are open")
        return True

    def protocol_factory(self) -> asyncio.Protocol:
        """The protocol of a new connection, for listeners that are opened elsewhere. Call it on the loop."""
        loop = asyncio.get_running_loop()
        if self._loop_host is None:
            self._loop_host = LoopHost(loop)
        return SniffingProtocol(self, self._loop_host)

    async def listen(
        self,
        host: str | None,
        port: int,
        *,
        ssl: tls.SSLContext | None = None,
        reuse_port: bool = False,
        backlog: int = 1024,
    ) -> int:
        """Serve on TCP. host: an address, a name, or None for all interfaces. port: 0 takes a free one.

        ssl: a server context; its ALPN protocols are set here. Returns the port (of the first address, where several
        are bound with port 0). Raises OSError if it cannot be bound.
        """
        loop = asyncio.get_running_loop()
        listener = await loop.create_server(
            self.protocol_factory,
            host,
            port,
            ssl=_with_alpn(ssl, self.http1_factory is not None),
            ssl_handshake_timeout=self.options.preface_timeout if ssl else None,
            reuse_address=True,
            reuse_port=reuse_port,
            backlog=backlog,
        )
        self._listeners.append(listener)
        bound: int = listener.sockets[0].getsockname()[1]
        return bound

    async def listen_unix(self, path: str, *, ssl: tls.SSLContext | None = None, backlog: int = 1024) -> None:
        """Serve on a unix socket. Raises OSError if it cannot be bound."""
        loop = asyncio.get_running_loop()
        listener = await loop.create_unix_server(
            self.protocol_factory,
            path,
            ssl=_with_alpn(ssl, self.http1_factory is not None),
            ssl_handshake_timeout=self.options.preface_timeout if ssl else None,
            backlog=backlog,
        )
        self._listeners.append(listener)

    def opened(self, protocol: GrpcProtocol) -> None:
        self._protocols.add(protocol)
        self._all_closed.clear()

    def closed(self, protocol: GrpcProtocol) -> None:
        self._protocols.discard(protocol)
        if not self._protocols:
            self._all_closed.set()

    async def stop(self, grace: float | None = None) -> None:
        """Stop listening, let calls in flight finish for up to `grace` seconds, cancel the rest, close.

        New calls on open connections are served until the client has heard of the shutdown (GOAWAY). Without grace
        calls are cancelled at once. May be called again, to shorten the wait.
        """
        listeners, self._listeners = self._listeners, []
        for listener in listeners:
            listener.close()
        for undecided in list(self.sniffing):
            undecided.expire()
        if grace:
            for protocol in list(self._protocols):
                protocol.served.drain()
            await self._wait_closed(min(grace, _DRAIN_NOTICE_SECONDS))
            for protocol in list(self._protocols):
                protocol.served.finish_drain()
            await self._wait_closed(max(0.0, grace - _DRAIN_NOTICE_SECONDS))
        if self._turns is not None:
            self._turns.cancel()
        for protocol in list(self._protocols):
            protocol.served.shut_down()
        if not await self._wait_closed(1.0):
            for protocol in list(self._protocols):
                protocol.transport.abort()
            await self._all_closed.wait()

    async def _wait_closed(self, seconds: float) -> bool:
        try:
            await asyncio.wait_for(self._all_closed.wait(), seconds)
        except TimeoutError:
            return False
        return True


def _with_alpn(context: tls.SSLContext | None, http1: bool) -> tls.SSLContext | None:
    if context is not None:
        context.set_alpn_protocols(["h2", "http/1.1"] if http1 else ["h2"])
    return context
