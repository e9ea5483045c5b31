"""The sending of a server's connection: what is to be written, and what waits until its client has read more.

A connection is one object and three classes, one a module: SendingConnection, AnsweringConnection, which ends calls
with it, and ServerConnection, which receives and starts them. One object, because each call would pay for the way
between several; each class knows nothing of those that build on it. This one knows streams and bytes, and of calls only
that those which stream wait for room.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Protocol

from kvstore.rpc.h2 import Engine
from kvstore.rpc.keepalive import Timer
from kvstore.rpc.options import ServerOptions

if TYPE_CHECKING:
    from kvstore.rpc.call import StreamCall


class Host(Timer, Protocol):
    """What a connection needs of the program that owns its socket."""

    def flush_later(self) -> None:
        """There is something to send: write data_to_send once this turn of the loop is over."""

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Future[None]:
        """Run a coroutine beside everything else; cancelling the result cancels it."""

    def grown(self) -> None:
        """A long answer was added to what waits to be read."""

    def wait_for_room(self) -> None:
        """Call admit once there is room on the server for a long answer, or when it is this connection's turn."""


class SendingConnection:
    """What one connection still has to send, and whom it keeps waiting for that.

    pressed: whether so many answers wait on all connections that a client must read one before it gets another, and
        that long ones wait for room.
    """

    __slots__ = (
        "_engine",
        "_for_room",
        "_waiting",
        "blocked",
        "closed",
        "dirty",
        "failed",
        "host",
        "options",
        "pressed",
        "queued",
        "send_data",
        "send_response",
        "send_trailers",
        "unsent",
    )

    def __init__(self, options: ServerOptions, host: Host, pressed: Callable[[], bool]) -> None:
        self.options = options
        self.host = host
        self.pressed = pressed
        self._engine = engine = Engine.server(options.h2_limits())
        self.queued = engine.queued
        self.send_response = engine.send_response
        self.send_data = engine.send_data
        self.send_trailers = engine.send_trailers
        # Streams with somebody waiting in drain().
        self.blocked: dict[StreamCall, None] = {}
        # Whose answers are made when the client has read those before.
        self._waiting: deque[Callable[[], None]] = deque()
        # Whose answers are made when there is room for long ones on the server.
        self._for_room: deque[Callable[[], None]] = deque()
        # Bytes of DATA that were left after the last flush.
        self.unsent = 0
        # A flush is due; whoever sets it has asked the host for it.
        self.dirty = False
        # The engine can do nothing any more.
        self.failed = False
        # To be closed once everything is written.
        self.closed = False

    def touch(self) -> None:
        """There is something to send."""
        if not self.dirty:
            self.dirty = True
            self.host.flush_later()

    def has_room(self, stream_id: int) -> bool:
        queued = self.queued(stream_id)
        if queued >= self.options.stream_buffer_bytes:
            return False
        on_all = self.queued()
        if not on_all:
            return True
        return (queued == 0 or on_all < self.options.connection_buffer_bytes) and not self.pressed()

    @property
    def congested(self) -> bool:
        """Whether the client leaves so much unread that no further answer should be made for it now."""
        queued = 0 if self.failed else self.queued()
        return queued > 0 and (queued >= self.options.connection_buffer_bytes or self.pressed())

    def when_relieved(self, callback: Callable[[], None]) -> None:
        """Call back once the client has read enough, at once if it has; never if the connection ends."""
        if self._waiting or self.congested:
            self._waiting.append(callback)
        else:
            callback()

    def when_room(self, callback: Callable[[], None]) -> None:
        """Call back when the server has room for a long answer, at once if it has; never if the connection ends."""
        if self._for_room or self.pressed():
            self._for_room.append(callback)
            self.host.wait_for_room()
        else:
            callback()

    @property
    def waits_for_room(self) -> bool:
        """Whether answers wait for room."""
        return bool(self._for_room)

    def admit(self) -> bool:
        """Make one of the answers that wait for room, whether there is any or not; whether more wait."""
        if self._for_room:
            self._for_room.popleft()()
        return bool(self._for_room)

    def go_on(self) -> None:
        """Something was sent: wake those for whom there is room now."""
        for call in [call for call in self.blocked if call.writable]:
            del self.blocked[call]
            call.resume()
        while self._waiting and not self.congested:
            self._waiting.popleft()()

    def forget_waiting(self) -> None:
        """Nothing is sent any more: nobody need wait for that."""
        self.unsent = 0
        self.blocked.clear()
        self._waiting.clear()
        self._for_room.clear()
