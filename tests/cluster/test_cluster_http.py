"""What a member answers over HTTP/1.1 on the port of its gRPC clients."""

import http.client
import json

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.cluster.harness import Binary, Cluster, ClusterFactory, Member, wait_until


def test_health_of_a_healthy_member(cluster: Cluster) -> None:
    for member in cluster.members:
        status, headers, body = member.http("/health")
        assert (status, json.loads(body)["health"]) == (200, "true")
        assert headers["content-type"].startswith(("application/json", "text/plain"))


@pytest.mark.slow
def test_health_of_a_member_without_a_quorum(make_cluster: ClusterFactory) -> None:
    cluster = make_cluster(3)
    survivor, *others = cluster.members
    for member in others:
        member.kill()

    def unhealthy() -> bool:
        status, _, body = survivor.http("/health", timeout=15)
        return status == 503 and json.loads(body)["health"] == "false"

    wait_until(unhealthy, "the member says that it is unhealthy", 30)


def test_version(binary: Binary, member: Member) -> None:
    status, _, body = member.http("/version")
    versions = json.loads(body)
    assert status == 200
    assert versions["etcdserver"] == member.client.status().version
    assert tuple(int(part) for part in versions["etcdcluster"].split(".")[:2]) == binary.announced


def sample(text: str, name: str, **labels: str) -> float:
    """The value of a metric with at least these labels."""
    for family in text_string_to_metric_families(text):
        for found in family.samples:
            if found.name == name and labels.items() <= found.labels.items():
                return found.value
    raise AssertionError(f"{name} with {labels} is not exported")


def test_metrics_count_what_happens(cluster: Cluster, prefix: bytes) -> None:
    leader, follower = cluster.leader(), cluster.followers()[0]
    handled = {"grpc_service": "etcdserverpb.KV", "grpc_method": "Put", "grpc_type": "unary", "grpc_code": "OK"}
    text = leader.http("/metrics")[2]
    puts = sample(text, "etcd_mvcc_put_total")
    calls = sample(text, "grpc_server_handled_total", **handled)
    for _ in range(10):
        leader.client.put(prefix)
    status, headers, text = leader.http("/metrics")
    assert status == 200
    assert headers["content-type"].startswith("text/plain")
    assert sample(text, "etcd_mvcc_put_total") == puts + 10
    assert sample(text, "grpc_server_handled_total", **handled) == calls + 10
    assert sample(text, "etcd_server_is_leader") == 1
    assert sample(text, "etcd_server_has_leader") == 1
    assert sample(text, "etcd_debugging_mvcc_current_revision") == leader.client.range(prefix).header.revision
    assert sample(text, "etcd_server_proposals_applied_total") > 0
    assert sample(text, "etcd_disk_wal_fsync_duration_seconds_count") > 0
    assert sample(text, "process_resident_memory_bytes") > 0
    assert sample(follower.http("/metrics")[2], "etcd_server_is_leader") == 0


@pytest.mark.parametrize("path", ["/nothing", "/"])
def test_an_unknown_path_is_not_found(member: Member, path: str) -> None:
    assert member.http(path)[0] == 404


def test_probes(binary: Binary, member: Member) -> None:
    if binary.api_level < (3, 6):
        pytest.skip("/livez and /readyz came with API level 3.6")
    assert member.http("/livez")[0] == 200
    assert member.http("/readyz")[0] == 200


def test_a_connection_is_kept_for_the_next_request(member: Member) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", member.client_port, timeout=5)
    try:
        for _ in range(3):
            connection.request("GET", "/version")
            socket = connection.sock
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 200
            assert connection.sock is socket
    finally:
        connection.close()


def test_health_takes_get_only(member: Member) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", member.client_port, timeout=5)
    try:
        connection.request("POST", "/health", body=b"{}")
        assert connection.getresponse().status == 405
    finally:
        connection.close()
