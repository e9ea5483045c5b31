"""Batches of requests on their way through the log."""

from typing import Any

import pytest
from google.protobuf.message import Message

from kvstore import errors
from kvstore.mvcc.puts import Put
from kvstore.pb import internal_pb2
from kvstore.pb import rpc_pb2 as pb
from kvstore.rpc import Promise
from kvstore.server.proposals import MAX_BATCH_BYTES, Proposals, decode, identity

REQUESTS: dict[str, Message] = {
    "put": pb.PutRequest(key=b"k", value=b"v" * 300, lease=-5),
    "delete_range": pb.DeleteRangeRequest(key=b"a", range_end=b"b"),
    "txn": pb.TxnRequest(success=[pb.RequestOp(request_put=pb.PutRequest(key=b"k"))]),
    "compaction": pb.CompactionRequest(revision=7),
    "lease_grant": pb.LeaseGrantRequest(TTL=10, ID=1 << 60),
    "lease_revoke": pb.LeaseRevokeRequest(ID=3),
    "lease_checkpoint": pb.LeaseCheckpointRequest(checkpoints=[pb.LeaseCheckpoint(ID=3, remaining_TTL=1)]),
    "alarm": pb.AlarmRequest(action=pb.AlarmRequest.ACTIVATE, memberID=1, alarm=pb.AlarmType.NOSPACE),
    "member_attributes": internal_pb2.MemberAttributes(member_id=1, name="m", client_urls=["http://a:1"]),
    "removals_settled": internal_pb2.RemovalsSettled(members=[7]),
}


def add(proposals: Proposals, kind: str, request: Any, now: float = 0.0, reign: int = 0) -> Promise[bytes]:
    promise: Promise[bytes] = Promise()
    proposals.add(kind, request, request.SerializeToString(), promise, now, reign)
    return promise


def test_a_batch_holds_every_kind_of_request_as_it_was() -> None:
    proposals = Proposals(0xFFFF_FFFF_FFFF_FFFE, 42, 5.0)
    for kind, request in REQUESTS.items():
        add(proposals, kind, request)
    [(sequence, payload)] = proposals.take()
    proposer, decoded_sequence, requests = decode(payload)
    assert (proposer, decoded_sequence) == (0xFFFF_FFFF_FFFF_FFFE, 42) == identity(payload)
    assert sequence == 42
    found = dict(requests)
    put = found.pop("put")
    assert isinstance(put, Put)
    expected = dict(REQUESTS)
    assert expected.pop("put") == pb.PutRequest(key=put.key, value=put.value, lease=put.lease)
    assert list(found.items()) == list(expected.items())


def test_a_batch_is_closed_when_it_is_large_enough() -> None:
    proposals = Proposals(1, 1, 5.0)
    for _ in range(5):
        add(proposals, "put", pb.PutRequest(key=b"k", value=b"v" * (MAX_BATCH_BYTES // 2)))
    sizes = [len(list(decode(payload)[2])) for _, payload in proposals.take()]
    assert sizes == [2, 2, 1]


def test_what_waits_too_long_fails_whether_proposed_or_not() -> None:
    proposals = Proposals(1, 1, 5.0)
    proposed = add(proposals, "put", pb.PutRequest(key=b"a"), now=0.0)
    proposals.take()
    held = add(proposals, "put", pb.PutRequest(key=b"b"), now=1.0)
    young = add(proposals, "put", pb.PutRequest(key=b"c"), now=4.0)
    assert proposals.expire(6.0, errors.RequestTimeout()) == 2
    assert isinstance(proposed.exception(), errors.RequestTimeout)
    assert isinstance(held.exception(), errors.RequestTimeout)
    assert not young.done()
    assert proposals.pending_requests == 1
    [(_, payload)] = proposals.take()
    assert [request.key for _, request in decode(payload)[2] if isinstance(request, Put)] == [b"c"]


def test_what_a_snapshot_may_have_swallowed_fails_and_the_rest_waits_on() -> None:
    proposals = Proposals(1, 1, 5.0)
    proposed = add(proposals, "removals_settled", internal_pb2.RemovalsSettled())
    [(sequence, _)] = proposals.take()
    proposals.proposed(sequence, term=3)
    waiting = add(proposals, "removals_settled", internal_pb2.RemovalsSettled())
    assert proposals.overtaken(errors.TimeoutDueToConnectionLost()) == 1
    assert isinstance(proposed.exception(), errors.TimeoutDueToConnectionLost)
    assert not waiting.done()


def test_an_applied_batch_is_given_back_once() -> None:
    proposals = Proposals(1, 9, 5.0)
    promise = add(proposals, "removals_settled", internal_pb2.RemovalsSettled())
    [(sequence, _)] = proposals.take()
    batch = proposals.applied(sequence)
    assert batch is not None
    assert [pending.promise for pending in batch.requests] == [promise]
    assert proposals.applied(sequence) is None
    assert proposals.pending_requests == 0
    assert proposals.pending_bytes == 0


def test_a_batch_of_an_unknown_kind_is_refused() -> None:
    payload = b"\x09" + bytes(8) + b"\x11" + bytes(8) + b"\x1a\x04\xfa\x7f\x01x"
    with pytest.raises(ValueError, match="kind of request"):
        list(decode(payload)[2])


def test_what_one_term_may_append_is_withdrawn_in_every_other_until_it_is_proposed() -> None:
    proposals = Proposals(1, 1, 5.0)
    promises = [add(proposals, "lease_revoke", pb.LeaseRevokeRequest(ID=7), reign=reign) for reign in (4, 4, 0, 5, 0)]
    taken = proposals.take()
    assert [len(list(decode(payload)[2])) for _, payload in taken] == [2, 1, 1, 1]
    assert proposals.withdraw(4) == 1
    assert [promise.done() for promise in promises] == [False, False, False, True, False]
    assert isinstance(promises[3].exception(), errors.LeaderChanged)
    for sequence, _ in taken:
        proposals.proposed(sequence, 4)
    # From now on raft knows the term, and an answer may come from a later one.
    assert proposals.withdraw(0) == 0
    assert proposals.pending_requests == 4
    for sequence in (taken[0][0], taken[1][0], taken[3][0]):
        assert proposals.applied(sequence) is not None
    assert (proposals.pending_requests, proposals.pending_bytes) == (0, 0)
