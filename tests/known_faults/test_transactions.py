"""A transaction that did not do the same on every member."""

from __future__ import annotations

import grpc

from kvstore.pb.rpc_pb2 import CompactionRequest, HashKVRequest, PutRequest, RangeRequest, RequestOp, TxnRequest
from tests.cluster.harness import Client, Cluster, refused


def put_and_read_at(key: bytes, revision: int) -> TxnRequest:
    """A transaction that writes a key and then reads one as it was at a revision."""
    return TxnRequest(
        success=[
            RequestOp(request_put=PutRequest(key=key, value=b"written")),
            RequestOp(request_range=RangeRequest(key=b"read", revision=revision)),
        ]
    )


def hashes(cluster: Cluster) -> set[tuple[int, int, int]]:
    """Hash, hashed revision and compacted revision, of every member."""
    cluster.wait_agreed()
    revision = cluster.members[0].client.status().header.revision
    answers = [member.client.maintenance.HashKV(HashKVRequest(revision=revision)) for member in cluster.members]
    return {(answer.hash, answer.hash_revision, answer.compact_revision) for answer in answers}


def test_txn_whose_range_names_a_revision_inconsistent(cluster: Cluster) -> None:
    """etcd (issue 18667): only the member that had been asked carried out the reads of a transaction. Where a read
    named a revision that was compacted, or not there yet, the transaction failed on that member alone, and its
    writes were there on all others.

    Here every member checks the reads of a transaction before it writes anything, whoever was asked.
    """
    cluster.heal()
    cluster.wait_agreed()
    clients = [member.client for member in cluster.members]
    for number in range(6):
        first = clients[0].put(b"read", b"%d" % number).header.revision
    clients[0].kv.Compact(CompactionRequest(revision=first - 1))
    before = hashes(cluster)
    assert len(before) == 1

    for number, client in enumerate(clients):
        _refuse_both(client, b"never/%d" % number, first)
    assert hashes(cluster) == before

    for number, client in enumerate(clients):
        answer = client.kv.Txn(put_and_read_at(b"done/%d" % number, first))
        [kv] = answer.responses[1].response_range.kvs
        assert (kv.value, kv.mod_revision) == (b"5", first)
    cluster.wait_agreed()
    for client in clients:
        assert [kv.key for kv in client.prefix(b"done/").kvs] == [b"done/0", b"done/1", b"done/2"]
        assert not client.prefix(b"never/").kvs
    assert len(hashes(cluster)) == 1


def _refuse_both(client: Client, key: bytes, first: int) -> None:
    with refused(grpc.StatusCode.OUT_OF_RANGE, "etcdserver: mvcc: required revision has been compacted"):
        client.kv.Txn(put_and_read_at(key, first - 2))
    with refused(grpc.StatusCode.OUT_OF_RANGE, "etcdserver: mvcc: required revision is a future revision"):
        client.kv.Txn(put_and_read_at(key, 1_000_000))
