"""Leases as the cluster keeps them: renewed by the leader, expired by the leader, asked about anywhere."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import chain
from typing import Final

from kvstore import errors
from kvstore.lease.lessor import Lessor
from kvstore.pb import rpc_pb2 as pb
from kvstore.rpc import Promise
from kvstore.server.leader_calls import LeaderCalls
from kvstore.server.proposals import Proposer
from kvstore.server.reads import Waiter

EXPIRY_SECONDS: Final = 0.5
"""How often the leader looks for expired leases and due checkpoints."""

TAKE_UP_SECONDS: Final = 0.005
"""Between two steps of a new leader that takes up its leases."""


class LeaseKeeper:
    """Renewal and expiry of one member's leases.

    confirm: calls back once a quorum has confirmed that this member still leads. A leader that was paused learns
    there that it no longer is one, before it promises a lease another life. term: raft's. What this member decides as
    the leader of a term is appended in that term or not at all; by the next leader's clock it may be wrong.
    """

    def __init__(
        self,
        lessor: Lessor,
        proposer: Proposer,
        leader: LeaderCalls,
        confirm: Callable[[Waiter], None],
        term: Callable[[], int],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._lessor = lessor
        self._proposer = proposer
        self._leader = leader
        self._confirm = confirm
        self._term = term
        self._revoking: set[int] = set()
        # Renewals of leases that have expired and are still there: nobody is told of an end before it has come.
        self._ending: dict[int, list[Promise[int]]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self.expired_total = 0

    def start(self) -> None:
        """Begin to look for expired leases."""
        self._timer = self._loop.call_later(EXPIRY_SECONDS, self._look)

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()

    def leadership_changed(self, is_leader: bool, extend: float) -> None:
        """Begin or stop to expire leases. extend: seconds that every lease gets on top when this member begins."""
        if is_leader and not self._lessor.primary:
            self._lessor.promote(self._loop.time(), extend)
            self._take_up()
        elif not is_leader and self._lessor.primary:
            self._lessor.demote()
            self._revoking.clear()
            # The next leader may well let them live.
            ending, self._ending = self._ending, {}
            for promise in chain.from_iterable(ending.values()):
                promise.set_exception(errors.LeaderChanged())

    def _take_up(self) -> None:
        # In steps, with a turn for everything else between two: a leader may find a hundred thousand leases.
        if self._lessor.take_up():
            self._loop.call_later(TAKE_UP_SECONDS, self._take_up)

    def renew(self, lease_id: int) -> Promise[int]:
        """Renew a lease here or at the leader: its TTL in seconds, 0 if there is none."""
        if self._leader.is_leader:
            return self.renew_here(lease_id)
        promise: Promise[int] = Promise()

        def answered(answer: Promise[bytes]) -> None:
            error = answer.exception()
            if error is not None:
                promise.set_exception(error)
            else:
                promise.set_result(pb.LeaseKeepAliveResponse.FromString(answer.result()).TTL)

        request = pb.LeaseKeepAliveRequest(ID=lease_id)
        self._leader.ask("LeaseKeepAlive", request.SerializeToString()).then(answered)
        return promise

    def renew_here(self, lease_id: int) -> Promise[int]:
        """Renew a lease as the leader. Of one that has expired the answer waits until its end is applied, and of one
        that has been checkpointed until that is undone: the next leader would give it only what was left then.

        Fails with NotLeader, or with LeaderChanged if the lease may still be there when this member no longer leads.
        """
        promise: Promise[int] = Promise()

        def confirmed(error: errors.KvstoreError | None) -> None:
            if error is not None:
                promise.set_exception(error)
            elif not self._lessor.primary:
                promise.set_exception(errors.NotLeader())
            else:
                # Once its end is in the log a renewal would be a promise that the log breaks.
                ttl = 0 if lease_id in self._revoking else self._lessor.renew(lease_id, self._loop.time())
                if ttl:
                    self._renewed(lease_id, ttl, promise)
                elif not self._lessor.exists(lease_id):
                    promise.set_result(0)
                else:
                    self._ending.setdefault(lease_id, []).append(promise)

        self._confirm(confirmed)
        return promise

    def _renewed(self, lease_id: int, ttl: int, promise: Promise[int]) -> None:
        """Answer a renewal once it outlives this leader."""
        checkpoint = self._lessor.owed_checkpoint(lease_id)
        if checkpoint is None:
            promise.set_result(ttl)
            return

        def cleared(answer: Promise[bytes]) -> None:
            error = answer.exception()
            if error is None:
                # A client may have revoked it meanwhile.
                promise.set_result(ttl if self._lessor.exists(lease_id) else 0)
            else:
                promise.set_exception(error)

        self._proposer.propose("lease_checkpoint", checkpoint, self._term()).then(cleared)

    async def time_to_live(self, request: pb.LeaseTimeToLiveRequest) -> bytes:
        """LeaseTimeToLiveResponse without header; only the leader knows what is left, so it is asked."""
        if self._leader.is_leader:
            return self.time_to_live_here(request)
        encoded = await self._leader.ask("LeaseTimeToLive", request.SerializeToString())
        answer = pb.LeaseTimeToLiveResponse.FromString(encoded)
        answer.ClearField("header")
        return answer.SerializeToString()

    def time_to_live_here(self, request: pb.LeaseTimeToLiveRequest) -> bytes:
        """The same, as the leader. Raises NotLeader."""
        if not self._lessor.primary:
            raise errors.NotLeader
        return self._lessor.time_to_live(request, self._loop.time())

    def _look(self) -> None:
        self._timer = self._loop.call_later(EXPIRY_SECONDS, self._look)
        if not self._lessor.primary:
            return
        for lease_id in list(self._ending):
            # A client may have revoked it, too.
            self._tell_ended(lease_id)
        term = self._term()
        expired = [each for each in self._lessor.expired(self._loop.time()) if each not in self._revoking]
        if expired:
            self._confirm(lambda error: self._revoke_all(expired, term, error))
        checkpoints = self._lessor.due_checkpoints(self._loop.time())
        if checkpoints.checkpoints:
            self._proposer.propose("lease_checkpoint", checkpoints, term)

    def _revoke_all(self, expired: list[int], term: int, error: errors.KvstoreError | None) -> None:
        # A leader that was paused finds all leases expired when it wakes, though another has renewed them meanwhile.
        if error is None and self._lessor.primary:
            now = self._loop.time()
            for lease_id in expired:
                # What its log held of renewals, too, has been applied by now.
                if self._lessor.has_expired(lease_id, now):
                    self._revoke(lease_id, term)

    def _revoke(self, lease_id: int, term: int) -> None:
        self._revoking.add(lease_id)

        def revoked(answer: Promise[bytes]) -> None:
            self._revoking.discard(lease_id)
            self._tell_ended(lease_id)
            if answer.exception() is None:
                self.expired_total += 1

        self._proposer.propose("lease_revoke", pb.LeaseRevokeRequest(ID=lease_id), term).then(revoked)

    def _tell_ended(self, lease_id: int) -> None:
        """Answer those who wanted to renew a lease, if it is gone."""
        if not self._lessor.exists(lease_id):
            for promise in self._ending.pop(lease_id, ()):
                promise.set_result(0)
