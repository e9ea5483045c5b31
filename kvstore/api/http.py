"""What a member answers over HTTP/1.1: its health, its version and its metrics.

Translates between HTTP and questions that a HealthSource answers; decides nothing but which checks an endpoint has.
The texts are etcd's, for probes and scripts compare them.
"""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from aiohttp import web
from aiohttp.http import HttpProcessingError
from prometheus_client import CollectorRegistry
from structlog.typing import FilteringBoundLogger

from kvstore.api.errors import to_rpc_error
from kvstore.errors import KvstoreError
from kvstore.server.config import Url
from kvstore.server.metrics import Metrics
from kvstore.server.metrics.published import Published

_PLAIN = {"Content-Type": "text/plain; charset=utf-8"}
_REFUSAL = {**_PLAIN, "X-Content-Type-Options": "nosniff"}
# As etcd with its default --cors=*: pages from anywhere may ask, for nothing here changes anything.
_CORS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "POST, GET, OPTIONS, PUT, DELETE",
    "Access-Control-Allow-Headers": "accept, content-type, authorization",
}


class HealthSource(Protocol):
    """What the HTTP side asks of a member."""

    def alarms(self) -> Collection[str]:
        """Names of the alarms that are raised anywhere in the cluster: NOSPACE, CORRUPT."""
        ...

    def has_leader(self) -> bool: ...

    def is_learner(self) -> bool: ...

    async def read(self, *, serializable: bool) -> None:
        """Read at most one key, from this member alone or confirmed by a quorum. Raises what the read would raise."""
        ...

    def versions(self) -> Mapping[str, str]:
        """What /version says: etcdserver, etcdcluster (`not_decided` before it is) and storage."""
        ...


@dataclass(frozen=True, slots=True)
class HttpOptions:
    """How the HTTP side is set up.

    read_timeout: seconds that the read of a health check may take; the default fits the default election timeout
        (Config.request_timeout).
    """

    read_timeout: float = 7.0


Check = Callable[[], Awaitable[str | None]]
"""None if all is well, else what is wrong."""


def http_app(
    source: HealthSource,
    metrics: Metrics,
    registry: CollectorRegistry,
    logger: FilteringBoundLogger,
    options: HttpOptions,
) -> web.Application:
    """The application for every listener that speaks HTTP/1.1.

    metrics: where the checks count themselves. registry: what /metrics publishes.
    """
    app = web.Application(handler_args={"access_log": None})
    checks = _Checks(source, options)
    recorder = _Recorder(metrics)
    _Health(checks, recorder, logger).install(app)
    _Probe("livez", {"serializable_read": checks.serializable_read}, recorder, logger).install(app)
    ready: dict[str, Check] = {
        "data_corruption": checks.data_corruption,
        "serializable_read": checks.serializable_read,
        "linearizable_read": checks.linearizable_read,
        "non_learner": checks.non_learner,
    }
    _Probe("readyz", ready, recorder, logger).install(app)

    async def version(request: web.Request) -> web.Response:
        return web.json_response(dict(source.versions()), dumps=_compact_json)

    published = Published(registry)

    async def publish(request: web.Request) -> web.Response:
        accept = ",".join(request.headers.getall("Accept", []))
        text = await published.text(accept, compressed="gzip" in request.headers.get("Accept-Encoding", ""))
        headers = {"Content-Type": text.content_type}
        if text.coding != "identity":
            headers["Content-Encoding"] = text.coding
        return web.Response(body=text.content, headers=headers)

    _get(app, "/version", version)
    _get(app, "/metrics", publish)
    app.on_response_prepare.append(_allow_all_origins)
    return app


def _compact_json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def _get(app: web.Application, path: str, handler: Callable[[web.Request], Awaitable[web.Response]]) -> None:
    async def by_method(request: web.Request) -> web.Response:
        if request.method == "OPTIONS":
            return web.Response()
        if request.method != "GET":
            return web.Response(status=405, text="Method Not Allowed\n", headers={**_REFUSAL, "Allow": "GET"})
        return await handler(request)

    app.router.add_route("*", path, by_method)


async def _allow_all_origins(request: web.BaseRequest, response: web.StreamResponse) -> None:
    response.headers.update(_CORS)


class _Recorder:
    """Counts the outcomes of checks."""

    __slots__ = ("_failures", "_last", "_successes", "_totals")

    def __init__(self, metrics: Metrics) -> None:
        self._successes = metrics.counter("etcd_server_health_success")
        self._failures = metrics.counter("etcd_server_health_failures")
        self._last = metrics.gauges("etcd_server_healthcheck")
        self._totals = metrics.counters("etcd_server_healthchecks_total")

    def health(self, *, healthy: bool) -> None:
        (self._successes if healthy else self._failures).value += 1

    def check(self, probe: str, name: str, *, passed: bool) -> None:
        self._last.at(probe, name).value = int(passed)
        self._totals.at(probe, name, "success" if passed else "error").value += 1


