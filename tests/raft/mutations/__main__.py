"""`python -m tests.raft.mutations`: try every mutation, and fail if one survives.

Prints for each which test noticed it. `--only ID` tries one (several times for several), `--table` prints the rows of
the table in docs/raft-testing.md.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from tests.raft.mutations.catalogue import CATALOGUE
from tests.raft.mutations.mutation import Mutation, MutationError
from tests.raft.mutations.runner import SEEDS, Effort, Verdict, examine, fast_suite

_NICENESS = 10
_SCENARIO = re.compile(r"test_vectors.py::test_prints_what_the_scenario_expects\[(.*)\]")


def main(arguments: Sequence[str]) -> int:
    """Try what was asked for: 0 if all is caught, 1 if something survives, 2 if the tests say nothing."""
    options = _parser().parse_args(arguments)
    chosen = [mutation for mutation in CATALOGUE if not options.only or mutation.id in options.only]
    unknown = sorted(set(options.only or ()) - {mutation.id for mutation in chosen})
    if unknown:
        print(f"no such mutation: {', '.join(unknown)}", file=sys.stderr)
        return 2
    os.nice(_NICENESS)
    effort = Effort(fast_suite(), options.seeds, options.simulate)
    try:
        if not options.only:
            unchanged = examine(None, effort)
            if unchanged.caught:
                print(f"the library as it is fails: {_told(unchanged)}", file=sys.stderr)
                return 2
        survived = _try(chosen, effort, options)
    except MutationError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{len(chosen) - survived} caught, {survived} survived")
    return 1 if survived else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.raft.mutations", description=__doc__)
    parser.add_argument("--only", action="append", metavar="ID", help="try this one")
    parser.add_argument("--jobs", type=int, default=1, help="how many at a time (default 1)")
    parser.add_argument("--seeds", type=int, default=SEEDS, help=f"worlds to simulate (default {SEEDS})")
    parser.add_argument("--simulate", action="store_true", help="simulate also what the suite has noticed")
    parser.add_argument("--table", action="store_true", help="print rows of Markdown")
    return parser


def _try(chosen: Sequence[Mutation], effort: Effort, options: argparse.Namespace) -> int:
    """How many survive."""
    survived = 0
    with ThreadPoolExecutor(options.jobs) as pool:
        for mutation, verdict in zip(chosen, pool.map(lambda each: examine(each, effort), chosen), strict=True):
            survived += not verdict.caught
            print(_row(mutation, verdict) if options.table else f"{mutation.id}: {_told(verdict)}", flush=True)
    return survived


def _told(verdict: Verdict) -> str:
    if not verdict.caught:
        return "SURVIVED"
    by = [verdict.test] if verdict.test else []
    if verdict.violation:
        by.append(f"seed {verdict.seed} ({verdict.violation})")
    return f"caught by {', '.join(by)}"


def _row(mutation: Mutation, verdict: Verdict) -> str:
    test = _SCENARIO.sub(r"scenarios/\1", verdict.test).removeprefix("tests/raft/")
    seed = "" if verdict.seed is None else verdict.seed
    return f"| `{mutation.id}` | {mutation.breaks} | {mutation.rule} | `{test}` | {seed} |"


if __name__ == "__main__":
    # Asked to stop, it ends as after an interrupt: what runs is finished, nothing is left behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    sys.exit(main(sys.argv[1:]))
