"""How speed holds as the work grows: more keys, versions, watchers, connections, leases.

Each curve is measured on members of its own, from small to large. Every point is written down as soon as it is there,
and a run that was cut off goes on from those. Knows what is measured; drawing is `plot`'s business.
"""

import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import click

from kvbench.load import Kind, Load
from kvbench.plot import Panel, svg
from kvbench.pool import LoadFailed, Pool
from kvbench.servers import Cluster, kvstored

DATA = "curves.json"
LEVEL = 0.25
"""A curve is level while its end is no further than this share below its best."""

VERSIONED_KEYS = 1_000
WATCHED_KEYS = 100_000

Values = dict[str, tuple[float, float]]
"""By series: operations a second, and microseconds of the member's processor an operation."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """The points of every curve, ascending. seconds: of one measurement."""

    keys: tuple[int, ...] = (10_000, 100_000, 1_000_000, 5_000_000)
    versions: tuple[int, ...] = (1, 10, 100, 1_000)
    watchers: tuple[int, ...] = (1, 100, 1_000, 10_000)
    connections: tuple[int, ...] = (10, 100, 1_000, 10_000)
    leases: tuple[int, ...] = (100, 1_000, 10_000, 100_000)
    seconds: float = 4.0

    @classmethod
    def small(cls) -> "Sizes":
        """Shows that everything works, measures nothing."""
        return cls((500, 1_000), (1, 3), (1, 20), (2, 10), (10, 50), 0.3)


@dataclass(frozen=True, slots=True)
class Curve:
    """measure: goes through the sizes it is given, all of them, and yields each size with its values."""

    name: str
    title: str
    x_label: str
    sizes: Callable[[Sizes], tuple[int, ...]]
    measure: "Callable[[Bench, Sequence[int]], Iterator[tuple[int, Values]]]"


class Bench:
    """What a curve measures with. directory: for members' data."""

    def __init__(self, pool: Pool, directory: Path, seconds: float) -> None:
        self._pool = pool
        self._directory = directory
        self._program = kvstored()
        self._made = 0
        self.seconds = seconds

    @contextmanager
    def member(self) -> Iterator[Cluster]:
        """A fresh member."""
        self._made += 1
        with Cluster(self._program, 1, self._directory / f"m{self._made}") as cluster:
            yield cluster

    def fill(self, cluster: Cluster, first: int, keys: int, times: int = 1) -> None:
        """Put the keys from number `first` up to `keys`, each so many times."""
        load = Load(kind=Kind.FILL, endpoints=cluster.endpoints, connections=2, streams=4, keys=keys)
        result = self._pool.run(replace(load, first=first, times=times))
        if result.errors:
            raise LoadFailed(f"the member could not be filled: {result.errors.most_common(1)[0][0]}")

    def rate(self, cluster: Cluster, kind: Kind, connections: int = 20, streams: int = 50, **options: object) -> Load:
        """A load that lasts as long as a measurement."""
        load = Load(kind=kind, endpoints=cluster.endpoints, connections=connections, streams=streams)
        return replace(load, duration=self.seconds, **options)  # type: ignore[arg-type]

    def measure(self, cluster: Cluster, load: Load) -> tuple[float, float]:
        """Operations a second, and processor time of the member an operation. Raises LoadFailed if calls failed."""
        cost = _Cost(cluster)
        result = self._pool.run(load, cost.watch, cost.start)
        if result.errors or not result.operations:
            reason = result.errors.most_common(1)[0][0] if result.errors else "nothing was answered"
            raise LoadFailed(f"{load.kind.value}: {reason}")
        if load.kind is Kind.WATCH and not load.watch_each:
            return result.event_rate, cost.per_event
        return result.rate, cost.per_operation


