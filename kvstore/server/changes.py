"""Changing who belongs to the cluster: the checks before a change is proposed, and the wait until it is applied."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from kvstore import errors
from kvstore.pb import internal_pb2
from kvstore.pb.rpc_pb2 import Member, MemberPromoteRequest, MemberPromoteResponse
from kvstore.rpc import Promise
from kvstore.server.apply import Applier
from kvstore.server.config import Config
from kvstore.server.leader_calls import LeaderCalls
from kvstore.server.membership import Membership, member_id
from kvstore.server.proposals import Proposals
from kvstore.server.ready_loop import ReadyLoop
from kvstore.server.removals import Removals
from raft.messages import ConfChange, ConfChangeType

HEALTHY_SECONDS: Final = 5.0
"""Members must have been connected this long before one is added or removed under the strict check."""

READY_PERCENT: Final = 0.9
"""A learner is in sync once it has matched this share of the leader's log."""

RETRY_SECONDS: Final = 1.0
"""A change that is not applied by then is proposed again: raft may not have taken it."""


class Connections(Protocol):
    """Who can be reached."""

    def active_since(self, member: int) -> float | None:
        """Since when a member has been heard without a break; None if it is not heard now."""


@dataclass(slots=True)
class MembershipChanges:
    """Changes of one cluster, made through one member."""

    config: Config
    member_id: int
    loop: ReadyLoop
    proposals: Proposals
    applier: Applier
    membership: Membership
    connections: Connections
    leader: LeaderCalls
    now: Callable[[], float]
    chance: random.Random
    removals: Removals
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    promoted: int = 0
    promotions_refused: Counter[str] = field(default_factory=Counter)
    """By name of the error."""

    async def add(self, peer_urls: Sequence[str], is_learner: bool) -> tuple[Member, list[Member]]:
        """Add a member: itself and everybody. Raises what check_add and the strict check raise."""
        self.membership.check_add(peer_urls, is_learner, self.config.max_learners)
        if self.config.strict_reconfig_check and not is_learner:
            self._check_started(adding=1, removing=None)
            self._check_connected()
        token = self.config.initial_cluster_token
        member = Member(
            ID=member_id(peer_urls, token, f"{self.chance.getrandbits(64):016x}"), peerURLs=sorted(peer_urls)
        )
        member.isLearner = is_learner
        kind = ConfChangeType.ADD_LEARNER_NODE if is_learner else ConfChangeType.ADD_NODE
        await self._propose(kind, member)
        return self.membership.get(member.ID) or member, self.membership.all()

    async def remove(self, number: int) -> list[Member]:
        """Remove a member: everybody left, once they can do without it.

        Raises MemberNotFound, MemberNotEnoughStarted, Unhealthy or RequestTimeout.
        """
        until = self.now() + self.config.request_timeout
        if number not in self.membership.unsettled:
            self.membership.check_remove(number)
            member = self.membership.get(number)
            if self.config.strict_reconfig_check and member is not None and not member.isLearner:
                self._check_started(adding=0, removing=number)
                self._check_quorum_without(number)
            await self._propose(ConfChangeType.REMOVE_NODE, Member(ID=number))
        try:
            async with asyncio.timeout_at(until):
                await self.removals.settled(number)
        except TimeoutError:
            raise errors.RequestTimeout from None
        return self.membership.all()

    async def update(self, number: int, peer_urls: Sequence[str]) -> list[Member]:
        """Change where a member is reached: everybody. Raises MemberNotFound or PeerURLExist."""
        self.membership.check_update(number, peer_urls)
        await self._propose(ConfChangeType.UPDATE_NODE, Member(ID=number, peerURLs=sorted(peer_urls)))
        return self.membership.all()

    async def promote(self, number: int) -> list[Member]:
        """Make a learner a voter, here or at the leader: everybody.

        Raises MemberNotFound, MemberNotLearner, LearnerNotReady or MemberNotEnoughStarted.
        """
        if self.leader.is_leader:
            return await self.promote_here(number)
        request = MemberPromoteRequest(ID=number)
        encoded = await self.leader.ask("MemberPromote", request.SerializeToString())
        return list(MemberPromoteResponse.FromString(encoded).members)

    async def promote_here(self, number: int) -> list[Member]:
        """Make a learner a voter, as the leader: only it knows how far the learner is."""
        if not self.leader.is_leader:
            raise errors.NotLeader
        try:
            await self._promote(number)
        except errors.KvstoreError as error:
            self.promotions_refused[type(error).__name__] += 1
            raise
        self.promoted += 1
        return self.membership.all()

    async def _promote(self, number: int) -> None:
        self.membership.check_promote(number)
        status = self.loop.node.status()
        own = status.progress.get(self.member_id)
        if own is None:
            # It has stepped down in this very turn, of which nobody has been told yet.
            raise errors.NotLeader
        progress = status.progress.get(number)
        match = progress.match if progress is not None else 0
        if match < own.match * READY_PERCENT:
            raise errors.LearnerNotReady
        if self.config.strict_reconfig_check:
            self._check_started(adding=1, removing=None)
        await self._propose(ConfChangeType.ADD_NODE, Member(ID=number), promote=True)

    # The strict check: a change must leave a quorum of members that have been seen to work.

    def _check_started(self, adding: int, removing: int | None) -> None:
        voters = self.membership.voters()
        started = [member for member in voters if (member.name or self.member_id == member.ID)]
        if removing is None:
            # A cluster of one may always grow: it has no quorum to lose before the second member is there.
            if len(voters) == 1 and len(started) == 1:
                return
            enough = len(started) >= (len(voters) + adding) // 2 + 1
        else:
            if len(voters) == 1:
                enough = False
            else:
                left = [member for member in started if removing != member.ID]
                gone = next((member for member in voters if removing == member.ID), None)
                # Removing one that never started can only help.
                enough = (gone is not None and not gone.name) or len(left) >= (len(voters) - 1) // 2 + 1
        if not enough:
            raise errors.MemberNotEnoughStarted

    def _connected(self, member: Member, since: float) -> bool:
        if self.member_id == member.ID:
            return True
        active = self.connections.active_since(member.ID)
        return active is not None and active <= since

    def _check_connected(self) -> None:
        since = self.now() - HEALTHY_SECONDS
        voters = self.membership.voters()
        connected = sum(self._connected(member, since) for member in voters)
        # Who is down must not keep a cluster from being repaired, as long as those that are there can go on by
        # themselves until the new member starts. A cluster of one cannot, and may grow all the same.
        if len(voters) > 1 and connected < (len(voters) + 1) // 2 + 1:
            raise errors.Unhealthy

    def _check_quorum_without(self, number: int) -> None:
        voters = self.membership.voters()
        now = self.now()
        gone = self.membership.get(number)
        if gone is not None and not self._connected(gone, now):
            # One that cannot be reached takes nothing away from the quorum that can.
            return
        active = sum(self._connected(member, now) for member in voters)
        if active - 1 < (len(voters) - 1) // 2 + 1:
            raise errors.Unhealthy

    async def _propose(self, kind: ConfChangeType, member: Member, promote: bool = False) -> None:
        sequence = self.proposals.reserve()
        context = internal_pb2.MemberChange(
            member=member, promote=promote, proposer=self.member_id, sequence=sequence
        ).SerializeToString()
        change = ConfChange(sequence, kind, member.ID, context)
        applied: Promise[bytes] = Promise()
        self.applier.conf_changes[sequence] = applied
        try:
            async with self.lock, asyncio.timeout(self.config.request_timeout):
                await self._until_applied(change, applied)
        except TimeoutError:
            raise errors.RequestTimeout from None
        finally:
            self.applier.conf_changes.pop(sequence, None)

    async def _until_applied(self, change: ConfChange, applied: Promise[bytes]) -> None:
        # Raft takes a change that must not be made now as an entry without effect, or drops it, and says nothing of
        # either. Proposing it again is harmless: what came of the first is known by then, and the second is refused.
        while not applied.done():
            self.loop.call(lambda node: node.propose_conf_change(change))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RETRY_SECONDS):
                    await applied
        applied.result()
