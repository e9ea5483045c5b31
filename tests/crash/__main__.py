"""`python -m tests.crash kill` and `python -m tests.crash power`, by hand and for longer than CI has time."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.crash import kill, power
from tests.crash.history import History, everything
from tests.crash.place import fast_place
from tests.faultfs import NoCompiler


def main() -> int:
    """The exit status: 0 if nothing was lost."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash", description=__doc__)
    parser.add_argument("--directory", type=Path, help="where members live, and what is left of a failure")
    commands = parser.add_subparsers(dest="command", required=True)
    killing = commands.add_parser("kill", help="kill a member at so many operations of a history")
    killing.add_argument("--points", type=int, default=300)
    killing.add_argument("--jobs", type=int, default=2, help="runs at a time")
    cutting = commands.add_parser("power", help="cut the power at so many moments of a history")
    cutting.add_argument("--cuts", type=int, default=200, help="moments")
    cutting.add_argument("--seeds", type=int, default=4, help="fates by chance at each moment, beside the four corners")
    arguments = parser.parse_args()
    directory = arguments.directory or Path(
        tempfile.mkdtemp(prefix="kvstore-crash-", dir=fast_place(Path(tempfile.gettempdir())))
    )
    print(f"in {directory}", flush=True)
    try:
        if arguments.command == "kill":
            return _kill(directory, arguments.points, arguments.jobs)
        return _cut_power(directory, arguments.cuts, arguments.seeds)
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


def _cut_power(directory: Path, moments: int, seeds: int) -> int:
    began = time.monotonic()
    recording = power.record(directory / "recorded", History.of(everything()))
    print(f"{len(recording.history.steps)} steps, {len(recording.records)} records", flush=True)
    count, lost = power.check_all(recording, power.cuts(recording, moments, seeds), directory, _tell)
    for text in lost:
        print(f"\n{text}")
    print(f"{count} power cuts, {len(lost)} failed, {time.monotonic() - began:.0f} s")
    return 1 if lost else 0


def _tell(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
