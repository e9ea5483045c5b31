"""The asyncio side of the client: a channel to one server, connected when needed and again when lost.

Calls speak bytes. Each connection's transport is written once per turn of the loop, however many calls were made in it.
Knows nothing of any service.
"""

import asyncio
import logging
import random
import ssl as tls
from collections.abc import Callable
from enum import Enum

from kvstore.rpc.client_call import ClientCall, ClientStream, UnaryRequest
from kvstore.rpc.client_protocol import ClientProtocol
from kvstore.rpc.loop import LoopHost
from kvstore.rpc.metadata import encode_metadata, format_timeout
from kvstore.rpc.options import ChannelOptions
from kvstore.rpc.promise import Promise
from kvstore.rpc.status import Metadata, RpcError, StatusCode

logger = logging.getLogger(__name__)


class ChannelState(Enum):
    """Connectivity, in gRPC's terms."""

    IDLE = "idle"
    CONNECTING = "connecting"
    READY = "ready"
    TRANSIENT_FAILURE = "transient failure"
    SHUTDOWN = "shutdown"


class Channel:
    """Calls to one server.

    target: "host:port", "[v6 address]:port" or "unix:path". ssl: a client TLS context; None for plain text.
    Connects at the first call. A call made while the server cannot be reached fails with UNAVAILABLE, unless it was
    made to wait; one made while connecting waits for the outcome.
    """

    def __init__(
        self,
        target: str,
        *,
        ssl: tls.SSLContext | None = None,
        options: ChannelOptions | None = None,
    ) -> None:
        self.target = target
        self.options = options or ChannelOptions()
        self._ssl = ssl
        if ssl is not None:
            ssl.set_alpn_protocols(["h2"])
        authority = self.options.authority or ("localhost" if target.startswith("unix:") else target)
        self._scheme = (b":scheme", b"https" if ssl else b"http")
        self._fields = (
            (b":authority", authority.encode()),
            (b"content-type", b"application/grpc"),
            (b"te", b"trailers"),
            (b"user-agent", self.options.user_agent.encode()),
            (b"grpc-accept-encoding", b"identity,gzip,deflate"),
        )
        # Header fields that all calls of a method have in common.
        self._of_method: dict[str, tuple[tuple[bytes, bytes], ...]] = {}
        self._state = ChannelState.IDLE
        self._observers: list[Callable[[ChannelState], object]] = []
        self._protocol: ClientProtocol | None = None
        self._draining: set[ClientProtocol] = set()
        self._pending: list[ClientCall] = []
        self._waiting: list[Promise[None]] = []
        self._loop_host: LoopHost | None = None
        self._attempt: asyncio.Task[None] | None = None
        self._backoff = self.options.backoff_initial
        self._retry: asyncio.TimerHandle | None = None
        self._last_error = "not connected"

    # Calls

    def unary(
        self,
        method: str,
        request: bytes,
        *,
        metadata: Metadata = (),
        timeout: float | None = None,
        wait_for_ready: bool = False,
    ) -> UnaryRequest:
        """Call a unary method.

        method: its path, "/package.Service/Method". request: the encoded message. timeout: seconds.
        wait_for_ready: wait for a connection (within the timeout) rather than fail while there is none.
        Returns a Promise of the encoded response; it fails with RpcError. Raises ValueError for metadata that cannot be
        sent. Must be called on the running loop.
        """
        call = UnaryRequest(self._headers(method, metadata, timeout), request, wait_for_ready=wait_for_ready)
        if timeout is not None:
            self._set_deadline(call, timeout)
        self.start(call)
        return call

    def stream(
        self,
        method: str,
        *,
        metadata: Metadata = (),
        timeout: float | None = None,
        wait_for_ready: bool = False,
    ) -> ClientStream:
        """Call a streaming method of any kind. Arguments as for unary."""
        headers = self._headers(method, metadata, timeout)
        limit = self.options.stream_buffer_bytes
        call = ClientStream(headers, stream_buffer_bytes=limit, wait_for_ready=wait_for_ready)
        if timeout is not None:
            self._set_deadline(call, timeout)
        self.start(call)
        return call

    def start(self, call: ClientCall) -> None:
        """Hand a call to the connection, now or when there is one. For the channel's own connections too."""
        protocol = self._protocol
        if protocol is not None:
            connection = protocol.served
            if isinstance(call, UnaryRequest):
                if connection.start_unary(call):
                    return
            elif connection.start_stream(call):
                return
        if self._state is ChannelState.SHUTDOWN:
            call.fail(RpcError(StatusCode.UNAVAILABLE, "the channel is closed"))
        elif self._state is ChannelState.TRANSIENT_FAILURE and not call.wait_for_ready:
            call.fail(RpcError(StatusCode.UNAVAILABLE, f"cannot connect to {self.target}: {self._last_error}"))
        elif len(self._pending) >= self.options.max_pending_calls:
            call.fail(RpcError(StatusCode.UNAVAILABLE, f"too many calls wait for a connection to {self.target}"))
        else:
            self._pending.append(call)
            self._connect()

    def _headers(self, method: str, metadata: Metadata, timeout: float | None) -> tuple[tuple[bytes, bytes], ...]:
        headers = self._of_method.get(method)
        if headers is None:
            path = (b":path", method.encode())
            headers = self._of_method[method] = ((b":method", b"POST"), self._scheme, path, *self._fields)
        if timeout is not None:
            headers = (*headers, (b"grpc-timeout", format_timeout(timeout)))
        if metadata:
            headers = (*headers, *encode_metadata(metadata))
        return headers

    def _set_deadline(self, call: ClientCall, timeout: float) -> None:
        host = self._host()
        call.bucket = host.expire_at(host.now() + timeout, call)

    def _host(self) -> LoopHost:
        host = self._loop_host
        if host is None:
            host = self._loop_host = LoopHost(asyncio.get_running_loop())
        return host

    # Connectivity

    @property
    def state(self) -> ChannelState:
        return self._state

    def on_state(self, callback: Callable[[ChannelState], object]) -> None:
        """Call callback(state) at every change of connectivity."""
        self._observers.append(callback)

    def ready(self) -> Promise[None]:
        """Connect if need be; resolved when connected, after however many attempts. Fails if the channel closes."""
        if self._state is ChannelState.READY:
            return Promise.resolved(None)
        if self._state is ChannelState.SHUTDOWN:
            return Promise.failed(RpcError(StatusCode.UNAVAILABLE, "the channel is closed"))
        promise: Promise[None] = Promise()
        self._waiting.append(promise)
        self._connect()
        return promise

    def _set_state(self, state: ChannelState) -> None:
        if state is self._state:
            return
        self._state = state
        for callback in list(self._observers):
            callback(state)

    def _connect(self) -> None:
        if self._attempt is None and self._retry is None and self._state is not ChannelState.SHUTDOWN:
            self._set_state(ChannelState.CONNECTING)
            self._attempt = self._host().spawn(self._establish())

    async def _establish(self) -> None:
        protocol: ClientProtocol | None = None
        try:
            async with asyncio.timeout(self.options.connect_timeout):
                established: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                protocol = await self._open(established)
                await established
        except (OSError, TimeoutError, tls.SSLError) as error:
            self._attempt = None
            if protocol is not None:
                protocol.transport.abort()
            self._failed(str(error) or type(error).__name__)
            return
        self._attempt = None
        if protocol.served.usable:
            self._connected(protocol)
        else:
            self._failed("the server went away at once")

    async def _open(self, established: "asyncio.Future[None]") -> ClientProtocol:
        host = self._host()
        loop = asyncio.get_running_loop()

        def factory() -> ClientProtocol:
            return ClientProtocol(self, host, established)

        if self.target.startswith("unix:"):
            path = self.target.removeprefix("unix:").removeprefix("//")
            name = "localhost" if self._ssl else None
            _, protocol = await loop.create_unix_connection(factory, path, ssl=self._ssl, server_hostname=name)
            return protocol
        address, _, port = self.target.rpartition(":")
        _, protocol = await loop.create_connection(factory, address.strip("[]"), int(port), ssl=self._ssl)
        return protocol

    def _connected(self, protocol: ClientProtocol) -> None:
        self._protocol = protocol
        self._backoff = self.options.backoff_initial
        self._set_state(ChannelState.READY)
        waiting, self._waiting = self._waiting, []
        for promise in waiting:
            promise.set_result(None)
        pending, self._pending = self._pending, []
        for call in pending:
            if not call.over:
                self.start(call)

    def _failed(self, reason: str) -> None:
        if self._state is ChannelState.SHUTDOWN:
            return
        self._last_error = reason
        wait = self._backoff * (1 + self.options.backoff_jitter * random.uniform(-1, 1))
        self._backoff = min(self._backoff * self.options.backoff_multiplier, self.options.backoff_max)
        self._retry = self._host().loop.call_later(wait, self._retry_now)
        self._set_state(ChannelState.TRANSIENT_FAILURE)
        pending, self._pending = self._pending, []
        for call in pending:
            if not call.over:
                self.start(call)

    def _retry_now(self) -> None:
        self._retry = None
        if self._pending or self._waiting:
            self._connect()
        else:
            self._set_state(ChannelState.IDLE)

    def lost(self, protocol: ClientProtocol, reason: str) -> None:
        """A connection takes no more calls. For the channel's own connections."""
        if self._protocol is not protocol:
            return
        self._protocol = None
        self._last_error = reason
        if self._state is ChannelState.SHUTDOWN:
            return
        self._set_state(ChannelState.IDLE)
        # Those under way finish on it; it closes itself when the last has.
        self._draining.add(protocol)
        if self._waiting:
            self._connect()

    async def close(self) -> None:
        """End all calls (UNAVAILABLE) and the connection."""
        self._set_state(ChannelState.SHUTDOWN)
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        if self._attempt is not None:
            self._attempt.cancel()
            self._attempt = None
        protocol, self._protocol = self._protocol, None
        protocols = [*self._draining, *([protocol] if protocol else [])]
        self._draining.clear()
        for each in protocols:
            each.served.close()
        error = RpcError(StatusCode.UNAVAILABLE, "the channel is closed")
        pending, self._pending = self._pending, []
        for call in pending:
            call.fail(error)
        waiting, self._waiting = self._waiting, []
        for promise in waiting:
            promise.set_exception(error)
        # The good-bye is written at the end of this turn.
        await asyncio.sleep(0)
