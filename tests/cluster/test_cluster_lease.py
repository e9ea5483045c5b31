"""The Lease service of a running cluster."""

import time

import grpc
import pytest

from kvstore.pb.rpc_pb2 import (
    LeaseGrantRequest,
    LeaseLeasesRequest,
    LeaseRevokeRequest,
    LeaseTimeToLiveRequest,
    LeaseTimeToLiveResponse,
    MoveLeaderRequest,
    PutRequest,
    RequestOp,
    TxnRequest,
)
from tests.cluster.harness import Client, Cluster, prefix_end, refused, wait_until

MAX_TTL = 9_000_000_000


def time_to_live(client: Client, lease: int, *, keys: bool = False) -> LeaseTimeToLiveResponse:
    response: LeaseTimeToLiveResponse = client.lease.LeaseTimeToLive(LeaseTimeToLiveRequest(ID=lease, keys=keys))
    return response


def revoke(client: Client, lease: int) -> None:
    client.lease.LeaseRevoke(LeaseRevokeRequest(ID=lease))


def leases(client: Client) -> set[int]:
    return {status.ID for status in client.lease.LeaseLeases(LeaseLeasesRequest()).leases}


class TestGrant:
    def test_the_server_chooses_a_positive_id(self, client: Client) -> None:
        granted = [client.lease.LeaseGrant(LeaseGrantRequest(TTL=100)) for _ in range(3)]
        assert all(0 < grant.ID < 1 << 63 for grant in granted)
        assert len({grant.ID for grant in granted}) == 3
        assert {(grant.TTL, grant.error) for grant in granted} == {(100, "")}

    def test_the_client_may_choose_the_id(self, client: Client) -> None:
        assert client.grant(100, 4_242) == 4_242
        assert time_to_live(client, 4_242).grantedTTL == 100
        with refused(grpc.StatusCode.FAILED_PRECONDITION, "etcdserver: lease already exists"):
            client.grant(100, 4_242)
        revoke(client, 4_242)
        assert client.grant(100, 4_242) == 4_242
        revoke(client, 4_242)

    def test_the_ttl_has_bounds(self, client: Client) -> None:
        # One and a half of the test clusters' election timeout of 500 ms, in whole seconds.
        assert client.lease.LeaseGrant(LeaseGrantRequest(TTL=0)).TTL == 1
        longest = client.lease.LeaseGrant(LeaseGrantRequest(TTL=MAX_TTL))
        assert longest.TTL == MAX_TTL
        revoke(client, longest.ID)
        with refused(grpc.StatusCode.OUT_OF_RANGE, "etcdserver: too large lease TTL"):
            client.grant(MAX_TTL + 1)

    def test_it_leaves_the_revision(self, client: Client, prefix: bytes) -> None:
        before = client.put(prefix).header.revision
        assert client.lease.LeaseGrant(LeaseGrantRequest(TTL=100)).header.revision == before


class TestRevoke:
    def test_its_keys_are_deleted_in_one_revision(self, client: Client, prefix: bytes) -> None:
        lease = client.grant(600)
        for number in range(5):
            client.put(prefix + b"%d" % number, lease=lease)
        before = client.put(prefix + b"free").header.revision
        with client.watch_stream() as stream:
            stream.create(prefix, prefix_end(prefix))
            revoke(client, lease)
            events = stream.events(5)
        assert {event.kv.mod_revision for event in events} == {before + 1}
        assert [kv.key for kv in client.prefix(prefix).kvs] == [prefix + b"free"]

    def test_an_unknown_lease(self, client: Client) -> None:
        with refused(grpc.StatusCode.NOT_FOUND, "etcdserver: requested lease not found"):
            revoke(client, 999_999)

    def test_a_key_that_went_to_another_lease_stays(self, client: Client, prefix: bytes) -> None:
        old, new = client.grant(600), client.grant(600)
        client.put(prefix, lease=old)
        client.put(prefix, lease=new)
        revoke(client, old)
        kv = client.get(prefix)
        assert kv is not None
        assert kv.lease == new


