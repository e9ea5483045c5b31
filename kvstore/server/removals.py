"""When a removed member may be gone: not before those who stay can do without it.

A removal that is committed is known to be so by the leader alone at first, and by nobody after a restart: a commit
index that moves alone is not synced. Who does not know of it counts the removed member among those whose votes it
needs. Of two members one would wait for the other for ever; of four, three of whom one has died, two would wait for the
fourth.

So the leader that has applied a removal appends one more entry, which says so. Whoever stores that entry stores with it
that the removal is committed (ReadyLoop sees to that), and once the entry is committed, by a quorum of those who stay,
each quorum of them has one that knows, with a log at least as long as that of any that does not. From then on the
removal is *settled*. Before, the removed member votes and answers as ever, and the removal is not acknowledged.

Knows nothing of connections; how the removed member hears of it is others' business.
"""

from __future__ import annotations

import asyncio

from kvstore.pb import internal_pb2
from kvstore.rpc import Promise
from kvstore.server.membership import Membership
from kvstore.server.proposals import Proposer
from kvstore.server.ready_loop import ReadyLoop
from raft.messages import StateType


class Removals:
    """Settles removals while this member leads, and tells whoever waits for that."""

    def __init__(self, member_id: int, membership: Membership, proposer: Proposer, loop: ReadyLoop) -> None:
        self._id = member_id
        self._membership = membership
        self._proposer = proposer
        self._loop = loop
        self._proposed = False
        self._told = False
        # In the order in which they began to wait.
        self._waiting: dict[asyncio.Event, None] = {}

    def look(self) -> None:
        """Do what can be done; to be called from time to time, and when a removal was applied or settled."""
        for changed in self._waiting:
            changed.set()
        unsettled = self._membership.unsettled
        # A removed member that leads still can append nothing: it hands the lead on.
        if not unsettled or self._proposed or self._membership.get(self._id) is None:
            return
        status = self._loop.node.basic_status()
        if status.soft_state.raft_state is not StateType.LEADER:
            return
        self._proposed = True
        # In this term or never: the next leader may have the removal in its log and not know that it is committed.
        request = internal_pb2.RemovalsSettled(members=unsettled)
        self._proposer.propose("removals_settled", request, status.hard_state.term).then(self._answered)

    def told(self) -> None:
        """Another member says that this one is not needed any more."""
        self._told = True
        self.look()

    async def settled(self, number: int) -> None:
        """Return once a member is removed and those who stay can do without it."""
        changed = asyncio.Event()
        self._waiting[changed] = None
        try:
            # What settles this member's own removal does not reach it.
            while not (self._membership.is_settled(number) or (self._told and self._id == number)):
                changed.clear()
                await changed.wait()
        finally:
            del self._waiting[changed]

    def _answered(self, answer: Promise[bytes]) -> None:
        # Whatever has come of it: the next look sees whether it has to be done again.
        self._proposed = False
