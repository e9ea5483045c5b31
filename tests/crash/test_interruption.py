"""A run by hand that is ended leaves no process and no directory, whatever it is just doing."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cluster.harness import wait_until
from tests.cluster.harness.binary import REPOSITORY
from tests.cluster.harness.leftovers import alive, give_up, of_directory


@contextmanager
def tool(*words: str) -> Iterator[subprocess.Popen[str]]:
    """`python -m tests.crash`, ended for certain."""
    path = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "cmd"), os.environ.get("PYTHONPATH", "")])
    run = subprocess.Popen(
        [sys.executable, "-m", "tests.crash", *words],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": path.rstrip(os.pathsep)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        text=True,
    )
    try:
        yield run
    finally:
        give_up(run)
        assert run.stdout is not None
        run.stdout.close()


def members_run(directory: Path) -> bool:
    return bool(of_directory(directory))


def power_is_cut(directory: Path) -> bool:
    return any(directory.glob("cut-*"))


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("words", "after", "under_way"),
    [
        (("kill", "--points=8"), r"\d+ operations", members_run),
        (("catch-up",), "in ", members_run),
        (("power",), r"\d+ records", power_is_cut),
        (("damage",), "in ", members_run),
    ],
    ids=["kill", "catch-up", "power", "damage"],
)
def test_an_ended_run_leaves_nothing(words: tuple[str, ...], after: str, under_way: Callable[[Path], bool]) -> None:
    with tool(*words) as run:
        assert run.stdout is not None
        said = run.stdout.readline()
        found = re.match("in (/.+)", said)
        if found is None:
            pytest.fail(said + run.stdout.read())
        directory = Path(found[1])
        while not re.search(after, said):
            said = run.stdout.readline()
            if "compiler" in said:
                pytest.skip(said)
            assert said, f"it ended with {run.wait()}"
        wait_until(lambda: under_way(directory), "it is under way", 120)
        begun = of_directory(directory)
        run.send_signal(signal.SIGTERM)
        _, status = run.communicate(timeout=120), run.returncode
        assert status == 130
        assert not any(map(alive, begun))
        assert not of_directory(directory)
        assert not directory.exists()
