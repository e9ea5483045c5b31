"""Leases: what is replicated, and what only the leader's clock decides."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from kvstore.errors import LeaseExist, LeaseNotFound, LeaseTTLTooLarge
from kvstore.lease import lessor as lessor_module
from kvstore.lease.lessor import MAX_TTL, TAKE_UP_STEP, Lessor, LessorConfig, min_ttl
from kvstore.pb import rpc_pb2
from kvstore.storage.backend import Backend, BackendOptions, open_inline
from kvstore.storage.engine import EngineOptions

CONFIG = LessorConfig(min_ttl=2, checkpoint_interval=300, revoke_rate=1000, retry_interval=3)


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[Backend]:
    options = BackendOptions(engine=EngineOptions(unsafe_no_fsync=True))
    backend = open_inline(tmp_path, lessor_module.TABLES, options)
    yield backend
    asyncio.run(backend.close())


@pytest.fixture
def lessor(backend: Backend) -> Lessor:
    return Lessor(backend, CONFIG)


def grant(lessor: Lessor, lease_id: int, ttl: int = 10, now: float = 0.0) -> rpc_pb2.LeaseGrantResponse:
    request = rpc_pb2.LeaseGrantRequest(ID=lease_id, TTL=ttl)
    return rpc_pb2.LeaseGrantResponse.FromString(lessor.grant(request, now))


def time_to_live(lessor: Lessor, lease_id: int, now: float, keys: bool = False) -> rpc_pb2.LeaseTimeToLiveResponse:
    request = rpc_pb2.LeaseTimeToLiveRequest(ID=lease_id, keys=keys)
    return rpc_pb2.LeaseTimeToLiveResponse.FromString(lessor.time_to_live(request, now))


def revoke(lessor: Lessor, lease_id: int) -> list[bytes]:
    deleted: list[bytes] = []

    def delete_keys(keys: Iterable[bytes]) -> int:
        for key in keys:
            lessor.detach(lease_id, key)
            deleted.append(key)
        return len(deleted)

    lessor.revoke(lease_id, delete_keys)
    return deleted


def test_the_least_ttl_outlives_an_election() -> None:
    assert min_ttl(1.0) == 2
    assert min_ttl(2.0) == 3
    assert min_ttl(0.1) == 1


def test_a_grant_is_raised_to_the_least_ttl(lessor: Lessor) -> None:
    assert grant(lessor, 1, 10) == rpc_pb2.LeaseGrantResponse(ID=1, TTL=10)
    assert grant(lessor, 2, 1).TTL == 2
    assert grant(lessor, -3, -1) == rpc_pb2.LeaseGrantResponse(ID=-3, TTL=2)
    assert grant(lessor, 4, MAX_TTL).TTL == MAX_TTL


def test_a_grant_is_refused(lessor: Lessor) -> None:
    grant(lessor, 1)
    with pytest.raises(LeaseExist):
        grant(lessor, 1)
    with pytest.raises(LeaseTTLTooLarge):
        grant(lessor, 2, MAX_TTL + 1)
    assert len(lessor) == 1


def test_a_revoked_lease_is_gone_with_its_keys(lessor: Lessor) -> None:
    for lease_id in (1, -1, 2):
        grant(lessor, lease_id)
    for key in (b"b", b"a", b"\0", b"k" * 1000):
        lessor.attach(1, key)
    lessor.attach(2, b"other")
    lessor.attach(-1, b"last")
    lessor.detach(1, b"a")
    assert lessor.keys(1) == [b"\0", b"b", b"k" * 1000]
    assert lessor.keys(-1) == [b"last"]
    assert revoke(lessor, 1) == [b"\0", b"b", b"k" * 1000]
    assert not lessor.exists(1)
    assert lessor.keys(2) == [b"other"]
    with pytest.raises(LeaseNotFound):
        revoke(lessor, 1)


def test_leases_are_there_after_a_restart(lessor: Lessor, backend: Backend) -> None:
    grant(lessor, 1, 20)
    grant(lessor, -7, 30)
    grant(lessor, 5, 40)
    lessor.attach(-7, b"key")
    revoke(lessor, 5)
    checkpoint = rpc_pb2.LeaseCheckpoint(ID=-7, remaining_TTL=12)
    lessor.checkpoint(rpc_pb2.LeaseCheckpointRequest(checkpoints=[checkpoint, rpc_pb2.LeaseCheckpoint(ID=99)]))
    backend.flush()
    again = Lessor(backend, CONFIG)
    assert len(again) == 2
    assert again.keys(-7) == [b"key"]
    again.promote(100.0, extend=1.0)
    assert time_to_live(again, -7, 100.0) == rpc_pb2.LeaseTimeToLiveResponse(ID=-7, TTL=13, grantedTTL=30)
    assert time_to_live(again, 1, 100.0).TTL == 21


def test_time_to_live_tells_what_is_left(lessor: Lessor) -> None:
    lessor.promote(0.0, extend=0.0)
    grant(lessor, 1, 10, now=100.0)
    lessor.attach(1, b"key")
    expected = rpc_pb2.LeaseTimeToLiveResponse(ID=1, TTL=6, grantedTTL=10, keys=[b"key"])
    assert time_to_live(lessor, 1, 103.5, keys=True) == expected
    assert time_to_live(lessor, 1, 999.0).TTL == 0
    assert time_to_live(lessor, 2, 0.0) == rpc_pb2.LeaseTimeToLiveResponse(ID=2, TTL=-1)


def test_leases_are_listed_in_the_order_they_expire(lessor: Lessor) -> None:
    lessor.promote(0.0, extend=0.0)
    for lease_id, ttl in ((1, 30), (2, 10), (3, 20)):
        grant(lessor, lease_id, ttl)
    listed = rpc_pb2.LeaseLeasesResponse.FromString(lessor.leases())
    assert [lease.ID for lease in listed.leases] == [2, 3, 1]


def test_only_the_primary_expires_leases(lessor: Lessor) -> None:
    grant(lessor, 1, 10)
    assert lessor.expired(1000.0) == []
    lessor.promote(1000.0, extend=5.0)
    assert lessor.expired(1014.9) == []
    assert lessor.expired(1015.0) == [1]
    lessor.demote()
    assert lessor.expired(2000.0) == []


def test_a_renewed_lease_lives_on(lessor: Lessor) -> None:
    lessor.promote(0.0, extend=0.0)
    grant(lessor, 1, 10)
    assert lessor.renew(1, 9.0) == 10
    assert lessor.expired(10.0) == []
    assert lessor.expired(18.9) == []
    assert lessor.expired(19.0) == [1]
    assert lessor.renew(1, 19.0) == 0
    assert lessor.renew(2, 19.0) == 0


def test_an_expired_lease_is_told_again_until_it_is_revoked(lessor: Lessor) -> None:
    lessor.promote(0.0, extend=0.0)
    grant(lessor, 1, 10)
    assert lessor.expired(10.0) == [1]
    assert lessor.expired(11.0) == []
    assert lessor.expired(13.0) == [1]
    revoke(lessor, 1)
    assert lessor.expired(100.0) == []


def test_an_id_that_is_granted_again_is_another_lease(lessor: Lessor) -> None:
    lessor.promote(0.0, extend=0.0)
    grant(lessor, 1, 10)
    revoke(lessor, 1)
    grant(lessor, 1, 50)
    assert lessor.expired(10.0) == []
    assert lessor.expired(50.0) == [1]
    assert lessor.expired(50.0) == []


def test_a_pile_of_expired_leases_is_spread_by_the_rate(lessor: Lessor) -> None:
    lessor.promote(0.0, extend=0.0)
    for lease_id in range(1, 2001):
        grant(lessor, lease_id, 10)
    found: list[int] = []
    for tick in range(4):
        batch = lessor.expired(20.0 + tick * 0.5)
        assert len(batch) == 500
        found += batch
    assert sorted(found) == list(range(1, 2001))


def test_revoked_leases_do_not_pile_up(lessor: Lessor) -> None:
    lessor.promote(0.0, extend=0.0)
    for lease_id in range(1, 5000):
        grant(lessor, lease_id, MAX_TTL)
        revoke(lessor, lease_id)
    assert len(lessor._expiries) <= 66
    assert len(lessor._checkpoints) <= 66


def test_long_leases_are_checkpointed_and_renewals_clear_that(lessor: Lessor) -> None:
    lessor.promote(0.0, extend=0.0)
    grant(lessor, 1, 1000)
    grant(lessor, 2, 200)
    assert not lessor.due_checkpoints(299.0).checkpoints
    assert lessor.owed_checkpoint(1) is None
    due = lessor.due_checkpoints(300.0)
    assert [(checkpoint.ID, checkpoint.remaining_TTL) for checkpoint in due.checkpoints] == [(1, 700)]
    # A renewal may come while the checkpoint is on its way, and once it is there.
    assert lessor.owed_checkpoint(1) is not None
    lessor.checkpoint(due)
    assert not lessor.due_checkpoints(301.0).checkpoints
    lessor.renew(1, 400.0)
    cleared = lessor.owed_checkpoint(1)
    assert cleared is not None
    assert [(checkpoint.ID, checkpoint.remaining_TTL) for checkpoint in cleared.checkpoints] == [(1, 0)]
    lessor.checkpoint(cleared)
    assert lessor.owed_checkpoint(1) is None
    lessor.promote(500.0, extend=0.0)
    assert time_to_live(lessor, 1, 500.0).TTL == 1000


def test_a_renewal_that_a_new_primary_applies_late_counts(lessor: Lessor) -> None:
    grant(lessor, 1, ttl=1000)
    lessor.checkpoint(rpc_pb2.LeaseCheckpointRequest(checkpoints=[rpc_pb2.LeaseCheckpoint(ID=1, remaining_TTL=10)]))
    lessor.promote(100.0, extend=1.0)
    lessor.take_up()
    assert lessor.expired(111.5) == [1]
    # The last primary has answered a renewal. Its log has been won, and is applied only now.
    lessor.checkpoint(rpc_pb2.LeaseCheckpointRequest(checkpoints=[rpc_pb2.LeaseCheckpoint(ID=1)]))
    assert not lessor.has_expired(1, 1100.9)
    assert lessor.expired(120.0) == []
    assert lessor.has_expired(1, 1101.0)
    assert lessor.expired(1101.0) == [1]
    # One that was noted before that takes nothing away.
    lessor.checkpoint(rpc_pb2.LeaseCheckpointRequest(checkpoints=[rpc_pb2.LeaseCheckpoint(ID=1, remaining_TTL=5)]))
    assert not lessor.has_expired(1, 1100.9)


def test_a_new_primary_takes_its_leases_up_in_steps(lessor: Lessor) -> None:
    count = 3 * TAKE_UP_STEP
    for lease_id in range(1, count + 1):
        grant(lessor, lease_id, 10)
    lessor.promote(100.0, extend=1.0)
    assert len(lessor._expiries) == 0
    assert lessor.take_up()
    assert len(lessor._expiries) == TAKE_UP_STEP
    # The first one's turn has not come, but it is asked for.
    assert time_to_live(lessor, 1, 100.0).TTL == 11
    assert lessor.renew(1, 105.0) == 10
    revoke(lessor, 2)
    assert lessor.take_up()
    assert not lessor.take_up()
    assert not lessor.take_up()
    assert sorted(entry[2].id for entry in lessor._expiries) == [1, *range(3, count + 1)]
    assert time_to_live(lessor, 1, 105.0).TTL == 10
    lessor.promote(200.0, extend=0.0)
    assert time_to_live(lessor, 1, 200.0).TTL == 10
    assert lessor.renew(1, 210.0) == 0


def test_leases_that_a_new_primary_has_not_taken_up_are_listed_in_their_order(lessor: Lessor) -> None:
    for lease_id, ttl in ((1, 30), (-2, 10), (3, 20)):
        grant(lessor, lease_id, ttl)
    lessor.promote(0.0, extend=5.0)
    listed = rpc_pb2.LeaseLeasesResponse.FromString(lessor.leases())
    assert [lease.ID for lease in listed.leases] == [-2, 3, 1]
