"""One port for grpcio's server and the HTTP/1.1 server, which cannot share one themselves.

The first bytes of a connection tell what it speaks: HTTP/2 is passed on, byte by byte, to grpcio's server behind a unix
socket, everything else is handed to the HTTP/1.1 server. That costs a copy each way, which kvstore.rpc's own server
does not need.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final, cast

from kvstore.rpc.h2 import PREFACE
from kvstore.rpc.server import Http1Factory
from kvstore.server.config import Url

FIRST_BYTES_SECONDS: Final = 20.0
"""A connection that has not said by then what it speaks is closed."""


class Front:
    """Listeners whose connections go to one of two servers.

    http1: makes the protocol of a connection that speaks HTTP/1.1. socket: where grpcio's server is to listen; in a
    directory that only this user can enter.
    """

    def __init__(self, http1: Http1Factory) -> None:
        self.http1 = http1
        # Not in the data directory, whose path may be longer than the 107 bytes that a socket's name has.
        self._directory = tempfile.TemporaryDirectory(prefix="kvstore-")
        self.socket = Path(self._directory.name) / "grpc"
        self._listeners: list[asyncio.Server] = []
        self.connecting: set[asyncio.Task[None]] = set()

    async def open(self, urls: Sequence[Url], *, reuse_port: bool) -> list[Url]:
        """Listen, once grpcio's server does: the URLs with the ports that were taken. Raises OSError."""
        loop = asyncio.get_running_loop()
        bound = []
        for url in urls:
            listener = await loop.create_server(
                lambda: _Arrival(self), url.host or None, url.port, reuse_port=reuse_port, reuse_address=True
            )
            self._listeners.append(listener)
            bound.append(Url(url.scheme, url.host, listener.sockets[0].getsockname()[1]))
        return bound

    def stop_listening(self) -> None:
        """Take no new connections; those that are there go on until one side closes them."""
        for listener in self._listeners:
            listener.close()

    def close(self) -> None:
        """Clean up, once grpcio's server is stopped."""
        self.stop_listening()
        for task in self.connecting:
            task.cancel()
        self._directory.cleanup()


class _Arrival(asyncio.Protocol):
    """Reads the first bytes of a connection and hands it on for good."""

    def __init__(self, front: Front) -> None:
        self._front = front
        self._received = b""
        self._transport: asyncio.Transport
        self._timer: asyncio.TimerHandle

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are none of asyncio's classes.
        self._transport = cast(asyncio.Transport, transport)
        self._timer = asyncio.get_running_loop().call_later(FIRST_BYTES_SECONDS, self._transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        self._received += data
        if self._received.startswith(PREFACE):
            self._timer.cancel()
            self._transport.pause_reading()
            task = asyncio.ensure_future(self._pass_on())
            self._front.connecting.add(task)
            task.add_done_callback(self._front.connecting.discard)
        elif not PREFACE.startswith(self._received):
            self._timer.cancel()
            self._hand_over(self._front.http1())

    async def _pass_on(self) -> None:
        client_side, server_side = _Pipe(), _Pipe()
        client_side.other, server_side.other = server_side, client_side
        # The server speaks as soon as it is connected, which is before this function goes on.
        client_side.connection_made(self._transport)
        try:
            await asyncio.get_running_loop().create_unix_connection(lambda: server_side, str(self._front.socket))
        except OSError:
            self._transport.abort()
            return
        self._hand_over(client_side)
        if self._transport.is_closing():
            client_side.connection_lost(None)
        else:
            self._transport.resume_reading()

    def _hand_over(self, protocol: asyncio.Protocol) -> None:
        self._transport.set_protocol(protocol)
        protocol.connection_made(self._transport)
        protocol.data_received(self._received)


class _Pipe(asyncio.Protocol):
    """One end of a connection that is passed on: what arrives here leaves at the other, at the other's pace."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport
        self.other: _Pipe

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.other.transport.write(data)

    def pause_writing(self) -> None:
        self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        self.other.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self.other.transport.close()
