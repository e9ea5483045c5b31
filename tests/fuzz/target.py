"""What is fuzzed: a target makes inputs and judges what comes of each.

Inputs are plain literals (bytes, numbers, text, tuples and lists of them), so that a failing one can be written to a
file and read again. Knows no target and no runner.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from hypothesis.strategies import SearchStrategy

Check = Callable[[Any], None]
"""Takes one input; raises whatever is wrong with how it was taken."""


@dataclass(frozen=True, slots=True)
class Target:
    """One thing that parses bytes.

    inputs: makes the strategy; called once a run. open: gives the check, with all it needs around it. examples: how
    many inputs the test suite tries. cpu_seconds: what one input may cost the calling thread; more is a hang.
    """

    name: str
    inputs: Callable[[], SearchStrategy[Any]]
    open: Callable[[], AbstractContextManager[Check]]
    examples: int = 200
    cpu_seconds: float = 2.0


def by_itself(check: Check) -> Callable[[], AbstractContextManager[Check]]:
    """For a check that needs nothing around it."""

    @contextlib.contextmanager
    def opened() -> Iterator[Check]:
        yield check

    return opened
