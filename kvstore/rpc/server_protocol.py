"""A client's transport on the server, joined to its ServerConnection.

What it does for every piece of bytes that arrives or leaves is compiled with the connection; listeners and the server
itself (server.py), of which it knows what it asks them for, are not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kvstore.rpc.authority import AuthorityRepair
from kvstore.rpc.loop import ConnectionProtocol, LoopHost
from kvstore.rpc.peer import auth_context_of, peer_of
from kvstore.rpc.server_connection import ServerConnection

if TYPE_CHECKING:
    from kvstore.rpc.server import Server

# What a transport may hold uncounted: nearly every answer is gone as soon as it is written.
_UNCOUNTED_BYTES: Final = 16384


class GoneConnection:
    """Stands for the connection of a transport that is gone: has nothing to say."""

    closed = True
    last_words = b""
    refused = 0
    unsent = 0
    waiting = 0

    def __init__(self) -> None:
        self.dirty = False

    def receive_data(self, data: bytes) -> None:
        """Nobody is there to take it."""

    @property
    def has_news(self) -> bool:
        """Never."""
        return False

    def data_to_send(self, amount: int) -> bytes:
        """Nothing."""
        return b""

    def connection_lost(self, reason: str) -> None:
        """It is known."""

    def touch(self) -> None:
        """There is nothing to send."""

    def admit(self) -> bool:
        """Nothing waits."""
        return False

    def drain(self) -> None:
        """Nobody is there to be told."""

    def finish_drain(self) -> None:
        """Nobody is there to be told."""

    def shut_down(self) -> None:
        """It is done."""


GONE = GoneConnection()


class GrpcProtocol(ConnectionProtocol):
    """One client's transport, joined to its ServerConnection."""

    def __init__(self, server: Server, loop_host: LoopHost) -> None:
        super().__init__(loop_host, server.options.socket_buffer_bytes)
        self._server = server
        self._repair: AuthorityRepair | None = AuthorityRepair()
        self._backlog = server.backlog
        self._refused = 0
        self._resting = False
        self.unread = 0
        # The same as `connection`, of which less is known.
        self.served: ServerConnection | GoneConnection = GONE

    def make_connection(self) -> ServerConnection:
        self._server.opened(self)
        self.served = made = ServerConnection(
            self._server.methods,
            self._server.options,
            self,
            peer=peer_of(self.transport),
            auth_context=auth_context_of(self.transport),
            translate=self._server.translate,
            pressed=self._server.is_pressed,
            crowded=self._server.crowded,
            unfinished=self._server.unfinished,
        )
        return made

    def flush(self) -> None:
        super().flush()
        if (
            self.unread
            or self._paused
            or self.served.unsent
            or self.transport.get_write_buffer_size() > _UNCOUNTED_BYTES
        ):
            self.grown()

    def grown(self) -> None:
        """Note what waits to be read."""
        self._backlog.note(self, self.measure())

    def measure(self) -> int:
        """Bytes that wait to be read."""
        transport = self.transport
        return 0 if transport.is_closing() else self.served.waiting + transport.get_write_buffer_size()

    def expel(self) -> None:
        """Its client reads nothing and others need the room."""
        self.transport.abort()

    def relieve(self) -> None:
        """There is room again for what it held back: that is looked for whenever it is flushed."""
        self.served.touch()

    def wait_for_room(self) -> None:
        """Its connection has an answer that waits for room."""
        self._backlog.queue(self)

    def admit(self) -> bool:
        """Make one answer that waits for room; whether more do."""
        return self.served.admit()

    def data_received(self, data: bytes) -> None:
        if self._repair is not None:
            data = self._repair.feed(data)
            if self._repair.done:
                self._repair = None
        super().data_received(data)
        if self.unread:
            # Some of it may have been read meanwhile, though nothing is to be written now.
            self.grown()
        if self.served.refused != self._refused:
            self._rest()

    def _rest(self) -> None:
        """Read nothing for a while: its client sends more than is taken, and refusing that must not become all work."""
        connection = self.served
        self._refused = connection.refused
        if connection.closed or isinstance(connection, GoneConnection) or self._resting:
            return
        self._resting = True
        self.transport.pause_reading()
        until = self._server.rest(self.now(), connection.clock() - connection.received_at)
        self._loop_host.loop.call_at(until, self._rested)

    def _rested(self) -> None:
        self._resting = False
        if not self._paused and not self.transport.is_closing():
            self.transport.resume_reading()

    def pause_writing(self) -> None:
        # A client that does not read gets nothing new to answer either. It cannot deadlock: what it must send for our
        # data to flow again is only needed once the socket has drained, and then reading resumes.
        super().pause_writing()
        self.transport.pause_reading()
        self.grown()

    def resume_writing(self) -> None:
        if not self._resting and not self.transport.is_closing():
            self.transport.resume_reading()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._backlog.leave(self)
        self._server.closed(self)
        # The two hold each other, and a client that left in the middle of a long answer leaves much behind.
        self.connection = self.served = GONE