class _Checks:
    """The single checks that endpoints are made of."""

    __slots__ = ("_options", "source")

    def __init__(self, source: HealthSource, options: HttpOptions) -> None:
        self.source = source
        self._options = options

    async def data_corruption(self) -> str | None:
        return "alarm activated: CORRUPT" if "CORRUPT" in self.source.alarms() else None

    async def serializable_read(self) -> str | None:
        return await self.read(serializable=True)

    async def linearizable_read(self) -> str | None:
        return await self.read(serializable=False)

    async def non_learner(self) -> str | None:
        return "this member is a learner" if self.source.is_learner() else None

    async def read(self, *, serializable: bool) -> str | None:
        try:
            async with asyncio.timeout(self._options.read_timeout):
                await self.source.read(serializable=serializable)
        except TimeoutError:
            return "context deadline exceeded"
        except KvstoreError as error:
            return to_rpc_error(error).message
        except Exception as error:  # whatever it is, a member that cannot read is not healthy
            return f"{type(error).__name__}: {error}"
        return None


class _Health:
    """/health: one verdict as JSON, by alarms, leader and a read."""

    __slots__ = ("_checks", "_logger", "_recorder")

    def __init__(self, checks: _Checks, recorder: _Recorder, logger: FilteringBoundLogger) -> None:
        self._checks = checks
        self._recorder = recorder
        self._logger = logger

    def install(self, app: web.Application) -> None:
        _get(app, "/health", self._answer)

    async def _answer(self, request: web.Request) -> web.Response:
        reason = await self._unhealthy(
            excluded=set(request.query.getall("exclude", [])),
            serializable=request.query.get("serializable") == "true",
        )
        self._recorder.health(healthy=reason is None)
        body = _compact_json({"health": "false" if reason else "true", "reason": reason or ""})
        if reason is None:
            return web.Response(text=body, headers=_PLAIN)
        self._logger.warning("health check failed", path="/health", reason=reason)
        return web.Response(status=503, text=f"{body}\n", headers=_REFUSAL)

    async def _unhealthy(self, *, excluded: set[str], serializable: bool) -> str | None:
        source = self._checks.source
        for alarm in sorted(source.alarms()):
            if alarm not in excluded:
                return f"ALARM {alarm}"
        if not serializable and not source.has_leader():
            return "RAFT NO LEADER"
        failure = await self._checks.read(serializable=serializable)
        return f"RANGE ERROR:{failure}" if failure else None


class _Probe:
    """/livez or /readyz: named checks, together or each on a path of its own."""

    __slots__ = ("_checks", "_logger", "_name", "_recorder")

    def __init__(
        self, name: str, checks: Mapping[str, Check], recorder: _Recorder, logger: FilteringBoundLogger
    ) -> None:
        self._name = name
        self._checks = checks
        self._recorder = recorder
        self._logger = logger

    def install(self, app: web.Application) -> None:
        _get(app, f"/{self._name}", self._answer_all)
        for name in self._checks:
            _get(app, f"/{self._name}/{name}", self._answer_one)

    async def _answer_all(self, request: web.Request) -> web.Response:
        excluded = {name for name in request.query.getall("exclude", []) if name}
        if unknown := excluded - self._checks.keys():
            # Not an error: a probe written for a later version excludes what this one does not check.
            self._logger.warning("cannot exclude health checks", path=request.path, checks=sorted(unknown))
        return await self._answer(request, [name for name in self._checks if name not in excluded])

    async def _answer_one(self, request: web.Request) -> web.Response:
        return await self._answer(request, [request.path.rpartition("/")[2]])

    async def _answer(self, request: web.Request, names: Iterable[str]) -> web.Response:
        lines, passed = "", True
        for name in names:
            failure = await self._checks[name]()
            self._recorder.check(self._name, name, passed=failure is None)
            passed = passed and failure is None
            lines += f"[+]{name} ok\n" if failure is None else f"[-]{name} failed: {failure}\n"
        if not passed:
            self._logger.warning("health check failed", path=request.path, reason=lines)
            return web.Response(status=503, text=f"{lines}\n", headers=_REFUSAL)
        return web.Response(text=f"{lines if 'verbose' in request.query else ''}ok\n", headers=_REFUSAL)


class HttpServer:
    """Serves an application on listeners of its own, and on connections that another listener hands over."""

    __slots__ = ("_runner",)

    def __init__(self, app: web.Application) -> None:
        logger = logging.getLogger("kvstore.http")
        logger.addFilter(_is_not_the_clients_fault)
        self._runner = web.AppRunner(app, access_log=None, logger=logger, shutdown_timeout=2.0)

    async def start(
        self, urls: Iterable[Url] = (), *, reuse_address: bool | None = None, reuse_port: bool | None = None
    ) -> None:
        """Make protocol() usable and listen on urls. Raises OSError if one of them is taken."""
        await self._runner.setup()
        for url in urls:
            await web.TCPSite(
                self._runner, url.host, url.port, reuse_address=reuse_address, reuse_port=reuse_port
            ).start()

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Where it listens, by itself."""
        return [(str(address[0]), int(address[1])) for address in self._runner.addresses]

    def protocol(self) -> asyncio.Protocol:
        """A protocol for one connection that was accepted elsewhere. Only between start and stop."""
        server = self._runner.server
        if server is None:
            raise RuntimeError("the HTTP server is not running")
        return server()

    async def stop(self) -> None:
        """Close every listener and, after 2 s for what is under way, every connection."""
        await self._runner.cleanup()


def _is_not_the_clients_fault(record: logging.LogRecord) -> bool:
    """What is no HTTP is answered and not logged: anybody can send any amount of it."""
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))
