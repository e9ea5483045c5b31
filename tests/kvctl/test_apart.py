"""Work in a process of its own; from a process without threads, as the program's is."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.kvctl.programs import REPOSITORY

BEGINNING = """
import os, signal
from kvctl import apart
from kvctl.failure import CommandFailed, Exit

def fail():
    raise CommandFailed(Exit.IO, "no such thing")

def end(number):
    os.kill(os.getpid(), number)

try:
    here = os.getpid()
    print(apart.run(lambda: {work}))
except CommandFailed as failure:
    print("failed", failure.code.name, failure)
except apart.Died as death:
    print("died", death.signal, death.pid not in (0, here))
except RuntimeError as error:
    print("error", error)
"""


@pytest.mark.parametrize(
    ("work", "outcome"),
    [
        ("os.getpid() == here", "False"),
        ("fail()", "failed IO no such thing"),
        ("end(signal.SIGBUS)", "died SIGBUS True"),
        ("end(signal.SIGSEGV)", "died SIGSEGV True"),
        ("os.abort()", "died SIGABRT True"),
        ("end(signal.SIGKILL)", "error the process that worked apart ended with -9"),
    ],
)
def test_work_comes_to_its_result_a_failure_or_a_death(work: str, outcome: str) -> None:
    program = BEGINNING.replace("{work}", work)
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "cmd")])},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.strip() == outcome
    assert done.stderr == ""
