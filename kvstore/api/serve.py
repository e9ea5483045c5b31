"""A member's listeners for clients: gRPC, and HTTP/1.1 for health, metrics and version.

On ngh2 each URL of --listen-client-urls serves both, unless --listen-client-http-urls moves HTTP/1.1 elsewhere.
"""

from __future__ import annotations

from typing import Final

from structlog.typing import FilteringBoundLogger

from kvstore.api.errors import translate
from kvstore.api.gate import Gate
from kvstore.api.health import MemberHealth
from kvstore.api.http import HttpOptions, HttpServer, http_app
from kvstore.api.register import register
from kvstore.rpc import Server, ServerOptions
from kvstore.server.config import Config, Url
from kvstore.server.member import Member
from kvstore.server.metrics import CallMetrics, Metrics, collector_registry

REQUEST_OVERHEAD_BYTES: Final = 512 << 10
"""What a message may be larger than --max-request-bytes: the request is measured without what surrounds it."""

GRACE_SECONDS: Final = 3.0
"""Calls in flight may take that long when the member stops."""

NEVER_SECONDS: Final = 1e9


class ClientApi:
    """Serves one member's clients, from `open` to `close`."""

    def __init__(self, member: Member, config: Config, metrics: Metrics, logger: FilteringBoundLogger) -> None:
        self._config = config
        self._logger = logger
        self._gate = Gate(member)
        self._http = HttpServer(
            http_app(MemberHealth(member), metrics, collector_registry(metrics), logger, HttpOptions())
        )
        shared = not config.listen_client_http_urls
        self._grpc = Server(
            server_options(config),
            observer=CallMetrics(metrics),
            http1_factory=self._http.protocol if shared else None,
            translate=translate,
        )
        self._health = register(self._grpc, member, self._gate)

    async def open(self) -> None:
        """Listen on all client and metrics URLs. Raises OSError if one of them is taken."""
        config = self._config
        await self._http.start(
            map(_bindable, (*config.listen_client_http_urls, *config.listen_metrics_urls)),
            reuse_address=config.socket_reuse_address or None,
            reuse_port=config.socket_reuse_port or None,
        )
        for url in map(_bindable, config.listen_client_urls):
            port = await self._grpc.listen(url.host or None, url.port, reuse_port=config.socket_reuse_port)
            self._logger.info("serving clients", url=str(Url(url.scheme, url.host, port)))

    async def close(self) -> None:
        """Stop listening, end streams, let other calls finish for a few seconds, close every connection."""
        await self._health.enter_graceful_shutdown()
        self._gate.close()
        await self._grpc.stop(GRACE_SECONDS)
        await self._http.stop()


def server_options(config: Config) -> ServerOptions:
    """Limits and times of the gRPC server."""
    return ServerOptions(
        max_receive_bytes=config.max_request_bytes + REQUEST_OVERHEAD_BYTES,
        max_concurrent_streams=config.max_concurrent_streams,
        keepalive_min_time=config.grpc_keepalive_min_time,
        keepalive_interval=config.grpc_keepalive_interval or NEVER_SECONDS,
        keepalive_timeout=config.grpc_keepalive_timeout,
    )


def _bindable(url: Url) -> Url:
    # One address: a machine without IPv6 may still name ::1 localhost, and it could not be bound.
    return Url(url.scheme, "127.0.0.1", url.port) if url.host == "localhost" else url
