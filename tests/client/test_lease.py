"""Leases and their renewal in the background."""

from __future__ import annotations

import asyncio

import pytest

from kvstore.client import Client, errors
from tests.cluster.harness import ClusterFactory


async def test_a_lease_is_granted_looked_at_and_revoked_with_its_keys(client: Client, key: str) -> None:
    lease = await client.lease.grant(60)
    await client.kv.put(key, "v", lease=lease.id)
    assert lease.ttl == 60
    assert lease.id in (await client.lease.leases()).ids
    info = await client.lease.time_to_live(lease.id, keys=True)
    assert (info.granted_ttl, info.keys, info.expired) == (60, (key.encode(),), False)
    assert 0 < info.ttl <= 60
    assert (await client.lease.time_to_live(lease.id)).keys == ()
    await client.lease.revoke(lease.id)
    assert (await client.kv.get(key)).count == 0
    assert (await client.lease.time_to_live(lease.id)).expired


async def test_refusals_are_errors_of_their_own(client: Client) -> None:
    lease = await client.lease.grant(60)
    with pytest.raises(errors.LeaseExist):
        await client.lease.grant(60, lease.id)
    with pytest.raises(errors.LeaseTTLTooLarge):
        await client.lease.grant(9_000_000_001)
    for call in (client.lease.revoke(0x7EA5E), client.lease.renew(0x7EA5E)):
        with pytest.raises(errors.LeaseNotFound):
            await call
    with pytest.raises(errors.LeaseNotFound):
        await client.lease.keep_alive(0x7EA5E).__aenter__()


async def test_a_renewal_gives_the_full_time_again(client: Client) -> None:
    lease = await client.lease.grant(60)
    assert (await client.lease.renew(lease.id)).ttl == 60


async def test_a_lease_outlives_its_time_while_it_is_kept_alive(client: Client) -> None:
    lease = await client.lease.grant(1)
    async with asyncio.timeout(20), client.lease.keep_alive(lease.id) as renewals:
        began = asyncio.get_running_loop().time()
        async for renewed in renewals:
            assert renewed.id == lease.id
            if asyncio.get_running_loop().time() - began > lease.ttl + 0.5:
                break
        assert not renewals.lost
        assert not (await client.lease.time_to_live(lease.id)).expired


async def test_iterating_ends_and_waiting_returns_when_the_lease_is_revoked(client: Client) -> None:
    lease = await client.lease.grant(1)
    async with asyncio.timeout(20), client.lease.keep_alive(lease.id) as renewals:
        waiting = asyncio.create_task(renewals.wait_lost())
        await client.lease.revoke(lease.id)
        assert [renewed.id async for renewed in renewals][:1] == [lease.id]
        await waiting
        assert renewals.lost


async def test_a_lease_is_lost_when_no_member_answers_for_its_whole_time(make_cluster: ClusterFactory) -> None:
    member = make_cluster(size=1).members[0]
    async with asyncio.timeout(30), Client(member.endpoint) as client:
        lease = await client.lease.grant(1)
        async with client.lease.keep_alive(lease.id) as renewals:
            member.kill()
            await renewals.wait_lost()
        assert renewals.lost


async def test_renewing_goes_on_after_the_member_was_away(make_cluster: ClusterFactory) -> None:
    member = make_cluster(size=1).members[0]
    async with asyncio.timeout(60), Client(member.endpoint) as client:
        lease = await client.lease.grant(12)
        async with client.lease.keep_alive(lease.id) as renewals:
            assert (await anext(renewals)).id == lease.id
            await asyncio.to_thread(member.kill)
            member.start()
            assert (await anext(renewals)).id == lease.id
        assert not renewals.lost
