"""How far a leader may cut its log while others catch up."""

from __future__ import annotations

import pytest

from kvstore.server.retention import Retention
from raft.messages import Message, MessageType
from tests.raft.harness import Member, log_of


@pytest.fixture
def leader() -> Member:
    """Of three members, with some hundred entries; member 2 has the first four, of member 3 nothing is known."""
    made = Member(log=log_of(1, 1, 1))
    made.become_leader()
    made.receive(Message(MessageType.APP_RESP, 1, 2, 2, index=4))
    for _ in range(100):
        made.node.propose(b"x")
    made.work()
    return made


def limit(leader: Member, copies: dict[int, int], cut: int) -> int:
    return Retention(leader.node, lambda: copies).limit(cut)


def test_a_member_that_was_sent_nothing_holds_nobody_up(leader: Member) -> None:
    assert limit(leader, {}, 90) == 90


def test_the_log_stays_from_where_a_copy_ends(leader: Member) -> None:
    assert limit(leader, {3: 50}, 90) == 50
    assert limit(leader, {3: 95}, 90) == 90


def test_a_member_that_goes_on_from_its_copy_keeps_what_it_still_lacks(leader: Member) -> None:
    leader.receive(Message(MessageType.APP_RESP, 1, 2, 2, index=70))
    assert limit(leader, {2: 50}, 90) == 70
    leader.receive(Message(MessageType.APP_RESP, 1, 2, 2, index=95))
    assert limit(leader, {2: 50}, 90) == 90


def test_the_one_that_is_behind_most_decides(leader: Member) -> None:
    assert limit(leader, {2: 60, 3: 40}, 90) == 40


def test_copies_to_removed_members_and_of_one_that_no_longer_leads_count_for_nothing(leader: Member) -> None:
    assert limit(leader, {9: 10}, 90) == 90
    leader.receive(Message(MessageType.HEARTBEAT, 1, 2, 9))
    assert limit(leader, {3: 50}, 90) == 90
