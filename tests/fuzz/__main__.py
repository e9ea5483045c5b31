"""Fuzz for as long as one likes: python -m tests.fuzz [--target T] [--seconds N] [--seed S] [--replay FILE]."""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import traceback
from pathlib import Path

from tests.fuzz.catalogue import TARGETS
from tests.fuzz.runner import load, replay, run_for


def main() -> int:
    """0 if everything was taken, 1 if a target failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--target", choices=sorted(TARGETS), action="append", help="again for more; default: all")
    parser.add_argument("--seconds", type=float, default=60.0, help="for each target (default 60)")
    parser.add_argument("--seed", type=int, help="of the first inputs; default: a new one, which is told")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="try a saved input again")
    parser.add_argument(
        "--save",
        type=Path,
        default=Path(tempfile.gettempdir(), "kvstore-fuzz"),
        metavar="DIRECTORY",
        help="for failing inputs",
    )
    arguments = parser.parse_args()
    if arguments.replay:
        name, value = load(arguments.replay)
        try:
            replay(TARGETS[name], value)
        except Exception:
            traceback.print_exc()
            return 1
        _say(f"{name}: taken")
        return 0
    seed = arguments.seed if arguments.seed is not None else random.SystemRandom().getrandbits(32)
    failed = False
    for name in arguments.target or sorted(TARGETS):
        failure = run_for(TARGETS[name], arguments.seconds, seed, _say)
        if failure is not None:
            failed = True
            traceback.print_exception(failure.error)
            _say(f"{name}: failed; replay with --replay {failure.save(arguments.save)}")
    return int(failed)


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
