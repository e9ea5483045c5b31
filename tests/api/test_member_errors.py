"""A real member of one behind both servers: every error that a single member can be brought to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
import pytest

from kvstore import errors
from kvstore.api.errors import STATUS
from kvstore.errors import KvstoreError
from kvstore.pb import rpc_pb2 as pb
from kvstore.rpc import StatusCode
from tests.api.real_member import RealMember


@pytest.fixture(scope="module")
def member(shared_member: RealMember) -> RealMember:
    """Revision 2 is compacted, 3 is the present; there is a lease 77."""
    shared_member.kv.Put(pb.PutRequest(key=b"exists"))
    shared_member.kv.Put(pb.PutRequest(key=b"exists"))
    shared_member.kv.Compact(pb.CompactionRequest(revision=3))
    shared_member.lease.LeaseGrant(pb.LeaseGrantRequest(ID=77, TTL=1000))
    return shared_member


def put(**fields: Any) -> pb.RequestOp:
    return pb.RequestOp(request_put=pb.PutRequest(**fields))


def txn(*operations: pb.RequestOp) -> pb.TxnRequest:
    return pb.TxnRequest(success=operations)


def alarm(member: RealMember, action: Any, kind: Any) -> None:
    member.maintenance.Alarm(pb.AlarmRequest(action=action, memberID=member.id, alarm=kind))


Call = Callable[[RealMember], object]

REFUSED: list[tuple[type[KvstoreError], str, Call]] = [
    (errors.EmptyKey, "range", lambda m: m.kv.Range(pb.RangeRequest())),
    (errors.EmptyKey, "put", lambda m: m.kv.Put(pb.PutRequest())),
    (errors.EmptyKey, "delete", lambda m: m.kv.DeleteRange(pb.DeleteRangeRequest())),
    (errors.EmptyKey, "txn", lambda m: m.kv.Txn(txn(put()))),
    (errors.EmptyKey, "compare", lambda m: m.kv.Txn(pb.TxnRequest(compare=[pb.Compare(version=1)]))),
    (errors.EmptyKey, "range stream", lambda m: list(m.kv.RangeStream(pb.RangeRequest()))),
    (errors.KeyNotFound, "value", lambda m: m.kv.Put(pb.PutRequest(key=b"none", ignore_value=True))),
    (errors.KeyNotFound, "lease", lambda m: m.kv.Put(pb.PutRequest(key=b"none", ignore_lease=True))),
    (errors.KeyNotFound, "empty operation", lambda m: m.kv.Txn(txn(pb.RequestOp()))),
    (errors.ValueProvided, "put", lambda m: m.kv.Put(pb.PutRequest(key=b"k", value=b"v", ignore_value=True))),
    (errors.LeaseProvided, "put", lambda m: m.kv.Put(pb.PutRequest(key=b"k", lease=77, ignore_lease=True))),
    (errors.TooManyOps, "txn", lambda m: m.kv.Txn(txn(*(put(key=b"%d" % n) for n in range(129))))),
    (errors.DuplicateKey, "txn", lambda m: m.kv.Txn(txn(put(key=b"k"), put(key=b"k")))),
    (errors.InvalidSortOption, "order", lambda m: m.kv.Range(pb.RangeRequest.FromString(b"\n\x01k\x28\x09"))),
    (errors.InvalidSortOption, "target", lambda m: m.kv.Range(pb.RangeRequest.FromString(b"\n\x01k\x30\x09"))),
    (errors.Compacted, "range", lambda m: m.kv.Range(pb.RangeRequest(key=b"k", revision=2))),
    (errors.Compacted, "compact", lambda m: m.kv.Compact(pb.CompactionRequest(revision=3))),
    (errors.Compacted, "hash", lambda m: m.maintenance.HashKV(pb.HashKVRequest(revision=2))),
    (errors.FutureRev, "range", lambda m: m.kv.Range(pb.RangeRequest(key=b"k", revision=99))),
    (errors.FutureRev, "serializable", lambda m: m.kv.Range(pb.RangeRequest(key=b"k", revision=99, serializable=True))),
    (errors.FutureRev, "compact", lambda m: m.kv.Compact(pb.CompactionRequest(revision=99))),
    (errors.FutureRev, "hash", lambda m: m.maintenance.HashKV(pb.HashKVRequest(revision=99))),
    (errors.LeaseNotFound, "put", lambda m: m.kv.Put(pb.PutRequest(key=b"k", lease=5))),
    (errors.LeaseNotFound, "txn", lambda m: m.kv.Txn(txn(put(key=b"k", lease=5)))),
    (errors.LeaseNotFound, "revoke", lambda m: m.lease.LeaseRevoke(pb.LeaseRevokeRequest(ID=5))),
    (errors.LeaseExist, "grant", lambda m: m.lease.LeaseGrant(pb.LeaseGrantRequest(ID=77, TTL=9))),
    (errors.LeaseTTLTooLarge, "grant", lambda m: m.lease.LeaseGrant(pb.LeaseGrantRequest(TTL=9_000_000_001))),
    (errors.RequestTooLarge, "put", lambda m: m.kv.Put(pb.PutRequest(key=b"k", value=bytes(m.max_request_bytes)))),
    (errors.MemberNotFound, "remove", lambda m: m.cluster.MemberRemove(pb.MemberRemoveRequest(ID=1))),
    (errors.MemberNotFound, "promote", lambda m: m.cluster.MemberPromote(pb.MemberPromoteRequest(ID=1))),
    (
        errors.MemberNotFound,
        "update",
        lambda m: m.cluster.MemberUpdate(pb.MemberUpdateRequest(ID=1, peerURLs=["http://127.0.0.1:1"])),
    ),
    (errors.MemberNotLearner, "promote", lambda m: m.cluster.MemberPromote(pb.MemberPromoteRequest(ID=m.id))),
    (errors.PeerURLExist, "add", lambda m: m.cluster.MemberAdd(pb.MemberAddRequest(peerURLs=[m.peer_url]))),
    (errors.MemberBadURLs, "add", lambda m: m.cluster.MemberAdd(pb.MemberAddRequest(peerURLs=["nonsense"]))),
    (
        errors.TooManyLearners,
        "add",
        lambda m: m.cluster.MemberAdd(pb.MemberAddRequest(peerURLs=["http://127.0.0.1:1"], isLearner=True)),
    ),
    (errors.MemberNotEnoughStarted, "remove", lambda m: m.cluster.MemberRemove(pb.MemberRemoveRequest(ID=m.id))),
    (errors.BadLeaderTransferee, "move", lambda m: m.maintenance.MoveLeader(pb.MoveLeaderRequest(targetID=1))),
]


def refusal(call: Callable[[], object]) -> tuple[StatusCode, str]:
    with pytest.raises(grpc.RpcError) as raised:
        call()
    error: Any = raised.value
    return StatusCode.of(error.code()), error.details()


@pytest.mark.parametrize(
    ("kind", "call"),
    [pytest.param(kind, call, id=f"{kind.__name__}-{how}") for kind, how, call in REFUSED],
)
def test_a_request_is_refused_with_the_code_and_text_of_its_error(
    member: RealMember, kind: type[KvstoreError], call: Call
) -> None:
    assert refusal(lambda: call(member)) == STATUS[kind]


NEEDS_SPACE: dict[str, Call] = {
    "put": lambda m: m.kv.Put(pb.PutRequest(key=b"k")),
    "txn": lambda m: m.kv.Txn(txn(put(key=b"k"))),
    "grant": lambda m: m.lease.LeaseGrant(pb.LeaseGrantRequest(TTL=9)),
}


def test_without_space_only_what_frees_some_is_served(member: RealMember) -> None:
    alarm(member, pb.AlarmRequest.ACTIVATE, pb.AlarmType.NOSPACE)
    try:
        for call in NEEDS_SPACE.values():
            assert refusal(lambda call=call: call(member)) == STATUS[errors.NoSpace]  # type: ignore[misc]
        assert member.kv.DeleteRange(pb.DeleteRangeRequest(key=b"none")).deleted == 0
        assert member.kv.Range(pb.RangeRequest(key=b"exists")).count == 1
    finally:
        alarm(member, pb.AlarmRequest.DEACTIVATE, pb.AlarmType.NOSPACE)
    for call in NEEDS_SPACE.values():
        assert call(member) is not None
