"""Members whose role changed when it should not have, or did not when it should have."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from kvstore.errors import Unhealthy
from kvstore.pb import rpc_pb2
from kvstore.pb.rpc_pb2 import MemberAddRequest, MemberPromoteRequest, MemberUpdateRequest, MoveLeaderRequest
from kvstore.server.changes import MembershipChanges
from tests.cluster.harness import Cluster, ClusterFactory, Member, refused, wait_until


def roles(member: Member) -> dict[int, bool]:
    """Who is a learner, as this member knows it."""
    return {each.ID: each.isLearner for each in member.client.members(linearizable=False)}


def agree(cluster: Cluster, expected: dict[int, bool]) -> None:
    """Wait until all members know these roles; a learner says only what it is itself."""

    def agreed() -> bool:
        for member in cluster.members:
            status = member.client.status()
            learner = expected[status.header.member_id]
            if status.isLearner != learner or (not learner and roles(member) != expected):
                return False
        return True

    wait_until(agreed, "all members know the same roles")


def promoted(cluster: Cluster, number: int) -> bool:
    """Promote a learner as soon as it has caught up."""
    try:
        cluster.leader().client.cluster.MemberPromote(MemberPromoteRequest(ID=number))
    except grpc.RpcError as error:
        if "in sync with leader" not in (error.details() or ""):
            raise
        return False
    return True


def test_learner_promotion_lost_on_restart(make_cluster: ClusterFactory) -> None:
    """etcd 3.5 (issue 19557): a promotion was written to one of two stores of members only. Read from the other after
    a restart or an upgrade, the voter was a learner again, and the cluster had too many learners to start.

    Here members are kept in one place, in the transaction that says how far the log is applied. The promotion must be
    there after members are killed, on who joins later, and in the votes that are counted.
    """
    cluster = make_cluster(size=1)
    first = cluster.members[0]
    learner = cluster.add("m2", learner=True)
    learner.start()
    wait_until(lambda: learner.status() is not None, "the learner serves")
    expected = {first.id: False, learner.id: True}
    agree(cluster, expected)
    number = learner.id
    wait_until(lambda: promoted(cluster, number), "the learner is promoted")
    expected[number] = False
    agree(cluster, expected)

    for member in cluster.members:
        member.kill_group()
    cluster.start()
    agree(cluster, expected)
    assert all(not member.client.status().isLearner for member in cluster.members)
    # There is room for another learner, and it hears of the same voters.
    third = cluster.add("m3", learner=True)
    third.start()
    wait_until(lambda: third.status() is not None, "the second learner serves")
    agree(cluster, {**expected, third.id: True})
    # A voter counts: without it nothing is decided any more.
    learner.kill_group()
    with pytest.raises(grpc.RpcError) as refusal:
        first.client.put(b"a", b"", timeout=1.0)
    assert refusal.value.code() in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE)


def test_member_update_that_promotes_a_learner(make_cluster: ClusterFactory) -> None:
    """etcd (issue 21694): an update of a member's peer URLs replaced all that was known of it by what the request held,
    which says nothing of learners: the learner was listed as a voter, could not be promoted any more, and made room for
    more learners than allowed.

    Here an update changes peer URLs alone.
    """
    cluster = make_cluster(size=1)
    first = cluster.members[0]
    learner = cluster.add("m2", learner=True)
    [number] = [each.ID for each in first.client.members() if each.isLearner]
    urls = ["http://127.0.0.1:1", learner.peer_url]
    answer = first.client.cluster.MemberUpdate(MemberUpdateRequest(ID=number, peerURLs=urls))
    for listed in (answer.members, first.client.members()):
        [updated] = [each for each in listed if number == each.ID]
        assert (sorted(updated.peerURLs), updated.isLearner) == (sorted(urls), True)
    with refused(
        grpc.StatusCode.FAILED_PRECONDITION,
        "etcdserver: can only promote a learner member which is in sync with leader",
    ):
        first.client.cluster.MemberPromote(MemberPromoteRequest(ID=number))
    with refused(grpc.StatusCode.FAILED_PRECONDITION, "etcdserver: too many learner members in cluster"):
        first.client.cluster.MemberAdd(MemberAddRequest(peerURLs=["http://127.0.0.1:2"], isLearner=True))
    # Had it become a voter, one of two would not be enough.
    first.client.put(b"a", b"")
    first.kill_group()
    first.start()
    first.wait_ready()
    assert roles(first)[number] is True
    first.client.put(b"a", b"")


def test_member_added_while_one_is_down(make_cluster: ClusterFactory) -> None:
    """etcd (issue 21640): adding a member needed every other to be reachable, so a cluster with a member down could not
    be repaired by adding one, though the rest could well go on without it.

    Here those that are reachable must be a quorum also with the new member: then nothing stops until it has started.
    """
    cluster = make_cluster(size=4)
    down = next(member for member in cluster.members if not member.is_leader)
    down.kill_group()
    added = cluster.add("m5")
    cluster.leader().client.put(b"before it starts", b"")
    added.start()
    added.wait_ready()
    assert added.client.get(b"before it starts") is not None


def test_member_added_while_one_is_down_leads_when_that_one_comes_back(make_cluster: ClusterFactory) -> None:
    """The other side of it: a member that was down while another joined does not know where to answer that one, and
    never catches up if the new one leads.

    etcd's members tell each other their peer URLs with every stream for that; here who sends messages does.
    """
    cluster = make_cluster(size=4)
    down = next(member for member in cluster.members if not member.is_leader)
    down.kill_group()
    added = cluster.add("m5")
    added.start()
    added.wait_ready()
    request = MoveLeaderRequest(targetID=added.id)

    def leads() -> bool:
        leader = cluster.leader()
        if leader is not added:
            # Not all may be connected to it yet, and it then does not get their votes.
            with contextlib.suppress(grpc.RpcError):
                leader.client.maintenance.MoveLeader(request)
        return leader is added

    wait_until(leads, "the new member leads", 30.0)
    added.client.put(b"key", b"while it leads")
    down.start()
    down.wait_ready()
    assert down.client.get(b"key") is not None
    assert cluster.leader() is added
    cluster.wait_agreed()


@pytest.mark.parametrize(
    ("voters", "down", "allowed"),
    [(1, 0, True), (2, 0, True), (3, 0, True), (3, 1, False), (4, 1, True), (5, 1, True), (5, 2, False), (6, 2, True)],
)
def test_member_added_that_would_leave_too_few_to_go_on(voters: int, down: int, allowed: bool) -> None:
    """The other side of it: with the new member not there yet, those that are must be a quorum, or nothing could be
    decided until it is, not even that it was a mistake.
    """
    members = [rpc_pb2.Member(ID=number, name=f"m{number}") for number in range(1, voters + 1)]
    changes = object.__new__(MembershipChanges)
    changes.member_id = 1
    changes.now = lambda: 100.0
    membership: Any = SimpleNamespace(voters=lambda: members)
    connections: Any = SimpleNamespace(active_since=lambda number: None if number > voters - down else 10.0)
    changes.membership, changes.connections = membership, connections
    refusals = 0
    try:
        changes._check_connected()
    except Unhealthy:
        refusals = 1
    assert refusals == (0 if allowed else 1)
