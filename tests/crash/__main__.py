"""Kills, power cuts and damage by hand, for longer than CI has time: `python -m tests.crash COMMAND`."""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from types import FrameType

from tests.cluster.harness.process import none_left
from tests.crash import damage, kill, power
from tests.crash.catch_up import Straggler
from tests.crash.examine import Outcome
from tests.crash.history import History, everything
from tests.crash.place import fast_place
from tests.crash.state import Specimen
from tests.faultfs import NoCompiler


def main() -> int:
    """The exit status: 0 if nothing was lost, 130 if it was interrupted: no process is left then, and no directory."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash", description=__doc__)
    parser.add_argument("--directory", type=Path, help="where members live, and what is left of a failure")
    commands = parser.add_subparsers(dest="command", required=True)
    killing = commands.add_parser("kill", help="kill a member at so many operations of a history")
    killing.add_argument("--points", type=int, default=300)
    killing.add_argument("--jobs", type=int, default=2, help="runs at a time")
    cutting = commands.add_parser("power", help="cut the power at so many moments of a history")
    cutting.add_argument("--cuts", type=int, default=200, help="moments")
    cutting.add_argument("--seeds", type=int, default=4, help="fates by chance at each moment, beside the four corners")
    catching_up = commands.add_parser("catch-up", help="kill a member at so many operations of coming back or joining")
    catching_up.add_argument("--points", type=int, default=100)
    damaging = commands.add_parser("damage", help="damage files, and print what comes of it")
    damaging.add_argument("--flips", type=int, default=50, help="flipped bits in each part of each file")
    damaging.add_argument("--seed", type=int, default=1)
    damaging.add_argument("--keys", type=int, default=3000, help="in the state that is asked everything")
    arguments = parser.parse_args()
    directory = arguments.directory or Path(
        tempfile.mkdtemp(prefix="kvstore-crash-", dir=fast_place(Path(tempfile.gettempdir())))
    )
    print(f"in {directory}", flush=True)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        with none_left():
            status = _run(arguments, directory)
    except NoCompiler as reason:
        print(reason, file=sys.stderr)
        status = 2
    except KeyboardInterrupt:
        print("interrupted: every process was ended", flush=True)
        status = 130
    if arguments.directory is None and status in (0, 130):
        shutil.rmtree(directory)
    return status


def _run(arguments: argparse.Namespace, directory: Path) -> int:
    if arguments.command == "kill":
        return _kill(directory, arguments.points, arguments.jobs)
    if arguments.command == "catch-up":
        return _catch_up(directory, arguments.points)
    if arguments.command == "damage":
        return _damage(directory, arguments.flips, arguments.seed, arguments.keys)
    return _cut_power(directory, arguments.cuts, arguments.seeds)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """SIGTERM ends a run as ctrl-C does: with nothing left behind. Once: what it leaves to do is done."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


def _kill(directory: Path, count: int, jobs: int) -> int:
    history = History.of(everything())
    began = time.monotonic()
    run = kill.undisturbed(directory / "undisturbed", history)
    print(f"{len(history.steps)} steps, {run.operations} operations", flush=True)
    points = kill.spread(run, count)
    killed, lost = kill.kill_at_each(directory, history, points, run, jobs, _tell)
    for text in lost:
        print(f"\n{text}")
    for what, number in sorted(Counter(map(run.describe, points)).items()):
        print(f"{number:4} {what}")
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


def _catch_up(directory: Path, count: int) -> int:
    killed = 0
    with Straggler(directory) as straggler:
        ways = (straggler.fall_behind, straggler.begin_anew)
        operations = [straggler.operations_to_catch_up(prepare) for prepare in ways]
        print(f"{operations[0]} operations to catch up, {operations[1]} to join", flush=True)
        for point in range(count):
            way = point % 2
            operation = 1 + point * operations[way] // count
            # Fails with what was lost; the members' directories are left.
            killed += straggler.killed_on_its_way(ways[way], operation, after=point % 4 < 2, everyone=point % 3 > 0)
            print(f"held  operation {operation} of {'joining' if way else 'catching up'}", flush=True)
    print(f"{count} runs, killed in {killed}, none failed")
    return 0


def _damage(directory: Path, flips: int, seed: int, keys: int) -> int:
    with damage.Patients(directory) as patients:
        findings = patients.suffer_all(damage.whole_files(patients.root))
        findings.all += patients.suffer_all(damage.flips(patients.root, flips, seed)).all
    findings.all += Specimen(directory / "specimen", keys, seed).suffer_all(flips, seed).all
    for line in findings.of(Outcome.STOPPED, Outcome.DIED, Outcome.SERVED):
        print(line)
    print(findings.table())
    return 1 if findings.of(Outcome.SERVED) else 0


def _tell(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
