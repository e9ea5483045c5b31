"""The metrics of calls, from what the gRPC server counts for each method.

Nothing is copied while calls are served: a scrape reads what the server has incremented. What costs something for each
call (CallTimes) is fed only where somebody has asked for it.
"""

import math
import re
import time
from collections.abc import Callable
from typing import Any, Final, Protocol

from structlog.typing import FilteringBoundLogger

from kvstore.rpc.observer import MethodStats, Report
from kvstore.rpc.status import StatusCode
from kvstore.server.metrics.registry import Metrics

_CODE_NAMES = {code: "".join(part.capitalize() for part in code.name.split("_")) for code in StatusCode}
# As grpc-go writes them; every other name is its words capitalized.
_CODE_NAMES |= {StatusCode.OK: "OK", StatusCode.CANCELLED: "Canceled"}

_STREAMS: Final = {
    ("etcdserverpb.Watch", "Watch"): "watch",
    ("etcdserverpb.Lease", "LeaseKeepAlive"): "lease-keepalive",
}
"""Streams whose failures are counted: etcd's label of each by its service and method."""

_UNREADABLE: Final = (StatusCode.INTERNAL, StatusCode.INVALID_ARGUMENT, StatusCode.RESOURCE_EXHAUSTED)
"""What a stream ends with when its client sends something that cannot be taken."""

_VERSION_KEY: Final = "client-api-version"
_VERSION: Final = re.compile(r"[0-9]{1,4}(\.[0-9]{1,4}){1,2}")
_MAX_VERSIONS: Final = 64
"""Clients choose what they say; so many different versions are told apart."""

WARNING_SECONDS: Final = 1.0
"""Between two warnings of slow calls of one method: an overloaded server must not spend its time on saying so."""

Labels = tuple[str, ...]


class CallListener(Protocol):
    """Wants to know of single calls when they have ended."""

    def listen(self, service: str, name: str, kind: str) -> tuple[float, Report]:
        """What to tell of the calls of a method, and from how many seconds on (math.inf: never)."""


class CallMetrics:
    """An observer for the server of clients (kvstore.rpc.observer.Observer) that publishes what it is told.

    listeners: told of calls that take long enough for them.
    """

    __slots__ = ("_listeners", "_stats")

    def __init__(self, metrics: Metrics, *listeners: CallListener) -> None:
        self._stats: dict[Labels, MethodStats] = {}
        self._listeners = listeners
        metrics.read_family("grpc_server_started_total", self._started)
        metrics.read_family("grpc_server_handled_total", self._handled)
        metrics.read_family("grpc_server_msg_received_total", self._messages_received)
        metrics.read_family("grpc_server_msg_sent_total", self._messages_sent)
        metrics.read_family("etcd_network_server_stream_failures_total", self._stream_failures)
        metrics.read("etcd_network_client_grpc_received_bytes_total", self._bytes_received)
        metrics.read("etcd_network_client_grpc_sent_bytes_total", self._bytes_sent)

    def method(self, service: str, name: str, kind: str) -> MethodStats:
        """The counters of /service/name, the same each time it is asked for."""
        labels = (kind, service, name)
        stats = self._stats.get(labels)
        if stats is None:
            wanted = [listener.listen(service, name, kind) for listener in self._listeners]
            wanted = [(seconds, report) for seconds, report in wanted if seconds < math.inf]
            stats = self._stats[labels] = _stats(wanted)
        return stats

    def _started(self) -> dict[Labels, float]:
        return {labels: stats.started for labels, stats in self._stats.items()}

    def _handled(self) -> dict[Labels, float]:
        # OK is there from the start, so that a rate of errors has something to be divided by; others once they occur.
        return {
            (*labels, _CODE_NAMES[code]): stats.handled[code]
            for labels, stats in self._stats.items()
            for code in StatusCode
            if stats.handled[code] or code is StatusCode.OK
        }

    def _messages_received(self) -> dict[Labels, float]:
        return {labels: stats.messages_received for labels, stats in self._stats.items()}

    def _messages_sent(self) -> dict[Labels, float]:
        return {labels: stats.messages_sent for labels, stats in self._stats.items()}

    def _stream_failures(self) -> dict[Labels, float]:
        # Sending cannot fail by itself here: what is sent waits in a buffer, and if its connection breaks the call is
        # cancelled, which is no failure to etcd either.
        return {
            ("receive", _STREAMS[service, name]): sum(stats.handled[code] for code in _UNREADABLE)
            for (_, service, name), stats in self._stats.items()
            if (service, name) in _STREAMS
        }

    def _bytes_received(self) -> float:
        return sum(stats.bytes_received for stats in self._stats.values())

    def _bytes_sent(self) -> float:
        return sum(stats.bytes_sent for stats in self._stats.values())


