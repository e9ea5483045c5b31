"""How a leader hands a snapshot to a peer it cannot bring up to date from its log."""

from __future__ import annotations

import pytest

from raft import (
    ConfChange,
    ConfChangeType,
    ConfState,
    InvariantViolation,
    Message,
    MessageType,
    ProgressState,
    Snapshot,
    SnapshotTemporarilyUnavailable,
)
from tests.raft.harness import Cluster, Member, log_of, of_type, snapshot_at

_APP, _APP_RESP, _SNAP = MessageType.APP, MessageType.APP_RESP, MessageType.SNAP


def leader_without_early_log() -> Member:
    """A leader of term 2 with a snapshot at 3, entries from 4 on, and a peer 2 that has nothing of either."""
    leader = Member(log=log_of(1, 1, 1))
    leader.become_leader()
    leader.receive(Message(_APP_RESP, 1, 3, 2, index=4))
    leader.take_snapshot(keep=1)
    return leader


def reject(leader: Member) -> list[Message]:
    """Peer 2 tells that its log is empty."""
    return leader.receive(Message(_APP_RESP, 1, 2, 2, index=3, reject=True, reject_hint=0))


class TestSending:
    def test_a_peer_that_was_not_heard_from_gets_none(self) -> None:
        leader = leader_without_early_log()
        leader.node.raft.tracker.progress[2].next = 1
        leader.node.propose(b"x")
        assert [m for m in leader.work() if m.to == 2] == []

    def test_appends_wait_until_the_snapshot_is_answered(self) -> None:
        leader = leader_without_early_log()
        (sent,) = reject(leader)
        assert (sent.type, sent.to) == (_SNAP, 2)
        progress = leader.node.status().progress[2]
        assert (progress.state, progress.pending_snapshot, progress.next) == (ProgressState.SNAPSHOT, 4, 5)
        leader.node.propose(b"x")
        assert [m for m in leader.work() if m.to == 2] == []

    def test_an_unavailable_snapshot_is_asked_for_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        leader = leader_without_early_log()

        def unavailable() -> Snapshot:
            raise SnapshotTemporarilyUnavailable

        with monkeypatch.context() as patch:
            patch.setattr(leader.storage, "snapshot", unavailable)
            assert reject(leader) == []
        (sent,) = of_type(leader.receive(Message(MessageType.HEARTBEAT_RESP, 1, 2, 2)), _SNAP)
        assert sent.to == 2

    def test_an_empty_snapshot_is_a_bug_of_the_storage(self, monkeypatch: pytest.MonkeyPatch) -> None:
        leader = leader_without_early_log()
        monkeypatch.setattr(leader.storage, "snapshot", Snapshot)
        with pytest.raises(InvariantViolation, match="non-empty snapshot"):
            reject(leader)


class TestReports:
    def test_success_goes_on_after_the_snapshot_once_the_peer_answers(self) -> None:
        leader = leader_without_early_log()
        reject(leader)
        leader.node.report_snapshot(2, ok=True)
        progress = leader.node.status().progress[2]
        assert (progress.state, progress.next, progress.is_paused()) == (ProgressState.PROBE, 5, True)

    def test_failure_goes_back_to_what_the_peer_had(self) -> None:
        leader = leader_without_early_log()
        reject(leader)
        leader.node.report_snapshot(2, ok=False)
        progress = leader.node.status().progress[2]
        assert (progress.state, progress.next, progress.is_paused()) == (ProgressState.PROBE, 1, True)
        # A heartbeat later it is tried again.
        (again,) = of_type(leader.receive(Message(MessageType.HEARTBEAT_RESP, 1, 2, 2)), _SNAP)
        assert again.to == 2

    def test_a_report_about_a_peer_without_snapshot_is_ignored(self) -> None:
        leader = leader_without_early_log()
        leader.node.report_snapshot(3, ok=False)
        assert leader.node.status().progress[3].state == ProgressState.REPLICATE

    @pytest.mark.parametrize("index", [3, 4], ids=["older than the one sent", "the one sent"])
    def test_any_answer_that_reaches_the_log_resumes(self, index: int) -> None:
        leader = leader_without_early_log()
        reject(leader)
        leader.node.propose(b"x")
        sent = of_type(leader.receive(Message(_APP_RESP, 1, 2, 2, index=index)), _APP)
        progress = leader.node.status().progress[2]
        assert progress.state == ProgressState.REPLICATE
        assert [entry.index for m in sent if m.to == 2 for entry in m.entries] == list(range(index + 1, 6))

    def test_an_answer_that_does_not_reach_the_log_does_not(self) -> None:
        leader = leader_without_early_log()
        reject(leader)
        leader.receive(Message(_APP_RESP, 1, 2, 2, index=2))
        assert leader.node.status().progress[2].state == ProgressState.SNAPSHOT


class TestReceiving:
    def test_the_configuration_comes_with_it(self) -> None:
        member = Member(voters=[1, 2])
        conf_state = ConfState([1, 3], [4], [1, 2], [2], True)
        snapshot = snapshot_at(9, 2)
        snapshot.metadata.conf_state = conf_state
        member.receive(Message(_SNAP, 1, 2, 2, snapshot=snapshot))
        assert member.node.status().config.conf_state() == conf_state

    def test_one_that_does_not_name_the_member_is_ignored(self) -> None:
        member = Member(4, [1, 2, 3, 4])
        (answer,) = member.receive(Message(_SNAP, 4, 2, 2, snapshot=snapshot_at(9, 2)))
        assert answer.index == 0
        assert member.commit == 0

    def test_a_member_does_not_campaign_before_it_is_stored(self) -> None:
        member = Member()
        member.node.step(Message(_SNAP, 1, 2, 2, snapshot=snapshot_at(9, 2)))
        member.node.campaign()
        assert member.term == 2
        member.work()
        member.node.campaign()
        assert member.term == 3

    def test_a_learner_and_a_newcomer_are_brought_up_to_date(self) -> None:
        cluster = Cluster()
        cluster.elect(1)
        cluster.propose(1, b"a", b"b")
        newcomer = cluster.add(Member(4, []))
        cluster.separate(4)
        cluster[1].node.propose_conf_change(ConfChange(type=ConfChangeType.ADD_LEARNER_NODE, node_id=4))
        cluster.settle()
        cluster[1].take_snapshot()
        cluster.heal()
        cluster.tick(2)
        cluster.propose(1, b"c")
        assert newcomer.commit == cluster[1].commit
        assert newcomer.conf_state.learners == [4]
        assert newcomer.payloads == [b"c"]
