"""The HTTP/1.1 side of a member, loaded beside the loop once clients are served, or when somebody first asks for it.

What serves HTTP takes longer to import than a store of a million keys takes to open, and no gRPC client needs it.
Connections that come before it is there are kept waiting, not refused.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final, cast

from kvstore.server.config import Url

if TYPE_CHECKING:
    from kvstore.api.http import HttpServer

MODULE: Final = "kvstore.api.http"


class LateHttp:
    """Stands for an HttpServer until it is there. make: makes it; what it imports has been imported then."""

    def __init__(self, make: Callable[[], HttpServer]) -> None:
        self._make = make
        self._server: HttpServer | None = None
        self._loading: asyncio.Task[None] | None = None
        self._waiting: set[_Waiting] = set()

    async def start(
        self, urls: Iterable[Url], *, reuse_address: bool | None = None, reuse_port: bool | None = None
    ) -> None:
        """Listen on urls: at once and with everything loaded, if there are any. Raises OSError if one is taken."""
        wanted = list(urls)
        if wanted:
            self._server = self._make()
            await self._server.start(wanted, reuse_address=reuse_address, reuse_port=reuse_port)

    def load(self) -> None:
        """Begin to load, unless it is done or under way."""
        if self._server is None and self._loading is None:
            self._loading = asyncio.ensure_future(self._load())

    async def _load(self) -> None:
        # In a thread, which gets the interpreter for a millisecond at a time: calls go on meanwhile.
        await asyncio.to_thread(importlib.import_module, MODULE)
        server = self._make()
        await server.start()
        self._server = server
        waiting, self._waiting = self._waiting, set()
        for connection in waiting:
            connection.hand_over(server.protocol())

    def protocol(self) -> asyncio.Protocol:
        """A protocol for one connection that was accepted elsewhere."""
        if self._server is not None:
            return self._server.protocol()
        self.load()
        return _Waiting(self)

    def arrived(self, connection: _Waiting) -> None:
        """A connection stands; the server may have come since its protocol was made."""
        if self._server is not None:
            connection.hand_over(self._server.protocol())
        else:
            self._waiting.add(connection)

    def lost(self, connection: _Waiting) -> None:
        """A connection ended before the server came."""
        self._waiting.discard(connection)

    async def stop(self) -> None:
        """Close every listener and, after what is under way, every connection."""
        if self._loading is not None:
            await self._loading
        if self._server is not None:
            await self._server.stop()


class _Waiting(asyncio.Protocol):
    """A connection that came too early."""

    def __init__(self, http: LateHttp) -> None:
        self._http = http
        self._received = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are none of asyncio's classes.
        self._transport = cast(asyncio.Transport, transport)
        self._http.arrived(self)

    def data_received(self, data: bytes) -> None:
        self._received += data
        # One request is all that a client sends before it has an answer; more can stay with the system.
        self._transport.pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._http.lost(self)

    def hand_over(self, protocol: asyncio.Protocol) -> None:
        """Let `protocol` have the connection, for good."""
        if self._transport.is_closing():
            return
        self._transport.set_protocol(protocol)
        protocol.connection_made(self._transport)
        if self._received:
            protocol.data_received(self._received)
        self._transport.resume_reading()
