"""`python -m tests.history.mutations`: try every mutation of the history checker, and fail if one survives.

Prints for each which test noticed it. `--only ID` tries one (several times for several).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from tests.history.mutations.catalogue import CATALOGUE
from tests.history.mutations.runner import examine
from tests.raft.mutations.mutation import MutationError


def main(arguments: Sequence[str]) -> int:
    """Try what was asked for: 0 if all is caught, 1 if something survives, 2 if the tests say nothing."""
    parser = argparse.ArgumentParser(prog="python -m tests.history.mutations", description=__doc__)
    parser.add_argument("--only", action="append", metavar="ID", help="try this one")
    only = parser.parse_args(arguments).only
    chosen = [mutation for mutation in CATALOGUE if not only or mutation.id in only]
    unknown = sorted(set(only or ()) - {mutation.id for mutation in chosen})
    if unknown:
        print(f"no such mutation: {', '.join(unknown)}", file=sys.stderr)
        return 2
    survived = 0
    try:
        if not only and (test := examine(None)):
            print(f"the checker as it is fails: {test}", file=sys.stderr)
            return 2
        for mutation in chosen:
            test = examine(mutation)
            survived += not test
            print(f"{mutation.id}: {f'caught by {test}' if test else 'SURVIVED'}", flush=True)
    except MutationError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{len(chosen) - survived} caught, {survived} survived")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
