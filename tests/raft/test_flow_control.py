"""How much a leader sends before it hears back, and how it goes on when it hears nothing."""

from __future__ import annotations

from typing import Any

import pytest

from raft import (
    HardState,
    Message,
    MessageType,
    ProgressState,
    ProposalDropped,
)
from raft.sizes import entries_size
from tests.raft.harness import Cluster, Member, log_of, of_type

_APP, _APP_RESP = MessageType.APP, MessageType.APP_RESP


def replicating_leader(**config: Any) -> Member:
    """A leader whose peer 2 has acknowledged everything, and takes a stream of appends."""
    member = Member(**config)
    member.become_leader()
    member.receive(Message(_APP_RESP, 1, 2, 1, index=1))
    return member


def sent_to_2(messages: list[Message]) -> list[Message]:
    return [m for m in of_type(messages, _APP) if m.to == 2]


class TestInflightMessages:
    def test_appends_stop_when_the_window_is_full(self) -> None:
        leader = replicating_leader(max_inflight_msgs=3)
        sent = []
        for _ in range(5):
            leader.node.propose(b"x")
            sent += sent_to_2(leader.work())
        assert [[entry.index for entry in m.entries] for m in sent] == [[2], [3], [4]]

    def test_each_acknowledgement_makes_room(self) -> None:
        leader = replicating_leader(max_inflight_msgs=2)
        for _ in range(6):
            leader.node.propose(b"x")
        leader.work()
        sent = sent_to_2(leader.receive(Message(_APP_RESP, 1, 2, 1, index=2)))
        assert [entry.index for m in sent for entry in m.entries] == [4, 5, 6, 7]
        # One answered, two under way again: what was left went out in one append.
        assert leader.node.status().progress[2].is_paused()

    def test_an_acknowledgement_of_several_frees_them_all(self) -> None:
        leader = replicating_leader(max_inflight_msgs=3)
        for _ in range(3):
            leader.node.propose(b"x")
        leader.work()
        leader.receive(Message(_APP_RESP, 1, 2, 1, index=4))
        assert len(leader.node.status().progress[2].inflights) == 0

    def test_a_full_window_gets_an_empty_append_for_each_heartbeat_answer(self) -> None:
        leader = replicating_leader(max_inflight_msgs=2)
        for _ in range(3):
            leader.node.propose(b"x")
        leader.work()
        for _ in range(2):
            (probe,) = sent_to_2(leader.receive(Message(MessageType.HEARTBEAT_RESP, 1, 2, 1)))
            assert (probe.index, len(probe.entries)) == (3, 0)
            # Only one: the next waits for an answer.
            leader.node.propose(b"x")
            assert sent_to_2(leader.work()) == []

    def test_a_rejected_probe_lets_a_stalled_window_start_over(self) -> None:
        leader = replicating_leader(max_inflight_msgs=2)
        for _ in range(3):
            leader.node.propose(b"x")
        leader.work()
        leader.receive(Message(MessageType.HEARTBEAT_RESP, 1, 2, 1))
        rejected = Message(_APP_RESP, 1, 2, 1, index=3, reject=True, reject_hint=1, log_term=1)
        (again,) = sent_to_2(leader.receive(rejected))
        assert [entry.index for entry in again.entries] == [2, 3, 4]
        assert leader.node.status().progress[2].state == ProgressState.PROBE


class TestInflightBytes:
    def test_appends_stop_when_too_many_bytes_are_under_way(self) -> None:
        leader = replicating_leader(max_inflight_bytes=250, max_size_per_msg=200)
        for _ in range(4):
            leader.node.propose(bytes(100))
        assert len(sent_to_2(leader.work())) == 3
        assert leader.node.status().progress[2].is_paused()

    def test_an_acknowledgement_makes_room_in_bytes(self) -> None:
        leader = replicating_leader(max_inflight_bytes=250, max_size_per_msg=200)
        for _ in range(4):
            leader.node.propose(bytes(100))
        leader.work()
        sent = sent_to_2(leader.receive(Message(_APP_RESP, 1, 2, 1, index=2)))
        assert [entry.index for m in sent for entry in m.entries] == [5]

    def test_one_larger_than_the_limit_is_sent_alone(self) -> None:
        leader = replicating_leader(max_inflight_bytes=200, max_size_per_msg=200)
        leader.node.propose(bytes(1000))
        leader.node.propose(bytes(1))
        assert [len(m.entries) for m in sent_to_2(leader.work())] == [1]


