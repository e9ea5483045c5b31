"""Simulated worlds within a fixed budget of time, and the checks themselves, each shown a history that breaks it."""

import os

import pytest

from raft.messages import ConfState, Entry, ReadState, Snapshot, SnapshotMetadata
from tests.simulation.invariants import Invariants, Violation
from tests.simulation.run import run_for, run_seed
from tests.simulation.world import World

FIRST = Snapshot(b"begin", SnapshotMetadata(ConfState(voters=[1]), 1, 1))

BUDGET_SECONDS = float(os.environ.get("KVSTORE_SIMULATION_SECONDS", "20"))


@pytest.mark.timeout(BUDGET_SECONDS + 120)
def test_nothing_is_violated_within_the_budget() -> None:
    first = int(os.environ.get("KVSTORE_SIMULATION_FIRST", "0"))
    seeds = 0
    for outcome in run_for(BUDGET_SECONDS, first):
        seeds += 1
        assert not outcome.failure, (
            f"replay with: python -m tests.simulation --first {outcome.seed} --seeds 1\n{outcome.failure}"
        )
    assert seeds > 0


def test_a_seed_replays_exactly() -> None:
    def trace(seed: int) -> list[object]:
        world = World(seed)
        seen: list[object] = []
        for _ in range(1500):
            world.step()
            seen.append((len(world.network), world.invariants.committed, [m.applied for m in world.members.values()]))
        return seen

    assert trace(7) == trace(7)
    assert trace(7) != trace(8)


@pytest.mark.parametrize("seed", [92, 1023])
def test_what_once_failed_holds(seed: int) -> None:
    assert run_seed(seed).failure == ""


def test_two_entries_at_one_place_are_noticed() -> None:
    invariants = Invariants(FIRST)
    invariants.appended([Entry(2, 2, data=b"a")], 1)
    with pytest.raises(Violation, match="log matching"):
        invariants.appended([Entry(2, 2, data=b"b")], 1)


def test_entries_after_different_ones_are_noticed() -> None:
    invariants = Invariants(FIRST)
    invariants.appended([Entry(3, 3, data=b"a")], 1)
    with pytest.raises(Violation, match="log matching"):
        invariants.appended([Entry(3, 3, data=b"a")], 2)


def test_different_entries_applied_at_one_index_are_noticed() -> None:
    invariants = Invariants(FIRST)
    invariants.applied(1, Entry(1, 2, data=b"a"))
    with pytest.raises(Violation, match="state machine safety"):
        invariants.applied(2, Entry(2, 2, data=b"a"))


def test_a_snapshot_of_another_state_is_noticed() -> None:
    invariants = Invariants(FIRST)
    invariants.applied(1, Entry(1, 2, data=b"a"))
    with pytest.raises(Violation, match="restores another state"):
        invariants.restored(2, Snapshot(b"else", SnapshotMetadata(ConfState(), 2, 1)))


def test_a_commit_index_that_goes_back_is_noticed() -> None:
    invariants = Invariants(FIRST)
    invariants.commit_index(1, 5)
    with pytest.raises(Violation, match="goes back"):
        invariants.commit_index(1, 4)


def test_a_stale_read_is_noticed() -> None:
    invariants = Invariants(FIRST)
    invariants.commit_index(1, 5)
    invariants.read_asked(b"r")
    with pytest.raises(Violation, match="linearizable"):
        invariants.reads_confirmed([ReadState(4, b"r")])
