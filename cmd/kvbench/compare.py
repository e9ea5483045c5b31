"""kvstored against etcd: the same workloads on the same flags and fresh data.

The two take turns, so that a change of the machine's mood hits both alike.
"""

import fnmatch
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import click

from kvbench.pool import Pool
from kvbench.servers import Cluster, Program, ServerFailed, etcd, kvstored
from kvbench.workloads import FAILOVER_SECONDS, KEYS, MANY_KEYS, Sample, Scale, Workload, fill, table

WARM_SECONDS = 1.0
NO_ETCD = """there is no etcd on the PATH to compare with. Install one:
  Debian, Ubuntu   apt-get install etcd-server
  others           https://github.com/etcd-io/etcd/releases"""


class CompareFailed(Exception):
    """There is nothing to compare, or a server failed; the text says what to do."""


def matches(name: str, pattern: str) -> bool:
    """Whether a name fits a shell pattern, or contains what is none."""
    return fnmatch.fnmatch(name, pattern if any(mark in pattern for mark in "*?[") else f"*{pattern}*")


@dataclass(frozen=True, slots=True)
class Plan:
    """What is run.

    members: sizes of clusters. rounds: runs of each workload on each program. warm: seconds of a run before, or 0.
    """

    workloads: tuple[Workload, ...]
    members: tuple[int, ...]
    rounds: int
    scale: Scale
    warm: float
    processes: int

    @classmethod
    def make(
        cls,
        *,
        smoke: bool,
        only: tuple[str, ...],
        members: tuple[int, ...],
        rounds: int,
        duration: float,
        processes: int,
    ) -> "Plan":
        """only: shell patterns of names, or parts of them; empty for all. smoke: tiny, and once."""
        patterns = only or ("",)
        chosen = tuple(workload for workload in table() if any(matches(workload.name, pattern) for pattern in patterns))
        if smoke:
            scale = Scale(keys=1_000, many_keys=20_000, seconds=0.2, failover_seconds=4.0)
            return cls(chosen, members, 1, scale, 0.0, processes)
        scale = Scale(keys=KEYS, many_keys=MANY_KEYS, seconds=duration, failover_seconds=FAILOVER_SECONDS)
        return cls(chosen, members, rounds, scale, min(WARM_SECONDS, duration), processes)


@dataclass(slots=True)
class Row:
    """One workload on clusters of one size: its samples by program."""

    workload: Workload
    members: int
    samples: dict[str, list[Sample]] = field(default_factory=dict)

    def median(self, program: str) -> float:
        return statistics.median(sample.value for sample in self.samples[program])

    @property
    def ratio(self) -> float:
        """kvstored's median to etcd's; above 1 is more of whatever the unit is."""
        reference = self.median("etcd")
        return self.median("kvstored") / reference if reference else float("nan")


def compare(plan: Plan, directory: Path | None, json_file: Path, resume: bool = False) -> None:
    """Run the plan, print a table and write a file, which grows with every workload. Raises CompareFailed, LoadFailed.

    resume: take over what such a file holds already instead of measuring it again.
    """
    reference = etcd()
    if reference is None:
        raise CompareFailed(NO_ETCD)
    if not plan.workloads:
        names = "\n".join(f"  {workload.name}" for workload in table())
        raise CompareFailed(f"no workload has such a name; there are\n{names}")
    programs = (reference, kvstored())
    results = Results(plan, programs, json_file)
    if resume:
        results.read()
    try:
        with _data_directory(directory) as base, Pool(plan.processes) as pool:
            for size in plan.members:
                for many_keys in (False, True):
                    chosen = [
                        workload
                        for workload in plan.workloads
                        if workload.many_keys is many_keys
                        and workload.needs_members <= size
                        and not results.has(workload, size)
                    ]
                    if chosen:
                        for row in _measure(plan, pool, programs, size, chosen, base):
                            results.add(row)
    except ServerFailed as error:
        raise CompareFailed(str(error)) from error
    click.echo(_table(results.rows))
    for tested in programs:
        click.echo(f"{tested.name}: {tested.version}")
    click.echo(f"kvstored and the generator run on {sys.executable}")
    click.echo(f"over {plan.scale.many_keys:,} keys: range, memory, start; over {plan.scale.keys:,}: all others")
    click.echo(f"\nwritten to {json_file}")


class Results:
    """The rows so far, in a file."""

    def __init__(self, plan: Plan, programs: tuple[Program, Program], path: Path) -> None:
        self.rows: list[Row] = []
        self._plan = plan
        self._programs = programs
        self._path = path
        self._begun = time.time()

    def read(self) -> None:
        """Take over the rows that the file has, if there is one. Raises CompareFailed if it is none of ours."""
        if not self._path.exists():
            return
        by_name = {workload.name: workload for workload in table()}
        try:
            for result in json.loads(self._path.read_text())["results"]:
                samples = {
                    program: [Sample(**sample) for sample in taken] for program, taken in result["samples"].items()
                }
                if workload := by_name.get(result["workload"]):
                    self.rows.append(Row(workload, result["members"], samples))
        except (ValueError, KeyError, TypeError) as error:
            raise CompareFailed(f"{self._path} holds no results to go on from") from error

    def has(self, workload: Workload, members: int) -> bool:
        return any(row.workload.name == workload.name and row.members == members for row in self.rows)

    def add(self, row: Row) -> None:
        self.rows.append(row)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # In its place at once: a run that is cut off leaves the rows before.
        part = self._path.with_suffix(".part")
        part.write_text(json.dumps(_to_json(self._plan, self._programs, self.rows, self._begun), indent=2) + "\n")
        part.replace(self._path)


