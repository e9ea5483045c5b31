"""A server's transport in the client, joined to its ClientConnection.

Compiled with what it builds on (loop.py); the channel (client.py), of which it knows what it tells it, is not.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from kvstore.rpc.client_call import ClientCall
from kvstore.rpc.client_connection import ClientConnection
from kvstore.rpc.loop import ConnectionProtocol, LoopHost

if TYPE_CHECKING:
    from kvstore.rpc.client import Channel


class ClientProtocol(ConnectionProtocol):
    """The server's transport, joined to its ClientConnection."""

    def __init__(self, channel: Channel, loop_host: LoopHost, established: asyncio.Future[None]) -> None:
        super().__init__(loop_host, channel.options.socket_buffer_bytes)
        self._channel = channel
        self._established = established
        # The same as `connection`, of which less is known.
        self.served: ClientConnection

    def make_connection(self) -> ClientConnection:
        self.served = connection = ClientConnection(self._channel.options, self)
        connection.dirty = True
        self.flush_later()
        return connection

    def ready(self) -> None:
        if not self._established.done():
            self._established.set_result(None)

    def unusable(self, reason: str) -> None:
        if not self._established.done():
            self._established.set_exception(ConnectionError(reason))
            # Whoever waits for it may have given up meanwhile, and then nobody is to hear of it.
            self._established.exception()
        self._channel.lost(self, reason)

    def again(self, call: ClientCall) -> None:
        self._channel.start(call)
