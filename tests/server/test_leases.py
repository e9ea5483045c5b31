"""The leader's side of leases: what is answered to a renewal, and when."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from kvstore import errors
from kvstore.lease.lessor import TABLES, Lessor
from kvstore.pb import rpc_pb2 as pb
from kvstore.rpc import Promise
from kvstore.server import leases
from kvstore.server.leases import LeaseKeeper
from kvstore.server.reads import Waiter
from kvstore.storage.backend import Backend, open_inline

LEASE = 7


class Leader:
    """A leader whose log takes what is proposed and applies it when the test says so."""

    is_leader = True

    def __init__(self, lessor: Lessor, backend: Backend) -> None:
        self.lessor = lessor
        self.backend = backend
        self.proposed: list[Promise[bytes]] = []
        self.requests: list[Any] = []
        nobody: Any = self
        self.no_longer: errors.KvstoreError | None = None
        self.asked = 0
        self.term = 5
        self.reigns: list[int] = []
        self.keeper = LeaseKeeper(lessor, nobody, nobody, self.confirm, lambda: self.term)

    def confirm(self, waiter: Waiter) -> None:
        self.asked += 1
        waiter(self.no_longer)

    def propose(self, kind: str, request: Any, reign: int = 0) -> Promise[bytes]:
        promise: Promise[bytes] = Promise()
        self.proposed.append(promise)
        self.requests.append(request)
        self.reigns.append(reign)
        return promise

    async def expire(self) -> None:
        """Wait until the end of the lease is proposed."""
        async with asyncio.timeout(10):
            while not self.proposed:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    def revoke(self) -> None:
        self.lessor.revoke(LEASE, lambda keys: 0)


@asynccontextmanager
async def leading(tmp_path: Path) -> AsyncIterator[Leader]:
    """A leader with a lease that has just expired."""
    backend = open_inline(tmp_path, TABLES)
    leader = Leader(Lessor(backend), backend)
    leader.lessor.grant(pb.LeaseGrantRequest(ID=LEASE, TTL=2), 0.0)
    leader.keeper.leadership_changed(True, -1e9)
    try:
        yield leader
    finally:
        leader.keeper.stop()
        await backend.close()


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "EXPIRY_SECONDS", 0.02)


async def test_nobody_is_told_of_an_end_that_has_not_come_yet(tmp_path: Path) -> None:
    """Until its revocation is applied an expired lease has its keys, and the next leader may let it live."""
    async with leading(tmp_path) as leader:
        before = leader.keeper.renew(LEASE)
        leader.keeper.start()
        await leader.expire()
        after = leader.keeper.renew(LEASE)
        assert not before.done()
        assert not after.done()
        leader.revoke()
        leader.proposed[0].set_result(b"")
        assert (before.result(), after.result()) == (0, 0)
        assert leader.keeper.renew(LEASE).result() == 0


async def test_a_leader_that_is_replaced_leaves_the_lease_to_the_next(tmp_path: Path) -> None:
    async with leading(tmp_path) as leader:
        renewal = leader.keeper.renew(LEASE)
        leader.keeper.leadership_changed(False, 0.0)
        assert isinstance(renewal.exception(), errors.LeaderChanged)


async def test_the_end_of_an_expired_lease_may_be_its_revocation_by_a_client(tmp_path: Path) -> None:
    async with leading(tmp_path) as leader:
        renewal = leader.keeper.renew(LEASE)
        leader.revoke()
        leader.keeper.start()
        async with asyncio.timeout(10):
            while not renewal.done():  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert renewal.result() == 0
        assert not leader.proposed


async def test_a_leader_that_wakes_up_after_its_time_ends_no_lease(tmp_path: Path) -> None:
    """Another leader may have renewed it; until a quorum has confirmed its own reign it knows nothing of that."""
    async with leading(tmp_path) as leader:
        leader.no_longer = errors.LeaderChanged()
        leader.keeper.start()
        async with asyncio.timeout(10):
            while not leader.asked:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert not leader.proposed


async def test_the_end_of_a_lease_is_that_of_the_term_in_which_it_expired(tmp_path: Path) -> None:
    """By the time of the quorum's word another may have led and renewed it, and this member lead again."""
    async with leading(tmp_path) as leader:
        waiting: list[Waiter] = []
        leader.keeper._confirm = waiting.append
        leader.keeper.start()
        async with asyncio.timeout(10):
            while not waiting:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        leader.keeper.leadership_changed(False, 0.0)
        leader.term = 7
        # Over in the new reign, too.
        leader.keeper.leadership_changed(True, -1e9)
        waiting[0](None)
        assert leader.reigns == [5]


async def test_a_lease_that_was_given_new_time_before_the_quorums_word_is_not_ended(tmp_path: Path) -> None:
    """What the log held of renewals may have been applied only then."""
    async with leading(tmp_path) as leader:
        waiting: list[Waiter] = []
        leader.keeper._confirm = waiting.append
        leader.keeper.start()
        async with asyncio.timeout(10):
            while not waiting:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        leader.keeper.leadership_changed(False, 0.0)
        leader.keeper.leadership_changed(True, 1e9)
        waiting[0](None)
        assert not leader.proposed


async def test_a_renewal_of_a_lease_that_was_checkpointed_is_answered_once_the_next_leader_would_know(
    tmp_path: Path,
) -> None:
    """The checkpoint says how little is left; a leader that takes over goes by it."""
    async with leading(tmp_path) as leader:
        lessor, now = leader.lessor, asyncio.get_running_loop().time()
        lessor.grant(pb.LeaseGrantRequest(ID=8, TTL=1000), now)
        assert leader.keeper.renew(8).result() == 1000
        due = lessor.due_checkpoints(now + 300)
        assert [each.ID for each in due.checkpoints] == [8]
        # Whether the checkpoint is still on its way or is applied already.
        early = leader.keeper.renew(8)
        lessor.checkpoint(due)
        late = leader.keeper.renew(8)
        assert not early.done()
        assert not late.done()
        assert leader.reigns == [5, 5]
        for request, promise in zip(leader.requests, leader.proposed, strict=True):
            assert [(each.ID, each.remaining_TTL) for each in request.checkpoints] == [(8, 0)]
            lessor.checkpoint(request)
            promise.set_result(b"")
        assert (early.result(), late.result()) == (1000, 1000)
        successor = Lessor(leader.backend)
        successor.promote(0.0, extend=0.0)
        left = successor.time_to_live(pb.LeaseTimeToLiveRequest(ID=8), 0.0)
        assert pb.LeaseTimeToLiveResponse.FromString(left).TTL == 1000
        assert leader.keeper.renew(8).result() == 1000


async def test_a_renewal_that_the_next_leader_would_not_know_fails(tmp_path: Path) -> None:
    async with leading(tmp_path) as leader:
        lessor, now = leader.lessor, asyncio.get_running_loop().time()
        lessor.grant(pb.LeaseGrantRequest(ID=8, TTL=1000), now)
        lessor.checkpoint(lessor.due_checkpoints(now + 300))
        renewal = leader.keeper.renew(8)
        leader.proposed[0].set_exception(errors.LeaderChanged())
        assert isinstance(renewal.exception(), errors.LeaderChanged)
