"""What each RPC hands to the member, and how its answer comes out."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from kvstore import errors
from kvstore.api.errors import STATUS
from kvstore.api.kv import KVService
from kvstore.api.maintenance import MaintenanceService
from kvstore.pb import lock_pb2, lock_pb2_grpc
from kvstore.pb import rpc_pb2 as pb
from kvstore.rpc import Promise, RpcError, StatusCode
from kvstore.rpc.outgoing import WRITTEN, Buffered, Written
from kvstore.wire import length_delimited
from tests.api.harness import DEADLINE, Api, FakeMember, pb_key_value, status_of, until

HEADER = pb.ResponseHeader(cluster_id=1, member_id=2, revision=1, raft_term=3)


async def test_kv_requests_reach_the_member_and_its_bytes_are_the_answer(api: Api, member: FakeMember) -> None:
    kv = pb_key_value(b"k", b"v", 5)
    member.bodies = {
        "range": length_delimited(2, kv) + b"\x20\x01",
        "put": length_delimited(2, kv),
        "delete_range": b"\x10\x04",
        "txn": b"\x10\x01",
    }
    got = await api.kv.Range(pb.RangeRequest(key=b"k", limit=3))
    assert got.header == HEADER
    assert (got.kvs[0].value, got.count) == (b"v", 1)
    assert (await api.kv.Put(pb.PutRequest(key=b"k", value=b"v"))).prev_kv.mod_revision == 5
    assert (await api.kv.DeleteRange(pb.DeleteRangeRequest(key=b"k"))).deleted == 4
    assert (await api.kv.Txn(pb.TxnRequest())).succeeded
    assert (await api.kv.Compact(pb.CompactionRequest(revision=9))).header == HEADER
    assert member.requests == [
        ("range", pb.RangeRequest(key=b"k", limit=3)),
        ("put", pb.PutRequest(key=b"k", value=b"v")),
        ("delete_range", pb.DeleteRangeRequest(key=b"k")),
        ("txn", pb.TxnRequest()),
        ("compact", pb.CompactionRequest(revision=9)),
    ]


async def test_a_promise_that_is_resolved_later_answers_then(api: Api, member: FakeMember) -> None:
    member.held = []
    first, second = api.kv.Put(pb.PutRequest(key=b"a")), api.kv.Put(pb.PutRequest(key=b"b"))
    await until(lambda: len(member.requests) == 2)
    for (_, request), promise in zip(member.requests, member.held, strict=True):
        if request.key == b"b":
            promise.set_result(member.header(7))
        else:
            promise.set_exception(errors.LeaderChanged())
    assert (await second).header.revision == 7
    assert await status_of(first) == STATUS[errors.LeaderChanged]


async def test_range_stream_sends_one_message_a_part(api: Api, member: FakeMember) -> None:
    def part(value: bytes) -> bytes:
        kvs = length_delimited(2, pb_key_value(b"k", value, 1))
        return length_delimited(1, kvs)

    member.bodies["range_stream"] = [part(b"1"), part(b"2")]
    parts = [message async for message in api.kv.RangeStream(pb.RangeRequest(key=b"k"))]
    assert [message.range_response.kvs[0].value for message in parts] == [b"1", b"2"]


async def test_lease_requests(api: Api, member: FakeMember) -> None:
    member.bodies = {
        "lease_grant": b"\x10\x07\x18\x3c",
        "lease_time_to_live": pb.LeaseTimeToLiveResponse(ID=7, TTL=-1).SerializeToString(),
        "lease_leases": pb.LeaseLeasesResponse(leases=[pb.LeaseStatus(ID=7)]).SerializeToString(),
    }
    granted = await api.lease.LeaseGrant(pb.LeaseGrantRequest(TTL=60))
    assert (granted.ID, granted.TTL, granted.header) == (7, 60, HEADER)
    assert (await api.lease.LeaseRevoke(pb.LeaseRevokeRequest(ID=7))).header == HEADER
    left = await api.lease.LeaseTimeToLive(pb.LeaseTimeToLiveRequest(ID=7, keys=True))
    assert (left.ID, left.TTL, left.header) == (7, -1, HEADER)
    leases = await api.lease.LeaseLeases(pb.LeaseLeasesRequest())
    assert ([lease.ID for lease in leases.leases], leases.header) == ([7], HEADER)
    assert [method for method, _ in member.requests] == [
        "lease_grant",
        "lease_revoke",
        "lease_time_to_live",
        "lease_leases",
    ]


async def test_cluster_requests_answer_with_the_members(api: Api, member: FakeMember) -> None:
    everybody = [pb.Member(ID=2, name="m"), pb.Member(ID=9)]
    member.bodies = dict.fromkeys(
        ("member_list", "member_add", "member_remove", "member_update", "member_promote"), everybody
    )
    urls = [" http://127.0.0.1:2 ", "http://127.0.0.1:1"]
    added = await api.cluster.MemberAdd(pb.MemberAddRequest(peerURLs=urls, isLearner=True))
    assert (added.member.ID, added.member.isLearner) == (9, True)
    answers = [
        added,
        await api.cluster.MemberList(pb.MemberListRequest(linearizable=True)),
        await api.cluster.MemberRemove(pb.MemberRemoveRequest(ID=5)),
        await api.cluster.MemberUpdate(pb.MemberUpdateRequest(ID=6, peerURLs=urls[1:])),
        await api.cluster.MemberPromote(pb.MemberPromoteRequest(ID=7)),
    ]
    for answer in answers:
        assert (list(answer.members), answer.header) == (everybody, HEADER)
    assert member.requests == [
        ("member_add", (["http://127.0.0.1:1", "http://127.0.0.1:2"], True)),
        ("member_list", True),
        ("member_remove", 5),
        ("member_update", (6, ["http://127.0.0.1:1"])),
        ("member_promote", 7),
    ]


@pytest.mark.parametrize("urls", [[], [""], ["127.0.0.1:1"], ["ftp://h:1"], ["http://h"], ["http://h:1/p"]], ids=str)
async def test_peer_urls_that_are_none_are_refused(api: Api, member: FakeMember, urls: list[str]) -> None:
    bad = STATUS[errors.MemberBadURLs]
    assert await status_of(api.cluster.MemberAdd(pb.MemberAddRequest(peerURLs=urls))) == bad
    assert await status_of(api.cluster.MemberUpdate(pb.MemberUpdateRequest(ID=1, peerURLs=urls))) == bad
    assert member.requests == []


async def test_maintenance_requests(api: Api, member: FakeMember) -> None:
    alarm = pb.AlarmMember(memberID=2, alarm=pb.AlarmType.NOSPACE)
    member.bodies["alarm"] = pb.AlarmResponse(header=HEADER, alarms=[alarm])
    assert (await api.maintenance.Status(pb.StatusRequest())).version == "3.6.0"
    assert list((await api.maintenance.Alarm(pb.AlarmRequest())).alarms) == [alarm]
    hashed = await api.maintenance.Hash(pb.HashRequest())
    assert (hashed.hash, hashed.header) == (77, HEADER)
    assert (await api.maintenance.HashKV(pb.HashKVRequest(revision=4))).hash_revision == 4
    assert (await api.maintenance.Defragment(pb.DefragmentRequest())).header == HEADER
    assert (await api.maintenance.MoveLeader(pb.MoveLeaderRequest(targetID=9))).header == HEADER
    assert member.requests[-3:] == [("hash_kv", 4), ("defragment", None), ("move_leader", 9)]


async def test_snapshot_sends_what_the_member_gives(api: Api, member: FakeMember) -> None:
    chunks = [pb.SnapshotResponse(blob=bytes([n]) * 100_000, remaining_bytes=100_000 * (9 - n)) for n in range(10)]
    member.bodies["snapshot"] = chunks
    assert [chunk async for chunk in api.maintenance.Snapshot(pb.SnapshotRequest())] == chunks


class Sent:
    """The context of a call that has nothing left to send of what was written."""

    def write(self, message: object) -> Written:
        return WRITTEN


class OnePart:
    """A member with a range of one large part, and a second one that does not come."""

    def __init__(self) -> None:
        self.waits = asyncio.Event()

    async def range_stream(self, request: pb.RangeRequest, context: object) -> AsyncIterator[bytes]:
        yield bytes(8 << 20)
        self.waits.set()
        await asyncio.Event().wait()


async def test_what_was_sent_of_a_range_is_not_kept_while_the_next_part_is_waited_for() -> None:
    member = OnePart()
    tracemalloc.start()
    try:
        call = asyncio.ensure_future(KVService(cast(Any, member)).RangeStream(pb.RangeRequest(), Sent()))
        async with asyncio.timeout(DEADLINE):
            await member.waits.wait()
        assert tracemalloc.get_traced_memory()[0] < 1 << 20
    finally:
        tracemalloc.stop()
    call.cancel()
    await asyncio.wait([call])
    assert call.cancelled()


class Unread:
    """The context of a call whose client reads nothing."""

    def write(self, message: object) -> Buffered:
        return Buffered(Promise)


async def test_a_snapshot_that_nobody_reads_is_given_up(member: FakeMember) -> None:
    member.bodies["snapshot"] = [pb.SnapshotResponse(blob=b"x")]
    service = MaintenanceService(member, stall_seconds=0.01)
    async with asyncio.timeout(DEADLINE):
        with pytest.raises(RpcError) as refusal:
            await service.Snapshot(pb.SnapshotRequest(), Unread())
    assert refusal.value.code is StatusCode.RESOURCE_EXHAUSTED
    assert "read for 0.01 seconds" in refusal.value.message


UNIMPLEMENTED: dict[str, Any] = {
    "Auth": lambda api: api.auth.AuthStatus(pb.AuthStatusRequest()),
    "Downgrade": lambda api: api.maintenance.Downgrade(pb.DowngradeRequest()),
    "Lock": lambda api: api.stub(lock_pb2_grpc.LockStub).Lock(lock_pb2.LockRequest(name=b"l")),
}


@pytest.mark.parametrize("call", UNIMPLEMENTED.values(), ids=UNIMPLEMENTED)
async def test_what_is_not_there_yet_says_so(api: Api, call: Any) -> None:
    code, _ = await status_of(call(api))
    assert code is StatusCode.UNIMPLEMENTED
