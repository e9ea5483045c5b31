"""Changes of the membership, where they meet a change of the leader."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest

from kvstore.errors import LearnerNotReady, NotLeader
from kvstore.server.changes import MembershipChanges
from kvstore.server.config import Config

LEADER, LEARNER = 1, 2


def changes(progress: dict[int, int]) -> MembershipChanges:
    """Those of a leader that raft shows so far along with each member."""
    status = SimpleNamespace(progress={number: SimpleNamespace(match=match) for number, match in progress.items()})
    parts: dict[str, Any] = dict.fromkeys(("proposals", "applier", "connections", "now", "removals"))
    parts["loop"] = SimpleNamespace(node=SimpleNamespace(status=lambda: status))
    parts["membership"] = SimpleNamespace(check_promote=lambda number: None)
    parts["leader"] = SimpleNamespace(is_leader=True)
    return MembershipChanges(config=Config(), member_id=LEADER, chance=random.Random(1), **parts)


async def test_a_learner_that_lags_is_not_promoted() -> None:
    refused = changes({LEADER: 100, LEARNER: 80})
    with pytest.raises(LearnerNotReady):
        await refused.promote_here(LEARNER)
    assert refused.promotions_refused == {"LearnerNotReady": 1}


async def test_a_leader_that_has_just_stepped_down_promotes_nobody_and_says_why() -> None:
    # Raft forgets the progress of members at once; whoever asks is told at the end of the turn.
    with pytest.raises(NotLeader):
        await changes({}).promote_here(LEARNER)
