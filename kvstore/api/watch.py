"""The Watch service: one stream of requests and responses for many watches."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from kvstore.mvcc.watch import WatchHub, WatchStream
from kvstore.pb import rpc_pb2 as pb
from kvstore.pb.rpc_pb2_grpc import WatchServicer
from kvstore.rpc import Promise
from kvstore.server.member import Member


class WatchService(WatchServicer):
    """Opens a stream of the store's watches for each call."""

    def __init__(self, member: Member) -> None:
        self._member = member

    async def Watch(self, requests: AsyncIterator[pb.WatchRequest], context: Any) -> None:
        """Create and cancel watches, tell of progress; until the call ends, for it may be half-closed long before."""
        sink = CallSink(context)
        stream = sink.open(self._member.store.watches)
        try:
            async for request in requests:
                _take(request, stream)
                # Answers are always sent: a client that asks and does not read must not be asked for more.
                if not context.writable:
                    await context.drain()
            await asyncio.get_running_loop().create_future()
        finally:
            stream.close()
            sink.close()


def _take(request: pb.WatchRequest, stream: WatchStream) -> None:
    kind = request.WhichOneof("request_union")
    if kind == "create_request":
        stream.create(request.create_request)
    elif kind == "cancel_request":
        stream.cancel(request.cancel_request.watch_id)
    elif kind == "progress_request":
        stream.request_progress()


class CallSink:
    """Responses of watches, written to a call; says by itself when the call can take more again."""

    __slots__ = ("_context", "_draining", "_stream", "_write")

    def __init__(self, context: Any) -> None:
        self._context = context
        self._write = context.write
        self._draining = False
        self._stream: WatchStream | None = None

    def open(self, hub: WatchHub) -> WatchStream:
        """A stream of watches that writes here."""
        self._stream = stream = hub.open(self)
        return stream

    def close(self) -> None:
        """Let go of the stream, which holds this: what waits for a client that has left is then free at once."""
        self._stream = None

    @property
    def writable(self) -> bool:
        """Whether more should be sent; if not, the stream is resumed once it should."""
        if self._context.writable:
            return True
        self._wait()
        return False

    def send(self, message: bytes, /) -> None:
        """Write a message; when it fills the buffer, the stream is resumed once there is room."""
        if not self._write(message):
            self._wait()

    def _wait(self) -> None:
        # Not only where a message fills the buffer: other streams of the connection, or of others, fill it as well.
        if not self._draining:
            self._draining = True
            self._context.drain().then(self._drained)

    def _drained(self, drained: Promise[None]) -> None:
        self._draining = False
        # With an exception the call is over, and the handler closes the stream.
        if drained.exception() is None and self._stream is not None:
            self._stream.resume()
