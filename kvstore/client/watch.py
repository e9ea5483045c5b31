"""Following changes to keys, over broken connections too.

A watcher has a gRPC stream of its own. Sharing one among watchers would save streams, but a consumer that does not
read would then hold up its neighbours or fill memory; this way flow control stops the server from sending to it, and
to nobody else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from enum import IntEnum
from types import TracebackType
from typing import Self

import grpc
import grpc.aio

from kvstore.client import errors, rpcs
from kvstore.client.keys import Target, as_range
from kvstore.client.results import Event, Header, WatchResponse
from kvstore.client.transport import (
    REQUIRE_LEADER,
    Backoff,
    Deadline,
    Transport,
    ended_by_closing,
    error_of,
    is_stale_login,
)
from kvstore.pb import rpc_pb2

_RESUMABLE = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)

Stream = grpc.aio.StreamStreamCall[rpc_pb2.WatchRequest, rpc_pb2.WatchResponse]


class Filter(IntEnum):
    """Events that a watch shall leave out."""

    NO_PUT = 0
    NO_DELETE = 1


class Watcher:
    """The changes of a key or range, as an async iterator of `WatchResponse`; made by `Client.watch`.

    ::

        async with client.watch(prefix("jobs/"), start_revision=42) as changes:
            async for response in changes:
                for event in response.events: ...

    Entering returns when the server has the watch: what happens after that is seen. When the connection breaks, the
    watcher goes to another member and on from the next revision, so that nothing is missed or told twice; it waits
    for a member as long as it takes. Cancelling an `anext` (a timeout around it, say) loses nothing either.

    Iterating raises Compacted (with `compact_revision`) if the history asked for is gone, WatchCanceled and other
    server errors if the server refuses the watch, NoLeader if it was made with `require_leader` and the member loses
    its leader. It is over then.
    """

    def __init__(
        self,
        transport: Transport,
        target: Target,
        *,
        start_revision: int,
        prev_kv: bool,
        progress_notify: bool,
        filters: Iterable[Filter],
        require_leader: bool,
    ) -> None:
        keys = as_range(target)
        self._transport = transport
        # Fragments keep one message small whatever the size of a revision; they are put together again here.
        self._create = rpc_pb2.WatchCreateRequest(
            key=keys.key,
            range_end=keys.end,
            start_revision=start_revision,
            prev_kv=prev_kv,
            progress_notify=progress_notify,
            filters=[rpc_pb2.WatchCreateRequest.FilterType.ValueType(each) for each in filters],
            fragment=True,
        )
        self._require_leader = require_leader
        self._stream: Stream | None = None
        self._fragments: list[Event] = []
        self._backoff = Backoff()
        self._progress_wanted = False
        self._over = False
        self.header = Header()
        """Of the newest answer, that which ended the watch included."""

    @property
    def next_revision(self) -> int:
        """The revision from which the watch would go on; 0 before the server has answered a watch from now on."""
        return self._create.start_revision

    async def request_progress(self) -> None:
        """Ask for a response without events that tells how far the watch has come; it arrives in turn.

        While the watch is not established, the request waits for that; this call does not.
        """
        self._progress_wanted = True
        if self._stream is not None:
            await self._send_progress_request(self._stream)

    async def close(self) -> None:
        """End the watch. Iterating it then ends."""
        self._over = True
        self._drop()

    async def __aenter__(self) -> Self:
        await self._established()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> WatchResponse:
        while not self._over:
            answer = await self._read(await self._established())
            if answer is None:
                continue
            if answer.canceled:
                self._over = True
                self._drop()
                raise _cancellation(answer)
            if answer.fragment:
                self._fragments += map(Event.from_pb, answer.events)
                continue
            return self._deliver(answer)
        raise StopAsyncIteration

    def _deliver(self, answer: rpc_pb2.WatchResponse) -> WatchResponse:
        events = (*self._fragments, *map(Event.from_pb, answer.events))
        self._fragments.clear()
        self._backoff.reset()
        reached = events[-1].kv.mod_revision if events else answer.header.revision
        self._create.start_revision = max(self._create.start_revision, reached + 1)
        return WatchResponse(self.header, events)

    async def _established(self) -> Stream:
        """The stream with the watch on it, made anew if need be."""
        while self._stream is None:
            extra = REQUIRE_LEADER if self._require_leader else ()
            try:
                stream = await self._transport.open_stream(rpcs.WATCH, extra, Deadline(None))
            except grpc.aio.AioRpcError as status:
                await self._resume_or_raise(status)
                continue
            await _send(stream, rpc_pb2.WatchRequest(create_request=self._create))
            answer = await self._read(stream)
            if answer is None:
                continue
            if answer.canceled:
                stream.cancel()
                self._over = True
                raise _cancellation(answer)
            if self._create.start_revision == 0:
                self._create.start_revision = answer.header.revision + 1
            self._stream = stream
            if self._progress_wanted:
                await self._send_progress_request(stream)
        return self._stream

    async def _send_progress_request(self, stream: Stream) -> None:
        self._progress_wanted = False
        await _send(stream, rpc_pb2.WatchRequest(progress_request=rpc_pb2.WatchProgressRequest()))

    async def _read(self, stream: Stream) -> rpc_pb2.WatchResponse | None:
        """The next answer; None if the stream has ended in a way that a new one can go on from."""
        try:
            answer = await stream.read()
        except asyncio.CancelledError:
            self._drop()  # gRPC ends a stream whose read was cancelled.
            if ended_by_closing():
                return None
            raise
        except grpc.aio.AioRpcError as status:
            self._drop()
            await self._resume_or_raise(status)
            return None
        if isinstance(answer, rpc_pb2.WatchResponse):
            self.header = Header.from_pb(answer.header)
            return answer
        self._drop()
        await self._backoff.pause()
        return None

    async def _resume_or_raise(self, status: grpc.aio.AioRpcError) -> None:
        error = error_of(status)
        if self._over:
            return
        if is_stale_login(error):
            self._transport.forget_token()
        elif error.code not in _RESUMABLE or (self._require_leader and isinstance(error, errors.NoLeader)):
            self._over = True
            raise error
        await self._backoff.pause()

    def _drop(self) -> None:
        if self._stream is not None:
            self._stream.cancel()
            self._stream = None
        self._fragments.clear()


async def _send(stream: Stream, request: rpc_pb2.WatchRequest) -> None:
    try:
        await stream.write(request)
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
        pass  # The stream is over already; reading from it tells why.


def _cancellation(answer: rpc_pb2.WatchResponse) -> errors.ServerError:
    if answer.compact_revision:
        return errors.Compacted(compact_revision=answer.compact_revision)
    return errors.from_cancel_reason(answer.cancel_reason)
