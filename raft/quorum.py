"""Quorum arithmetic: what a majority, or two majorities at once, has acknowledged or voted.

Knows sets of ids and numbers acknowledged by them, nothing of logs or messages.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

from raft.messages import NO_LIMIT

INFINITE_INDEX: Final = NO_LIMIT
"""What an empty set of voters has committed: it never holds the other half of a joint quorum back."""


class VoteResult(IntEnum):
    """The outcome of an election as far as it is known."""

    PENDING = 1
    LOST = 2
    WON = 3


def majority_committed(voters: Collection[int], acked: Callable[[int], int | None]) -> int:
    """The largest index that a majority of voters has acknowledged; INFINITE_INDEX without voters.

    acked: the index a voter acknowledged, None or 0 if it is not known.
    """
    count = len(voters)
    if not count:
        return INFINITE_INDEX
    indexes = sorted([acked(id) or 0 for id in voters])
    # In ascending order, the voters from this position on are just a majority.
    return indexes[count - (count // 2 + 1)]


def majority_vote(voters: Collection[int], votes: Mapping[int, bool]) -> VoteResult:
    """The outcome among voters; the empty set has always won."""
    if not voters:
        return VoteResult.WON
    granted = sum(1 for id in voters if votes.get(id) is True)
    missing = sum(1 for id in voters if id not in votes)
    quorum = len(voters) // 2 + 1
    if granted >= quorum:
        return VoteResult.WON
    if granted + missing >= quorum:
        return VoteResult.PENDING
    return VoteResult.LOST


@dataclass(slots=True)
class JointConfig:
    """Two sets of voters, each of which must agree; `outgoing` is empty outside of a joint configuration."""

    incoming: set[int] = field(default_factory=set)
    outgoing: set[int] = field(default_factory=set)

    def ids(self) -> set[int]:
        """Every voter of either set."""
        return self.incoming | self.outgoing

    def committed(self, acked: Callable[[int], int | None]) -> int:
        """The largest index acknowledged by a majority of both sets."""
        index = majority_committed(self.incoming, acked)
        return min(index, majority_committed(self.outgoing, acked)) if self.outgoing else index

    def vote(self, votes: Mapping[int, bool]) -> VoteResult:
        """The outcome of an election that needs both sets."""
        results = (majority_vote(self.incoming, votes), majority_vote(self.outgoing, votes))
        if VoteResult.LOST in results:
            return VoteResult.LOST
        return VoteResult.WON if results == (VoteResult.WON, VoteResult.WON) else VoteResult.PENDING

    def is_joint(self) -> bool:
        """Whether two sets have to agree."""
        return bool(self.outgoing)

    def copy(self) -> JointConfig:
        """An independent copy."""
        return JointConfig(set(self.incoming), set(self.outgoing))

    def __str__(self) -> str:
        """(1 2 3), or (1 2 3)&&(3 4 5) in a joint configuration."""
        text = format_ids(self.incoming)
        return f"{text}&&{format_ids(self.outgoing)}" if self.outgoing else text


def format_ids(ids: Collection[int]) -> str:
    """The ids in ascending order, as (1 2 3)."""
    return f"({' '.join(map(str, sorted(ids)))})"
