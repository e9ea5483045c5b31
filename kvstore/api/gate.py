"""Whether a call may be served in the state that the member is in: without a leader, as a learner, while it stops.

Stands between a server and its servicers, so that no servicer need know any of it. What a call asks for is looked at
only when the member is in one of those states.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final, Protocol

import grpc

from kvstore import errors
from kvstore.pb.rpc_pb2 import RangeRequest

Handler = Callable[[Any, Any], Any]

LEADER_KEY: Final = "hasleader"
"""Metadata with which a client says that it wants to be refused rather than served without a leader."""
LEADER_WANTED: Final = "true"

SERVED_BY_LEARNERS: Final = frozenset(
    ("/etcdserverpb.Maintenance/Status", "/etcdserverpb.Maintenance/Snapshot", "/etcdserverpb.KV/Range")
)
"""A learner answers what needs no quorum: its status, a copy of its state, and ranges that are serializable."""


class MemberState(Protocol):
    """What the gate asks of the member."""

    @property
    def is_leader(self) -> bool: ...

    @property
    def has_leader(self) -> bool: ...

    @property
    def is_learner(self) -> bool: ...

    def on_leader_lost(self, callback: Callable[[], None]) -> Callable[[], None]: ...


class Registry(Protocol):
    """What generated code registers servicers on; every kind of server is one."""

    def add_generic_rpc_handlers(self, handlers: tuple[Any, ...], /) -> None: ...

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any], /) -> None: ...


class _Stream:
    """A streaming call in progress. led: whether it wants a leader. ended_by: why the gate ended it."""

    __slots__ = ("ended_by", "led", "task")

    def __init__(self, task: asyncio.Task[Any], led: bool) -> None:
        self.task = task
        self.led = led
        self.ended_by: errors.KvstoreError | None = None

    def end(self, error: errors.KvstoreError) -> None:
        if self.ended_by is None:
            self.ended_by = error
            self.task.cancel()


class Gate:
    """Refuses and ends calls. `close` must be called when the member goes."""

    def __init__(self, member: MemberState) -> None:
        self._member = member
        self._closed = False
        # A dict for its order: what is ended together is ended in the order in which it came.
        self._streams: dict[_Stream, None] = {}
        self._unsubscribe = member.on_leader_lost(self._leader_lost)

    @property
    def streams(self) -> int:
        """Streaming calls in progress."""
        return len(self._streams)

    def close(self) -> None:
        """End all streams with Stopped, so that their clients go on at another member, and refuse new ones."""
        if self._closed:
            return
        self._closed = True
        self._unsubscribe()
        for stream in list(self._streams):
            stream.end(errors.Stopped())

    def unary(self, method: str, handler: Handler) -> Handler:
        """A unary handler behind the gate.

        A call costs one question to the member if it leads, three if it does not: whoever leads is no learner.
        """
        member = self._member

        def guarded(request: Any, context: Any) -> Any:
            if not member.is_leader and (member.is_learner or not member.has_leader):
                self._check(method, request, context)
            return handler(request, context)

        return guarded

    def stream(self, method: str, handler: Handler) -> Handler:
        """A streaming handler behind the gate; it must be a coroutine function that writes to its context."""

        async def guarded(request: Any, context: Any) -> Any:
            if self._closed:
                raise errors.Stopped
            self._check(method, request, context)
            return await self._run(handler(request, context), wants_leader(context))

        return guarded

    def _check(self, method: str, request: Any, context: Any) -> None:
        member = self._member
        if member.is_learner and not _served_by_learner(method, request):
            raise errors.NotSupportedForLearner
        if not member.has_leader and wants_leader(context):
            raise errors.NoLeader

    async def _run(self, call: Coroutine[Any, Any, Any], led: bool) -> Any:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a streaming call runs in a task")
        stream = _Stream(task, led)
        self._streams[stream] = None
        try:
            return await call
        except asyncio.CancelledError:
            # The client may have cancelled at the same time; then nobody hears the status, whatever it is.
            if stream.ended_by is None:
                raise
            task.uncancel()
            raise stream.ended_by from None
        finally:
            self._streams.pop(stream, None)

    def _leader_lost(self) -> None:
        for stream in [stream for stream in self._streams if stream.led]:
            stream.end(errors.NoLeader())


def wants_leader(context: Any) -> bool:
    """Whether a call's metadata says that it is not to be served without a leader."""
    for key, value in context.invocation_metadata() or ():
        if key == LEADER_KEY:
            return bool(value == LEADER_WANTED)
    return False


def _served_by_learner(method: str, request: Any) -> bool:
    if isinstance(request, RangeRequest):
        return request.serializable and method in SERVED_BY_LEARNERS
    return method in SERVED_BY_LEARNERS


class GatedRegistry:
    """Takes servicers in place of a server and registers each handler behind the gate.

    decoders: of the methods whose requests are not to be decoded as the generated code has it, by path.
    """

    def __init__(self, registry: Registry, gate: Gate, decoders: Mapping[str, Callable[[bytes], Any]]) -> None:
        self._registry = registry
        self._gate = gate
        self._decoders = decoders

    def add_generic_rpc_handlers(self, handlers: tuple[Any, ...], /) -> None:
        """Do nothing: generated code registers everything twice, and only by name can a handler be replaced."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any], /) -> None:
        """Register the handlers of a service."""
        gated = {name: self._gated(f"/{service}/{name}", handler) for name, handler in handlers.items()}
        self._registry.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, gated),))
        self._registry.add_registered_method_handlers(service, gated)

    def _gated(self, method: str, handler: Any) -> Any:
        gate = self._gate
        coding = {
            "request_deserializer": self._decoders.get(method, handler.request_deserializer),
            "response_serializer": handler.response_serializer,
        }
        if handler.unary_unary is not None:
            return grpc.unary_unary_rpc_method_handler(gate.unary(method, handler.unary_unary), **coding)
        if handler.unary_stream is not None:
            return grpc.unary_stream_rpc_method_handler(gate.stream(method, handler.unary_stream), **coding)
        if handler.stream_unary is not None:
            return grpc.stream_unary_rpc_method_handler(gate.stream(method, handler.stream_unary), **coding)
        return grpc.stream_stream_rpc_method_handler(gate.stream(method, handler.stream_stream), **coding)
