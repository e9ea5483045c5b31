"""The Maintenance service of a running cluster."""

import hashlib

import grpc
import pytest

from kvstore.pb.rpc_pb2 import (
    CORRUPT,
    NOSPACE,
    AlarmMember,
    AlarmRequest,
    CompactionRequest,
    DefragmentRequest,
    DowngradeRequest,
    HashKVRequest,
    HashKVResponse,
    HashRequest,
    LeaseGrantRequest,
    MoveLeaderRequest,
    PutRequest,
    RequestOp,
    SnapshotRequest,
    TxnRequest,
)
from tests.cluster.harness import Binary, Client, Cluster, ClusterFactory, refused, wait_until

PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION
INVALID = grpc.StatusCode.INVALID_ARGUMENT
OUT_OF_RANGE = grpc.StatusCode.OUT_OF_RANGE
EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED


def hash_kv(client: Client, revision: int = 0) -> HashKVResponse:
    response: HashKVResponse = client.maintenance.HashKV(HashKVRequest(revision=revision))
    return response


def alarms(client: Client) -> list[AlarmMember]:
    return list(client.maintenance.Alarm(AlarmRequest(action=AlarmRequest.GET)).alarms)


def alarm(client: Client, action: AlarmRequest.AlarmAction.ValueType, member_id: int) -> list[AlarmMember]:
    request = AlarmRequest(action=action, memberID=member_id, alarm=NOSPACE)
    return list(client.maintenance.Alarm(request).alarms)


class TestStatus:
    def test_all_members_agree_on_the_leader_and_the_term(self, cluster: Cluster) -> None:
        leader = cluster.leader()
        statuses = [member.client.status() for member in cluster.members]
        assert {status.leader for status in statuses} == {leader.id}
        assert len({status.raftTerm for status in statuses}) == 1
        for status in statuses:
            assert status.header.raft_term == status.raftTerm
            assert 0 < status.raftAppliedIndex <= status.raftIndex
            assert status.dbSize >= status.dbSizeInUse > 0
            assert not status.errors
            assert not status.isLearner

    def test_indexes_grow_with_writes(self, client: Client, prefix: bytes) -> None:
        before = client.status()
        client.put(prefix)
        after = client.status()
        assert after.raftAppliedIndex > before.raftAppliedIndex
        assert after.header.revision == before.header.revision + 1

    def test_it_names_the_api_level(self, binary: Binary, client: Client) -> None:
        status = client.status()
        assert tuple(int(part) for part in status.version.split(".")[:2]) == binary.announced
        if binary.api_level >= (3, 7):
            assert status.dbSizeQuota == 2 << 30
            assert status.storageVersion


class TestHash:
    def test_members_with_the_same_history_have_the_same_hash(self, cluster: Cluster, prefix: bytes) -> None:
        client = cluster.leader().client
        for number in range(20):
            client.put(prefix + b"%d" % (number % 4), b"%d" % number)
        revision = client.delete(prefix + b"0").header.revision
        cluster.wait_agreed()
        hashes = [hash_kv(member.client, revision) for member in cluster.members]
        assert len({(answer.hash, answer.compact_revision) for answer in hashes}) == 1
        assert hash_kv(client, revision - 1).hash != hashes[0].hash
        assert hash_kv(client).hash == hashes[0].hash

    def test_it_tells_different_values_apart(self, client: Client, prefix: bytes) -> None:
        client.put(prefix, b"1")
        first = hash_kv(client).hash
        client.put(prefix, b"1")
        assert hash_kv(client).hash != first

    def test_errors(self, client: Client, prefix: bytes) -> None:
        revision = client.put(prefix).header.revision
        client.put(prefix)
        client.kv.Compact(CompactionRequest(revision=revision + 1))
        with refused(OUT_OF_RANGE, "etcdserver: mvcc: required revision has been compacted"):
            hash_kv(client, revision)
        with refused(OUT_OF_RANGE, "etcdserver: mvcc: required revision is a future revision"):
            hash_kv(client, revision + 1_000_000)

    def test_the_hash_of_the_whole_backend_is_answered(self, client: Client) -> None:
        assert client.maintenance.Hash(HashRequest()).header.member_id == client.status().header.member_id


