"""Quorum arithmetic against its definition."""

from __future__ import annotations

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from raft.quorum import INFINITE_INDEX, JointConfig, VoteResult, majority_committed, majority_vote

_IDS = st.sets(st.integers(1, 8), max_size=7)
_INDEXES = st.dictionaries(st.integers(1, 8), st.integers(0, 20))
_VOTES = st.dictionaries(st.integers(1, 8), st.booleans())


def _majorities(voters: set[int]) -> list[tuple[int, ...]]:
    return list(combinations(sorted(voters), len(voters) // 2 + 1))


@given(_IDS, _INDEXES)
def test_committed_is_the_largest_index_that_some_majority_has(voters: set[int], acked: dict[int, int]) -> None:
    expected = max((min(acked.get(id, 0) for id in majority) for majority in _majorities(voters)), default=0)
    assert majority_committed(voters, acked.get) == (expected if voters else INFINITE_INDEX)


@given(_IDS, _VOTES)
def test_a_vote_is_won_by_a_majority_and_lost_when_none_is_possible(voters: set[int], votes: dict[int, bool]) -> None:
    result = majority_vote(voters, votes)
    majorities = _majorities(voters) if voters else [()]
    won = any(all(votes.get(id) for id in majority) for majority in majorities)
    possible = any(all(votes.get(id, True) for id in majority) for majority in majorities)
    assert result == (VoteResult.WON if won else VoteResult.PENDING if possible else VoteResult.LOST)


@given(_IDS, _IDS, _INDEXES)
def test_a_joint_quorum_commits_what_both_halves_do(
    incoming: set[int], outgoing: set[int], acked: dict[int, int]
) -> None:
    expected = min(majority_committed(incoming, acked.get), majority_committed(outgoing, acked.get))
    assert JointConfig(incoming, outgoing).committed(acked.get) == expected
    assert JointConfig(outgoing, incoming).committed(acked.get) == expected


@given(_IDS, _IDS, _VOTES)
def test_a_joint_vote_needs_both_halves(incoming: set[int], outgoing: set[int], votes: dict[int, bool]) -> None:
    halves = {majority_vote(incoming, votes), majority_vote(outgoing, votes)}
    result = JointConfig(incoming, outgoing).vote(votes)
    assert result == JointConfig(outgoing, incoming).vote(votes)
    assert (result == VoteResult.WON) == (halves == {VoteResult.WON})
    assert (result == VoteResult.LOST) == (VoteResult.LOST in halves)


def test_a_joint_configuration_is_written_with_both_halves() -> None:
    assert str(JointConfig({3, 1}, {2})) == "(1 3)&&(2)"
    assert str(JointConfig({3, 1})) == "(1 3)"
