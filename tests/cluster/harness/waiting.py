"""Waiting for a condition with a deadline: the only place of these tests where time passes on purpose."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

POLL_SECONDS = 0.02


class ConditionNotMet(AssertionError):
    """A condition did not hold before its deadline."""


def wait_until(condition: Callable[[], T | None], what: str, timeout: float = 15.0) -> T:
    """Ask condition() again and again until it is true, and return what it returned.

    what: the condition in words, for the failure. timeout: seconds.
    Raises ConditionNotMet, with the last exception of condition() as its cause if there was one.
    """
    deadline = time.monotonic() + timeout
    while True:
        problem: Exception | None = None
        try:
            value = condition()
        except Exception as error:
            problem = error
        else:
            if value:
                return value
        if time.monotonic() >= deadline:
            last = f"; the last attempt raised {problem!r}" if problem else ""
            raise ConditionNotMet(f"not within {timeout:g} s: {what}{last}") from problem
        time.sleep(POLL_SECONDS)
