"""Hands the history of a run to the checkers and keeps what shows a failure."""

import time
from collections.abc import Callable
from pathlib import Path

from tests.chaos.verdict import Verdict
from tests.history.check import check
from tests.history.files import save
from tests.history.model import History
from tests.history.report import CheckOptions

SHOWN = 10
"""Violations told in words; the file has all."""


def judge(history: History, verdict: Verdict, directory: Path, say: Callable[[str], None]) -> None:
    """Check the history; add what does not hold to the verdict. It is kept in the directory, whatever comes of it."""
    save(history, directory / "history.jsonl")
    began = time.monotonic()
    report = check(history, CheckOptions())
    seconds = time.monotonic() - began
    say(f"history checked in {seconds:.1f} s: {len(history.calls)} calls, {len(history.watches)} watches")
    verdict.violations += [str(violation) for violation in report.violations[:SHOWN]]
    verdict.undecided += [str(undecided) for undecided in report.undecided[:SHOWN]]
