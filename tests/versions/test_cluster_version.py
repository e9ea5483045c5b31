"""When the leader raises the cluster's version, and what a member does that cannot follow."""

from __future__ import annotations

import pytest
from google.protobuf.message import Message

from kvstore.pb.internal_pb2 import ClusterVersion as Entry
from kvstore.pb.rpc_pb2 import Member
from kvstore.rpc import Promise
from kvstore.server.cluster_version import CLUSTER_VERSION, ClusterVersion, VersionKeeper, check_stored, encode_version
from kvstore.storage.errors import ProtocolTooOld

LEADER, FOLLOWER, LEARNER = 1, 2, 3


class Cluster:
    """Everything that the leader's keeper asks: members, connections, the log."""

    def __init__(self, highest: int = 2) -> None:
        self.leads = True
        self.members = [Member(ID=LEADER), Member(ID=FOLLOWER), Member(ID=LEARNER, isLearner=True)]
        self.connected = {FOLLOWER, LEARNER}
        self.meta: dict[str, bytes] = {}
        self.version = ClusterVersion(self.meta, highest)
        self.proposed: list[tuple[int, Promise[bytes]]] = []
        self.keeper = VersionKeeper(LEADER, self.version, self, self, self, lambda: self.leads)  # type: ignore[arg-type]
        for member in (FOLLOWER, LEARNER):
            self.keeper.speaks(member, (1, 2))

    def all(self) -> list[Member]:
        return self.members

    def active_since(self, member: int) -> float | None:
        return 1.0 if member in self.connected else None

    def propose(self, kind: str, request: Message, reign: int = 0) -> Promise[bytes]:
        assert kind == "cluster_version"
        assert isinstance(request, Entry)
        promise: Promise[bytes] = Promise()
        self.proposed.append((request.version, promise))
        return promise

    @property
    def versions(self) -> list[int]:
        return [version for version, _ in self.proposed]


def test_the_leader_raises_the_version_once_everybody_speaks_it() -> None:
    cluster = Cluster()
    cluster.keeper.tick()
    cluster.keeper.tick()
    assert cluster.versions == [2]
    cluster.version.apply(Entry(version=2))
    cluster.proposed[0][1].set_result(b"")
    cluster.keeper.tick()
    assert cluster.versions == [2]
    assert cluster.version.spoken == (2, 2)


def test_what_is_lost_on_the_way_is_proposed_again() -> None:
    cluster = Cluster()
    cluster.keeper.tick()
    cluster.proposed[0][1].set_exception(RuntimeError("the leader has changed"))
    cluster.keeper.tick()
    assert cluster.versions == [2, 2]


def test_a_follower_decides_nothing() -> None:
    cluster = Cluster()
    cluster.leads = False
    cluster.keeper.tick()
    assert cluster.versions == []


@pytest.mark.parametrize("older", [FOLLOWER, LEARNER])
def test_one_older_member_is_enough_to_stay(older: int) -> None:
    cluster = Cluster()
    cluster.keeper.speaks(older, (1, 1))
    cluster.keeper.tick()
    assert cluster.versions == []
    cluster.keeper.speaks(older, (1, 2))
    cluster.keeper.tick()
    assert cluster.versions == [2]


def test_a_member_that_is_not_connected_may_come_back_as_another_build() -> None:
    cluster = Cluster()
    cluster.connected.discard(LEARNER)
    cluster.keeper.tick()
    assert cluster.versions == []


def test_a_member_that_has_not_said_what_it_speaks_is_waited_for() -> None:
    cluster = Cluster()
    cluster.members.append(Member(ID=9))
    cluster.connected.add(9)
    cluster.keeper.tick()
    assert cluster.versions == []


def test_a_leader_that_is_older_itself_raises_nothing() -> None:
    cluster = Cluster(highest=1)
    cluster.keeper.tick()
    assert cluster.versions == []


def test_the_version_is_stored_and_never_lowered() -> None:
    cluster = Cluster()
    cluster.version.apply(Entry(version=2))
    cluster.version.apply(Entry(version=1))
    assert cluster.version.current == 2
    assert ClusterVersion(cluster.meta, 2).current == 2


def test_a_member_that_cannot_follow_stops() -> None:
    cluster = Cluster(highest=1)
    with pytest.raises(ProtocolTooOld, match=r"gone on to version 2 .* speaks only up to 1; install"):
        cluster.version.apply(Entry(version=2))
    assert CLUSTER_VERSION not in cluster.meta


def test_a_state_that_counts_on_more_is_refused() -> None:
    stored = {CLUSTER_VERSION.encode(): encode_version(2)}
    with pytest.raises(
        ProtocolTooOld, match=r"/data: belongs to a cluster that speaks version 2 .* only up to 1; install"
    ):
        check_stored(stored, 1, "/data")
    check_stored(stored, 2, "/data")
    check_stored({}, 1, "/data")
    with pytest.raises(ProtocolTooOld):
        ClusterVersion({CLUSTER_VERSION: encode_version(2)}, 1)
