"""Hands the history of a run to the checkers and keeps what shows a failure."""

import time
from collections.abc import Callable
from pathlib import Path

from tests.chaos.verdict import Verdict
from tests.history import CheckOptions, check, save, write_failure
from tests.history.model import History

SHOWN = 10
"""Violations told in words; the file has all."""

SMALLER_SECONDS = 20.0
"""How long to look for the fewest calls that still show a violation."""


def judge(history: History, verdict: Verdict, directory: Path, say: Callable[[str], None]) -> None:
    """Check the history; add what does not hold to the verdict. It is kept in the directory, whatever comes of it."""
    save(history, directory / "history.jsonl")
    options = CheckOptions()
    began = time.monotonic()
    report = check(history, options)
    seconds = time.monotonic() - began
    say(f"history checked in {seconds:.1f} s: {len(history.calls)} calls, {len(history.watches)} watches")
    verdict.violations += [str(violation) for violation in report.violations[:SHOWN]]
    verdict.undecided += report.undecided[:SHOWN]
    if report.violations:
        write_failure(history, report, directory, options, SMALLER_SECONDS)
