"""`python -m tests.simulation --seeds 100000`: as many worlds as wanted, on all cores.

`--first SEED --seeds 1` replays one. Prints steps a second, and for each failing seed what does not hold.
"""

from __future__ import annotations

import argparse
import sys
import time

from tests.simulation.run import STEPS, run_seeds


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000, help="how many (default 1000)")
    parser.add_argument("--first", type=int, default=0, help="the first seed (default 0)")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"steps of each world (default {STEPS})")
    parser.add_argument("--processes", type=int, help="default: one for each core")
    parser.add_argument("-x", "--exitfirst", action="store_true", help="end with the first seed that fails")
    arguments = parser.parse_args()
    began = time.monotonic()
    done = steps = failed = 0
    for outcome in run_seeds(
        range(arguments.first, arguments.first + arguments.seeds), arguments.steps, arguments.processes
    ):
        done += 1
        steps += outcome.steps
        if outcome.failure:
            failed += 1
            print(f"seed {outcome.seed} fails after {outcome.steps} steps:\n{outcome.failure}", flush=True)
            if arguments.exitfirst:
                break
        if sys.stderr.isatty():
            rate = steps / (time.monotonic() - began)
            print(f"\r{done}/{arguments.seeds} seeds, {rate:,.0f} steps/s", end="", file=sys.stderr)
    rate = steps / max(time.monotonic() - began, 1e-9)
    print(f"{done - failed} passed, {failed} failed")
    print(f"{steps:,} steps, {rate:,.0f} steps a second")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
