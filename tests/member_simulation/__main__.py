"""`python -m tests.member_simulation --seeds 0..1000 --jobs 2`: as many worlds as wanted.

`--seeds 7 --trace` replays one and prints what happens. Prints how much faster than the clock the worlds run, and for
each failing seed what does not hold and the end of its trace.
"""

from __future__ import annotations

import argparse
import sys
import time

from tests.member_simulation.run import run_seed, run_seeds
from tests.member_simulation.world import TROUBLE_SECONDS


def _range(text: str) -> range:
    first, dots, last = text.partition("..")
    return range(int(first), int(last)) if dots else range(int(first), int(first) + 1)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.member_simulation", description=__doc__)
    parser.add_argument("--seeds", type=_range, default=range(100), help="FIRST..END or one seed (default 0..100)")
    parser.add_argument("--members", type=int, default=0, help="how many begin; drawn by each seed unless given")
    parser.add_argument("--seconds", type=float, default=TROUBLE_SECONDS, help="of trouble in each world")
    parser.add_argument("--jobs", type=int, default=1, help="processes (default 1)")
    parser.add_argument("--trace", action="store_true", help="print what happens; in this process")
    parser.add_argument("-x", "--exitfirst", action="store_true", help="end with the first seed that fails")
    arguments = parser.parse_args()
    if arguments.trace:
        outcomes = (run_seed(seed, arguments.members, arguments.seconds, print, 0) for seed in arguments.seeds)
    else:
        outcomes = (o for o in run_seeds(arguments.seeds, arguments.members, arguments.seconds, arguments.jobs))
    began = time.monotonic()
    done = failed = undecided = calls = answers = 0
    virtual = processor = 0.0
    for outcome in outcomes:
        done += 1
        virtual += outcome.virtual_seconds
        processor += outcome.seconds
        calls += outcome.calls
        answers += outcome.answers
        undecided += outcome.undecided
        if outcome.failure:
            failed += 1
            print(f"seed {outcome.seed} fails:\n{outcome.failure}", flush=True)
            if arguments.exitfirst:
                break
        if done % 20 == 0:
            rate = virtual / (time.monotonic() - began)
            print(f"{done}/{len(arguments.seeds)} seeds, {failed} failed, {rate:.0f} x real time", file=sys.stderr)
    real = max(time.monotonic() - began, 1e-9)
    doubt = f", {undecided} of their histories not decided" if undecided else ""
    print(f"{done - failed} passed, {failed} failed{doubt}; {calls:,} calls of clients, {answers:,} answered")
    rate = virtual / max(processor, 1e-9)
    print(
        f"{virtual / 3600:.2f} cluster-hours in {real:.0f} s, {virtual / real:.0f} x real time; "
        f"{rate:.0f} x a core's time: {rate * 24:,.0f} cluster-hours a day and core"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