class TestTimeToLive:
    def test_it_tells_the_ttl_and_the_keys(self, cluster: Cluster, client: Client, prefix: bytes) -> None:
        lease = client.grant(600)
        for number in range(3):
            client.put(prefix + b"%d" % number, lease=lease)
        for member in cluster.members:
            told = time_to_live(member.client, lease, keys=True)
            assert (told.ID, told.grantedTTL) == (lease, 600)
            assert 590 <= told.TTL <= 600
            assert sorted(told.keys) == [prefix + b"%d" % number for number in range(3)]
            assert not time_to_live(member.client, lease).keys

    def test_an_unknown_lease_is_no_error(self, cluster: Cluster) -> None:
        for member in cluster.members:
            told = time_to_live(member.client, 888_888)
            assert (told.TTL, told.grantedTTL) == (-1, 0)

    def test_a_deleted_key_is_no_longer_attached(self, client: Client, prefix: bytes) -> None:
        lease = client.grant(600)
        client.put(prefix + b"a", lease=lease)
        client.put(prefix + b"b", lease=lease)
        client.delete(prefix + b"a")
        assert list(time_to_live(client, lease, keys=True).keys) == [prefix + b"b"]


def test_leases_are_listed_on_every_member(cluster: Cluster, client: Client) -> None:
    lease = client.grant(600)
    for member in cluster.members:
        wait_until(lambda client=member.client: lease in leases(client), "the lease is listed")  # type: ignore[misc]
    revoke(client, lease)
    for member in cluster.members:
        wait_until(lambda client=member.client: lease not in leases(client), "it is gone")  # type: ignore[misc]


class TestExpiry:
    def test_a_lease_that_nobody_keeps_alive_ends_with_its_keys(self, client: Client, prefix: bytes) -> None:
        lease = client.grant(1)
        granted = time.monotonic()
        client.put(prefix, lease=lease)
        with client.watch_stream() as stream:
            stream.create(prefix)
            (event,) = stream.events(1)
        assert event.type == event.DELETE
        assert 0.9 <= time.monotonic() - granted <= 6
        assert client.get(prefix) is None
        assert time_to_live(client, lease).TTL == -1

    def test_a_lease_that_is_kept_alive_through_any_member_stays(self, cluster: Cluster, prefix: bytes) -> None:
        lease = cluster.leader().client.grant(1)
        cluster.leader().client.put(prefix, lease=lease)
        end = time.monotonic() + 3.5
        streams = [member.client.keepalive_stream() for member in cluster.members]
        kept = 0

        def keep_alive() -> bool:
            nonlocal kept
            answer = streams[kept % len(streams)].keep_alive(lease)
            assert (lease, 1) == (answer.ID, answer.TTL)
            kept += 1
            return time.monotonic() > end

        wait_until(keep_alive, "the lease has lived for several of its TTLs")
        assert cluster.leader().client.get(prefix) is not None
        for stream in streams:
            stream.close()
        # Now, and not by its end in the midst of another test, which would not expect the revision.
        revoke(cluster.leader().client, lease)

    def test_keeping_an_unknown_lease_alive_answers_zero(self, cluster: Cluster) -> None:
        for member in cluster.members:
            with member.client.keepalive_stream() as stream:
                answer = stream.keep_alive(777_777)
                assert (answer.ID, answer.TTL) == (777_777, 0)

    def test_one_stream_serves_many_leases_in_order(self, client: Client) -> None:
        granted = [client.grant(300) for _ in range(50)]
        with client.keepalive_stream() as stream:
            assert [stream.keep_alive(lease).ID for lease in granted] == granted
        for lease in granted:
            revoke(client, lease)

    @pytest.mark.slow
    def test_a_new_leader_lets_a_lease_live_and_then_ends_it(self, cluster: Cluster, prefix: bytes) -> None:
        lease = cluster.leader().client.grant(3)
        cluster.leader().client.put(prefix, lease=lease)
        old, successor = cluster.leader(), cluster.followers()[0]
        old.client.maintenance.MoveLeader(MoveLeaderRequest(targetID=successor.id))
        assert cluster.leader() is successor
        assert successor.client.get(prefix) is not None
        wait_until(lambda: successor.client.range(prefix, count_only=True).count == 0, "the lease has ended", 15)


def test_a_transaction_attaches_and_detaches_leases(client: Client, prefix: bytes) -> None:
    lease = client.grant(600)
    puts = [RequestOp(request_put=PutRequest(key=prefix + bytes([letter]), lease=lease)) for letter in b"ab"]
    client.kv.Txn(TxnRequest(success=puts))
    assert sorted(time_to_live(client, lease, keys=True).keys) == [prefix + b"a", prefix + b"b"]
    client.kv.Txn(TxnRequest(success=[RequestOp(request_put=PutRequest(key=prefix + b"a"))]))
    assert list(time_to_live(client, lease, keys=True).keys) == [prefix + b"b"]
    revoke(client, lease)
    assert [kv.key for kv in client.prefix(prefix).kvs] == [prefix + b"a"]
