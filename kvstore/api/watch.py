"""The Watch service: one stream of requests and responses for many watches, and what drives those that lag behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

from kvstore.mvcc.watch import WatchHub, WatchStream
from kvstore.pb import rpc_pb2 as pb
from kvstore.pb.rpc_pb2_grpc import WatchServicer
from kvstore.rpc import Promise

LOOK_SECONDS: Final = 0.1
"""How often watches that lag for reasons of the store (a snapshot replaced it) are looked for."""


class CatchUp:
    """Catches lagging watches up, a step in each turn of the loop, and tells idle ones of progress.

    progress_interval: seconds between two times that watches which asked for it are told.
    """

    def __init__(self, hub: WatchHub, progress_interval: float) -> None:
        self.hub = hub
        self._progress_interval = progress_interval
        self._loop = asyncio.get_running_loop()
        self._scheduled = False
        self._look_timer: asyncio.TimerHandle | None = None
        self._progress_timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin."""
        self._look()
        self._progress_timer = self._loop.call_later(self._progress_interval, self._report_progress)

    def stop(self) -> None:
        """End."""
        for timer in (self._look_timer, self._progress_timer):
            if timer is not None:
                timer.cancel()

    def wake(self) -> None:
        """A watch may have something to catch up with."""
        if not self._scheduled and self.hub.behind:
            self._scheduled = True
            self._loop.call_soon(self._step)

    def _step(self) -> None:
        self._scheduled = False
        if self.hub.sync():
            self.wake()

    def _look(self) -> None:
        self._look_timer = self._loop.call_later(LOOK_SECONDS, self._look)
        self.wake()

    def _report_progress(self) -> None:
        self._progress_timer = self._loop.call_later(self._progress_interval, self._report_progress)
        self.hub.report_progress()


class WatchService(WatchServicer):
    """Opens a stream of the store's watches for each call."""

    def __init__(self, catch_up: CatchUp) -> None:
        self._catch_up = catch_up

    async def Watch(self, requests: AsyncIterator[pb.WatchRequest], context: Any) -> None:
        """Create and cancel watches, tell of progress; until the call ends, for it may be half-closed long before."""
        catch_up = self._catch_up
        stream = CallSink(context, catch_up.wake).open(catch_up.hub)
        try:
            async for request in requests:
                _take(request, stream)
                catch_up.wake()
                # Answers are always sent: a client that asks and does not read must not be asked for more.
                if not context.writable:
                    await context.drain()
            await asyncio.get_running_loop().create_future()
        finally:
            stream.close()


def _take(request: pb.WatchRequest, stream: WatchStream) -> None:
    kind = request.WhichOneof("request_union")
    if kind == "create_request":
        stream.create(request.create_request)
    elif kind == "cancel_request":
        stream.cancel(request.cancel_request.watch_id)
    elif kind == "progress_request":
        stream.request_progress()


class CallSink:
    """Responses of watches, written to a call. resumed: called when the call can take more again."""

    __slots__ = ("_context", "_draining", "_resumed", "_stream", "_write")

    def __init__(self, context: Any, resumed: Callable[[], None]) -> None:
        self._context = context
        self._write = context.write
        self._resumed = resumed
        self._draining = False
        self._stream: WatchStream | None = None

    def open(self, hub: WatchHub) -> WatchStream:
        """A stream of watches that writes here."""
        self._stream = stream = hub.open(self)
        return stream

    @property
    def writable(self) -> bool:
        """Whether more should be sent."""
        return bool(self._context.writable)

    def send(self, message: bytes, /) -> None:
        """Write a message; when it fills the buffer, the stream is resumed once there is room."""
        if not self._write(message) and not self._draining:
            self._draining = True
            self._context.drain().then(self._drained)

    def _drained(self, drained: Promise[None]) -> None:
        self._draining = False
        # With an exception the call is over, and the handler closes the stream.
        if drained.exception() is None and self._stream is not None:
            self._stream.resume()
            self._resumed()
