"""The command line: one command a load, and `compare`."""

import json
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from kvbench import curves, disturbances
from kvbench import stall as stalls
from kvbench.compare import NO_ETCD, CompareFailed, Plan, compare, matches
from kvbench.curves import Sizes
from kvbench.load import Kind, Load
from kvbench.pool import LoadFailed, Pool, automatic_processes
from kvbench.report import describe, to_json, to_text
from kvbench.requests import KeySpace
from kvbench.servers import ServerFailed, etcd, kvstored
from kvstore.rpc import RpcError

if TYPE_CHECKING:
    ParamType = click.ParamType[Any]
else:
    ParamType = click.ParamType  # Generic in newer releases only.

F = TypeVar("F", bound=Callable[..., Any])

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


class Seconds(ParamType):
    """A duration: a number of seconds, or with a unit, as 500ms, 10s, 2m."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h)?", value.strip())
        if match is None:
            self.fail(f"{value!r} is not a duration such as 500ms, 10s or 2m", param, ctx)
        return float(match[1]) * _UNITS[match[2] or "s"]


def _options(*options: Callable[[F], F]) -> Callable[[F], F]:
    def decorate(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


_common = _options(
    click.option("--endpoints", default="127.0.0.1:2379", show_default=True, help="host:port, separated by commas."),
    click.option("--connections", default=1, show_default=True, type=click.IntRange(1), help="Connections in all."),
    click.option("--streams", default=1, show_default=True, type=click.IntRange(1), help="Calls a connection at once."),
    click.option("--keys", default=100_000, show_default=True, type=click.IntRange(1), help="Different keys."),
    click.option("--key-size", default=20, show_default=True, type=click.IntRange(1), help="Bytes of a key."),
    click.option("--value-size", default=256, show_default=True, type=click.IntRange(0), help="Bytes of a value."),
    click.option("--total", type=click.IntRange(1), help="Calls to make; otherwise --duration decides."),
    click.option("--duration", default="10s", show_default=True, type=Seconds(), help="How long to make calls."),
    click.option(
        "--rate",
        type=click.FloatRange(0, min_open=True),
        help="Calls a second, made by the clock; latencies count from when a call was due. Otherwise as fast as "
        "answers come.",
    ),
    click.option("--sequential/--random", default=False, help="Order of the keys.  [default: random]"),
    click.option("--seed", default=1, show_default=True, help="Makes random keys and choices the same every time."),
    click.option("--timeout", type=Seconds(), help="Deadline of a call; none by default."),
    click.option(
        "--processes",
        "--clients",
        default="auto",
        show_default=True,
        help="Worker processes, each with its own part of the connections. auto: one for every four processors.",
    ),
    click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Write the result here."),
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def program() -> None:
    """Measure an etcd v3 key-value store: kvstore, etcd, or one against the other.

    \b
    put, get, range, txn, mixed   unary calls, connections x streams at once
    watch                         watchers on all keys while keys are put
    lease                         keepalives of many leases
    compare                       kvstored against the etcd on the PATH
    stall                         what heavy work costs others
    curves                        how speed holds as the work grows

    The summary says how busy the generator itself was: near 100% of a processor, it was the limit.
    """


def _processes(text: str) -> int:
    if text == "auto":
        return automatic_processes()
    if not text.isdigit() or int(text) < 1:
        raise click.BadParameter(f"{text!r} is neither auto nor a positive number", param_hint="--processes")
    return int(text)


def _run(kind: Kind, *, processes: str, json_file: Path | None, endpoints: str, **options: Any) -> None:
    load = Load(kind=kind, endpoints=_split(endpoints), **options)
    try:
        KeySpace(load.keys, load.key_size)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    goal = load.total if load.total is not None else None
    try:
        with Pool(_processes(processes)) as pool, _Bar(load, goal) as bar:
            result = pool.run(load, bar.update)
    except LoadFailed as error:
        raise click.ClickException(str(error)) from error
    click.echo(to_text(load, result))
    if json_file is not None:
        json_file.write_text(json.dumps(to_json(load, result), indent=2) + "\n")
    if not result.operations:
        sys.exit(1)


def _split(endpoints: str) -> tuple[str, ...]:
    parts = (part.strip() for part in endpoints.split(","))
    return tuple(part.removeprefix("http://").rstrip("/") for part in parts if part)


class _Bar:
    """Progress on a terminal; elsewhere nothing is shown."""

    def __init__(self, load: Load, goal: int | None) -> None:
        self._load = load
        self._goal = goal
        self._shown = sys.stderr.isatty()
        self._told = 0

    def __enter__(self) -> "_Bar":
        if self._shown:
            click.echo(describe(self._load), err=True)
        return self

    def __exit__(self, *_: object) -> None:
        if self._shown:
            click.echo("\r\033[K", err=True, nl=False)

    def update(self, operations: int, events: int) -> None:
        """So many are answered and delivered so far."""
        if not self._shown:
            return
        text = f"{operations:,} answered"
        if events:
            text += f", {events:,} events"
        if self._goal:
            done = min(1.0, operations / self._goal)
            text = f"[{'#' * round(done * 40):<40}] {done:4.0%}  {text}"
        click.echo(f"\r\033[K{text}", err=True, nl=False)


@program.command()
@_common
def put(**options: Any) -> None:
    """Put keys."""
    _run(Kind.PUT, **options)


_serializable = click.option("--serializable", is_flag=True, help="Read without asking the other members.")


@program.command()
@_common
@_serializable
def get(**options: Any) -> None:
    """Get single keys."""
    _run(Kind.GET, **options)


@program.command(name="range")
@_common
@_serializable
@click.option("--limit", default=500, show_default=True, type=click.IntRange(0), help="Keys an answer; 0: all.")
@click.option("--keys-only", is_flag=True, help="Answers without values.")
@click.option("--count-only", is_flag=True, help="The number of keys alone.")
def range_(**options: Any) -> None:
    """Read ranges: from a key to the last one."""
    _run(Kind.RANGE, **options)


@program.command()
@_common
@click.option(
    "--conflicts",
    default=0.2,
    show_default=True,
    type=click.FloatRange(0, 1),
    help="Share of transactions whose comparison of mod_revision fails.",
)
def txn(**options: Any) -> None:
    """Compare the mod revision of a key, then put it or else get it."""
    _run(Kind.TXN, **options)


@program.command()
@_common
@_serializable
@click.option("--read-share", default=0.8, show_default=True, type=click.FloatRange(0, 1), help="Share of gets.")
def mixed(**options: Any) -> None:
    """Gets and puts at random."""
    _run(Kind.MIXED, **options)


@program.command()
@_common
@click.option("--watchers", default=100, show_default=True, type=click.IntRange(1), help="Watches of all keys.")
@click.option("--watch-streams", default=10, show_default=True, type=click.IntRange(1), help="Streams they share.")
def watch(**options: Any) -> None:
    """Put keys under the eyes of watchers, and count the events."""
    _run(Kind.WATCH, **options)


@program.command()
@_common
@click.option("--leases", default=1_000, show_default=True, type=click.IntRange(1), help="Leases to keep alive.")
@click.option("--lease-streams", default=10, show_default=True, type=click.IntRange(1), help="Streams they share.")
@click.option("--lease-ttl", default=600, show_default=True, type=click.IntRange(1), help="Seconds.")
def lease(**options: Any) -> None:
    """Keep leases alive, every one again as soon as it is answered."""
    _run(Kind.LEASE, **options)


@program.command(name="compare")
@click.option(
    "--smoke", is_flag=True, help="Tiny, and one member unless told: shows that everything works, measures nothing."
)
@click.option("--resume", is_flag=True, help="Go on from the results in the file; otherwise they are replaced.")
@click.option(
    "--only",
    multiple=True,
    metavar="PATTERN",
    help="Only workloads whose name matches (* and ? as in a shell). May be given again for others.",
)
@click.option("--members", type=click.Choice(["1", "3"]), help="Only with so many members.  [default: both]")
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1), help="Times each workload is run.")
@click.option("--duration", default="4s", show_default=True, type=Seconds(), help="Of one run.")
@click.option("--processes", default="auto", show_default=True, help="Worker processes of the generator.")
@click.option(
    "--dir",
    "directory",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the servers keep their data while it runs.  [default: a temporary directory]",
)
@click.option(
    "--json",
    "json_file",
    default="bench-results/compare.json",
    show_default=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write all results here.",
)
def compare_(
    smoke: bool,
    resume: bool,
    only: tuple[str, ...],
    members: str | None,
    rounds: int,
    duration: float,
    processes: str,
    directory: Path | None,
    json_file: Path,
) -> None:
    """Run every workload against etcd and kvstored in turn, on fresh data, with the same flags.

    Needs an etcd on the PATH. Ends every process it has started.
    """
    plan = Plan.make(
        smoke=smoke,
        only=only,
        members=((1,) if smoke else (1, 3)) if members is None else (int(members),),
        rounds=rounds,
        duration=duration,
        processes=_processes(processes),
    )
    try:
        compare(plan, directory, json_file, resume)
    except (CompareFailed, LoadFailed) as error:
        raise click.ClickException(str(error)) from error


@program.command(name="stall")
@click.option(
    "--only", default="", metavar="PATTERN", help="Only beside work whose name matches (* and ? as in a shell)."
)
@click.option("--server", type=click.Choice(["kvstored", "etcd"]), default="kvstored", show_default=True)
@click.option("--duration", default="10s", show_default=True, type=Seconds(), help="Of each measurement.")
@click.option("--keys", default=1_000_000, show_default=True, type=click.IntRange(1), help="Keys in the store.")
@click.option("--bulk", default=100_000, show_default=True, type=click.IntRange(1), help="Keys or leases at once.")
@click.option("--rate", default=500.0, show_default=True, type=click.FloatRange(1), help="Probes a second.")
@click.option("--dir", "directory", type=click.Path(file_okay=False, path_type=Path), help="Where the data is kept.")
@click.option(
    "--json",
    "json_file",
    default="bench-results/stall.json",
    show_default=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write all results here.",
)
def stall(
    only: str,
    server: str,
    duration: float,
    keys: int,
    bulk: int,
    rate: float,
    directory: Path | None,
    json_file: Path,
) -> None:
    """Measure what heavy work costs others: compaction, snapshots, large deletions, expiring leases ...

    Starts a member of its own, loads it fully, and reads a key at a fixed rate beside that.
    """
    chosen = tuple(each for each in disturbances.table() if matches(each.name, only))
    if not chosen:
        names = ", ".join(each.name for each in disturbances.table())
        raise click.UsageError(f"nothing has such a name; there are {names}")
    measured = etcd() if server == "etcd" else kvstored()
    if measured is None:
        raise click.ClickException(NO_ETCD)
    plan = stalls.Plan(chosen, seconds=duration, keys=keys, bulk=bulk, rate=rate)
    try:
        stalls.measure(plan, measured, directory, json_file)
    except (LoadFailed, ServerFailed, RpcError) as error:
        raise click.ClickException(str(error)) from error


def _numbers(context: click.Context, parameter: click.Parameter, text: str) -> tuple[int, ...]:
    try:
        numbers = tuple(sorted({int(part.replace("_", "")) for part in text.split(",")}))
    except ValueError:
        raise click.BadParameter("is a list of whole numbers, separated by commas") from None
    if numbers[0] < 1:
        raise click.BadParameter("has numbers below 1")
    return numbers


def _sizes(name: str, default: tuple[int, ...]) -> Callable[[F], F]:
    text = ",".join(map(str, default))
    return click.option(f"--{name}", default=text, show_default=True, callback=_numbers, help="Points of this curve.")


@program.command(name="curves")
@click.option(
    "--out",
    default="docs/plots",
    show_default=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Where plots and curves.json go; points that are there already are not measured again.",
)
@click.option("--only", default="", metavar="PATTERN", help="Only curves whose name matches.")
@click.option("--fresh", is_flag=True, help="Measure every point anew.")
@click.option("--smoke", is_flag=True, help="Tiny sizes: shows that everything works, measures nothing.")
@_sizes("keys", Sizes().keys)
@_sizes("versions", Sizes().versions)
@_sizes("watchers", Sizes().watchers)
@_sizes("connections", Sizes().connections)
@_sizes("leases", Sizes().leases)
@click.option("--duration", default="4s", show_default=True, type=Seconds(), help="Of each measurement.")
@click.option("--processes", default="auto", show_default=True, help="Worker processes of the generator.")
@click.option("--dir", "directory", type=click.Path(file_okay=False, path_type=Path), help="Where the data is kept.")
def curves_(
    out: Path,
    only: str,
    fresh: bool,
    smoke: bool,
    keys: tuple[int, ...],
    versions: tuple[int, ...],
    watchers: tuple[int, ...],
    connections: tuple[int, ...],
    leases: tuple[int, ...],
    duration: float,
    processes: str,
    directory: Path | None,
) -> None:
    """Measure how speed holds as the work grows, and draw it: keys, versions, watchers, connections, leases.

    Starts members of its own. A run that was cut off goes on where it was.
    """
    chosen = tuple(curve for curve in curves.table() if matches(curve.name, only))
    if not chosen:
        raise click.UsageError(f"there is no such curve, only {', '.join(curve.name for curve in curves.table())}")
    sizes = Sizes.small() if smoke else Sizes(keys, versions, watchers, connections, leases, duration)
    if fresh:
        (out / curves.DATA).unlink(missing_ok=True)
    try:
        curves.draw(chosen, sizes, out, directory, _processes(processes))
    except (LoadFailed, ServerFailed) as error:
        raise click.ClickException(str(error)) from error


def _end(number: int, frame: object) -> None:
    """Unwind on SIGTERM as on Ctrl-C, so that every server and worker is ended on the way."""
    sys.exit(128 + number)


def main() -> None:
    """The command `kvbench`."""
    signal.signal(signal.SIGTERM, _end)
    program(prog_name="kvbench")
