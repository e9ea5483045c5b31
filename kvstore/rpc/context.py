"""The context of a call: what its handler may ask and say, in a subset of grpc.aio.ServicerContext.

Everything that a handler rarely touches is made only when it is touched. Knows its connection by what it needs of it;
not sockets, and not how the handler's result becomes the response (call.py).
"""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn

from kvstore.rpc.deadlines import Bucket
from kvstore.rpc.framing import MessageReader
from kvstore.rpc.metadata import Headers, decode_metadata
from kvstore.rpc.outgoing import WRITTEN, Written
from kvstore.rpc.promise import Promise
from kvstore.rpc.status import Metadata, RpcError, StatusCode

if TYPE_CHECKING:
    from kvstore.rpc.method import Method
    from kvstore.rpc.server_connection import ServerConnection


class Extras:
    """What most calls never set: metadata and status of their own, callbacks."""

    __slots__ = ("callbacks", "cancelled", "code", "details", "initial", "metadata", "trailing")

    def __init__(self) -> None:
        self.metadata: tuple[tuple[str, str | bytes], ...] | None = None
        self.initial: Metadata = ()
        self.trailing: Metadata = ()
        self.code = StatusCode.OK
        self.details = ""
        self.callbacks: list[Callable[[Any], object]] = []
        self.cancelled = False


class ServerContext:
    """A call, as its handler sees it."""

    __slots__ = (
        "began",
        "bucket",
        "connection",
        "customised",
        "deadline",
        "finished",
        "half_closed",
        "headers",
        "inbox",
        "method",
        "pending",
        "reader",
        "started",
        "stream_id",
    )

    def __init__(self, connection: "ServerConnection", stream_id: int, method: "Method", headers: Headers) -> None:
        self.connection = connection
        self.stream_id = stream_id
        self.method = method
        self.headers = headers
        # When the bytes with its request headers arrived, on the clock that calls are timed with.
        self.began = connection.received_at
        # No more can be sent: it was answered, reset, or its connection is gone.
        self.finished = False
        # The client has sent all it will.
        self.half_closed = False
        # Response headers are sent.
        self.started = False
        self.deadline: float | None = None
        self.bucket: Bucket | None = None
        # Cuts messages out of what does not come in one piece; those that are complete and not yet taken.
        self.reader: MessageReader | None = None
        self.inbox: deque[bytes] | None = None
        # What the response waits for.
        self.pending: Promise[Any] | asyncio.Future[Any] | None = None
        self.customised: Extras | None = None

    @property
    def extras(self) -> Extras:
        extras = self.customised
        if extras is None:
            extras = self.customised = Extras()
        return extras

    def invocation_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        """The client's metadata: keys in lower case, "-bin" values as bytes."""
        extras = self.extras
        if extras.metadata is None:
            extras.metadata = decode_metadata(self.headers)
        return extras.metadata

    def peer(self) -> str:
        """Where the client is: ipv4:address:port, ipv6:[address]:port or unix:path."""
        return self.connection.peer

    def auth_context(self) -> Mapping[str, list[bytes]]:
        """What TLS knows of the client: transport_security_type, and of its certificate x509_common_name,
        x509_subject_alternative_name, x509_subject; empty without TLS."""
        return self.connection.auth_context

    def full_method(self) -> str:
        """The path of the method: /package.Service/Method."""
        return f"/{self.method.service}/{self.method.name}"

    def time_remaining(self) -> float | None:
        """Seconds until the client's deadline, at least 0; None without one."""
        if self.deadline is None:
            return None
        return max(0.0, self.deadline - self.connection.host.now())

    def done(self) -> bool:
        """Whether the call has ended, in whatever way."""
        return self.finished

    def cancelled(self) -> bool:
        """Whether it ended before its handler answered: reset by the client, disconnected, or past its deadline."""
        return self.customised is not None and self.customised.cancelled

    def add_done_callback(self, callback: Callable[[Any], object]) -> None:
        """Call callback(context) once the call has ended; at once if it has."""
        if self.finished:
            callback(self)
        else:
            self.extras.callbacks.append(callback)

    def set_code(self, code: object) -> None:
        """End with this status when the handler returns."""
        self.extras.code = StatusCode.of(code)

    def set_details(self, details: str) -> None:
        """End with this text beside the code."""
        self.extras.details = details

    def code(self) -> StatusCode:
        return self.extras.code

    def details(self) -> str:
        return self.extras.details

    def set_trailing_metadata(self, metadata: Metadata) -> None:
        """Send this metadata with the status."""
        self.extras.trailing = tuple(metadata)

    def trailing_metadata(self) -> Metadata:
        return self.extras.trailing

    def send_initial_metadata(self, metadata: Metadata) -> Written:
        """Send response headers now. Awaiting the result is allowed and does not wait. Once, before any message."""
        if self.started:
            raise RuntimeError("initial metadata is already sent")
        if not self.finished:
            self.extras.initial = tuple(metadata)
            self.connection.send_headers(self)
        return WRITTEN

    async def abort(self, code: object, details: str = "", trailing_metadata: Metadata = ()) -> NoReturn:
        """End the call with a status other than OK, by raising RpcError out of the handler."""
        status = StatusCode.of(code)
        if status is StatusCode.OK:
            raise ValueError("a call cannot be aborted with OK")
        raise RpcError(status, details, tuple(trailing_metadata) or self.extras.trailing)

    def end(self, *, cancelled: bool) -> None:
        """The call is over: forget the deadline and tell who asked to be told. For the connection."""
        self.finished = True
        bucket = self.bucket
        if bucket is not None:
            bucket.pop(self, None)  # type: ignore[call-overload]
            self.bucket = None
        extras = self.customised
        if extras is not None:
            extras.cancelled = cancelled
            callbacks, extras.callbacks = extras.callbacks, []
            for callback in callbacks:
                self.connection.guard(callback, self)
        elif cancelled:
            self.extras.cancelled = True
