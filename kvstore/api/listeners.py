"""The two gRPC servers, opened on a member's client URLs alike.

Knows flags and sockets; not which services are registered.
"""

from __future__ import annotations

import resource
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

import grpc
from structlog.typing import FilteringBoundLogger

from kvstore.api.errors import STATUS, translate
from kvstore.api.front import Front
from kvstore.api.gate import Registry
from kvstore.errors import RequestTooManyRequests
from kvstore.rpc import Observer, Server, ServerOptions
from kvstore.rpc.grpcio import GrpcioServer
from kvstore.rpc.server import Http1Factory
from kvstore.server.config import Config, Url
from kvstore.server.memory import give_back
from kvstore.server.metrics import CallListener, CallMetrics, CallTimes, Metrics, SlowCalls

REQUEST_OVERHEAD_BYTES: Final = 512 << 10
"""What a message may be larger than --max-request-bytes: the request is measured without what surrounds it."""

NEVER_SECONDS: Final = 1e9
"""An interval that does not end."""

RESERVED_DESCRIPTORS: Final = 150
"""Descriptors that clients do not get: for other members, files, snapshots, and the writers."""

_INT32_MAX: Final = (1 << 31) - 1


def highest_descriptor() -> int:
    """The highest descriptor that a client's connection may have in this process."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return limit - min(RESERVED_DESCRIPTORS, limit // 2)


def call_metrics(config: Config, metrics: Metrics, logger: FilteringBoundLogger) -> CallMetrics:
    """The observer of either server: counts calls, warns of slow ones, and times all with --metrics=extensive."""
    listeners: list[CallListener] = [SlowCalls(config.warning_unary_request_duration, logger)]
    if config.metrics == "extensive":
        listeners.append(CallTimes(metrics))
    return CallMetrics(metrics, *listeners)


class GrpcListener(Protocol):
    """A gRPC server that can be opened and closed."""

    @property
    def registry(self) -> Registry:
        """Where servicers are registered, before it is opened."""

    async def open(self, urls: Sequence[Url]) -> list[Url]:
        """Listen: the URLs with the ports that were taken. Raises OSError."""

    async def close(self, grace: float) -> None:
        """Stop listening, let calls finish for `grace` seconds, close."""


class Ngh2Listener:
    """kvstore.rpc's own server. http1: makes protocols for connections that speak HTTP/1.1; None closes them.

    crowded: whether so much is to be done that clients with many calls in flight are refused further ones.
    """

    def __init__(
        self,
        config: Config,
        observer: Observer,
        http1: Http1Factory | None,
        crowded: Callable[[], bool] = lambda: False,
    ) -> None:
        self._reuse_port = config.socket_reuse_port
        options = ServerOptions(
            max_receive_bytes=config.max_request_bytes + REQUEST_OVERHEAD_BYTES,
            max_concurrent_streams=config.max_concurrent_streams,
            refusal=STATUS[RequestTooManyRequests][1],
            highest_descriptor=highest_descriptor(),
            keepalive_min_time=config.grpc_keepalive_min_time,
            keepalive_interval=config.grpc_keepalive_interval or NEVER_SECONDS,
            keepalive_timeout=config.grpc_keepalive_timeout,
        )
        self._server = Server(
            options, observer=observer, http1_factory=http1, translate=translate, crowded=crowded, give_back=give_back
        )

    @property
    def registry(self) -> Registry:
        """Where servicers are registered."""
        return self._server

    async def open(self, urls: Sequence[Url]) -> list[Url]:
        """Listen: the URLs with the ports that were taken. Raises OSError."""
        return [
            Url(
                url.scheme, url.host, await self._server.listen(url.host or None, url.port, reuse_port=self._reuse_port)
            )
            for url in urls
        ]

    async def close(self, grace: float) -> None:
        """Stop listening, let calls finish for `grace` seconds, close."""
        await self._server.stop(grace)


class GrpcioListener:
    """The server of grpcio. http1: makes protocols for connections that speak HTTP/1.1; None closes them."""

    def __init__(self, config: Config, observer: Observer, http1: Http1Factory | None) -> None:
        self._reuse_port = config.socket_reuse_port
        options: list[tuple[str, Any]] = [
            ("grpc.max_receive_message_length", config.max_request_bytes + REQUEST_OVERHEAD_BYTES),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_concurrent_streams", min(config.max_concurrent_streams, _INT32_MAX)),
            ("grpc.http2.min_ping_interval_without_data_ms", _milliseconds(config.grpc_keepalive_min_time)),
            ("grpc.keepalive_time_ms", _milliseconds(config.grpc_keepalive_interval or NEVER_SECONDS)),
            ("grpc.keepalive_timeout_ms", _milliseconds(config.grpc_keepalive_timeout)),
            # Its default would let a second process take a share of our connections.
            ("grpc.so_reuseport", int(config.socket_reuse_port)),
        ]
        self._server = grpc.aio.server(options=options)
        self._registry = GrpcioServer(self._server, observer=observer, translate=translate)
        self._front = None if http1 is None else Front(http1)

    @property
    def registry(self) -> Registry:
        """Where servicers are registered."""
        return self._registry

    async def open(self, urls: Sequence[Url]) -> list[Url]:
        """Listen: the URLs with the ports that were taken. Raises OSError."""
        if self._front is None:
            ports = [self._bind(Url(url.scheme, url.host or "::", url.port).address) for url in urls]
            await self._server.start()
            return [Url(url.scheme, url.host, port) for url, port in zip(urls, ports, strict=True)]
        self._bind(f"unix:{self._front.socket}")
        await self._server.start()
        return await self._front.open(urls, reuse_port=self._reuse_port)

    def _bind(self, address: str) -> int:
        try:
            return self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise OSError(f"cannot listen on {address}: {error}") from error

    async def close(self, grace: float) -> None:
        """Stop listening, let calls finish for `grace` seconds, close."""
        if self._front is not None:
            self._front.stop_listening()
        await self._server.stop(grace)
        if self._front is not None:
            self._front.close()


def _milliseconds(seconds: float) -> int:
    return int(min(seconds * 1000, _INT32_MAX))
