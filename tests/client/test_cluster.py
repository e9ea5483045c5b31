"""Membership and maintenance."""

from __future__ import annotations

import asyncio

import pytest

from kvstore.client import Client, errors
from tests.cluster.harness import ClusterFactory, Member


async def test_members_are_listed_as_they_advertise_themselves(client: Client, member: Member) -> None:
    listed = await client.cluster.members()
    [only] = listed.members
    assert only.id == listed.header.member_id == member.id
    assert (only.name, only.is_learner) == ("m1", False)
    assert only.peer_urls == (member.peer_url,)
    assert only.client_urls == (member.client_url,)
    assert (await client.cluster.members(linearizable=False)).members == listed.members


async def test_a_learner_is_added_changed_and_removed(client: Client, member: Member) -> None:
    added = await client.cluster.add(["http://127.0.0.1:3"], learner=True)
    assert added.member.is_learner
    assert added.member in added.members
    with pytest.raises(errors.PeerURLExist):
        await client.cluster.add([member.peer_url])
    with pytest.raises(errors.LearnerNotReady):
        await client.cluster.promote(added.member.id)
    changed = await client.cluster.update(added.member.id, ["http://127.0.0.1:4"])
    assert ("http://127.0.0.1:4",) in [each.peer_urls for each in changed.members]
    left = await client.cluster.remove(added.member.id)
    assert added.member.id not in [each.id for each in left.members]
    with pytest.raises(errors.MemberNotFound):
        await client.cluster.remove(added.member.id)


async def test_status_tells_of_the_member_at_that_endpoint(client: Client, member: Member) -> None:
    status = await client.maintenance.status(member.endpoint)
    assert status.is_leader
    assert status.leader == status.header.member_id == member.id
    assert status.db_size >= status.db_size_in_use > 0
    assert status.raft_applied_index > 0
    assert status.errors == ()


async def test_hashes_tell_the_same_twice_and_another_after_a_change(client: Client, member: Member, key: str) -> None:
    revision = (await client.kv.put(key, "1")).header.revision
    first = await client.maintenance.hash_kv(member.endpoint)
    await client.kv.put(key, "2")
    assert (await client.maintenance.hash_kv(member.endpoint, revision)).hash == first.hash
    assert (await client.maintenance.hash_kv(member.endpoint)).hash != first.hash
    with pytest.raises(errors.FutureRev):
        await client.maintenance.hash_kv(member.endpoint, revision + 1000)
    assert (await client.maintenance.hash(member.endpoint)).hash != 0


async def test_a_member_defragments_and_goes_on(client: Client, member: Member, key: str) -> None:
    await client.kv.put(key, "v")
    await client.maintenance.defragment(member.endpoint)
    assert (await client.kv.get(key)).value == b"v"


async def test_a_full_store_raises_an_alarm_that_can_be_disarmed(make_cluster: ClusterFactory, key: str) -> None:
    member = make_cluster(size=1, flags={"quota-backend-bytes": "2000000"}).members[0]
    async with Client(member.endpoint) as client:
        assert (await client.maintenance.alarms()).alarms == ()
        assert (await client.maintenance.disarm_all()).alarms == ()
        with pytest.raises(errors.NoSpace):
            await put_for_ever(client, key)
        async with asyncio.timeout(10):
            while not (raised := (await client.maintenance.alarms()).alarms):
                pass
        assert [(alarm.member_id, alarm.type.name) for alarm in raised] == [(member.id, "NOSPACE")]
        assert (await client.maintenance.disarm_all()).alarms == raised
        assert (await client.maintenance.alarms()).alarms == ()


async def test_a_snapshot_arrives_whole(client: Client, key: str) -> None:
    await client.kv.put(key, "v")
    chunks = [chunk async for chunk in client.maintenance.snapshot()]
    assert sum(len(chunk.data) for chunk in chunks) > 1000
    assert chunks[-1].remaining == 0


async def test_a_snapshot_that_reaches_nobody_ends_in_time() -> None:
    async with Client("127.0.0.1:1") as client:
        with pytest.raises(errors.CallTimeout):
            async for _ in client.maintenance.snapshot(timeout=0.2):
                pass


async def test_leadership_is_handed_over(make_cluster: ClusterFactory) -> None:
    cluster = make_cluster(size=3)
    leader = cluster.leader()
    target = cluster.followers()[0]
    async with Client(leader.endpoint) as client:
        with pytest.raises(errors.NotLeader):
            await client.maintenance.move_leader(target.endpoint, target.id)
        await client.maintenance.move_leader(leader.endpoint, target.id)
        async with asyncio.timeout(20):
            while (await client.maintenance.status(target.endpoint)).leader != target.id:
                pass


async def put_for_ever(client: Client, key: str) -> None:
    # How large the store is becomes known with a commit; until then a fast client gets more in.
    async with asyncio.timeout(30):
        while True:
            await put_many(client, key)


async def put_many(client: Client, key: str) -> None:
    for number in range(20):
        await client.kv.put(f"{key}{number}", bytes(500_000))
