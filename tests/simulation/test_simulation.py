"""Simulated worlds within a fixed budget of time, and the checks themselves, each shown a history that breaks it."""

import os

import pytest

from raft import Config, MemoryStorage, RawNode
from raft.messages import ConfState, Entry, HardState, ReadState, Snapshot, SnapshotMetadata
from tests.simulation.invariants import Invariants, Violation
from tests.simulation.run import run_for, run_seed
from tests.simulation.world import World

FIRST = Snapshot(b"begin", SnapshotMetadata(ConfState(voters=[1]), 1, 1))

BUDGET_SECONDS = float(os.environ.get("KVSTORE_SIMULATION_SECONDS", "20"))


def disk_of(*terms: int) -> MemoryStorage:
    """A disk with entries of these terms after the first snapshot."""
    disk = MemoryStorage(FIRST)
    disk.append([Entry(term, index, data=b"a") for index, term in enumerate(terms, 2)])
    return disk


def leader_after(*terms: int) -> RawNode:
    """A leader of the next term, alone in its group, with its first entry not stored."""
    disk = disk_of(*terms)
    disk.set_hard_state(HardState(terms[-1], commit=1))
    node = RawNode(Config(id=1, election_tick=10, heartbeat_tick=1, storage=disk))
    node.campaign()
    # Its own vote counts once it is stored.
    disk.set_hard_state(node.ready().hard_state or HardState())
    node.advance()
    return node


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


@pytest.mark.parametrize(
    "seed",
    [
        pytest.param(102, id="a removed leader answers reads for the last voter"),
        pytest.param(189, id="a leader alone answers reads before a commit in its term"),
        pytest.param(660, id="a change is applied over a newer snapshot"),
    ],
)
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
    invariants.applied(1, Entry(1, 2, data=b"a"), disk_of(1))
    with pytest.raises(Violation, match="another entry"):
        invariants.applied(2, Entry(2, 2, data=b"a"), disk_of(2))


def test_an_entry_applied_before_it_is_stored_is_noticed() -> None:
    with pytest.raises(Violation, match="before it is stored"):
        Invariants(FIRST).applied(1, Entry(1, 3), disk_of(1))


def test_a_term_that_falls_is_noticed_while_the_member_runs() -> None:
    invariants = Invariants(FIRST)
    invariants.hard_state(1, HardState(3))
    invariants.stopped(1)
    invariants.hard_state(1, HardState(2))
    with pytest.raises(Violation, match="falls from 2 to 1"):
        invariants.hard_state(1, HardState(1))


def test_a_vote_that_changes_is_noticed() -> None:
    invariants = Invariants(FIRST)
    invariants.hard_state(1, HardState(3, 2))
    with pytest.raises(Violation, match="voted for 2 in term 3, now for 0"):
        invariants.hard_state(1, HardState(3, 0))


def test_a_second_vote_is_noticed_even_after_a_crash() -> None:
    invariants = Invariants(FIRST)
    invariants.voted(1, 3, 2)
    invariants.stopped(1)
    invariants.voted(1, 3, 2)
    with pytest.raises(Violation, match="gives 2 and 3 its vote"):
        invariants.voted(1, 3, 3)


def test_a_leader_without_a_majority_of_stored_votes_is_noticed() -> None:
    leader = leader_after(1)
    voted, other, later = disk_of(1), disk_of(1), disk_of(1)
    voted.set_hard_state(HardState(2, 1, 1))
    other.set_hard_state(HardState(2, 2, 1))
    later.set_hard_state(HardState(3, 2, 1))
    Invariants(FIRST).became_leader(1, leader, [{1, 2, 3}], {1: voted, 2: other, 3: later})
    with pytest.raises(Violation, match=r"leads in term 2 by \[1\] of \[1, 2\]"):
        Invariants(FIRST).became_leader(1, leader, [{1, 2}], {1: voted, 2: other})


def test_two_leaders_in_a_term_are_noticed() -> None:
    invariants, leader = Invariants(FIRST), leader_after(1)
    invariants.became_leader(1, leader, [], {})
    with pytest.raises(Violation, match="1 and 2 both lead in term 2"):
        invariants.became_leader(2, leader, [], {})


def test_a_leader_without_a_committed_entry_is_noticed() -> None:
    invariants = Invariants(FIRST)
    invariants.applied(2, Entry(1, 2), disk_of(1))
    invariants.applied(2, Entry(1, 3), disk_of(1, 1))
    invariants.commit_index(2, 3)
    with pytest.raises(Violation, match="leads in term 2 without entry 1/3"):
        invariants.became_leader(1, leader_after(1), [], {})


def test_an_acknowledgement_of_what_is_not_stored_is_noticed() -> None:
    invariants = Invariants(FIRST)
    invariants.acknowledged(2, disk_of(1), 2, None)
    with pytest.raises(Violation, match="its disk ends with 2"):
        invariants.acknowledged(2, disk_of(1), 3, None)


@pytest.mark.parametrize("terms", [(2,), (1, 1, 1)], ids=["another entry", "more than the leader has"])
def test_an_acknowledgement_of_what_the_leader_does_not_hold_is_noticed(terms: tuple[int, ...]) -> None:
    # The leader holds 1/2, and 2/3 of its own.
    invariants, disk = Invariants(FIRST), disk_of(*terms)
    with pytest.raises(Violation, match="not what its leader holds"):
        invariants.acknowledged(2, disk, disk.last_index(), leader_after(1))


def test_a_commit_without_a_majority_of_disks_is_noticed() -> None:
    leader = leader_after(1)
    leader.raft.log.commit_to(3)
    full, short = disk_of(1, 2), disk_of(1)
    Invariants(FIRST).leader_commits(leader, [{1, 2, 3}], {1: full, 2: short, 3: full})
    with pytest.raises(Violation, match=r"stored by \[1\] of \[1, 2\] alone"):
        Invariants(FIRST).leader_commits(leader, [{1}, {1, 2}], {1: full, 2: short})


def test_a_commit_of_a_former_term_by_counting_is_noticed() -> None:
    leader = leader_after(1)
    leader.raft.log.commit_to(2)
    with pytest.raises(Violation, match="2 of term 1 by counting in term 2"):
        Invariants(FIRST).leader_commits(leader, [{1}], {1: disk_of(1)})


def test_a_snapshot_of_another_state_is_noticed() -> None:
    invariants = Invariants(FIRST)
    invariants.applied(1, Entry(1, 2, data=b"a"), disk_of(1))
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
