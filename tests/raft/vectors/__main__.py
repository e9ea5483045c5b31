"""Run behaviour vectors from the command line."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.raft.vectors.datadriven import rewrite, run
from tests.raft.vectors.files import environment_for, vector_files


def main(arguments: list[str]) -> int:
    """Run every file below the folders; 0 if all pass."""
    parser = argparse.ArgumentParser(prog="python -m tests.raft.vectors", description=__doc__)
    parser.add_argument("paths", nargs="+", type=Path, metavar="DIR", help="folders of vectors, or single files")
    parser.add_argument("--rewrite", action="store_true", help="write what comes out into the files; read it then")
    options = parser.parse_args(arguments)
    files = vector_files(options.paths)
    if options.rewrite:
        for path in files:
            rewrite(path, environment_for(path))
            print(f"{path}: rewritten")
        return 0
    verdicts = []
    for path in files:
        verdict = run(path, environment_for(path))
        verdicts.append(verdict)
        print(verdict.difference if verdict.difference else f"{path}: pass")
    for suffix, failed in (
        ("", [v for v in verdicts if v.difference]),
        (" (protocol lines alone)", [v for v in verdicts if v.protocol_difference]),
    ):
        print(f"{len(verdicts) - len(failed)} passed, {len(failed)} failed{suffix}")
    return 1 if any(verdict.difference for verdict in verdicts) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
