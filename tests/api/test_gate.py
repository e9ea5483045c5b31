"""Which calls are served without a leader, by a learner, and while the member stops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from kvstore import errors
from kvstore.api.errors import STATUS
from kvstore.api.gate import Gate
from kvstore.pb import rpc_pb2 as pb
from kvstore.rpc import StatusCode
from tests.api.harness import Api, FakeMember, status_of, until

WANTS_LEADER = (("hasleader", "true"),)
OK = (StatusCode.OK, "")

Call = Callable[..., Any]


def watch_of(api: Api, **options: Any) -> Any:
    return api.watch.Watch(iter([pb.WatchRequest(create_request=pb.WatchCreateRequest(key=b"k"))]), **options)


def silent_watch(api: Api, **options: Any) -> Any:
    """A stream that asks for nothing. One that is refused while grpcio's client writes to it may fail there first."""
    return api.watch.Watch(**options)


async def test_without_a_leader_a_call_that_wants_one_is_refused(api: Api, member: FakeMember) -> None:
    member.has_leader = False
    request = pb.RangeRequest(key=b"k")
    assert await status_of(api.kv.Range(request, metadata=WANTS_LEADER)) == STATUS[errors.NoLeader]
    assert await status_of(silent_watch(api, metadata=WANTS_LEADER)) == STATUS[errors.NoLeader]
    assert member.requests == []


@pytest.mark.parametrize("metadata", [(), (("hasleader", "false"),), (("other", "true"),)])
async def test_without_a_leader_other_calls_are_served(api: Api, member: FakeMember, metadata: Any) -> None:
    member.has_leader = False
    assert await status_of(api.kv.Range(pb.RangeRequest(key=b"k"), metadata=metadata)) == OK
    call = watch_of(api, metadata=metadata)
    assert (await call.read()).created
    call.cancel()


async def test_with_a_leader_calls_that_want_one_are_served(api: Api) -> None:
    assert await status_of(api.kv.Range(pb.RangeRequest(key=b"k"), metadata=WANTS_LEADER)) == OK


async def test_losing_the_leader_ends_the_streams_that_want_one(api: Api, member: FakeMember) -> None:
    led, other = watch_of(api, metadata=WANTS_LEADER), watch_of(api)
    assert (await led.read()).created
    assert (await other.read()).created
    member.lose_leader()
    assert await status_of(led) == STATUS[errors.NoLeader]
    member.fake_store.put(b"k", b"v")
    assert (await other.read()).events[0].kv.value == b"v"
    other.cancel()


async def test_losing_the_leader_ends_keepalives_that_want_one(api: Api, member: FakeMember) -> None:
    call = api.lease.LeaseKeepAlive(metadata=WANTS_LEADER)
    await call.write(pb.LeaseKeepAliveRequest(ID=1))
    assert (await call.read()).ID == 1
    member.lose_leader()
    assert await status_of(call) == STATUS[errors.NoLeader]


async def test_a_stream_that_is_over_is_forgotten(api: Api, gate: Gate) -> None:
    call = watch_of(api, metadata=WANTS_LEADER)
    assert (await call.read()).created
    assert gate.streams == 1
    call.cancel()
    await until(lambda: gate.streams == 0)


LEARNER_SERVES: dict[str, Call] = {
    "Status": lambda api: api.maintenance.Status(pb.StatusRequest()),
    "serializable Range": lambda api: api.kv.Range(pb.RangeRequest(key=b"k", serializable=True)),
    "Snapshot": lambda api: api.maintenance.Snapshot(pb.SnapshotRequest()),
}
LEARNER_REFUSES: dict[str, Call] = {
    "linearizable Range": lambda api: api.kv.Range(pb.RangeRequest(key=b"k")),
    "RangeStream": lambda api: api.kv.RangeStream(pb.RangeRequest(key=b"k", serializable=True)),
    "Put": lambda api: api.kv.Put(pb.PutRequest(key=b"k")),
    "DeleteRange": lambda api: api.kv.DeleteRange(pb.DeleteRangeRequest(key=b"k")),
    "Txn": lambda api: api.kv.Txn(pb.TxnRequest()),
    "Compact": lambda api: api.kv.Compact(pb.CompactionRequest(revision=1)),
    "Watch": silent_watch,
    "LeaseGrant": lambda api: api.lease.LeaseGrant(pb.LeaseGrantRequest(TTL=1)),
    "LeaseRevoke": lambda api: api.lease.LeaseRevoke(pb.LeaseRevokeRequest(ID=1)),
    "LeaseTimeToLive": lambda api: api.lease.LeaseTimeToLive(pb.LeaseTimeToLiveRequest(ID=1)),
    "LeaseLeases": lambda api: api.lease.LeaseLeases(pb.LeaseLeasesRequest()),
    "LeaseKeepAlive": lambda api: api.lease.LeaseKeepAlive(),
    "MemberList": lambda api: api.cluster.MemberList(pb.MemberListRequest()),
    "MemberAdd": lambda api: api.cluster.MemberAdd(pb.MemberAddRequest(peerURLs=["http://127.0.0.1:1"])),
    "Alarm": lambda api: api.maintenance.Alarm(pb.AlarmRequest()),
    "HashKV": lambda api: api.maintenance.HashKV(pb.HashKVRequest()),
    "Defragment": lambda api: api.maintenance.Defragment(pb.DefragmentRequest()),
    "MoveLeader": lambda api: api.maintenance.MoveLeader(pb.MoveLeaderRequest(targetID=1)),
}


@pytest.mark.parametrize("call", LEARNER_SERVES.values(), ids=LEARNER_SERVES)
async def test_a_learner_serves(api: Api, member: FakeMember, call: Call) -> None:
    member.is_learner = True
    assert await status_of(call(api)) == OK


@pytest.mark.parametrize("call", LEARNER_REFUSES.values(), ids=LEARNER_REFUSES)
async def test_a_learner_refuses(api: Api, member: FakeMember, call: Call) -> None:
    member.is_learner = True
    assert await status_of(call(api)) == STATUS[errors.NotSupportedForLearner]
    assert member.requests == []


async def test_closing_ends_streams_and_refuses_new_ones_while_other_calls_go_on(api: Api, gate: Gate) -> None:
    call = watch_of(api)
    assert (await call.read()).created
    gate.close()
    assert await status_of(call) == STATUS[errors.Stopped]
    assert await status_of(silent_watch(api)) == STATUS[errors.Stopped]
    assert await status_of(api.kv.Put(pb.PutRequest(key=b"k"))) == OK


async def test_closing_stops_listening_to_the_member(gate: Gate, member: FakeMember) -> None:
    assert len(member.lost) == 1
    gate.close()
    assert member.lost == []
