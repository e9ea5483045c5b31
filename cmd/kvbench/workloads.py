"""What is compared: a table of workloads, each a load and the number that it is judged by.

Knows loads and clusters; which program is measured, how often and in which order is `compare`'s business.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace

from kvbench.load import Kind, Load, Result
from kvbench.pool import LoadFailed, Pool
from kvbench.servers import Cluster

KEYS = 100_000
MANY_KEYS = 1_000_000
FAILOVER_SECONDS = 8.0
FAILOVER_KILL_AT = 1.5
FAILOVER_TIMEOUT = 0.5


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement.

    value: in the workload's unit. p50, p99: milliseconds. generator: its share of a processor. detail: of what the
    value is the sum, by name.
    """

    value: float
    p50: float | None = None
    p99: float | None = None
    errors: int = 0
    generator: float | None = None
    detail: dict[str, float] | None = None


@dataclass(frozen=True, slots=True)
class Scale:
    """How large everything is: full, or small enough to be over in seconds."""

    keys: int
    many_keys: int
    seconds: float
    failover_seconds: float


Measure = Callable[[Pool, Cluster, Scale, float], Sample]
"""Measures for so many seconds, or for as long as it takes."""


@dataclass(frozen=True, slots=True)
class Workload:
    """many_keys: runs over the large data set. warm: whether a run before the first that counts makes a difference."""

    name: str
    unit: str
    measure: Measure
    higher_is_better: bool = True
    many_keys: bool = False
    warm: bool = True
    needs_members: int = 1


def _judge(result: Result, value: float) -> Sample:
    summary = result.latencies.summary() if result.operations else None
    return Sample(
        value=value,
        p50=summary.quantiles[0.5] if summary else None,
        p99=summary.quantiles[0.99] if summary else None,
        errors=result.errors.total(),
        generator=result.cpu_share,
    )


def _load(kind: Kind, connections: int, streams: int, *, many: bool = False, **options: object) -> Measure:
    def measure(pool: Pool, cluster: Cluster, scale: Scale, seconds: float) -> Sample:
        load = Load(
            kind=kind,
            endpoints=cluster.endpoints,
            connections=connections,
            streams=streams,
            keys=scale.many_keys if many else scale.keys,
            duration=seconds,
        )
        result = pool.run(replace(load, **options))  # type: ignore[arg-type]
        return _judge(result, result.event_rate if kind is Kind.WATCH else result.rate)

    return measure


def fill(pool: Pool, cluster: Cluster, keys: int) -> None:
    """Put all keys once. Raises LoadFailed if any put failed."""
    load = Load(kind=Kind.FILL, endpoints=cluster.endpoints[:1], connections=2, streams=4, keys=keys)
    result = pool.run(load)
    if result.errors:
        raise LoadFailed(f"{cluster.program.name} could not be filled: {result.errors.most_common(1)[0][0]}")


def _restart(pool: Pool, cluster: Cluster, scale: Scale, seconds: float) -> Sample:
    cluster.stop()
    return Sample(value=cluster.start())


def _memory(pool: Pool, cluster: Cluster, scale: Scale, seconds: float) -> Sample:
    detail = {name: size / (1 << 20) for name, size in cluster.anonymous_bytes().items()}
    return Sample(value=sum(detail.values()), detail=detail)


def _failover(pool: Pool, cluster: Cluster, scale: Scale, seconds: float) -> Sample:
    """Kill the leader while keys are put through all members."""
    load = Load(
        kind=Kind.PUT,
        endpoints=cluster.endpoints,
        connections=12,
        streams=2,
        keys=scale.keys,
        duration=scale.failover_seconds,
        # A call that waits for the dead leader must not hide that others would be answered.
        timeout=FAILOVER_TIMEOUT,
    )
    killer = threading.Timer(min(FAILOVER_KILL_AT, scale.failover_seconds / 4), cluster.kill_leader)
    killer.start()
    try:
        result = pool.run(load)
    finally:
        killer.join()
        cluster.start()
    return Sample(value=result.longest_gap, errors=result.errors.total(), generator=result.cpu_share)


def table() -> tuple[Workload, ...]:
    """All workloads, in the order in which they are run."""
    return (
        Workload("put 1x1", "ops/s", _load(Kind.PUT, 1, 1)),
        Workload("put 10x10", "ops/s", _load(Kind.PUT, 10, 10)),
        Workload("put 20x50", "ops/s", _load(Kind.PUT, 20, 50)),
        Workload("put 100x1", "ops/s", _load(Kind.PUT, 100, 1)),
        Workload("get linearizable 10x10", "ops/s", _load(Kind.GET, 10, 10)),
        Workload("get linearizable 20x50", "ops/s", _load(Kind.GET, 20, 50)),
        Workload("get serializable 20x50", "ops/s", _load(Kind.GET, 20, 50, serializable=True)),
        Workload("txn put-or-get 20x50", "ops/s", _load(Kind.TXN, 20, 50)),
        Workload("mixed 80/20 20x50", "ops/s", _load(Kind.MIXED, 20, 50, read_share=0.8)),
        Workload(
            "watch 100 watchers in 10 streams", "events/s", _load(Kind.WATCH, 10, 10, watchers=100, watch_streams=10)
        ),
        Workload(
            "lease keepalive 1000 in 10 streams", "ops/s", _load(Kind.LEASE, 10, 1, leases=1_000, lease_streams=10)
        ),
        Workload("leader killed", "s", _failover, higher_is_better=False, warm=False, needs_members=3),
        _over_many("range limit 500", limit=500),
        _over_many("range limit 10000", limit=10_000),
        _over_many("range count only", count_only=True),
        _over_many("range keys only limit 10000", limit=10_000, keys_only=True),
        Workload("memory", "MiB", _memory, higher_is_better=False, many_keys=True, warm=False),
        Workload("start to first answer", "s", _restart, higher_is_better=False, many_keys=True, warm=False),
    )


def _over_many(name: str, **options: object) -> Workload:
    return Workload(name, "ops/s", _load(Kind.RANGE, 4, 2, many=True, **options), many_keys=True)
