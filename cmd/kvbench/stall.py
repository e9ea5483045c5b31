"""Stalls, seen from outside: a light client at a fixed rate beside the full load and heavy work.

The light client reads one key from this member alone, by the clock: a call that had to wait for the loop to come round
is counted from when it was due. Its p99.9 is what the longest thing that a loop does at a time costs everybody.
"""

import asyncio
import json
import os
import re
import sys
import tempfile
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from kvbench import disturbances
from kvbench.disturbances import Disturbance, Server
from kvbench.load import Kind, Load, Result
from kvbench.pool import LoadFailed, Pool
from kvbench.requests import KeySpace
from kvbench.servers import OWN_NAME, Cluster, Program
from kvbench.workloads import fill

BEFORE_SECONDS = 0.5
LAG = re.compile(r'^kvstore_loop_lag_distribution_seconds_bucket\{le="([^"]+)"\} (\d+)', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Plan:
    """keys: what the store is filled with. bulk: keys and leases of the heavy work. rate: of the probe, a second.

    connections x streams: of the full load, four gets to one put.
    """

    chosen: tuple[Disturbance, ...]
    seconds: float = 10.0
    keys: int = 1_000_000
    bulk: int = 100_000
    rate: float = 500.0
    connections: int = 10
    streams: int = 10
    value_size: int = 256


@dataclass(frozen=True, slots=True)
class Stalls:
    """What the probe saw, in milliseconds; the load's answered calls a second.

    lag: bound that the loop's own lag was below 99.9% of the time, in milliseconds, if the server says so.
    """

    name: str
    probes: int
    errors: int
    p50: float
    p99: float
    p999: float
    maximum: float
    load: float
    lag: float | None


def measure(plan: Plan, program: Program, directory: Path | None, json_file: Path) -> None:
    """Run the plan against a fresh member, print a table as it grows, and write a file. Raises LoadFailed."""
    rows: list[Stalls] = []
    with (
        tempfile.TemporaryDirectory(prefix="kvbench-", dir=directory) as base,
        Pool(1) as load_pool,
        Pool(1) as probe_pool,
        Cluster(program, 1, Path(base) / program.name) as cluster,
    ):
        if sys.stderr.isatty():
            click.echo(f"  {program.name}: filling {plan.keys:,} keys", err=True)
        fill(load_pool, cluster, plan.keys)
        click.echo(_head())
        for disturbance in plan.chosen:
            if disturbance.flags and program.name != OWN_NAME:
                continue
            cluster.run_with(disturbance.flags)
            rows.append(asyncio.run(_beside(plan, disturbance, cluster, load_pool, probe_pool)))
            click.echo(_line(rows[-1]))
    click.echo("latency of the probe in ms, from when a call was due; lag: the loop's own, 99.9% below, in ms")
    json_file.parent.mkdir(parents=True, exist_ok=True)
    report = {
        "program": asdict(program),
        "processors": os.cpu_count(),
        "plan": {name: value for name, value in asdict(plan).items() if name != "chosen"},
        "results": [asdict(row) for row in rows],
    }
    json_file.write_text(json.dumps(report, indent=2) + "\n")
    click.echo(f"written to {json_file}")


async def _beside(plan: Plan, what: Disturbance, cluster: Cluster, load_pool: Pool, probe_pool: Pool) -> Stalls:
    loop = asyncio.get_running_loop()
    endpoint = cluster.endpoints[0]
    server = Server(endpoint, KeySpace(plan.keys), plan.bulk, plan.value_size)
    common = Load(
        kind=Kind.MIXED,
        endpoints=(endpoint,),
        connections=plan.connections,
        streams=plan.streams,
        keys=plan.keys,
        value_size=plan.value_size,
        duration=plan.seconds,
    )
    probe = Load(
        kind=Kind.GET,
        endpoints=(endpoint,),
        streams=200,
        keys=plan.keys,
        duration=plan.seconds,
        rate=plan.rate,
        serializable=True,
    )
    try:
        await what.prepare(server)
        before = await asyncio.to_thread(_lag_counts, endpoint)
        with ThreadPoolExecutor(2) as threads:
            running = [
                loop.run_in_executor(threads, load_pool.run, common),
                loop.run_in_executor(threads, probe_pool.run, probe),
            ]
            await asyncio.sleep(min(BEFORE_SECONDS, plan.seconds / 4))
            await disturbances.act(what, server, lambda: any(each.done() for each in running))
            load, seen = await asyncio.gather(*running)
        after = await asyncio.to_thread(_lag_counts, endpoint)
    finally:
        await server.close()
    return _stalls(what, load, seen, lag(before, after))


def _stalls(what: Disturbance, load: Result, seen: Result, lag: float | None) -> Stalls:
    if not seen.operations:
        raise LoadFailed(f"no probe was answered beside {what.name}")
    summary = seen.latencies.summary()
    return Stalls(
        name=what.name,
        probes=seen.operations,
        errors=seen.errors.total() + load.errors.total(),
        p50=summary.quantiles[0.5],
        p99=summary.quantiles[0.99],
        p999=summary.quantiles[0.999],
        maximum=summary.maximum,
        load=load.rate,
        lag=lag,
    )


def _lag_counts(endpoint: str) -> dict[float, int]:
    """The buckets of the loop's lag so far: count at or below each bound. Empty for a server that has no such loop."""
    with urllib.request.urlopen(f"http://{endpoint}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    return {float(bound): int(count) for bound, count in LAG.findall(text)}


def lag(before: dict[float, int], after: dict[float, int]) -> float | None:
    """Milliseconds that 99.9% of the samples between two counts were at or below; None if there were none."""
    counts = {bound: count - before.get(bound, 0) for bound, count in after.items()}
    total = max(counts.values(), default=0)
    if not total:
        return None
    return 1000 * min(bound for bound, count in counts.items() if count >= 0.999 * total)


def _head() -> str:
    head = (
        f"{'beside':<24} {'probes':>7} {'p50':>8} {'p99':>8} {'p99.9':>8} {'max':>8} {'lag':>7} {'load/s':>9} "
        f"{'errors':>6}"
    )
    return f"{head}\n{'-' * len(head)}"


def _line(row: Stalls) -> str:
    lag = f"{row.lag:.1f}" if row.lag is not None else "-"
    return (
        f"{row.name:<24} {row.probes:>7,} {row.p50:>8.2f} {row.p99:>8.2f} {row.p999:>8.2f} {row.maximum:>8.2f} "
        f"{lag:>7} {row.load:>9,.0f} {row.errors:>6}"
    )
