"""What a handler may count on, on our server and on grpcio's alike: the type of its context.

A unary handler has a Context; the handler of a streaming method, either way, a StreamContext, which is also its
iterator over requests where the requests are a stream. On grpcio's server kvstore.rpc.grpcio provides both.
"""

from collections.abc import Callable, Mapping
from typing import Any, NoReturn, Protocol

from kvstore.rpc.outgoing import Buffered, Written
from kvstore.rpc.promise import Promise
from kvstore.rpc.status import Metadata, StatusCode


class Context(Protocol):
    """One call, as its handler sees it. Methods are those of grpc.aio.ServicerContext, as far as they are here."""

    def invocation_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        """The client's metadata: keys in lower case, "-bin" values as bytes."""

    def peer(self) -> str:
        """Where the client is: ipv4:address:port, ipv6:[address]:port or unix:path."""

    def auth_context(self) -> Mapping[str, list[bytes]]:
        """What TLS knows of the client (x509_common_name, x509_subject_alternative_name, ...); empty without TLS."""

    def full_method(self) -> str:
        """The path of the method: /package.Service/Method. (Not in grpc.aio.)"""

    def time_remaining(self) -> float | None:
        """Seconds until the client's deadline, at least 0; None without one."""

    def done(self) -> bool:
        """Whether the call has ended, in whatever way."""

    def cancelled(self) -> bool:
        """Whether it ended before its handler answered: reset by the client, disconnected, or past its deadline."""

    def add_done_callback(self, callback: Callable[[Any], object]) -> None:
        """Call callback(context) once the call has ended; at once if it has. What it raises is logged."""

    def set_code(self, code: object) -> None:
        """End with this status when the handler returns: a StatusCode, grpc.StatusCode or int."""

    def set_details(self, details: str) -> None:
        """End with this text beside the code."""

    def code(self) -> StatusCode: ...

    def details(self) -> str: ...

    def set_trailing_metadata(self, metadata: Metadata) -> None:
        """Send this metadata with the status."""

    def trailing_metadata(self) -> Metadata: ...

    def send_initial_metadata(self, metadata: Metadata) -> Written:
        """Send response headers now. Awaiting the result is allowed and does not wait. Once, before any message."""

    async def abort(self, code: object, details: str = "", trailing_metadata: Metadata = ()) -> NoReturn:
        """End the call with a status other than OK, by raising RpcError out of the handler."""


class StreamContext(Context, Protocol):
    """A call with a stream of messages in at least one direction."""

    def read(self) -> Promise[Any]:
        """The next request message, or EOF when the client has half-closed. One read at a time.

        Fails with RpcError: CANCELLED when the call has ended, INVALID_ARGUMENT for what is not a message. A message
        that arrives after its reader gave up waiting is there for the next read.
        """

    def write(self, message: Any) -> Written | Buffered:
        """Send one response message, or bytes that already are one. Never blocks; sent at the end of the turn.

        The result is false when no more should be written for now: then await it, or drain(), or stop until writable.
        To a call that has ended nothing is written, and awaiting the result raises RpcError (CANCELLED).
        """

    def drain(self) -> Promise[None]:
        """Resolved when more may be written. Fails with RpcError (CANCELLED) when the call has ended."""

    @property
    def writable(self) -> bool:
        """Whether more should be written now; false when the call has ended."""

    @property
    def buffered(self) -> int:
        """Bytes written and not yet handed to the socket."""

    def __aiter__(self) -> "StreamContext": ...

    async def __anext__(self) -> Any: ...
