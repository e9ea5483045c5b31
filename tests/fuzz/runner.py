"""Runs targets: so many inputs, or for so long; keeps the smallest input that fails, and tries it again.

Every run follows from its seed. hypothesis makes the inputs and makes a failing one small.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import hypothesis
from hypothesis import HealthCheck, Phase, settings

from tests.fuzz.target import Check, Target

BATCH: Final = 250
"""Inputs between two lines of progress, of which each batch has a seed of its own."""

GROWTH_BYTES: Final = 512 << 20
"""How much larger the process may become in a run."""

Report = Callable[[str], None]


class TooSlow(AssertionError):
    """An input cost more than any honest one."""


class TooLarge(AssertionError):
    """The process grew out of proportion."""


@dataclass(frozen=True, slots=True)
class Failure:
    """What a target does not take: the smallest such input that was found, and what came of it."""

    target: str
    value: Any
    error: BaseException

    def save(self, directory: Path) -> Path:
        """Write the input to a file for replay(); its name follows from it."""
        text = f"# {self.target}: {type(self.error).__name__}\n{(self.target, self.value)!r}\n"
        path = directory / f"{self.target}-{hashlib.sha256(text.encode()).hexdigest()[:12]}.txt"
        directory.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path


def load(path: Path) -> tuple[str, Any]:
    """The target's name and the input that a file holds."""
    name, value = ast.literal_eval(path.read_text().partition("\n")[2])
    return str(name), value


def replay(target: Target, value: Any) -> None:
    """Try one input again. Raises what is wrong."""
    with target.open() as check:
        _measured(target, check)(value)


def run_examples(target: Target, check: Check, examples: int, seed: int) -> Failure | None:
    """Try that many inputs, and make the first that fails small."""
    failing: list[tuple[Any, BaseException]] = []
    measured = _measured(target, check)

    @hypothesis.seed(seed)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )
    @hypothesis.given(target.inputs())
    def attempt(value: Any) -> None:
        try:
            measured(value)
        except Exception as error:
            failing.append((value, error))
            raise

    try:
        with _quiet():
            attempt()
    except Exception:
        if not failing:
            raise
        # The last one is the smallest: hypothesis ends by running it once more.
        return Failure(target.name, *failing[-1])
    return None


def run_for(target: Target, seconds: float, seed: int, report: Report) -> Failure | None:
    """Try inputs for so many seconds of the wall clock. Raises TooLarge when the process grows with them."""
    end = time.monotonic() + seconds
    tried = 0
    before = _resident()
    with target.open() as check:
        while time.monotonic() < end:
            failure = run_examples(target, check, BATCH, seed)
            if failure is not None:
                return failure
            tried += BATCH
            seed += 1
            report(f"{target.name}: {tried} inputs, next seed {seed}, {_resident() >> 20} MiB")
            if _resident() - before > GROWTH_BYTES:
                raise TooLarge(f"{target.name}: {_resident() - before} bytes more after {tried} inputs")
    return None


def _measured(target: Target, check: Check) -> Check:
    def measured(value: Any) -> None:
        began = time.thread_time()
        check(value)
        used = time.thread_time() - began
        if used > target.cpu_seconds:
            raise TooSlow(f"{used:.1f} s for one input")

    return measured


def _resident() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what hypothesis says of a failing input to itself: it is saved and told by us."""
    with hypothesis.reporting.with_reporter(lambda _: None):
        yield
