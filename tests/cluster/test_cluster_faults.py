"""Members killed, paused and restarted under load: nothing that was acknowledged is lost, and no read is stale."""

import time
from collections.abc import Iterator

import grpc
import pytest

from kvstore.pb.rpc_pb2 import CompactionRequest, HashKVRequest
from tests.cluster.harness import (
    Binary,
    Client,
    Cluster,
    ClusterFactory,
    Load,
    Member,
    assert_all_there,
    prefix_end,
    refused,
    wait_until,
)
from tests.cluster.harness.register import Register

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE

MISSED_MEGABYTES = 80
"""More than what may be under way in one message between members."""


def endpoints(cluster: Cluster) -> list[str]:
    return [member.endpoint for member in cluster.members]


def assert_members_agree(cluster: Cluster) -> None:
    """Every member has the same history, by its hash."""
    cluster.wait_agreed()
    revision = cluster.leader().client.status().header.revision
    request = HashKVRequest(revision=revision)
    hashes = {member.client.maintenance.HashKV(request).hash for member in cluster.members if member.running}
    assert len(hashes) == 1


@pytest.fixture(scope="module")
def mistreated(binary: Binary, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(binary, tmp_path_factory.mktemp("mistreated")) as cluster:
        yield cluster


@pytest.fixture
def cluster(mistreated: Cluster) -> Cluster:
    """Three members, whatever the tests before have done to them."""
    mistreated.heal()
    return mistreated


def test_a_killed_leader_loses_no_acknowledged_write(cluster: Cluster, prefix: bytes) -> None:
    with Load(endpoints(cluster), prefix) as load:
        for _ in range(2):
            leader = cluster.leader()
            leader.kill()
            load.wait_for_progress()
            leader.start()
            leader.wait_ready()
            load.wait_for_progress()
        record = load.stop()
    assert len(record.acknowledged) > 200
    for member in cluster.members:
        assert_all_there(record, member.client, prefix)
    assert_members_agree(cluster)


def test_all_members_killed_at_once_lose_no_acknowledged_write(cluster: Cluster, prefix: bytes) -> None:
    with Load(endpoints(cluster), prefix) as load:
        load.wait_for_progress(200)
        for member in cluster.members:
            member.kill()
        record = load.stop()
    cluster.start()
    for member in cluster.members:
        assert_all_there(record, member.client, prefix)
    assert_members_agree(cluster)
    cluster.members[0].client.put(b"still", b"writable")


def test_all_processes_killed_with_their_children_lose_nothing(make_cluster: ClusterFactory) -> None:
    cluster = make_cluster(1)
    (member,) = cluster.members
    for _ in range(2):
        with Load(endpoints(cluster), prefix=b"load/%d/" % time.monotonic_ns()) as load:
            load.wait_for_progress(200)
            member.kill_group()
            record = load.stop()
        member.start()
        member.wait_ready()
        assert_all_there(record, member.client, load.prefix)


@pytest.mark.slow
def test_a_paused_leader_is_replaced_and_follows_when_it_wakes(cluster: Cluster, prefix: bytes) -> None:
    with Load(endpoints(cluster), prefix) as load:
        old = cluster.leader()
        old.pause()
        try:
            load.wait_for_progress()
            assert cluster.leader() is not old
        finally:
            old.resume()
        wait_until(lambda: cluster.leader() is not old and old.serves(), "the old leader follows")
        record = load.stop()
    for member in cluster.members:
        assert_all_there(record, member.client, prefix)
    assert_members_agree(cluster)


def test_a_follower_that_was_down_catches_up(cluster: Cluster, prefix: bytes) -> None:
    down = cluster.followers()[0]
    down.kill()
    with Load(endpoints(cluster), prefix) as load:
        load.wait_for_progress(300)
        record = load.stop()
    down.start()
    down.wait_ready()
    assert_all_there(record, down.client, prefix)
    assert_members_agree(cluster)


@pytest.mark.slow
def test_a_follower_is_brought_what_it_has_missed_however_much_on_one_connection(
    binary: Binary, make_cluster: ClusterFactory
) -> None:
    if binary.is_reference:
        pytest.skip("etcd's log has other words for it")
    cluster = make_cluster(3)
    leader, follower = cluster.leader(), cluster.followers()[0]
    follower.kill()
    wait_until(lambda: _lost(leader) == 1, "the leader has noticed")
    value = bytes(1_000_000)
    for number in range(MISSED_MEGABYTES):
        leader.client.put(b"large-%d" % (number % 4), value)
    follower.start()
    follower.wait_ready()
    cluster.wait_agreed()
    assert _lost(leader) == 1
    assert "sent a snapshot" not in leader.log.read_text()


def _lost(member: Member) -> int:
    """How often a member has lost its connection to another one."""
    return member.log.read_text().count("lost the connection to a member")


def test_a_rolling_restart_fails_no_acknowledged_write(cluster: Cluster, prefix: bytes) -> None:
    with Load(endpoints(cluster), prefix) as load:
        for member in cluster.members:
            member.terminate()
            load.wait_for_progress(20)
            member.start()
            member.wait_ready()
            load.wait_for_progress(20)
        record = load.stop()
    for member in cluster.members:
        assert_all_there(record, member.client, prefix)
    assert_members_agree(cluster)


class TestReads:
    def test_linearizable_reads_are_never_stale_across_a_leader_kill(self, cluster: Cluster) -> None:
        with Register(endpoints(cluster)) as register:
            leader = cluster.leader()
            register.wait_for_progress()
            leader.kill()
            register.wait_for_progress()
            leader.start()
            leader.wait_ready()
            register.wait_for_progress()
        assert register.reads > 100
        assert not register.stale

    @pytest.mark.slow
    def test_a_leader_that_was_cut_off_by_a_pause_answers_no_stale_read(self, cluster: Cluster) -> None:
        with Register(endpoints(cluster)) as register:
            for _ in range(2):
                leader = cluster.leader()
                leader.pause()
                try:
                    register.wait_for_progress(reads=5)
                finally:
                    leader.resume()
                register.wait_for_progress()
        assert not register.stale


class TestWithoutAQuorum:
    @pytest.fixture
    def survivor(self, cluster: Cluster) -> Iterator[Client]:
        """A client of the one member that is left, which knows that it has no leader."""
        cluster.leader().client.put(b"key", b"value")
        cluster.wait_agreed()
        left, *others = cluster.members
        for member in others:
            member.kill()

        def leaderless() -> bool:
            status = left.status()
            return status is not None and status.leader == 0

        wait_until(leaderless, "the survivor has lost its leader")
        yield left.client
        cluster.start()
        left.client.put(b"key", b"again")

    def test_serializable_reads_are_answered_and_all_else_fails(self, survivor: Client) -> None:
        kv = survivor.get(b"key", serializable=True)
        assert kv is not None
        assert kv.value == b"value"
        assert "etcdserver: no leader" in survivor.status().errors
        with pytest.raises(grpc.RpcError) as caught:
            survivor.put(b"key", b"lost", timeout=3)
        assert caught.value.code() in (grpc.StatusCode.DEADLINE_EXCEEDED, UNAVAILABLE)
        with pytest.raises(grpc.RpcError) as caught:
            survivor.range(b"key", timeout=3)
        assert caught.value.code() in (grpc.StatusCode.DEADLINE_EXCEEDED, UNAVAILABLE)

    @pytest.mark.slow
    def test_what_needs_a_quorum_times_out_by_itself(self, binary: Binary, survivor: Client) -> None:
        if binary.api_level < (3, 5):
            pytest.skip("an etcd of this age answers with a code that says nothing")
        for call in (lambda: survivor.put(b"key", b"lost"), lambda: survivor.range(b"key")):
            with pytest.raises(grpc.RpcError) as caught:
                call()
            assert caught.value.code() == UNAVAILABLE
            assert caught.value.details() in (
                "etcdserver: no leader",
                "etcdserver: request timed out",
                "etcdserver: request timed out, possibly due to previous leader failure",
                "etcdserver: request timed out, possibly due to connection lost",
            )

    def test_a_client_that_wants_a_leader_is_told_that_there_is_none(self, survivor: Client) -> None:
        wants_leader = (("hasleader", "true"),)
        for call in ("Put", "Range"):
            method = survivor.channel.unary_unary(f"/etcdserverpb.KV/{call}", None, None)
            with refused(UNAVAILABLE, "etcdserver: no leader"):
                method(b"\x0a\x03key", timeout=10, metadata=wants_leader)
        for stream in (survivor.watch_stream(wants_leader), survivor.keepalive_stream(wants_leader)):
            with refused(UNAVAILABLE, "etcdserver: no leader"):
                stream.receive()


class TestStreams:
    def test_a_watch_that_wants_a_leader_is_cancelled_when_it_is_lost(self, cluster: Cluster) -> None:
        left, *others = cluster.members
        wants_leader = (("hasleader", "true"),)
        with left.client.watch_stream(wants_leader) as watch, left.client.watch_stream() as patient:
            assert watch.create(b"key").created
            assert patient.create(b"key").created
            for member in others:
                member.kill()
            with refused(UNAVAILABLE, "etcdserver: no leader"):
                watch.receive()
            cluster.start()
            left.client.put(b"key", b"back")
            assert patient.events(1)[0].kv.value == b"back"

    def test_a_watch_on_a_follower_misses_nothing_while_the_leader_changes(
        self, cluster: Cluster, prefix: bytes
    ) -> None:
        follower, other = cluster.followers()
        with follower.client.watch_stream() as watch:
            watch.create(prefix, prefix_end(prefix))
            with Load([follower.endpoint, other.endpoint], prefix) as load:
                leader = cluster.leader()
                leader.kill()
                load.wait_for_progress()
                record = load.stop()
            events = watch.events(len(record.acknowledged))
            seen = {event.kv.key: (event.kv.value, event.kv.mod_revision) for event in events}
            # A write whose answer was lost may have happened too; what was acknowledged must have.
            while not record.acknowledged.items() <= seen.items():
                seen |= {event.kv.key: (event.kv.value, event.kv.mod_revision) for event in watch.events(1)}
            revisions = [event.kv.mod_revision for event in events]
            assert revisions == sorted(revisions)

    def test_a_watch_resumes_from_its_revision_on_another_member(self, cluster: Cluster) -> None:
        first, second = cluster.followers()
        with first.client.watch_stream() as watch:
            watch.create(b"key")
            seen = [first.client.put(b"key", b"1").header.revision]
            assert watch.events(1)[0].kv.mod_revision == seen[0]
            first.kill()
            seen.append(second.client.put(b"key", b"2").header.revision)
            with pytest.raises(grpc.RpcError):
                watch.receive()
        with second.client.watch_stream() as watch:
            watch.create(b"key", start_revision=seen[0] + 1)
            assert [event.kv.mod_revision for event in watch.events(1)] == seen[1:]


def test_what_was_compacted_stays_compacted_after_a_restart(make_cluster: ClusterFactory) -> None:
    (member,) = make_cluster(1).members
    revisions = [member.client.put(b"key", b"%d" % number).header.revision for number in range(10)]
    member.client.kv.Compact(CompactionRequest(revision=revisions[5], physical=True))
    lease = member.client.grant(300)
    member.client.put(b"leased", lease=lease)
    member.kill()
    member.start()
    member.wait_ready()
    with refused(grpc.StatusCode.OUT_OF_RANGE, "etcdserver: mvcc: required revision has been compacted"):
        member.client.range(b"key", revision=revisions[4])
    kv = member.client.get(b"key", revision=revisions[5])
    assert kv is not None
    assert kv.value == b"5"
    kv = member.client.get(b"leased")
    assert kv is not None
    assert kv.lease == lease


@pytest.mark.slow
def test_many_restarts_in_a_row(make_cluster: ClusterFactory) -> None:
    (member,) = make_cluster(1).members
    for number in range(4):
        revision = member.client.put(b"key", b"%d" % number).header.revision
        (member.kill_group if number % 2 else member.kill)()
        member.start()
        member.wait_ready()
        kv = member.client.get(b"key")
        assert kv is not None
        assert (kv.value, kv.mod_revision, kv.version) == (b"%d" % number, revision, number + 1)


class TestSigterm:
    def test_it_ends_a_member_cleanly_within_seconds(self, cluster: Cluster) -> None:
        follower = cluster.followers()[0]
        begun = time.monotonic()
        follower.terminate()
        assert time.monotonic() - begun < 5

    def test_a_leader_hands_over_before_it_goes(self, cluster: Cluster, prefix: bytes) -> None:
        leader = cluster.leader()
        others = cluster.followers()
        successors = {member.id for member in others}
        with Load([member.endpoint for member in others], prefix) as load:
            leader.terminate()
            # Followers that only miss their leader's heartbeats wait for the election timeout of 500 ms or more.
            for member in others:
                wait_until(lambda asked=member.client: asked.status().leader in successors, "it has a new leader", 0.4)  # type: ignore[misc]
            load.wait_for_progress()
            record = load.stop()
        assert_all_there(record, others[0].client, prefix)

    def test_open_streams_and_idle_connections_do_not_hold_it_up(self, make_cluster: ClusterFactory) -> None:
        (member,) = make_cluster(1).members
        with member.client.watch_stream() as watch:
            watch.create(b"key")
            begun = time.monotonic()
            member.terminate()
            assert time.monotonic() - begun < 5
            with pytest.raises((grpc.RpcError, EOFError)):
                watch.receive()
