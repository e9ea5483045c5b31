"""A member for its clients: started, published, served over gRPC and HTTP/1.1, and stopped.

Each URL of --listen-client-urls serves both, whichever gRPC server was chosen, unless --listen-client-http-urls moves
HTTP/1.1 elsewhere.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from structlog.typing import FilteringBoundLogger

from kvstore.api.gate import Gate
from kvstore.api.health import MemberHealth
from kvstore.api.late_http import LateHttp
from kvstore.api.listeners import GrpcioListener, GrpcListener, Ngh2Listener, call_metrics
from kvstore.api.register import register
from kvstore.server.config import Config, Url
from kvstore.server.member import Member
from kvstore.server.metrics import CallMetrics, LoopLag, Metrics, publish_descriptors
from kvstore.server.start import RunningMember, start_member
from kvstore.server.surroundings import bind_host

if TYPE_CHECKING:
    from kvstore.api.http import HttpServer

GRACE_SECONDS: Final = 3.0
"""Calls in flight may take that long when the member stops."""


async def serve(config: Config, logger: FilteringBoundLogger, stop: asyncio.Event, ready: Callable[[], None]) -> None:
    """Run a member until `stop` is set or the cluster has removed it. ready: called once clients are served.

    Raises what start_member raises, OSError for an address that is taken, and what the member could not go on after.
    """
    metrics = Metrics()
    publish_descriptors(metrics)
    lag = LoopLag(asyncio.get_running_loop(), metrics)
    running = await start_member(config, metrics)
    lag.start()
    try:
        async with contextlib.AsyncExitStack() as stack:
            api = ClientApi(running.member, config, metrics, logger)
            stack.push_async_callback(api.close)
            end = asyncio.ensure_future(_end(running, stop))
            publishing = asyncio.ensure_future(running.lifecycle.publish())
            stack.callback(end.cancel)
            stack.callback(publishing.cancel)
            # Health can be asked for from the start; clients come in when the member has a name and a leader.
            await api.open_http()
            await asyncio.wait((end, publishing), return_when=asyncio.FIRST_COMPLETED)
            if not end.done():
                await publishing
                await api.open_grpc()
                ready()
                api.load_http()
                await end
    finally:
        lag.stop()
        await running.stop()
    if running.failed.done():
        raise running.failed.result()


async def _end(running: RunningMember, stop: asyncio.Event) -> None:
    """Return when the member is to stop, is no member any more, or cannot go on."""
    events = [asyncio.ensure_future(event.wait()) for event in (stop, running.lifecycle.removed)]
    reasons: list[asyncio.Future[Any]] = [running.failed, *events]
    try:
        await asyncio.wait(reasons, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for waiting in events:
            waiting.cancel()


class ClientApi:
    """Serves one member's clients, from `open_http` and `open_grpc` to `close`."""

    def __init__(self, member: Member, config: Config, metrics: Metrics, logger: FilteringBoundLogger) -> None:
        self._config = config
        self._logger = logger
        self._gate = Gate(member)
        self._member = member
        self._metrics = metrics
        self._http = LateHttp(self._make_http)
        self._grpc = self._listener(call_metrics(config, metrics, logger))
        self._health = register(self._grpc.registry, member, self._gate)
        self.urls: list[Url] = []
        """Where gRPC is served, once it is."""

    def _listener(self, observer: CallMetrics) -> GrpcListener:
        http1 = None if self._config.listen_client_http_urls else self._http.protocol
        if self._config.grpc_server == "grpcio":
            return GrpcioListener(self._config, observer, http1)
        member = self._member
        return Ngh2Listener(self._config, observer, http1, lambda: member.crowded)

    def _make_http(self) -> HttpServer:
        # Here, so that gRPC need not wait for it: see LateHttp.
        from kvstore.api.http import HttpOptions, HttpServer, http_app
        from kvstore.server.metrics.export import collector_registry

        return HttpServer(
            http_app(
                MemberHealth(self._member),
                self._metrics,
                collector_registry(self._metrics),
                self._logger,
                HttpOptions(read_timeout=self._config.request_timeout),
            )
        )

    def load_http(self) -> None:
        """Load the HTTP side before somebody waits for it."""
        self._http.load()

    async def open_http(self) -> None:
        """Listen on the URLs that are HTTP's alone. Raises OSError if one of them is taken."""
        config = self._config
        http_urls = [_bindable(url) for url in (*config.listen_client_http_urls, *config.listen_metrics_urls)]
        await self._http.start(
            http_urls,
            reuse_address=config.socket_reuse_address or None,
            reuse_port=config.socket_reuse_port or None,
        )
        if http_urls:
            self._logger.info("serving HTTP", urls=[str(url) for url in http_urls])

    async def open_grpc(self) -> None:
        """Listen on the client URLs, after open_http. Raises OSError if one of them is taken."""
        config = self._config
        self.urls = await self._grpc.open([_bindable(url) for url in config.listen_client_urls])
        self._logger.info("serving clients", urls=[str(url) for url in self.urls], server=config.grpc_server)

    async def close(self) -> None:
        """Stop listening, end streams, let other calls finish for a few seconds, close every connection."""
        await self._health.enter_graceful_shutdown()
        self._gate.close()
        await self._grpc.close(GRACE_SECONDS)
        await self._http.stop()


def _bindable(url: Url) -> Url:
    return Url(url.scheme, bind_host(url) or "", url.port)