class TestAlarm:
    def test_nospace_refuses_what_would_grow_the_store_until_disarmed(
        self, cluster: Cluster, client: Client, prefix: bytes
    ) -> None:
        client.put(prefix, b"before")
        lease = client.grant(600)
        member_id = cluster.members[0].id
        raised = AlarmMember(memberID=member_id, alarm=NOSPACE)
        assert alarm(client, AlarmRequest.ACTIVATE, member_id) == [raised]
        try:
            for member in cluster.members:
                asked = member.client
                wait_until(lambda asked=asked: alarms(asked) == [raised], "the alarm is raised")  # type: ignore[misc]
                no_space = (EXHAUSTED, "etcdserver: mvcc: database space exceeded")
                with refused(*no_space):
                    asked.put(prefix, b"during")
                with refused(*no_space):
                    asked.kv.Txn(TxnRequest(success=[RequestOp(request_put=PutRequest(key=prefix))]))
                with refused(*no_space):
                    asked.lease.LeaseGrant(LeaseGrantRequest(TTL=60))
                assert any("NOSPACE" in error for error in asked.status().errors)
                status, _, body = member.http("/health")
                assert (status, '"health":"false"' in body.replace(" ", "")) == (503, True)
            assert client.get(prefix) is not None
            assert client.delete(prefix).deleted == 1
            client.kv.Compact(CompactionRequest(revision=client.range(prefix).header.revision))
            with client.keepalive_stream() as stream:
                assert stream.keep_alive(lease).TTL == 600
        finally:
            alarm(client, AlarmRequest.DEACTIVATE, member_id)
        for member in cluster.members:
            asked = member.client
            wait_until(lambda asked=asked: alarms(asked) == [], "the alarm is gone")  # type: ignore[misc]
            member.client.put(prefix, b"after")
            assert not member.client.status().errors

    def test_raising_it_again_and_disarming_what_is_not_raised_change_nothing(
        self, cluster: Cluster, client: Client
    ) -> None:
        member_id = cluster.members[1].id
        try:
            alarm(client, AlarmRequest.ACTIVATE, member_id)
            alarm(client, AlarmRequest.ACTIVATE, member_id)
            assert len(alarms(client)) == 1
        finally:
            alarm(client, AlarmRequest.DEACTIVATE, member_id)
        alarm(client, AlarmRequest.DEACTIVATE, member_id)
        assert alarms(client) == []


def test_a_corrupt_cluster_takes_no_writes_until_the_alarm_is_disarmed(make_cluster: ClusterFactory) -> None:
    (member,) = make_cluster(1).members
    client = member.client
    client.put(b"key", b"value")
    client.maintenance.Alarm(AlarmRequest(action=AlarmRequest.ACTIVATE, memberID=member.id, alarm=CORRUPT))
    for call in (
        lambda: client.put(b"key"),
        lambda: client.delete(b"key"),
        lambda: client.kv.Txn(TxnRequest(success=[RequestOp(request_put=PutRequest(key=b"key"))])),
        lambda: client.grant(60),
    ):
        with refused(grpc.StatusCode.DATA_LOSS, "etcdserver: corrupt cluster"):
            call()
    assert any("CORRUPT" in error for error in client.status().errors)
    kv = client.get(b"key")
    assert kv is not None
    assert kv.value == b"value"
    client.maintenance.Alarm(AlarmRequest(action=AlarmRequest.DEACTIVATE, memberID=member.id, alarm=CORRUPT))
    client.put(b"key", b"again")


