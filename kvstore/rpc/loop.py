"""What connections need of an asyncio loop: tasks, one timer for all deadlines, one write per connection and turn.

The same for servers and clients; knows nothing of gRPC.
"""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, Protocol, cast

from kvstore.rpc.deadlines import Bucket, DeadlineWheel, Expiring

logger = logging.getLogger(__name__)

# Most bytes taken from a connection at once: enough for a turn's answers, little enough to notice a full socket and not
# to ask the system for fresh pages each time (malloc maps what is above 128 KiB).
_CHUNK_BYTES = 64 << 10
# How long a peer may take to read what is left when its connection is closed.
_CLOSE_SECONDS = 5.0


class LoopHost:
    """A loop as connections use it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.now = loop.time
        self._dirty: list[ConnectionProtocol] = []
        self._wheel = DeadlineWheel()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = float("inf")
        self._tasks: set[asyncio.Task[None]] = set()

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a coroutine beside everything else."""
        task = self.loop.create_task(coroutine)
        # The loop itself keeps only weak references to tasks.
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def flush_soon(self, protocol: "ConnectionProtocol") -> None:
        """Flush a protocol when this turn of the loop is over."""
        if not self._dirty:
            self.loop.call_soon(self._flush_all)
        self._dirty.append(protocol)

    def _flush_all(self) -> None:
        protocols, self._dirty = self._dirty, []
        for protocol in protocols:
            try:
                protocol.flush()
            except Exception:
                # One connection's trouble must not keep the others from being written.
                logger.exception("a connection cannot be written and is closed")
                protocol.transport.abort()

    def expire_at(self, deadline: float, item: Expiring) -> Bucket:
        """Have item expire at a time of the loop's clock; to withdraw it, pop it from the bucket."""
        bucket = self._wheel.add(deadline, item)
        if deadline < self._timer_at:
            self._arm()
        return bucket

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        at = self._wheel.next()
        self._timer_at = float("inf") if at is None else at
        if at is not None:
            self._timer = self.loop.call_at(at, self._sweep)

    def _sweep(self) -> None:
        self._timer = None
        # Whatever is added while others expire is found by the _arm below.
        self._timer_at = float("-inf")
        self._wheel.sweep(self.loop.time())
        self._arm()


class Connection(Protocol):
    """The sans-I/O end of a connection, as its transport sees it."""

    # A flush is due; whoever sets it has asked for it.
    dirty: bool
    # To be closed once data_to_send and last_words are written.
    closed: bool
    last_words: bytes

    def receive_data(self, data: bytes) -> None: ...

    @property
    def has_news(self) -> bool:
        """Whether data_to_send would give anything, or the connection is to be closed."""

    def data_to_send(self, amount: int) -> bytes: ...

    def connection_lost(self, reason: str) -> None: ...


class ConnectionProtocol(asyncio.Protocol):
    """A transport joined to a connection: feeds it, and writes what it has to say once per turn of the loop."""

    def __init__(self, loop_host: LoopHost, socket_buffer_bytes: int) -> None:
        self._loop_host = loop_host
        self._socket_buffer_bytes = socket_buffer_bytes
        self._paused = False
        self._closing: Bucket | None = None
        self.now = loop_host.now
        self.spawn = loop_host.spawn
        self.expire_at = loop_host.expire_at
        self.transport: asyncio.Transport
        self.connection: Connection

    def make_connection(self) -> Connection:
        """Make the connection of a transport that is now there."""
        raise NotImplementedError

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the methods, not the base class.
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=self._socket_buffer_bytes)
        self.connection = self.make_connection()

    def data_received(self, data: bytes) -> None:
        connection = self.connection
        # What is said within this call is written at its end; no flush needs to be asked for.
        connection.dirty = True
        connection.receive_data(data)
        if connection.has_news:
            self.flush()
        else:
            connection.dirty = False

    def flush_later(self) -> None:
        """The connection has something to say."""
        self._loop_host.flush_soon(self)

    def flush(self) -> None:
        """Write what the connection has to say, as far as the socket takes it."""
        connection = self.connection
        connection.dirty = False
        transport = self.transport
        while not self._paused:
            data = connection.data_to_send(_CHUNK_BYTES)
            if data:
                transport.write(data)
            if len(data) < _CHUNK_BYTES:
                break
        if connection.closed:
            self._close()

    def _close(self) -> None:
        transport = self.transport
        if transport.is_closing():
            return
        if self._paused:
            # The peer does not read: it would not hear the last words either.
            transport.abort()
            return
        if self.connection.last_words:
            transport.write(self.connection.last_words)
        transport.close()
        self._closing = self.expire_at(self.now() + _CLOSE_SECONDS, self)

    def expire(self) -> None:
        """The peer has not taken what was said last."""
        self.transport.abort()

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self.flush()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._paused = True
        if self._closing is not None:
            self._closing.pop(self, None)
            self._closing = None
        self.connection.connection_lost(str(exc) if exc else "the peer closed the connection")
