"""What is left behind of a failed check: the history, its smallest part that still fails, and a picture of that."""

from __future__ import annotations

from pathlib import Path

from tests.history.check import check
from tests.history.files import save
from tests.history.model import History
from tests.history.picture import picture
from tests.history.report import CheckOptions, Report
from tests.history.shrink import shrink


def write_failure(
    history: History, report: Report, directory: Path, options: CheckOptions | None = None, seconds: float = 30.0
) -> History:
    """Write history.jsonl and, for the first fault, minimal.jsonl and minimal.html into a directory.

    seconds: how long to look for a smaller history. Returns the smallest that was found.
    """
    options = options or CheckOptions()
    directory.mkdir(parents=True, exist_ok=True)
    save(history, directory / "history.jsonl")
    if not report.violations:
        return history
    violation = report.violations[0]
    minimal = shrink(history, violation, options, seconds)
    # Which calls contradict each other may differ once others are left out.
    again = [fault for fault in check(minimal, options).violations if fault.kind == violation.kind]
    save(minimal, directory / "minimal.jsonl")
    (directory / "minimal.html").write_text(picture(minimal, (again or [violation])[0]), encoding="utf-8")
    return minimal
