"""The active configuration with the progress and the votes of its members.

Answers what a quorum has and who is in it; how a configuration may change is confchange.py's business.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from raft.messages import NO_LIMIT, ConfState
from raft.progress import Inflights, Progress
from raft.quorum import JointConfig, VoteResult, format_ids


@dataclass(slots=True)
class Configuration:
    """Who votes and who learns.

    learners_next: voters of the outgoing set that become learners when the joint configuration is left; until then
    they vote, and must not be learners.
    auto_leave: the leader itself leaves the joint configuration as soon as it is applied.
    """

    voters: JointConfig = field(default_factory=JointConfig)
    learners: set[int] = field(default_factory=set)
    learners_next: set[int] = field(default_factory=set)
    auto_leave: bool = False

    def copy(self) -> Configuration:
        """An independent copy."""
        return Configuration(self.voters.copy(), set(self.learners), set(self.learners_next), self.auto_leave)

    def conf_state(self) -> ConfState:
        """The same as a snapshot carries it."""
        return ConfState(
            voters=sorted(self.voters.incoming),
            learners=sorted(self.learners),
            voters_outgoing=sorted(self.voters.outgoing),
            learners_next=sorted(self.learners_next),
            auto_leave=self.auto_leave,
        )

    def __str__(self) -> str:
        """voters=(1 2)&&(1) learners=(3) learners_next=(4) autoleave."""
        parts = [f"voters={self.voters}"]
        if self.learners:
            parts.append(f"learners={format_ids(self.learners)}")
        if self.learners_next:
            parts.append(f"learners_next={format_ids(self.learners_next)}")
        if self.auto_leave:
            parts.append("autoleave")
        return " ".join(parts)


def format_progress(progress: Mapping[int, Progress]) -> str:
    """One line a member, in the order of the ids."""
    return "".join(f"{id}: {progress[id]}\n" for id in sorted(progress))


class Tracker:
    """Configuration, progress by id (in ascending order of the ids), and the votes of the running election."""

    __slots__ = ("config", "max_inflight", "max_inflight_bytes", "progress", "votes")

    def __init__(self, max_inflight: int, max_inflight_bytes: int = NO_LIMIT) -> None:
        """Limits are those of each peer's Inflights."""
        self.max_inflight = max_inflight
        self.max_inflight_bytes = max_inflight_bytes
        self.config = Configuration()
        self.progress: dict[int, Progress] = {}
        self.votes: dict[int, bool] = {}

    def new_inflights(self) -> Inflights:
        """An empty window with this tracker's limits."""
        return Inflights(self.max_inflight, self.max_inflight_bytes)

    def switch_to(self, config: Configuration, progress: dict[int, Progress]) -> None:
        """Make this the active configuration."""
        self.config = config
        self.progress = {id: progress[id] for id in sorted(progress)}

    def committed(self) -> int:
        """The largest index that a quorum is known to have on stable storage."""
        progress = self.progress
        return self.config.voters.committed(lambda id: progress[id].match if id in progress else 0)

    def is_singleton(self) -> bool:
        """Whether a single voter decides alone."""
        return len(self.config.voters.incoming) == 1 and not self.config.voters.outgoing

    def quorum_active(self) -> bool:
        """Whether a quorum was heard from since recent_active was last cleared."""
        votes = {id: pr.recent_active for id, pr in self.progress.items() if not pr.is_learner}
        return self.config.voters.vote(votes) is VoteResult.WON

    def record_vote(self, id: int, granted: bool) -> None:
        """Count the vote of `id`; only its first one in an election counts."""
        self.votes.setdefault(id, granted)

    def reset_votes(self) -> None:
        """Begin a new election."""
        self.votes = {}

    def tally(self) -> tuple[int, int, VoteResult]:
        """Votes granted, votes denied, and the outcome. Only voters are counted."""
        granted = denied = 0
        for id, pr in self.progress.items():
            if pr.is_learner or id not in self.votes:
                continue
            if self.votes[id]:
                granted += 1
            else:
                denied += 1
        return granted, denied, self.config.voters.vote(self.votes)