def test_defragmenting_keeps_every_key(cluster: Cluster, prefix: bytes) -> None:
    client = cluster.leader().client
    for number in range(50):
        client.put(prefix + b"%02d" % number, bytes(10_000))
    for member in cluster.members:
        member.client.maintenance.Defragment(DefragmentRequest())
        assert member.client.prefix(prefix).count == 50
        member.client.put(prefix + b"00", b"and it can be written")


class TestSnapshot:
    def test_it_streams_a_copy_with_its_checksum(self, client: Client, prefix: bytes) -> None:
        for number in range(5):
            client.put(prefix + b"%d" % number, bytes(100_000))
        parts = list(client.maintenance.Snapshot(SnapshotRequest()))
        assert len(parts) > 1
        remaining = [part.remaining_bytes for part in parts]
        assert remaining == sorted(remaining, reverse=True)
        assert remaining[-1] == 0
        whole = b"".join(part.blob for part in parts)
        assert len(whole) > 500_000
        assert hashlib.sha256(whole[:-32]).digest() == whole[-32:]

    def test_every_member_gives_one(self, cluster: Cluster) -> None:
        for member in cluster.members:
            assert sum(len(part.blob) for part in member.client.maintenance.Snapshot(SnapshotRequest())) > 0


class TestMoveLeader:
    def test_it_moves(self, cluster: Cluster, prefix: bytes) -> None:
        leader, target = cluster.leader(), cluster.followers()[1]
        leader.client.maintenance.MoveLeader(MoveLeaderRequest(targetID=target.id))
        assert cluster.leader() is target
        target.client.put(prefix)

    def test_errors(self, cluster: Cluster) -> None:
        leader, follower = cluster.leader(), cluster.followers()[0]
        with refused(PRECONDITION, "etcdserver: not leader"):
            follower.client.maintenance.MoveLeader(MoveLeaderRequest(targetID=follower.id))
        with refused(PRECONDITION, "etcdserver: bad leader transferee"):
            leader.client.maintenance.MoveLeader(MoveLeaderRequest(targetID=0x99))
        assert cluster.leader() is leader


class TestDowngrade:
    @pytest.fixture(autouse=True)
    def known(self, binary: Binary) -> None:
        if binary.api_level < (3, 5):
            pytest.skip("Downgrade came with API level 3.5")

    def test_is_not_there_yet(self, cluster: Cluster) -> None:
        with refused(grpc.StatusCode.UNIMPLEMENTED, "Method not implemented!"):
            cluster.leader().client.maintenance.Downgrade(DowngradeRequest(action=DowngradeRequest.VALIDATE))


def test_a_full_store_raises_the_alarm_and_recovers(make_cluster: ClusterFactory) -> None:
    cluster = make_cluster(3, {"quota-backend-bytes": str(16 << 20)})
    client = cluster.leader().client
    value = bytes(500_000)
    failures: list[object] = []

    def full() -> bool:
        try:
            client.put(b"filler", value)
        except grpc.RpcError as error:
            failures.append((error.code(), error.details()))
        return bool(failures)

    wait_until(full, "the quota is reached", 30)
    assert failures == [(EXHAUSTED, "etcdserver: mvcc: database space exceeded")]
    for member in cluster.members:
        asked = member.client
        wait_until(lambda asked=asked: len(alarms(asked)) > 0, "the alarm is raised everywhere")  # type: ignore[misc]
        with refused(EXHAUSTED, "etcdserver: mvcc: database space exceeded"):
            asked.put(b"small", b"")
    assert client.delete(b"filler").deleted == 1
    client.kv.Compact(CompactionRequest(revision=client.range(b"filler").header.revision))
    # Each member has applied and finished the compaction before it gives its space back.
    for member in cluster.members:
        member.client.maintenance.Defragment(DefragmentRequest(), timeout=30)
    for raised in alarms(client):
        alarm(client, AlarmRequest.DEACTIVATE, raised.memberID)
    for member in cluster.members:
        asked = member.client
        wait_until(lambda asked=asked: not alarms(asked), "the alarm is gone")  # type: ignore[misc]
        asked.put(b"small", b"")
    assert not alarms(client)
