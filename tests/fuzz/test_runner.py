"""The runner finds what fails, makes it small, keeps it and tries it again."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from tests.fuzz.runner import Failure, TooSlow, load, replay, run_examples, run_for
from tests.fuzz.target import Target, by_itself


class Wrong(Exception):
    """What the target below is said to raise."""


def refuse_large(value: Any) -> None:
    number, _ = value
    if number >= 1000:
        raise Wrong(number)


def target(cpu_seconds: float = 2.0) -> Target:
    return Target(
        "numbers", lambda: st.tuples(st.integers(), st.binary()), by_itself(refuse_large), cpu_seconds=cpu_seconds
    )


def test_a_failing_input_is_made_small_saved_and_replayed(tmp_path: Path) -> None:
    found = run_examples(target(), refuse_large, 300, seed=1)
    assert found is not None
    assert (found.value, type(found.error)) == ((1000, b""), Wrong)
    name, value = load(found.save(tmp_path))
    assert (name, value) == ("numbers", (1000, b""))
    with pytest.raises(Wrong):
        replay(target(), value)


def test_a_seed_finds_the_same_again() -> None:
    def seen(seed: int) -> list[Any]:
        values: list[Any] = []
        run_examples(target(), values.append, 50, seed)
        return values

    assert seen(1) == seen(1) != seen(2)


def test_a_run_ends_with_the_first_failure() -> None:
    found = run_for(target(), 20.0, 1, lambda _: None)
    assert isinstance(found, Failure)
    assert found.value == (1000, b"")


def test_a_run_tells_how_far_it_is() -> None:
    harmless = Target("none", st.none, by_itself(lambda _: None))
    told: list[str] = []
    assert run_for(harmless, 0.05, 7, told.append) is None
    assert told[0].startswith("none: 250 inputs, next seed 8")


def test_an_input_that_costs_too_much_fails() -> None:
    def spin(value: Any) -> None:
        end = time.thread_time() + 0.02
        while time.thread_time() < end:
            continue

    slow = Target("slow", st.none, by_itself(spin), cpu_seconds=0.01)
    with pytest.raises(TooSlow):
        replay(slow, None)
