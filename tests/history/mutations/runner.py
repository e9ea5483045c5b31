"""Tries a mutation: a copy of the checker with the fault in it, the checker's tests on that copy, the first that fails.

Works in a folder of its own and in a process of its own; the tree it stands in is only read.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.raft.mutations.mutation import Mutation, MutationError

ROOT: Final = Path(__file__).parents[3]
SUITE: Final = ("test_history_faults.py", "test_history_edges.py", "test_history_search.py", "test_history_checks.py")
"""What says most soonest comes first. Left out are the tests of the translation from protobuf, and of this."""

_SECONDS: Final = 600
_NOTICED = re.compile(r"^(?:FAILED|ERROR) (\S+?::.+?)(?: - .*)?$", re.MULTILINE)
_TESTS_FAILED: Final = 1


def examine(mutation: Mutation | None, suite: Sequence[str] = SUITE) -> str:
    """The first test that notices a mutation, empty if none does; None tries the checker as it is.

    Raises MutationError if the tests cannot run at all.
    """
    with tempfile.TemporaryDirectory(prefix="history-mutation-") as folder:
        copy = Path(folder)
        (copy / "tests").mkdir()
        for name in ("pyproject.toml", "tests/__init__.py"):
            shutil.copy(ROOT / name, copy / name)
        # Compiled modules stay behind: a change within a second and of no length would not make them stale.
        left_out = shutil.ignore_patterns("__pycache__", "mutations", "test_history_mutations.py")
        shutil.copytree(ROOT / "tests/history", copy / "tests/history", ignore=left_out)
        if mutation is not None:
            mutation.apply(copy)
        return _first_failure(copy, suite)


def _first_failure(copy: Path, suite: Sequence[str]) -> str:
    options = ("-x", "-q", "--tb=no", "-p", "no:cacheprovider", "-m", "not slow")
    command = [sys.executable, "-m", "pytest", *options, *(f"tests/history/{name}" for name in suite)]
    environment = {**os.environ, "PYTHONPATH": str(copy)}
    try:
        ran = subprocess.run(
            command,
            cwd=copy,
            env=environment,
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return "the tests do not come to an end"
    if ran.returncode not in (0, _TESTS_FAILED):
        raise MutationError(f"the tests cannot run:\n{ran.stdout}")
    if ran.returncode == 0:
        return ""
    match = _NOTICED.search(ran.stdout)
    if match is None:
        raise MutationError(f"no test is named as failed:\n{ran.stdout}")
    return match[1]
