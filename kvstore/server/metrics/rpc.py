"""The counters of calls, from those that the gRPC server keeps for each method.

Nothing is copied while calls are served: a scrape reads what the server has incremented.
"""

from kvstore.rpc.observer import MethodStats
from kvstore.rpc.status import StatusCode
from kvstore.server.metrics.registry import Metrics

_CODE_NAMES = {code: "".join(part.capitalize() for part in code.name.split("_")) for code in StatusCode}
# As grpc-go writes them; every other name is its words capitalized.
_CODE_NAMES |= {StatusCode.OK: "OK", StatusCode.CANCELLED: "Canceled"}

Labels = tuple[str, ...]


class CallMetrics:
    """An observer for the server of clients (kvstore.rpc.observer.Observer) that publishes what it is told."""

    __slots__ = ("_stats",)

    def __init__(self, metrics: Metrics) -> None:
        self._stats: dict[Labels, MethodStats] = {}
        metrics.read_family("grpc_server_started_total", self._started)
        metrics.read_family("grpc_server_handled_total", self._handled)
        metrics.read_family("grpc_server_msg_received_total", self._messages_received)
        metrics.read_family("grpc_server_msg_sent_total", self._messages_sent)
        metrics.read("etcd_network_client_grpc_received_bytes_total", self._bytes_received)
        metrics.read("etcd_network_client_grpc_sent_bytes_total", self._bytes_sent)

    def method(self, service: str, name: str, kind: str) -> MethodStats:
        """The counters of /service/name, the same each time it is asked for."""
        return self._stats.setdefault((kind, service, name), MethodStats())

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

    def _bytes_received(self) -> float:
        return sum(stats.bytes_received for stats in self._stats.values())

    def _bytes_sent(self) -> float:
        return sum(stats.bytes_sent for stats in self._stats.values())
