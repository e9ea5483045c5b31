"""`python -m tests.limits`: what a member does at its limits, at full size."""

from __future__ import annotations

import argparse
import resource
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.limits.idle import idle
from tests.limits.overload import overload
from tests.limits.report import Report
from tests.limits.stalled import KINDS, WINDOWS, stalled


def main() -> None:
    """Run one measurement and print it."""
    parser = argparse.ArgumentParser(prog="python -m tests.limits", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("idle", help="connections that do nothing")
    command.add_argument("--connections", type=int, default=20_000)
    command.add_argument("--processes", type=int, default=2)
    command = commands.add_parser("stalled", help="clients that never read")
    command.add_argument("--clients", type=int, default=1_000)
    command.add_argument("--window", choices=list(WINDOWS), action="append", help="all of them if none is given")
    command.add_argument("--kind", choices=list(KINDS), action="append", help="all of them if none is given")
    command.add_argument("--together", action="store_true", help="all kinds in one run, each a share of the clients")
    command = commands.add_parser("overload", help="more requests than can be done")
    command.add_argument("--factor", type=float, default=10.0)
    command.add_argument("--seconds", type=float, default=10.0)
    arguments = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with tempfile.TemporaryDirectory() as directory:
        for report in _run(Path(directory), arguments):
            print("\n".join(report.lines()), flush=True)


def _run(directory: Path, arguments: argparse.Namespace) -> Iterator[Report]:
    if arguments.command == "idle":
        yield idle(directory, arguments.connections, arguments.processes)
    elif arguments.command == "stalled":
        for window in arguments.window or WINDOWS:
            names = arguments.kind or list(KINDS)
            runs = [names] if arguments.together else [[name] for name in names]
            yield from stalled(directory / window, arguments.clients, window=window, runs=runs)
    else:
        yield overload(directory, arguments.factor, arguments.seconds)


if __name__ == "__main__":
    main()
