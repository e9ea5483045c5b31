"""Tries a mutation: a copy of the library with the fault in it, the tests on that copy, and what noticed it first.

Works in a folder of its own and in processes of its own; the tree it stands in is only read.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.raft.mutations.mutation import Mutation, MutationError

ROOT: Final = Path(__file__).parents[3]
SEEDS: Final = 400
"""Worlds that a mutation has to get through before it counts as survived."""

_COPIED = ("raft", "tests/raft", "tests/simulation")
# These test the documents, the speed and the tools, or are slow and about the reference storage alone.
_LEFT_OUT = frozenset(
    (
        "test_bench.py",
        "test_docs.py",
        "test_mutations.py",
        "test_purity.py",
        "test_storage.py",
        "test_vectors_runner.py",
    )
)
# The rules of the paper say best what is wrong, the scenarios notice most: those come first, these last.
_FIRST = (
    "test_paper_figure2.py",
    "test_paper_section5.py",
    "test_paper_sections6to8.py",
    "test_paper_dissertation.py",
)
_LAST = ("test_vectors.py",)
_TEST_SECONDS = 30
_RUN_SECONDS = 300
_NOTICED = re.compile(r"^(?:FAILED|ERROR) (\S+?::.+?)(?: - .*)?$", re.MULTILINE)
_FAILING_SEED = re.compile(r"^seed (\d+) fails after \d+ steps:$", re.MULTILINE)
_TESTS_FAILED = 1


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is tried. suite: files of tests, in order. seeds: worlds to simulate.

    always_simulate: also when the suite has noticed the mutation.
    """

    suite: Sequence[str]
    seeds: int = SEEDS
    always_simulate: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """What noticed a mutation. test: the first test that failed. seed: the first world that did.

    violation: what does not hold in that world. Without a seed: the simulation does not come to an end.
    """

    test: str = ""
    seed: int | None = None
    violation: str = ""

    @property
    def caught(self) -> bool:
        """Whether anything did."""
        return bool(self.test or self.violation)


def fast_suite(root: Path = ROOT) -> list[str]:
    """The files of tests to run, in order, relative to `root`."""
    names = {path.name for path in (root / "tests" / "raft").glob("test_*.py")}
    between = sorted(names - _LEFT_OUT - {*_FIRST, *_LAST})
    return [f"tests/raft/{name}" for name in (*_FIRST, *between, *_LAST)]


def examine(mutation: Mutation | None, effort: Effort) -> Verdict:
    """Try one mutation, or with None the library as it is. Raises MutationError if the tests cannot run at all."""
    with tempfile.TemporaryDirectory(prefix="raft-mutation-") as folder:
        copy = Path(folder)
        _copy_to(copy)
        if mutation is not None:
            mutation.apply(copy)
        test = _run_suite(copy, effort.suite)
        if test and not effort.always_simulate:
            return Verdict(test)
        seed, violation = _simulate(copy, effort.seeds)
        return Verdict(test, seed, violation)


def _copy_to(copy: Path) -> None:
    (copy / "tests").mkdir()
    for name in ("pyproject.toml", "tests/__init__.py"):
        shutil.copy(ROOT / name, copy / name)
    for name in _COPIED:
        # Compiled modules stay behind: a change within a second and of no length would not make them stale.
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "*.so"))


def _run_suite(copy: Path, suite: Sequence[str]) -> str:
    """The first test that fails; empty if none does."""
    options = ("-x", "-q", "--tb=no", "-p", "no:cacheprovider", "--timeout", str(_TEST_SECONDS))
    status, output = _run(copy, "pytest", *options, *suite)
    if status is None:
        return "the suite does not come to an end"
    if status not in (0, _TESTS_FAILED):
        raise MutationError(f"the tests cannot run:\n{output}")
    if status == 0:
        return ""
    match = _NOTICED.search(output)
    if match is None:
        raise MutationError(f"no test is named as failed:\n{output}")
    return match[1]


def _simulate(copy: Path, seeds: int) -> tuple[int | None, str]:
    """The first seed that fails, and why; nothing if none does."""
    # One process, so that the first seed that fails is always the same.
    status, output = _run(copy, "tests.simulation", "--seeds", str(seeds), "--processes", "1", "--exitfirst")
    if status is None:
        return None, "the simulation does not come to an end"
    if status == 0:
        return None, ""
    match = _FAILING_SEED.search(output)
    if match is None:
        raise MutationError(f"the simulation cannot run:\n{output}")
    # The last line of the traceback, before the two lines of the summary.
    *_, violation, _, _ = (line.strip() for line in output.splitlines() if line.strip())
    return int(match[1]), violation


def _run(copy: Path, module: str, *arguments: str) -> tuple[int | None, str]:
    """Exit status and output of a module run in the copy; no status if it had to be stopped."""
    environment = {**os.environ, "PYTHONPATH": str(copy)}
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        cwd=copy,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=_RUN_SECONDS)
    except BaseException as error:
        # Whoever waits no longer must not leave it behind, nor what it has started.
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        if isinstance(error, subprocess.TimeoutExpired):
            return None, ""
        raise
    return process.returncode, output