class _Cost:
    """A member's processor time from the first call to the last report of progress: no connecting, no closing."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._began = 0.0
        self._taken = 0.0
        self._operations = 0
        self._events = 0

    def start(self) -> None:
        self._began = self._cluster.processor_seconds()

    def watch(self, operations: int, events: int) -> None:
        self._taken = self._cluster.processor_seconds() - self._began
        self._operations, self._events = operations, events

    @property
    def per_operation(self) -> float:
        """Microseconds."""
        return self._taken / max(1, self._operations) * 1e6

    @property
    def per_event(self) -> float:
        """Microseconds."""
        return self._taken / max(1, self._events) * 1e6


def _keys(bench: Bench, sizes: Sequence[int]) -> Iterator[tuple[int, Values]]:
    with bench.member() as cluster:
        filled = 0
        for count in sizes:
            bench.fill(cluster, filled, count)
            filled = count
            yield (
                count,
                {
                    "put": bench.measure(cluster, bench.rate(cluster, Kind.PUT, keys=count)),
                    "get": bench.measure(cluster, bench.rate(cluster, Kind.GET, keys=count)),
                },
            )


def _versions(bench: Bench, sizes: Sequence[int]) -> Iterator[tuple[int, Values]]:
    with bench.member() as cluster:
        reached = 0
        for versions in sizes:
            if versions > reached:
                bench.fill(cluster, 0, VERSIONED_KEYS, versions - reached)
            get = bench.measure(cluster, bench.rate(cluster, Kind.GET, keys=VERSIONED_KEYS))
            # So many that the measurement adds few versions itself.
            total = 10 * VERSIONED_KEYS
            put = bench.measure(cluster, bench.rate(cluster, Kind.PUT, keys=VERSIONED_KEYS, total=total))
            reached = max(reached, versions) + total // VERSIONED_KEYS
            yield versions, {"put": put, "get": get}


def _watchers(bench: Bench, sizes: Sequence[int]) -> Iterator[tuple[int, Values]]:
    with bench.member() as cluster:
        bench.fill(cluster, 0, WATCHED_KEYS)
        for watchers in sizes:
            load = bench.rate(cluster, Kind.WATCH, watchers=watchers, watch_streams=10, keys=WATCHED_KEYS)
            yield (
                watchers,
                {
                    "put, a key each": bench.measure(cluster, replace(load, watch_each=True)),
                    "event, all keys": bench.measure(cluster, replace(load, connections=1, streams=4)),
                },
            )


def _connections(bench: Bench, sizes: Sequence[int]) -> Iterator[tuple[int, Values]]:
    with bench.member() as cluster:
        bench.fill(cluster, 0, WATCHED_KEYS)
        for connections in sizes:
            yield (
                connections,
                {
                    "put": bench.measure(cluster, bench.rate(cluster, Kind.PUT, connections, 1, keys=WATCHED_KEYS)),
                    "get": bench.measure(cluster, bench.rate(cluster, Kind.GET, connections, 1, keys=WATCHED_KEYS)),
                },
            )


def _leases(bench: Bench, sizes: Sequence[int]) -> Iterator[tuple[int, Values]]:
    for leases in sizes:
        with bench.member() as cluster:
            bench.fill(cluster, 0, WATCHED_KEYS)
            load = bench.rate(cluster, Kind.LEASE, 10, 1, leases=leases, lease_streams=10)
            keepalive = bench.measure(cluster, load)
            put = bench.measure(cluster, bench.rate(cluster, Kind.PUT, keys=WATCHED_KEYS))
            yield leases, {"keepalive": keepalive, "put": put}


def table() -> tuple[Curve, ...]:
    """All curves."""
    return (
        Curve("keys", "keys", "keys in the store", lambda sizes: sizes.keys, _keys),
        Curve("versions", "versions of a key", "versions of each key", lambda sizes: sizes.versions, _versions),
        Curve("watchers", "watchers", "watchers in 10 streams", lambda sizes: sizes.watchers, _watchers),
        Curve("connections", "connections", "connections, a call each", lambda sizes: sizes.connections, _connections),
        Curve("leases", "leases", "leases", lambda sizes: sizes.leases, _leases),
    )


def draw(curves: Sequence[Curve], sizes: Sizes, out: Path, directory: Path | None, processes: int) -> None:
    """Measure what is not in out/curves.json yet, and draw every curve that is whole. Raises LoadFailed."""
    out.mkdir(parents=True, exist_ok=True)
    points = _Points(out / DATA, sizes.seconds)
    with tempfile.TemporaryDirectory(prefix="kvbench-", dir=directory) as base, Pool(processes) as pool:
        bench = Bench(pool, Path(base), sizes.seconds)
        for curve in curves:
            wanted = curve.sizes(sizes)
            if all(points.has(curve.name, size) for size in wanted):
                _say(f"{curve.name}: measured already")
            else:
                _measure(curve, bench, wanted, points)
            known = points.of(curve.name, wanted)
            (out / f"{curve.name}.svg").write_text(svg(_panels(curve, known)))
            for line in verdict(curve, known):
                click.echo(line)
    click.echo(f"\nwritten to {out}")


def _measure(curve: Curve, bench: Bench, wanted: tuple[int, ...], points: "_Points") -> None:
    """Measure all sizes, for a large one stands on the smaller ones before it."""
    measuring = curve.measure(bench, wanted)
    while True:
        began = time.monotonic()
        step = next(measuring, None)
        if step is None:
            return
        size, values = step
        points.add(curve.name, size, values)
        said = ", ".join(f"{name} {rate:,.0f}/s {cost:.1f} us" for name, (rate, cost) in values.items())
        _say(f"{curve.name} {size:,}: {said} ({time.monotonic() - began:.0f} s)")


def _say(text: str) -> None:
    click.echo(f"  {text}", err=True)


def _panels(curve: Curve, known: Mapping[int, Values]) -> list[Panel]:
    names = next(iter(known.values()))
    rates = {name: [(size, values[name][0] / 1000) for size, values in known.items()] for name in names}
    costs = {name: [(size, values[name][1]) for size, values in known.items()] for name in names}
    return [
        Panel(f"Thousands a second, by {curve.title}", curve.x_label, rates),
        Panel("Processor time of the member, us each", curve.x_label, costs),
    ]


def verdict(curve: Curve, known: Mapping[int, Values]) -> Iterator[str]:
    """A curve in words: rates, costs, and whether its end is level with its best."""
    yield f"{curve.title}: " + ", ".join(f"{size:,}" for size in known)
    for name in next(iter(known.values())):
        rates = [values[name][0] for values in known.values()]
        costs = [values[name][1] for values in known.values()]
        change = rates[-1] / max(rates) - 1
        mark = "" if change >= -LEVEL else f"  - more than {LEVEL:.0%} below the best"
        yield (
            f"  {name:<18} {' '.join(f'{rate:>9,.0f}' for rate in rates)} /s   "
            f"{' '.join(f'{cost:>6.1f}' for cost in costs)} us   {change:+.0%}{mark}"
        )


class _Points:
    """What has been measured, in a file that is written anew with every point."""

    def __init__(self, path: Path, seconds: float) -> None:
        self._path = path
        self._known: dict[str, dict[str, dict[str, list[float]]]] = {}
        self._seconds = seconds
        if path.exists():
            self._known = json.loads(path.read_text())["curves"]

    def has(self, curve: str, size: int) -> bool:
        return str(size) in self._known.get(curve, {})

    def add(self, curve: str, size: int, values: Values) -> None:
        self._known.setdefault(curve, {})[str(size)] = {name: list(pair) for name, pair in values.items()}
        machine = {"processors": os.cpu_count(), "system": platform.platform(), "python": platform.python_version()}
        report = {"machine": machine, "seconds": self._seconds, "curves": self._known}
        # In its place at once: a run that is cut off leaves the points before.
        part = self._path.with_suffix(".part")
        part.write_text(json.dumps(report, indent=2) + "\n")
        part.replace(self._path)

    def of(self, curve: str, sizes: Sequence[int]) -> dict[int, Values]:
        known = self._known[curve]
        return {size: {name: (pair[0], pair[1]) for name, pair in known[str(size)].items()} for size in sizes}