def _stats(wanted: list[tuple[float, Report]]) -> MethodStats:
    if not wanted:
        return MethodStats()
    if len(wanted) == 1:
        return MethodStats(*wanted[0])

    def report(context: Any, code: StatusCode, seconds: float) -> None:
        for from_seconds, one in wanted:
            if seconds >= from_seconds:
                one(context, code, seconds)

    return MethodStats(min(seconds for seconds, _ in wanted), report)


class CallTimes:
    """How long every call took, and which version its client speaks (--metrics=extensive).

    Costs 2 to 4 microseconds a call: the client's metadata is decoded for its version.
    """

    __slots__ = ("_handling", "_requests", "_times", "_versions")

    def __init__(self, metrics: Metrics) -> None:
        self._handling = metrics.histograms("grpc_server_handling_seconds")
        self._requests = metrics.counters("etcd_server_client_requests_total")
        self._times = metrics.histograms("etcd_server_request_duration_seconds")
        self._versions: set[str] = set()

    def listen(self, service: str, name: str, kind: str) -> tuple[float, Report]:
        """Every call of every method."""
        handling = self._handling.at(kind, service, name)
        shape = "unary" if kind == "unary" else "stream"

        def report(context: Any, code: StatusCode, seconds: float) -> None:
            handling.observe(seconds)
            self._requests.at(shape, self._version(context)).value += 1

        if shape == "stream":
            return 0.0, report

        def report_unary(context: Any, code: StatusCode, seconds: float) -> None:
            report(context, code, seconds)
            self._times.at(name, "true" if code is StatusCode.OK else "false").observe(seconds)

        return 0.0, report_unary

    def _version(self, context: Any) -> str:
        for key, value in context.invocation_metadata():
            if key == _VERSION_KEY and isinstance(value, str) and _VERSION.fullmatch(value):
                if value in self._versions:
                    return value
                if len(self._versions) < _MAX_VERSIONS:
                    self._versions.add(value)
                    return value
        return "unknown"


class SlowCalls:
    """A warning for unary calls that took longer than --warning-unary-request-duration.

    At most one in WARNING_SECONDS for each method; the next one says how many were passed over.
    seconds: 0 warns of none. clock: seconds that only go forward.
    """

    __slots__ = ("_clock", "_logger", "_seconds")

    def __init__(
        self, seconds: float, logger: FilteringBoundLogger, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._seconds = seconds or math.inf
        self._logger = logger
        self._clock = clock

    def listen(self, service: str, name: str, kind: str) -> tuple[float, Report]:
        """Slow calls of unary methods; a stream is as long as its client wants it."""
        method = f"/{service}/{name}"
        quiet_until = -math.inf
        passed_over = 0

        def report(context: Any, code: StatusCode, seconds: float) -> None:
            nonlocal quiet_until, passed_over
            now = self._clock()
            if now < quiet_until:
                passed_over += 1
                return
            self._logger.warning(
                "request took too long",
                method=method,
                took=f"{seconds:.3f}s",
                expected=f"{self._seconds:g}s",
                code=_CODE_NAMES[code],
                remote=context.peer(),
                unreported=passed_over,
            )
            quiet_until, passed_over = now + WARNING_SECONDS, 0

        return (self._seconds if kind == "unary" else math.inf), report
