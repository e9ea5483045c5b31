"""Members that come and go while clients write, and members that must be sent a snapshot."""

import re
from collections.abc import Iterator

import grpc
import pytest

from kvstore.pb.rpc_pb2 import CompactionRequest, HashKVRequest, MemberPromoteRequest
from tests.cluster.harness import Binary, Client, Cluster, ClusterFactory, Load, Member, assert_all_there, wait_until

SHORT_LOG = {"snapshot-count": "100", "snapshot-catchup-entries": "10"}


@pytest.fixture(scope="module")
def reconfigured(binary: Binary, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(binary, tmp_path_factory.mktemp("reconfigured"), 3, SHORT_LOG) as cluster:
        yield cluster


@pytest.fixture
def cluster(reconfigured: Cluster) -> Cluster:
    """Three members with a log that is cut early, whatever the tests before have done to them."""
    reconfigured.heal()
    return reconfigured


def endpoints(cluster: Cluster) -> list[str]:
    return [member.endpoint for member in cluster.members]


def hash_at(client: Client, revision: int) -> int:
    answer: int = client.maintenance.HashKV(HashKVRequest(revision=revision)).hash
    return answer


def assert_members_agree(cluster: Cluster) -> None:
    cluster.wait_agreed()
    revision = cluster.leader().client.status().header.revision
    assert len({hash_at(member.client, revision) for member in cluster.members if member.running}) == 1


def write(client: Client, prefix: bytes, count: int) -> None:
    for number in range(count):
        client.put(prefix + b"%04d" % number, b"%d" % number)


def promote(cluster: Cluster, learner_id: int) -> None:
    """Promote a learner as soon as it is in sync."""

    def attempt() -> bool:
        try:
            cluster.leader().client.cluster.MemberPromote(MemberPromoteRequest(ID=learner_id))
        except grpc.RpcError as error:
            if "in sync with leader" in (error.details() or ""):
                return False
            raise AssertionError(f"{error.code()}: {error.details()}") from error
        return True

    wait_until(attempt, "the learner is promoted", 30)


class TestSnapshots:
    @pytest.mark.slow
    def test_a_wiped_member_that_is_added_again_gets_a_snapshot(self, cluster: Cluster, prefix: bytes) -> None:
        wiped = cluster.followers()[0]
        write(cluster.leader().client, prefix, 300)
        wiped_id = wiped.id
        wiped.kill()
        wiped.wipe()
        cluster.remove(wiped, wiped_id)
        write(cluster.leader().client, prefix + b"later", 300)
        revision = cluster.leader().client.status().header.revision
        cluster.leader().client.kv.Compact(CompactionRequest(revision=revision - 100))
        cluster.add_again(wiped)
        wiped.start()
        wiped.wait_ready()
        assert wiped.id != wiped_id
        for name in (prefix, prefix + b"later"):
            found = wiped.client.range(name + b"0000", name + b"9999", serializable=True)
            assert [kv.value for kv in found.kvs] == [b"%d" % number for number in range(300)]
        assert_members_agree(cluster)
        # It is a member like any other: with it and one more there is a quorum.
        cluster.leader().kill()
        wiped.wait_ready()
        wiped.client.put(prefix, b"written without the old leader")

    def test_a_follower_that_was_down_for_longer_than_the_log_gets_a_snapshot(
        self, cluster: Cluster, prefix: bytes
    ) -> None:
        client = cluster.leader().client
        client.put(prefix + b"stays", b"1")
        client.put(prefix + b"goes", b"1")
        lease = client.grant(600)
        cluster.wait_agreed()
        down = cluster.followers()[0]
        down.kill()
        client.delete(prefix + b"goes")
        client.put(prefix + b"leased", lease=lease)
        write(client, prefix, 400)
        down.start()
        down.wait_ready()
        assert down.client.get(prefix + b"goes", serializable=True) is None
        assert down.client.range(prefix + b"0000", prefix + b"9999", count_only=True, serializable=True).count == 400
        kv = down.client.get(prefix + b"leased")
        assert kv is not None
        assert kv.lease == lease
        assert_members_agree(cluster)

    @pytest.mark.slow
    def test_a_member_is_restarted_while_it_catches_up(self, cluster: Cluster, prefix: bytes) -> None:
        client = cluster.leader().client
        down = cluster.followers()[0]
        down.kill()
        for number in range(150):
            client.put(prefix + b"%04d" % number, bytes(50_000))
        write(client, prefix + b"small", 300)
        for _ in range(3):
            down.start()
            wait_until(lambda: down.status() is not None, "it has opened its port")
            down.kill()
        down.start()
        down.wait_ready()
        assert down.client.range(prefix + b"0000", prefix + b"9999", count_only=True, serializable=True).count == 150
        assert_members_agree(cluster)

    def test_a_watch_survives_that_its_member_got_a_snapshot(self, cluster: Cluster, prefix: bytes) -> None:
        paused = cluster.followers()[0]
        with paused.client.watch_stream() as watch:
            assert watch.create(prefix + b"key").created
            paused.pause()
            write(cluster.leader().client, prefix, 400)
            last = cluster.leader().client.put(prefix + b"key", b"v").header.revision
            paused.resume()
            assert watch.events(1)[0].kv.mod_revision == last


class TestLearners:
    def test_a_learner_catches_up_and_is_promoted(self, make_cluster: ClusterFactory, prefix: bytes) -> None:
        cluster = make_cluster(1)
        with Load(endpoints(cluster), prefix) as load:
            learner = cluster.add("m2", learner=True)
            learner.start()
            wait_until(lambda: learner.status() is not None, "the learner is up")
            learner_id = learner.id
            promote(cluster, learner_id)
            learner.wait_ready()
            load.wait_for_progress()
            record = load.stop()
        assert not any(member.isLearner for member in learner.client.members())
        assert not learner.client.status().isLearner
        assert_all_there(record, learner.client, prefix)
        assert_members_agree(cluster)

    @pytest.mark.slow
    def test_a_learner_has_no_vote(self, make_cluster: ClusterFactory) -> None:
        cluster = make_cluster(1)
        voter = cluster.members[0]
        learner = cluster.add("m2", learner=True)
        learner.start()
        wait_until(lambda: learner.status() is not None, "the learner is up")
        learner.kill()
        voter.client.put(b"key", b"needs no learner")
        learner.start()
        wait_until(lambda: learner.client.get(b"key", serializable=True, timeout=1), "the learner has caught up")
        voter.kill()
        assert not learner.serves()
        voter.start()
        voter.wait_ready()
        assert cluster.leader() is voter


class TestUnderLoad:
    @pytest.mark.slow
    def test_a_member_is_added_and_another_removed(self, cluster: Cluster, prefix: bytes) -> None:
        with Load(endpoints(cluster), prefix) as load:
            added = cluster.add("m4")
            added.start()
            added.wait_ready()
            load.wait_for_progress()
            leaving = cluster.leader()
            cluster.remove(leaving, leaving.id)
            leaving.close()
            load.wait_for_progress()
            record = load.stop()
        assert len(cluster.leader().client.members()) == 3
        for member in cluster.members:
            assert_all_there(record, member.client, prefix)
        assert_members_agree(cluster)

    @pytest.mark.slow
    def test_the_log_waits_for_a_copy_that_takes_longer_than_its_cuts(
        self, make_cluster: ClusterFactory, prefix: bytes
    ) -> None:
        cluster = make_cluster(1, {"snapshot-count": "1", "snapshot-catchup-entries": "1"})
        only = cluster.members[0]
        for number in range(20):
            only.client.put(prefix + b"large%d" % number, bytes(1_000_000))
        with Load(endpoints(cluster), prefix) as load:
            added = cluster.add("m2", learner=True)
            added.start()
            wait_until(lambda: added.status() is not None, "the learner is up")
            promote(cluster, added.id)
            added.wait_ready()
            record = load.stop()
        # Otherwise every copy would end before what is left of the log begins, and the next one would have to follow.
        metrics = only.http("/metrics")[2]
        assert re.findall(r"^etcd_network_snapshot_send_success\{.*\} (.*)$", metrics, re.MULTILINE) == ["1"]
        assert_all_there(record, added.client, prefix)

    @pytest.mark.slow
    def test_from_one_member_to_three_and_back(self, make_cluster: ClusterFactory, prefix: bytes) -> None:
        cluster = make_cluster(1)
        first = cluster.members[0]
        with Load(endpoints(cluster), prefix) as load:
            for name in ("m2", "m3"):
                member = cluster.add(name)
                member.start()
                member.wait_ready()
                load.wait_for_progress()
            for member in cluster.members[1:]:
                cluster.remove(member, member.id)
                member.close()
                load.wait_for_progress()
            record = load.stop()
        assert [member.name for member in first.client.members()] == ["m1"]
        assert_all_there(record, first.client, prefix)


def test_a_removed_member_stops_and_comes_back_only_as_a_new_one(cluster: Cluster) -> None:
    removed = cluster.followers()[0]
    removed_id = removed.id
    cluster.remove(removed, removed_id)
    wait_until(lambda: not removed.running, "the removed member stops by itself", 30)
    _, said = removed.run_to_end()
    assert "removed" in said
    assert len(cluster.leader().client.members()) == 2
    removed.wipe()
    cluster.add_again(removed)
    removed.start()
    removed.wait_ready()
    assert removed.id != removed_id


@pytest.mark.slow
def test_changes_are_remembered_after_a_restart_of_all(make_cluster: ClusterFactory) -> None:
    cluster = make_cluster(1)
    added = cluster.add("m2")
    added.start()
    added.wait_ready()
    cluster.members[0].client.put(b"key", b"value")
    before = members(cluster.members[0])
    assert len(before) == 2
    for member in cluster.members:
        member.kill()
    cluster.start()
    for member in cluster.members:
        assert members(member) == before
        kv = member.client.get(b"key")
        assert kv is not None
        assert kv.value == b"value"


def members(member: Member) -> dict[int, tuple[str, tuple[str, ...], tuple[str, ...]]]:
    """Name, peer URLs and client URLs by member id, once every member has told its name."""

    def listed() -> dict[int, tuple[str, tuple[str, ...], tuple[str, ...]]] | None:
        found = {m.ID: (m.name, tuple(m.peerURLs), tuple(m.clientURLs)) for m in member.client.members()}
        return found if all(name for name, _, _ in found.values()) else None

    return wait_until(listed, "every member has told its name")


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["leader", "follower"])
def test_a_pending_change_survives_a_killed_member(cluster: Cluster, victim: str) -> None:
    added = cluster.add(f"added-before-{victim}", learner=True)
    hit = cluster.leader() if victim == "leader" else cluster.followers()[0]
    hit.kill()
    added.start()
    wait_until(lambda: added.status() is not None, "the learner is up")
    cluster.leader().client.put(b"key", b"value")
    wait_until(lambda: added.client.get(b"key", serializable=True, timeout=1), "the learner has caught up")
    hit.start()
    hit.wait_ready()
    promote(cluster, added.id)
    added.wait_ready()
    assert len(hit.client.members()) == 4
    cluster.remove(added, added.id)