@contextmanager
def _data_directory(directory: Path | None) -> Iterator[Path]:
    if directory is not None:
        directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="kvbench-", dir=directory) as made:
        yield Path(made)


def _measure(
    plan: Plan, pool: Pool, programs: tuple[Program, Program], size: int, chosen: list[Workload], base: Path
) -> Iterator[Row]:
    """Run workloads on one cluster of each program. Both run all the time: an idle member takes next to nothing."""
    many_keys = chosen[0].many_keys
    name = f"{size}-{'many' if many_keys else 'few'}"
    first = Cluster(programs[0], size, base / f"{programs[0].name}-{name}")
    second = Cluster(programs[1], size, base / f"{programs[1].name}-{name}")
    with first, second:
        for cluster in (first, second):
            _say(f"{cluster.program.name}: filling {size} member{'s' if size > 1 else ''}")
            fill(pool, cluster, plan.scale.many_keys if many_keys else plan.scale.keys)
        for workload in chosen:
            row = Row(workload, size, {program.name: [] for program in programs})
            for number in range(plan.rounds):
                for cluster in (first, second):
                    if number == 0 and workload.warm and plan.warm:
                        workload.measure(pool, cluster, plan.scale, plan.warm)
                    sample = workload.measure(pool, cluster, plan.scale, plan.scale.seconds)
                    row.samples[cluster.program.name].append(sample)
                    _say(f"{workload.name}: {cluster.program.name} {sample.value:,.3g} {workload.unit}")
            yield row


def _say(text: str) -> None:
    if sys.stderr.isatty():
        click.echo(f"  {text}", err=True)


def _table(rows: list[Row]) -> str:
    """The medians side by side."""
    head = (
        f"{'workload':<34} {'members':>7} {'unit':>8} {'etcd':>12} {'p50':>8} {'p99':>8} {'gen':>5} "
        f"{'kvstored':>12} {'p50':>8} {'p99':>8} {'gen':>5} {'ratio':>7}"
    )
    lines = [head, "-" * len(head)]
    for row in rows:
        cells = [f"{row.workload.name:<34} {row.members:>7} {row.workload.unit:>8}"]
        for program in ("etcd", "kvstored"):
            cells.append(f"{_number(row.median(program)):>12} {_middle(row, program, 'p50'):>8}")
            cells.append(f"{_middle(row, program, 'p99'):>8} {_generator(row, program):>5}")
        mark = "" if row.workload.higher_is_better else " (less is better)"
        lines.append(" ".join(cells) + f" {row.ratio:>7.2f}{mark}")
    lines.append(
        "medians; ratio: kvstored to etcd; p50 and p99: milliseconds; gen: the generator's share of a processor"
    )
    lines += _remarks(rows)
    return "\n".join(lines)


def _remarks(rows: list[Row]) -> Iterator[str]:
    for row in rows:
        for program, samples in row.samples.items():
            if detail := samples[-1].detail:
                parts = ", ".join(f"{name} {_number(value)}" for name, value in detail.items())
                yield f"{row.workload.name}, {row.members} members: {program} is the sum of {parts}"
            errors = sum(sample.errors for sample in samples)
            if errors:
                yield f"{row.workload.name}, {row.members} members: {errors:,} calls to {program} failed"
            busiest = max((sample.generator or 0.0 for sample in samples), default=0.0)
            if busiest > 0.9:
                yield (
                    f"{row.workload.name}, {row.members} members: the generator took {busiest:.0%} of a processor "
                    f"on {program}, so it may have been the limit"
                )


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3f}"


def _middle(row: Row, program: str, name: str) -> str:
    values = [value for sample in row.samples[program] if (value := getattr(sample, name)) is not None]
    return f"{statistics.median(values):.2f}" if values else "-"


def _generator(row: Row, program: str) -> str:
    shares = [sample.generator for sample in row.samples[program] if sample.generator is not None]
    return f"{statistics.median(shares):.0%}" if shares else "-"


def _to_json(plan: Plan, programs: tuple[Program, Program], rows: list[Row], begun: float) -> dict[str, object]:
    return {
        "begun": begun,
        "seconds": time.time() - begun,
        "machine": {
            "processors": os.cpu_count(),
            "system": platform.platform(),
            "python": platform.python_version(),
            "interpreter": sys.executable,
        },
        "programs": {program.name: program.version for program in programs},
        "scale": asdict(plan.scale),
        "rounds": plan.rounds,
        "results": [
            {
                "workload": row.workload.name,
                "members": row.members,
                "unit": row.workload.unit,
                "higher_is_better": row.workload.higher_is_better,
                "ratio_of_medians": row.ratio,
                "median": {program: row.median(program) for program in row.samples},
                "samples": {program: [asdict(s) for s in samples] for program, samples in row.samples.items()},
            }
            for row in rows
        ],
    }
