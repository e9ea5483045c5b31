"""The whole check of a history, from its parts."""

from __future__ import annotations

from collections.abc import Callable

from tests.history.keyed import check_keys
from tests.history.linear import GaveUp, Timeline, find_order
from tests.history.model import History, WatchResponse
from tests.history.plan import make
from tests.history.report import CheckOptions, Report
from tests.history.watches import Truth, check_watch


def check(
    history: History, options: CheckOptions | None = None, progress: Callable[[str], None] | None = None
) -> Report:
    """Hold a history against what is possible. Never raises for what is in it.

    progress is told what is done next.
    """
    options = options or CheckOptions()
    tell = progress or (lambda _: None)
    responses = [entry for watch in history.watches for entry in watch.log if isinstance(entry, WatchResponse)]
    report = Report(calls=len(history.calls), events=sum(len(response.events) for response in responses))
    tell("sorting calls by revision")
    plan = make(history, options.clock_error)
    report.violations += plan.faults
    timeline: Timeline | None = None
    if not plan.faults:
        tell("ordering all calls by revision")
        try:
            timeline, fault = find_order(plan, options.budget)
        except GaveUp:
            report.undecided.append(
                f"the calls without an answer can be placed in too many ways: {options.budget:,} revisions taken back"
            )
        else:
            report.violations += [fault] if fault is not None else []
    tell("checking watches")
    for watch in history.watches:
        report.violations += check_watch(watch, Truth(plan, timeline))
    if not plan.partial:
        tell("searching orders for each key")
        faults, undecided = check_keys(history, options.budget)
        report.violations += faults
        report.undecided += undecided
    return report