class TestMessageSize:
    def test_a_message_holds_no_more_than_its_limit(self) -> None:
        limit = entries_size(log_of(1, 1))
        cluster = Cluster(max_size_per_msg=limit)
        cluster.elect(1)
        cluster.separate(3)
        cluster.propose(1, *[b"%d" % i for i in range(9)])
        cluster.heal()
        sizes: list[int] = []

        def watch(message: Message) -> bool:
            if message.to == 3 and message.entries:
                sizes.append(entries_size(message.entries))
            return False

        cluster.lost = watch
        cluster.tick(3)
        assert max(sizes) <= limit
        assert cluster[3].payloads == cluster[1].payloads

    def test_a_limit_of_0_sends_one_entry_a_message(self) -> None:
        leader = Member(max_size_per_msg=0, log=log_of(1, 1, 1))
        leader.become_leader()
        sent = leader.receive(Message(_APP_RESP, 1, 2, 2, index=1, reject=False))
        assert {len(m.entries) for m in sent_to_2(sent)} == {1}


class TestUncommittedSize:
    def test_proposals_beyond_the_limit_are_dropped(self) -> None:
        leader = replicating_leader(max_uncommitted_entries_size=100)
        leader.node.propose(bytes(60))
        with pytest.raises(ProposalDropped):
            leader.node.propose(bytes(60))
        leader.node.propose(bytes(40))

    def test_one_larger_than_the_limit_is_taken_if_there_is_no_other(self) -> None:
        leader = replicating_leader(max_uncommitted_entries_size=100)
        leader.node.propose(bytes(1000))
        with pytest.raises(ProposalDropped):
            leader.node.propose(b"x")

    def test_entries_without_payload_are_always_taken(self) -> None:
        leader = replicating_leader(max_uncommitted_entries_size=100)
        leader.node.propose(bytes(100))
        leader.node.propose(b"")

    def test_applying_makes_room(self) -> None:
        leader = replicating_leader(max_uncommitted_entries_size=100)
        leader.node.propose(bytes(100))
        leader.work()
        leader.receive(Message(_APP_RESP, 1, 2, 1, index=2))
        leader.node.propose(bytes(100))

    def test_a_batch_is_taken_or_dropped_as_a_whole(self) -> None:
        leader = replicating_leader(max_uncommitted_entries_size=100)
        leader.node.propose(b"x")
        with pytest.raises(ProposalDropped):
            leader.node.propose_batch([bytes(40)] * 3)
        leader.work()
        assert leader.storage.last_index() == 2

    def test_a_new_term_counts_from_nothing(self) -> None:
        leader = replicating_leader(max_uncommitted_entries_size=100)
        leader.node.propose(bytes(100))
        leader.receive(Message(_APP, 1, 2, 2))
        leader.become_leader()
        leader.node.propose(bytes(100))


class TestProbing:
    def test_one_append_a_heartbeat_until_one_is_accepted(self) -> None:
        leader = Member()
        assert len(sent_to_2(leader.become_leader())) == 1
        for _ in range(3):
            leader.node.propose(b"x")
            assert sent_to_2(leader.work()) == []
        assert len(sent_to_2(leader.receive(Message(MessageType.HEARTBEAT_RESP, 1, 2, 1)))) == 1

    def test_an_unreachable_peer_is_probed_from_what_it_acknowledged(self) -> None:
        leader = replicating_leader()
        for _ in range(3):
            leader.node.propose(b"x")
        leader.work()
        leader.node.report_unreachable(2)
        progress = leader.node.status().progress[2]
        assert (progress.state, progress.next) == (ProgressState.PROBE, 2)

    def test_a_stale_rejection_changes_nothing(self) -> None:
        leader = replicating_leader()
        leader.node.propose(b"x")
        leader.work()
        leader.receive(Message(_APP_RESP, 1, 2, 1, index=2))
        stale = Message(_APP_RESP, 1, 2, 1, index=1, reject=True, reject_hint=0)
        assert leader.receive(stale) == []
        assert leader.node.status().progress[2].match == 2

    def test_a_heartbeat_never_commits_beyond_what_the_peer_has(self) -> None:
        leader = replicating_leader()
        leader.node.propose(b"x")
        leader.work()
        leader.receive(Message(_APP_RESP, 1, 3, 1, index=2))
        commits = {m.to: m.commit for m in of_type(leader.tick(), MessageType.HEARTBEAT)}
        assert commits == {2: 1, 3: 2}


def test_a_forwarded_proposal_is_not_changed_by_the_leader_that_takes_it() -> None:
    follower = Member(hard_state=HardState(term=1))
    follower.receive(Message(MessageType.HEARTBEAT, 1, 2, 1))
    follower.node.propose(b"x")
    (forwarded,) = follower.work()
    leader = Member(2)
    leader.become_leader()
    leader.receive(forwarded)
    assert (forwarded.entries[0].term, forwarded.entries[0].index) == (0, 0)


def test_forwarding_can_be_switched_off() -> None:
    follower = Member(hard_state=HardState(term=1), disable_proposal_forwarding=True)
    follower.receive(Message(MessageType.HEARTBEAT, 1, 2, 1))
    with pytest.raises(ProposalDropped):
        follower.node.propose(b"x")
    assert follower.work() == []
