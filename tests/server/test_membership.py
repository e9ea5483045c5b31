"""The rules of membership, over the tables of a real backend."""

from pathlib import Path

import pytest

from kvstore import errors
from kvstore.pb import internal_pb2
from kvstore.pb.rpc_pb2 import AlarmMember, AlarmRequest, AlarmType, Member
from kvstore.server.alarms import Alarms
from kvstore.server.membership import Membership, cluster_id, member_id
from kvstore.storage.backend import Backend, open_inline
from kvstore.storage.batch import TableSpec
from raft.messages import ConfChange, ConfChangeType

TABLES = [TableSpec("members"), TableSpec("removed_members"), TableSpec("alarms")]


@pytest.fixture
def backend(tmp_path: Path) -> Backend:
    return open_inline(tmp_path, TABLES)


@pytest.fixture
def membership(backend: Backend) -> Membership:
    return Membership(backend.table("members"), backend.table("removed_members"))


def change(
    kind: ConfChangeType, number: int, *urls: str, promote: bool = False
) -> tuple[ConfChange, internal_pb2.MemberChange]:
    return ConfChange(0, kind, number), internal_pb2.MemberChange(
        member=Member(ID=number, peerURLs=urls), promote=promote
    )


def carry_out(membership: Membership, kind: ConfChangeType, number: int, *urls: str, promote: bool = False) -> None:
    made = change(kind, number, *urls, promote=promote)
    assert membership.verdict(*made) is None
    membership.apply(*made)


def test_ids_depend_on_urls_and_token_only() -> None:
    assert member_id(["http://b:1", "http://a:1"], "t") == member_id(["http://a:1", "http://b:1"], "t")
    assert len({member_id(["http://a:1"], "t"), member_id(["http://a:1"], "u"), member_id(["http://b:1"], "t")}) == 3
    assert cluster_id([1, 2], "t") == cluster_id([2, 1], "t") != cluster_id([1, 2], "u")


def test_a_removed_member_never_comes_back(membership: Membership) -> None:
    carry_out(membership, ConfChangeType.ADD_NODE, 1, "http://a:1")
    carry_out(membership, ConfChangeType.ADD_NODE, 2, "http://b:1")
    carry_out(membership, ConfChangeType.REMOVE_NODE, 1)
    assert membership.is_removed(1)
    verdict = membership.verdict(*change(ConfChangeType.ADD_NODE, 1, "http://a:1"))
    assert isinstance(verdict, errors.MemberNotFound)


def test_a_removal_is_settled_when_it_is_said_so_and_stays_it(backend: Backend, membership: Membership) -> None:
    changed: list[int] = []
    for number in (1, 2, 3):
        carry_out(membership, ConfChangeType.ADD_NODE, number, f"http://a:{number}")
    carry_out(membership, ConfChangeType.REMOVE_NODE, 1)
    carry_out(membership, ConfChangeType.REMOVE_NODE, 2)
    assert membership.unsettled == [1, 2]
    membership.on_change = changed.append
    membership.settle([2, 3, 77])
    again = Membership(backend.table("members"), backend.table("removed_members"))
    for each in (membership, again):
        assert [each.is_settled(number) for number in (1, 2, 3, 77)] == [False, True, False, False]
        assert each.unsettled == [1]
        assert each.is_removed(1)
    assert changed == [2]


def test_the_only_voter_is_not_removed(membership: Membership) -> None:
    carry_out(membership, ConfChangeType.ADD_NODE, 1, "http://a:1")
    carry_out(membership, ConfChangeType.ADD_LEARNER_NODE, 2, "http://a:2")
    verdict = membership.verdict(*change(ConfChangeType.REMOVE_NODE, 1))
    assert isinstance(verdict, errors.MemberNotEnoughStarted)
    carry_out(membership, ConfChangeType.REMOVE_NODE, 2)


def test_an_update_does_not_promote_a_learner(membership: Membership) -> None:
    carry_out(membership, ConfChangeType.ADD_LEARNER_NODE, 1, "http://a:1")
    carry_out(membership, ConfChangeType.UPDATE_NODE, 1, "http://b:1")
    [member] = membership.all()
    assert member.isLearner
    assert list(member.peerURLs) == ["http://b:1"]


def test_a_promotion_keeps_everything_but_the_role(membership: Membership) -> None:
    carry_out(membership, ConfChangeType.ADD_LEARNER_NODE, 1, "http://a:1")
    membership.set_attributes(internal_pb2.MemberAttributes(member_id=1, name="m1", client_urls=["http://a:2"]))
    carry_out(membership, ConfChangeType.ADD_NODE, 1, promote=True)
    [member] = membership.all()
    assert (member.isLearner, member.name, list(member.peerURLs)) == (False, "m1", ["http://a:1"])
    assert membership.conf_state().voters == [1]


def test_two_members_cannot_share_a_url(membership: Membership) -> None:
    carry_out(membership, ConfChangeType.ADD_NODE, 1, "http://a:1")
    assert isinstance(membership.verdict(*change(ConfChangeType.ADD_NODE, 2, "http://a:1")), errors.PeerURLExist)
    with pytest.raises(errors.PeerURLExist):
        membership.check_add(["http://a:1"], is_learner=False, max_learners=1)


def test_learners_are_limited(membership: Membership) -> None:
    carry_out(membership, ConfChangeType.ADD_LEARNER_NODE, 1, "http://a:1")
    with pytest.raises(errors.TooManyLearners):
        membership.check_add(["http://b:1"], is_learner=True, max_learners=1)


def test_everything_is_there_again_after_reload(backend: Backend, membership: Membership) -> None:
    carry_out(membership, ConfChangeType.ADD_NODE, 1, "http://a:1")
    carry_out(membership, ConfChangeType.ADD_NODE, 3, "http://c:1")
    carry_out(membership, ConfChangeType.ADD_LEARNER_NODE, 2, "http://b:1")
    carry_out(membership, ConfChangeType.REMOVE_NODE, 1)
    backend.flush()
    again = Membership(backend.table("members"), backend.table("removed_members"))
    assert again.all() == membership.all()
    assert again.is_removed(1)


def test_an_alarm_stays_until_it_is_disarmed(backend: Backend) -> None:
    alarms = Alarms(backend.table("alarms"))
    raised = AlarmMember(memberID=7, alarm=AlarmType.NOSPACE)
    assert alarms.apply(AlarmRequest(action=AlarmRequest.ACTIVATE, memberID=7, alarm=AlarmType.NOSPACE)) == [raised]
    again = Alarms(backend.table("alarms"))
    assert again.no_space
    assert again.raised() == [raised]
    assert again.apply(AlarmRequest(action=AlarmRequest.DEACTIVATE, memberID=8, alarm=AlarmType.NOSPACE)) == []
    assert again.no_space
    assert again.apply(AlarmRequest(action=AlarmRequest.DEACTIVATE, memberID=7, alarm=AlarmType.NOSPACE)) == [raised]
    assert not again.no_space
    assert Alarms(backend.table("alarms")).raised() == []
