"""What load is wanted and what came of it: plain values that cross between processes."""

from collections import Counter
from dataclasses import dataclass, field
from enum import Enum

from kvbench.latency import Latencies


class Kind(Enum):
    """What is measured."""

    PUT = "put"
    GET = "get"
    RANGE = "range"
    TXN = "txn"
    MIXED = "mixed"
    WATCH = "watch"
    LEASE = "lease"
    FILL = "fill"


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """A load on a set of endpoints.

    connections x streams: calls under way at once (of WATCH: of the puts). total: calls, None for as many as fit into
    the duration. duration: seconds. rate: calls a second, None for as many as are answered. timeout: seconds of a call,
    None for none. sequential: keys in order instead of at random. read_share: of MIXED. conflicts: share of TXN whose
    comparison fails.
    watchers, watch_streams: of WATCH. watch_each: every watcher has a key of its own instead of all keys.
    leases, lease_streams: of LEASE. batch: keys a transaction of FILL. first: number of the first key of FILL.
    times: how often FILL puts each key.
    """

    kind: Kind
    endpoints: tuple[str, ...]
    connections: int = 1
    streams: int = 1
    keys: int = 100_000
    key_size: int = 20
    value_size: int = 256
    total: int | None = None
    duration: float = 10.0
    rate: float | None = None
    timeout: float | None = None
    sequential: bool = False
    seed: int = 1
    limit: int = 0
    keys_only: bool = False
    count_only: bool = False
    serializable: bool = False
    read_share: float = 0.8
    conflicts: float = 0.2
    watchers: int = 100
    watch_streams: int = 10
    watch_each: bool = False
    leases: int = 1_000
    lease_streams: int = 10
    lease_ttl: int = 600
    batch: int = 100
    first: int = 0
    times: int = 1


@dataclass(slots=True)
class Result:
    """What one process, or all together, measured.

    operations: calls that were answered (of WATCH: puts). elapsed: seconds from the first call to the last answer.
    errors: by gRPC code and text. cpu: seconds of processor time. events: delivered to watchers.
    longest_gap: seconds without an answered call, between two that were.
    """

    latencies: Latencies = field(default_factory=Latencies)
    operations: int = 0
    elapsed: float = 0.0
    errors: Counter[str] = field(default_factory=Counter)
    cpu: float = 0.0
    events: int = 0
    event_latencies: Latencies = field(default_factory=Latencies)
    longest_gap: float = 0.0
    response_bytes: int = 0
    processes: int = 1

    def merge(self, other: "Result") -> None:
        """Add what another process measured at the same time."""
        self.latencies.merge(other.latencies)
        self.event_latencies.merge(other.event_latencies)
        self.operations += other.operations
        self.errors.update(other.errors)
        self.elapsed = max(self.elapsed, other.elapsed)
        self.cpu += other.cpu
        self.events += other.events
        # Gaps of processes do not add up; the smallest is the best that is known of all.
        self.longest_gap = min(self.longest_gap, other.longest_gap)
        self.response_bytes += other.response_bytes
        self.processes += other.processes

    @property
    def rate(self) -> float:
        """Answered calls a second."""
        return self.operations / self.elapsed if self.elapsed else 0.0

    @property
    def event_rate(self) -> float:
        """Delivered events a second."""
        return self.events / self.elapsed if self.elapsed else 0.0

    @property
    def cpu_share(self) -> float:
        """Of one processor and process: near 1, the generator and not the server was the limit."""
        return self.cpu / self.elapsed / self.processes if self.elapsed else 0.0
