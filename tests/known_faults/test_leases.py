"""Leases that lived on, or ended, against what clients had been told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from kvstore.lease.lessor import TABLES, Lessor
from kvstore.pb import rpc_pb2 as pb
from kvstore.rpc import Promise
from kvstore.server.leases import LeaseKeeper
from kvstore.server.reads import Waiter
from kvstore.storage.backend import open_inline
from tests.fuzz.replicas import running

LEASE = 7


async def test_lease_renewed_after_its_revocation(tmp_path: Path) -> None:
    """etcd looked whether a lease was there, then waited for the log to be applied, then renewed what it had found
    (pull request 20590): a lease revoked in between was reported to live on.

    Here a renewal looks only after a quorum has confirmed that this member leads, and then answers in the same turn.
    """
    backend = open_inline(tmp_path, TABLES)
    lessor = Lessor(backend)
    waiting: list[Waiter] = []
    nobody: Any = SimpleNamespace(is_leader=True)
    keeper = LeaseKeeper(lessor, nobody, nobody, waiting.append, lambda: 1)
    lessor.grant(pb.LeaseGrantRequest(ID=LEASE, TTL=100), 0.0)
    keeper.leadership_changed(True, 0.0)

    renewed = keeper.renew(LEASE)
    assert not renewed.done()
    lessor.revoke(LEASE, lambda keys: 0)
    waiting.pop()(None)
    assert renewed.result() == 0

    lessor.grant(pb.LeaseGrantRequest(ID=LEASE, TTL=100), asyncio.get_running_loop().time())
    again = keeper.renew(LEASE)
    waiting.pop()(None)
    assert again.result() == 100
    await backend.close()


async def test_lease_renewed_while_its_end_is_in_the_log(tmp_path: Path) -> None:
    """The same, with a whole member: what is revoked in the same moment is either renewed before or gone after, and
    never renewed once its revocation was acknowledged.
    """
    async with running(tmp_path) as member:
        await member.member.lease_grant(pb.LeaseGrantRequest(ID=LEASE, TTL=100))
        order: list[tuple[str, int]] = []
        told_all = asyncio.Event()

        def told(what: str) -> Callable[[Promise[Any]], None]:
            def note(answer: Promise[Any]) -> None:
                order.append((what, answer.result() if what == "renewed" else 0))
                if len(order) == 7:
                    told_all.set()

            return note

        for _ in range(3):
            member.member.lease_renew(LEASE).then(told("renewed"))
        member.member.lease_revoke(pb.LeaseRevokeRequest(ID=LEASE)).then(told("revoked"))
        for _ in range(3):
            member.member.lease_renew(LEASE).then(told("renewed"))
        async with asyncio.timeout(20):
            await told_all.wait()
        assert all(ttl == 0 for _, ttl in order[order.index(("revoked", 0)) :])
        assert await member.member.lease_renew(LEASE) == 0
