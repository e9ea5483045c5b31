"""`python -m tests.crash kill`, by hand and for longer than CI has time."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.crash import kill
from tests.crash.history import History, everything
from tests.faultfs import NoCompiler


def main() -> int:
    """The exit status: 0 if nothing was lost."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash", description=__doc__)
    parser.add_argument("--directory", type=Path, help="where members live, and what is left of a failure")
    commands = parser.add_subparsers(dest="command", required=True)
    killing = commands.add_parser("kill", help="kill a member at so many operations of a history")
    killing.add_argument("--points", type=int, default=300)
    killing.add_argument("--jobs", type=int, default=2, help="runs at a time")
    arguments = parser.parse_args()
    directory = arguments.directory or Path(tempfile.mkdtemp(prefix="kvstore-crash-"))
    print(f"in {directory}", flush=True)
    try:
        return _kill(directory, arguments.points, arguments.jobs)
    except NoCompiler as reason:
        print(reason, file=sys.stderr)
        return 2


def _kill(directory: Path, count: int, jobs: int) -> int:
    history = History.of(everything())
    began = time.monotonic()
    run = kill.undisturbed(directory / "undisturbed", history)
    print(f"{len(history.steps)} steps, {run.operations} operations", flush=True)
    points = kill.spread(run, count)
    killed, lost = kill.kill_at_each(directory, history, points, run.hash, jobs, _tell)
    for text in lost:
        print(f"\n{text}")
    print(f"{len(points)} runs, killed in {killed}, {len(lost)} failed, {time.monotonic() - began:.0f} s")
    return 1 if lost else 0


def _tell(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
