"""Simulated members within a fixed budget of time, and the simulation itself: it repeats itself, and it can fail."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.member_simulation.faults import FAULTS, Fault
from tests.member_simulation.run import run_for, run_seed

BUDGET_SECONDS = float(os.environ.get("KVSTORE_SIMULATION_SECONDS", "20"))

SEEDS_FOR_A_FAULT = 200

UNDECIDED = 0.1
"""The share of worlds, beside one, whose history the checker may give up on: too many calls may have no answer. What
clients saw was checked by revisions as it happened all the same; a checker that gave up on more would be of no use."""


@pytest.mark.timeout(BUDGET_SECONDS + 300)
def test_worlds_hold_together() -> None:
    first = int(os.environ.get("KVSTORE_SIMULATION_FIRST", "0"))
    seeds = answers = undecided = 0
    for outcome in run_for(BUDGET_SECONDS, first):
        seeds += 1
        answers += outcome.answers
        undecided += outcome.undecided
        assert not outcome.failure, (
            f"replay with: python -m tests.member_simulation --seeds {outcome.seed} --trace\n{outcome.failure}"
        )
    assert seeds > 0
    assert answers > 0
    assert undecided <= 1 + UNDECIDED * seeds, f"of {seeds} histories {undecided} were not decided"


@pytest.mark.timeout(300)
def test_a_seed_replays_exactly_in_another_process() -> None:
    def run(hash_seed: str) -> str:
        return subprocess.run(
            [sys.executable, "-c", _PRINT_HASHES],
            cwd=Path(__file__).parents[2],
            env=dict(os.environ, PYTHONHASHSEED=hash_seed),
            check=True,
            capture_output=True,
            text=True,
        ).stdout

    first = run("1")
    assert len(first.split()) == 2
    assert first == run("2")


_PRINT_HASHES = """
from tests.member_simulation.run import run_seed
hashes = [run_seed(seed, seconds=30.0).hash for seed in (2, 3)]
assert len(set(hashes)) == 2
print(*hashes)
"""


@pytest.mark.timeout(300)
def test_a_trace_tells_what_happened() -> None:
    told: list[str] = []
    outcome = run_seed(3, members=3, seconds=20.0, told=told.append)
    assert not outcome.failure
    assert any(re.search(r"m\d leads in term \d", line) for line in told)
    assert "the trouble ends" in " ".join(told)
    assert outcome.virtual_seconds > 20.0


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.id)
def test_a_fault_is_noticed(fault: Fault) -> None:
    with fault.put_in():
        for seed in range(fault.first, fault.first + SEEDS_FOR_A_FAULT):
            outcome = run_seed(seed)
            if outcome.failure:
                assert re.search(fault.caught, outcome.failure), outcome.failure
                return
    pytest.fail(f"none of {SEEDS_FOR_A_FAULT} worlds notices: {fault.id}")
