"""`python -m tests.history`: check recorded histories, or make one up to try that out.

example: python -m tests.history generate --calls 1000 --seed 7 /tmp/good.jsonl
         python -m tests.history check /tmp/good.jsonl --out /tmp/failure
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from tests.history.check import check
from tests.history.failure import write_failure
from tests.history.files import BadHistory, load, save
from tests.history.generate import Shape, generate
from tests.history.report import CheckOptions


def main(arguments: list[str] | None = None) -> int:
    """0: no fault found. 1: a fault. 2: not decided, or the files or arguments are no good."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.history", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="check|generate")
    checking = commands.add_parser("check", help="check one history, from one or several files")
    checking.add_argument("files", nargs="+", type=Path, metavar="FILE", help="JSON lines, as Recorder's are saved")
    checking.add_argument("--out", type=Path, help="directory for the history, its smallest failing part and a picture")
    checking.add_argument(
        "--clock-error", type=float, default=CheckOptions().clock_error, help="how much faster a member's clock may run"
    )
    checking.add_argument(
        "--budget", type=int, default=CheckOptions().budget, help="revisions taken back before giving up"
    )
    checking.add_argument("--seconds", type=float, default=30.0, help="how long to look for a smaller failing part")
    checking.set_defaults(run=_check)
    shape = Shape()
    making = commands.add_parser("generate", help="make up a history without a fault")
    making.add_argument("file", type=Path, metavar="FILE")
    making.add_argument("--seed", type=int, default=0)
    making.add_argument("--calls", type=int, default=shape.calls)
    making.add_argument("--clients", type=int, default=shape.clients)
    making.add_argument("--keys", type=int, default=shape.keys)
    making.add_argument("--watches", type=int, default=shape.watches)
    making.add_argument("--unknown", type=float, default=shape.unknown, help="fraction of calls without an answer")
    making.set_defaults(run=_generate)
    parsed = parser.parse_args(arguments)
    try:
        status: int = parsed.run(parsed)
    except (BadHistory, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    return status


def _check(parsed: argparse.Namespace) -> int:
    options = CheckOptions(clock_error=parsed.clock_error, budget=parsed.budget)
    began = time.monotonic()

    def progress(what: str) -> None:
        if sys.stderr.isatty():
            print(f"\r\x1b[K{time.monotonic() - began:6.1f} s  {what}", end="", file=sys.stderr, flush=True)

    progress("reading")
    history = load(parsed.files)
    report = check(history, options, progress)
    if parsed.out and not report.ok:
        progress("looking for a smaller part that fails")
        minimal = write_failure(history, report, parsed.out, options, parsed.seconds)
        progress("done\n")
        print(f"{len(minimal.calls)} calls are enough to show it: {parsed.out / 'minimal.html'}")
    else:
        progress("done\n")
    print(report.summary())
    print(f"{time.monotonic() - began:.1f} s")
    return 1 if report.violations else 2 if report.undecided else 0


def _generate(parsed: argparse.Namespace) -> int:
    shape = Shape(parsed.calls, parsed.clients, parsed.keys, parsed.unknown, parsed.watches)
    save(generate(parsed.seed, shape), parsed.file)
    return 0


if __name__ == "__main__":
    sys.exit(main())
