"""A member's listeners for clients: gRPC, and HTTP/1.1 for health, metrics and version.

On ngh2 each URL of --listen-client-urls serves both, unless --listen-client-http-urls moves HTTP/1.1 elsewhere. With
--grpc-server=grpcio, which shares a port with nobody, they serve gRPC alone: then HTTP/1.1 is served where
--listen-client-http-urls and --listen-metrics-urls say, and nowhere without them.
"""

from __future__ import annotations

from typing import Final

from structlog.typing import FilteringBoundLogger

from kvstore.api.gate import Gate
from kvstore.api.health import MemberHealth
from kvstore.api.http import HttpOptions, HttpServer, http_app
from kvstore.api.listeners import GrpcioListener, GrpcListener, Ngh2Listener
from kvstore.api.register import register
from kvstore.server.config import Config, Url
from kvstore.server.member import Member
from kvstore.server.metrics import CallMetrics, Metrics, collector_registry

GRACE_SECONDS: Final = 3.0
"""Calls in flight may take that long when the member stops."""


class ClientApi:
    """Serves one member's clients, from `open` to `close`."""

    def __init__(self, member: Member, config: Config, metrics: Metrics, logger: FilteringBoundLogger) -> None:
        self._config = config
        self._logger = logger
        self._gate = Gate(member)
        self._http = HttpServer(
            http_app(MemberHealth(member), metrics, collector_registry(metrics), logger, HttpOptions())
        )
        self._grpc = self._listener(CallMetrics(metrics))
        self._health = register(self._grpc.registry, member, self._gate)
        self.urls: list[Url] = []
        """Where gRPC is served, once open."""

    def _listener(self, observer: CallMetrics) -> GrpcListener:
        if self._config.grpc_server == "grpcio":
            return GrpcioListener(self._config, observer)
        shared = not self._config.listen_client_http_urls
        return Ngh2Listener(self._config, observer, self._http.protocol if shared else None)

    async def open(self) -> None:
        """Listen on all client and metrics URLs. Raises OSError if one of them is taken; then close must be called."""
        config = self._config
        http_urls = [_bindable(url) for url in (*config.listen_client_http_urls, *config.listen_metrics_urls)]
        await self._http.start(
            http_urls,
            reuse_address=config.socket_reuse_address or None,
            reuse_port=config.socket_reuse_port or None,
        )
        self.urls = await self._grpc.open([_bindable(url) for url in config.listen_client_urls])
        self._logger.info("serving clients", urls=[str(url) for url in self.urls], server=config.grpc_server)
        if http_urls:
            self._logger.info("serving HTTP", urls=[str(url) for url in http_urls])
        elif config.grpc_server == "grpcio":
            self._logger.warning("health, metrics and version are not served: no --listen-metrics-urls")

    async def close(self) -> None:
        """Stop listening, end streams, let other calls finish for a few seconds, close every connection."""
        await self._health.enter_graceful_shutdown()
        self._gate.close()
        await self._grpc.close(GRACE_SECONDS)
        await self._http.stop()


def _bindable(url: Url) -> Url:
    # One address: a machine without IPv6 may still name ::1 localhost, and it could not be bound.
    return Url(url.scheme, "127.0.0.1", url.port) if url.host == "localhost" else url
