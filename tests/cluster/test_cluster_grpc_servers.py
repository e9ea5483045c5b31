"""A smoke test of every service on each of the two gRPC servers that a member can be run with."""

import pytest

from kvstore.pb.rpc_pb2 import Compare, LeaseRevokeRequest, PutRequest, RequestOp, SnapshotRequest, TxnRequest
from tests.cluster.harness import Binary, Cluster, ClusterFactory, prefix_end


@pytest.fixture(scope="module", params=["ngh2", "grpcio"])
def served(request: pytest.FixtureRequest, binary: Binary, tmp_path_factory: pytest.TempPathFactory) -> object:
    if binary.is_reference:
        pytest.skip("only kvstored has a choice of gRPC servers")
    with Cluster(binary, tmp_path_factory.mktemp(request.param), 3, {"grpc-server": request.param}) as cluster:
        yield cluster


@pytest.fixture
def cluster(served: Cluster) -> Cluster:
    return served


def test_keys(cluster: Cluster, prefix: bytes) -> None:
    for member in cluster.members:
        client = member.client
        client.put(prefix + b"key", b"value", prev_kv=True)
        kv = client.get(prefix + b"key")
        assert kv is not None
        assert kv.value == b"value"
        compare = Compare(key=prefix + b"key", target=Compare.VALUE, result=Compare.EQUAL, value=b"value")
        put = RequestOp(request_put=PutRequest(key=prefix + b"other", value=b"1"))
        assert client.kv.Txn(TxnRequest(compare=[compare], success=[put])).succeeded
        assert client.delete(prefix, prefix_end(prefix)).deleted == 2


def test_watches(cluster: Cluster, prefix: bytes) -> None:
    follower = cluster.followers()[0]
    with follower.client.watch_stream() as stream:
        assert stream.create(prefix, prefix_end(prefix), prev_kv=True).created
        for number in range(200):
            cluster.leader().client.put(prefix + b"%d" % number, bytes(1_000))
        assert [event.kv.key for event in stream.events(200)] == [prefix + b"%d" % number for number in range(200)]


def test_leases(cluster: Cluster, prefix: bytes) -> None:
    client = cluster.followers()[0].client
    lease = client.grant(60)
    client.put(prefix, lease=lease)
    with client.keepalive_stream() as stream:
        assert stream.keep_alive(lease).TTL == 60
    client.lease.LeaseRevoke(LeaseRevokeRequest(ID=lease))
    assert client.get(prefix) is None


def test_maintenance(cluster: Cluster) -> None:
    client = cluster.followers()[0].client
    assert client.status().leader == cluster.leader().id
    assert len(client.members()) == 3
    assert sum(len(part.blob) for part in client.maintenance.Snapshot(SnapshotRequest())) > 0


def test_http(cluster: Cluster) -> None:
    for member in cluster.members:
        assert member.http("/health")[0] == 200
        assert "\netcd_server_has_leader 1" in member.http("/metrics")[2]


def test_a_leader_change(cluster: Cluster, prefix: bytes) -> None:
    leader = cluster.leader()
    leader.kill()
    survivor = cluster.followers()[0]
    survivor.wait_ready()
    survivor.client.put(prefix, b"value")
    leader.start()
    leader.wait_ready()
    kv = leader.client.get(prefix)
    assert kv is not None
    assert kv.value == b"value"


def test_sigterm(make_cluster: ClusterFactory, cluster: Cluster) -> None:
    (member,) = make_cluster(1, {"grpc-server": cluster.flags["grpc-server"]}).members
    with member.client.watch_stream() as stream:
        stream.create(b"key")
        member.terminate()
        assert not member.running
