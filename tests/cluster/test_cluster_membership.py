"""The Cluster service: listing, and every refusal to change the membership. Changes that go through are tested where
members come and go under load.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import grpc
import pytest

from kvstore.pb.rpc_pb2 import (
    Member,
    MemberAddRequest,
    MemberAddResponse,
    MemberPromoteRequest,
    MemberRemoveRequest,
    MemberUpdateRequest,
)
from tests.cluster.harness import Binary, Client, Cluster, ClusterFactory, refused, wait_until

INVALID = grpc.StatusCode.INVALID_ARGUMENT
PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION
NOT_FOUND = grpc.StatusCode.NOT_FOUND
UNKNOWN_ID = 0x1234


def add(client: Client, url: str, *, learner: bool = False) -> MemberAddResponse:
    """Add a member; a cluster that has just started is not healthy enough for it in its first seconds."""

    def attempt() -> MemberAddResponse | None:
        try:
            response: MemberAddResponse = client.cluster.MemberAdd(MemberAddRequest(peerURLs=[url], isLearner=learner))
        except grpc.RpcError as error:
            if error.details() == "etcdserver: unhealthy cluster":
                return None
            raise AssertionError(f"{error.code()}: {error.details()}") from error
        return response

    return wait_until(attempt, "the member is added", 30)


@contextmanager
def learner(client: Client, url: str) -> Iterator[Member]:
    """A learner that nobody starts, and its removal."""
    added = add(client, url, learner=True).member
    try:
        yield added
    finally:
        client.cluster.MemberRemove(MemberRemoveRequest(ID=added.ID))


def test_every_member_lists_all_members(cluster: Cluster) -> None:
    ids = {member.id for member in cluster.members}
    for asked in cluster.members:
        for linearizable in (True, False):
            listed = asked.client.members(linearizable=linearizable)
            assert {member.ID for member in listed} == ids
            assert {member.name for member in listed} == {"m1", "m2", "m3"}
            assert {url for member in listed for url in member.peerURLs} == {m.peer_url for m in cluster.members}
            assert {url for member in listed for url in member.clientURLs} == {m.client_url for m in cluster.members}
            assert not any(member.isLearner for member in listed)


def test_a_learner_is_listed_and_gone_after_its_removal(cluster: Cluster, client: Client) -> None:
    with learner(client, "http://127.0.0.1:1") as added:
        assert added.isLearner
        assert (added.name, list(added.peerURLs), list(added.clientURLs)) == ("", ["http://127.0.0.1:1"], [])
        for member in cluster.members:
            wait_until(
                lambda client=member.client: added in client.members(linearizable=False),  # type: ignore[misc]
                "the learner is listed",
            )
    assert added.ID not in {member.ID for member in client.members()}


def test_the_answer_of_an_addition_lists_all_members(client: Client) -> None:
    added = add(client, "http://127.0.0.1:2", learner=True)
    answer = client.cluster.MemberRemove(MemberRemoveRequest(ID=added.member.ID))
    assert added.member in added.members
    assert len(added.members) == 4
    assert len(answer.members) == 3


class TestErrors:
    @pytest.mark.parametrize("urls", [[], ["nonsense"], ["http://127.0.0.1"], ["ftp://127.0.0.1:1"], ["127.0.0.1:1"]])
    def test_bad_peer_urls(self, client: Client, urls: list[str]) -> None:
        with refused(INVALID, "etcdserver: given member URLs are invalid"):
            client.cluster.MemberAdd(MemberAddRequest(peerURLs=urls))

    def test_a_peer_url_that_is_taken(self, cluster: Cluster, client: Client) -> None:
        for member in cluster.members:
            with refused(PRECONDITION, "etcdserver: Peer URLs already exists"):
                client.cluster.MemberAdd(MemberAddRequest(peerURLs=[member.peer_url]))

    def test_an_unknown_member(self, client: Client) -> None:
        with refused(NOT_FOUND, "etcdserver: member not found"):
            client.cluster.MemberRemove(MemberRemoveRequest(ID=UNKNOWN_ID))
        with refused(NOT_FOUND, "etcdserver: member not found"):
            client.cluster.MemberUpdate(MemberUpdateRequest(ID=UNKNOWN_ID, peerURLs=["http://127.0.0.1:4"]))
        with refused(NOT_FOUND, "etcdserver: member not found"):
            client.cluster.MemberPromote(MemberPromoteRequest(ID=UNKNOWN_ID))

    def test_promoting_a_voter(self, cluster: Cluster, client: Client) -> None:
        with refused(PRECONDITION, "etcdserver: can only promote a learner member"):
            client.cluster.MemberPromote(MemberPromoteRequest(ID=cluster.members[0].id))

    def test_promoting_a_learner_that_never_started(self, cluster: Cluster, client: Client) -> None:
        with learner(client, "http://127.0.0.1:5") as added:
            for member in cluster.members:
                with refused(
                    PRECONDITION, "etcdserver: can only promote a learner member which is in sync with leader"
                ):
                    member.client.cluster.MemberPromote(MemberPromoteRequest(ID=added.ID))

    def test_a_second_learner(self, client: Client) -> None:
        with (
            learner(client, "http://127.0.0.1:6"),
            refused(PRECONDITION, "etcdserver: too many learner members in cluster"),
        ):
            client.cluster.MemberAdd(MemberAddRequest(peerURLs=["http://127.0.0.1:7"], isLearner=True))


def test_a_change_that_would_break_the_quorum_of_started_members(binary: Binary, make_cluster: ClusterFactory) -> None:
    cluster = make_cluster(1)
    client, member_id = cluster.members[0].client, cluster.members[0].id
    # etcd 3.4 gives this text without its code.
    code = PRECONDITION if binary.api_level >= (3, 5) else grpc.StatusCode.UNKNOWN
    add(client, "http://127.0.0.1:8")
    with refused(code, "etcdserver: re-configuration failed due to not enough started members"):
        client.cluster.MemberAdd(MemberAddRequest(peerURLs=["http://127.0.0.1:9"]))
    with refused(code, "etcdserver: re-configuration failed due to not enough started members"):
        client.cluster.MemberRemove(MemberRemoveRequest(ID=member_id))


def test_a_members_peer_urls_can_be_changed(make_cluster: ClusterFactory) -> None:
    cluster = make_cluster(1)
    client, own = cluster.members[0].client, cluster.members[0]
    urls = sorted([own.peer_url, f"http://localhost:{own.peer_port}"])
    answer = client.cluster.MemberUpdate(MemberUpdateRequest(ID=own.id, peerURLs=urls))
    assert [sorted(member.peerURLs) for member in answer.members] == [urls]
    own.kill()
    own.start()
    own.wait_ready()
    assert [sorted(member.peerURLs) for member in own.client.members()] == [urls]


def test_a_learner_serves_only_what_it_may(binary: Binary, make_cluster: ClusterFactory) -> None:
    cluster = make_cluster(1)
    cluster.leader().client.put(b"key", b"value")
    added = cluster.add("m2", learner=True)
    added.start()

    def reads() -> bool:
        kv = added.client.get(b"key", serializable=True, timeout=1)
        return kv is not None and kv.value == b"value"

    wait_until(reads, "the learner serves serializable reads")
    assert added.client.status().isLearner
    code = PRECONDITION if binary.api_level >= (3, 5) else grpc.StatusCode.UNAVAILABLE
    for call in (
        lambda: added.client.put(b"key"),
        lambda: added.client.range(b"key"),
        lambda: added.client.delete(b"key"),
        lambda: added.client.grant(60),
        lambda: added.client.members(),
    ):
        with refused(code, "etcdserver: rpc not supported for learner"):
            call()
