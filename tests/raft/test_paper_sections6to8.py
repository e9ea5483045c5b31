"""The rules of sections 6 to 8 of the Raft paper: membership changes, log compaction, clients."""

from __future__ import annotations

import pytest

from raft import (
    ConfChange,
    ConfChangeSingle,
    ConfChangeTransition,
    ConfChangeType,
    ConfChangeV2,
    Entry,
    EntryType,
    Message,
    MessageType,
    StateType,
)
from tests.raft.harness import ELECTION_TICK, Cluster, Member, log_of, of_type, snapshot_at

_ADD, _REMOVE = ConfChangeType.ADD_NODE, ConfChangeType.REMOVE_NODE
_LEARN = ConfChangeType.ADD_LEARNER_NODE


def joint(*changes: tuple[ConfChangeType, int], explicit: bool = True) -> ConfChangeV2:
    """A change of these members through a joint configuration."""
    transition = ConfChangeTransition.JOINT_EXPLICIT if explicit else ConfChangeTransition.JOINT_IMPLICIT
    return ConfChangeV2(transition, [ConfChangeSingle(*change) for change in changes])


def grown_cluster(size: int, *newcomers: int) -> Cluster:
    """A group led by 1, with members that wait outside of it."""
    cluster = Cluster(size)
    for id in newcomers:
        cluster.add(Member(id, range(1, size + 1)))
    cluster.elect(1)
    return cluster


class TestMembershipChanges6:
    def test_a_joint_configuration_replicates_to_all_servers_of_both(self) -> None:
        cluster = grown_cluster(3, 4, 5)
        cluster[1].node.propose_conf_change(joint((_ADD, 4), (_ADD, 5), (_REMOVE, 2), (_REMOVE, 3)))
        cluster.settle()
        cluster.propose(1, b"to all")
        assert [id for id, member in cluster.members.items() if b"to all" in member.payloads] == [1, 2, 3, 4, 5]

    def test_any_server_of_either_configuration_may_serve_as_leader(self) -> None:
        for leader in (2, 4):
            cluster = grown_cluster(3, 4)
            cluster[1].node.propose_conf_change(joint((_ADD, 4), (_REMOVE, 2)))
            cluster.settle()
            cluster.elect(leader)

    @pytest.mark.parametrize("lost", [(2, 3), (4, 5)], ids=["old majority", "new majority"])
    def test_agreement_in_a_joint_configuration_needs_both_majorities(self, lost: tuple[int, int]) -> None:
        cluster = grown_cluster(3, 4, 5)
        cluster[1].node.propose_conf_change(joint((_ADD, 4), (_ADD, 5), (_REMOVE, 2), (_REMOVE, 3)))
        cluster.settle()
        cluster.separate(*lost)
        cluster.propose(1, b"x")
        assert cluster[1].payloads == []
        cluster.heal()
        cluster.tick(2)
        assert cluster[1].payloads == [b"x"]

    @pytest.mark.parametrize("lost", [(2, 3), (4, 5)], ids=["old majority", "new majority"])
    def test_an_election_in_a_joint_configuration_needs_both_majorities(self, lost: tuple[int, int]) -> None:
        cluster = grown_cluster(3, 4, 5)
        cluster[1].node.propose_conf_change(joint((_ADD, 4), (_ADD, 5), (_REMOVE, 2), (_REMOVE, 3)))
        cluster.settle()
        cluster.separate(*lost)
        cluster[1].receive(Message(MessageType.APP, 1, 2, cluster[1].term + 1))
        cluster[1].node.campaign()
        cluster.settle()
        assert cluster[1].role == StateType.CANDIDATE

    def test_the_joint_configuration_is_left_by_another_entry(self) -> None:
        cluster = grown_cluster(3, 4)
        cluster[1].node.propose_conf_change(joint((_ADD, 4), (_REMOVE, 2)))
        cluster.settle()
        assert cluster[4].conf_state.voters_outgoing == [1, 2, 3]
        cluster[1].node.propose_conf_change(ConfChangeV2())
        cluster.settle()
        assert cluster[4].conf_state.voters_outgoing == []
        assert cluster[4].conf_state.voters == [1, 3, 4]

    def test_an_implicit_joint_configuration_is_left_by_the_leader_itself(self) -> None:
        cluster = grown_cluster(3, 4)
        cluster[1].node.propose_conf_change(joint((_ADD, 4), (_REMOVE, 2), explicit=False))
        cluster.settle()
        assert cluster[1].conf_state.voters == [1, 3, 4]
        assert not cluster[1].node.status().config.voters.is_joint()

    def test_the_leader_proposes_only_once_to_leave_whatever_it_applies_meanwhile(self) -> None:
        # One entry is applied at a time, so some are while the configuration is joint.
        cluster = Cluster(max_committed_size_per_ready=1)
        leader = cluster.elect(1)
        leader.node.propose_conf_change(joint((_LEARN, 2), (_LEARN, 3), explicit=False))
        leader.node.propose_batch([b"a", b"b", b"c"])
        cluster.settle()
        assert leader.conf_state.voters_outgoing == []
        change = EntryType.CONF_CHANGE_V2
        assert [entry.type for entry in leader.applied[1:]] == [change, *[EntryType.NORMAL] * 3, change]

    def test_a_new_leader_leaves_the_joint_configuration_its_predecessor_could_not(self) -> None:
        cluster = grown_cluster(3, 4)
        # The change is committed and applied, the entry that would leave it is lost with its leader.
        cluster.lost = lambda m: any(entry.type and not entry.data for entry in m.entries)
        cluster[1].node.propose_conf_change(joint((_ADD, 4), explicit=False))
        cluster.settle()
        cluster.tick()
        assert cluster[2].node.status().config.voters.is_joint()
        cluster.heal()
        cluster.separate(1)
        cluster.elect(2)
        assert not cluster[2].node.status().config.voters.is_joint()

    def test_new_servers_join_as_non_voting_members(self) -> None:
        cluster = grown_cluster(3, 4)
        cluster[1].node.propose_conf_change(ConfChange(type=_LEARN, node_id=4))
        cluster.settle()
        cluster.propose(1, b"x")
        assert cluster[4].payloads == [b"x"]
        # Its copy counts for no majority.
        cluster.separate(1, 4)
        cluster.propose(1, b"y")
        assert cluster[1].payloads == [b"x"]

    def test_a_non_voting_member_does_not_campaign(self) -> None:
        member = Member(4, [1, 2, 3], learners=[4])
        member.tick(5 * ELECTION_TICK)
        assert member.role == StateType.FOLLOWER
        member.node.campaign()
        assert member.role == StateType.FOLLOWER

    def test_a_non_voting_member_votes_for_it_may_have_been_promoted(self) -> None:
        member = Member(4, [1, 2, 3], learners=[4])
        (answer,) = member.receive(Message(MessageType.VOTE, 4, 1, 1))
        assert not answer.reject

    def test_a_leader_not_in_the_new_configuration_steps_down_once_it_is_committed(self) -> None:
        cluster = Cluster(step_down_on_removal=True)
        leader = cluster.elect(1)
        leader.node.propose_conf_change(ConfChange(type=_REMOVE, node_id=1))
        leader.work()
        assert cluster.leaders() == [1]
        cluster.settle()
        cluster.tick()
        assert cluster.leaders() == []

    def test_a_leader_not_in_the_new_configuration_does_not_count_itself(self) -> None:
        cluster = grown_cluster(3, 4)
        # Incoming are 2, 3 and 4; with 4 and 3 away only 1 and 2 store what is proposed now.
        cluster[1].node.propose_conf_change(joint((_ADD, 4), (_REMOVE, 1)))
        cluster.settle()
        cluster.separate(3, 4)
        cluster.propose(1, b"x")
        assert cluster[1].payloads == []

    def test_a_vote_within_the_minimum_election_timeout_of_hearing_a_leader_is_ignored(self) -> None:
        member = Member(check_quorum=True)
        member.receive(Message(MessageType.HEARTBEAT, 1, 2, 1))
        member.tick(ELECTION_TICK - 1)
        assert member.receive(Message(MessageType.VOTE, 1, 3, 9, 9, 9)) == []
        assert member.term == 1

    def test_a_vote_after_the_minimum_election_timeout_is_granted(self) -> None:
        member = Member(check_quorum=True, random_source=_Latest())
        member.receive(Message(MessageType.HEARTBEAT, 1, 2, 1))
        member.tick(ELECTION_TICK)
        (answer,) = member.receive(Message(MessageType.VOTE, 1, 3, 9, 9, 9))
        assert not answer.reject

    def test_a_removed_server_does_not_disrupt_the_cluster(self) -> None:
        cluster = Cluster(4, check_quorum=True)
        cluster.elect(1)
        cluster.separate(4)
        cluster[1].node.propose_conf_change(ConfChange(type=_REMOVE, node_id=4))
        cluster.settle()
        cluster.heal()
        term = cluster[1].term
        for _ in range(4 * ELECTION_TICK):
            cluster.tick()
        assert cluster.leaders() == [1]
        assert cluster[1].term == term


class _Latest:
    """Draws the longest election timeout, so that the member itself does not campaign first."""

    def randrange(self, stop: int, /) -> int:
        return stop - 1


class TestLogCompaction7:
    def test_a_snapshot_is_sent_when_the_next_entry_is_discarded(self) -> None:
        cluster = Cluster()
        cluster.elect(1)
        cluster.separate(3)
        cluster.propose(1, b"a", b"b", b"c")
        cluster[1].take_snapshot()
        cluster.heal()
        sent: list[Message] = []

        def watch(message: Message) -> bool:
            sent.append(message)
            return False

        cluster.lost = watch
        cluster.tick(2)
        assert [(m.to, m.snapshot.metadata.index) for m in of_type(sent, MessageType.SNAP) if m.snapshot] == [(3, 4)]
        assert cluster[3].commit == cluster[1].commit

    def test_a_snapshot_includes_the_last_index_term_and_configuration(self) -> None:
        cluster = Cluster()
        cluster.elect(1)
        cluster.propose(1, b"a")
        cluster[1].take_snapshot()
        metadata = cluster[1].storage.snapshot().metadata
        assert (metadata.index, metadata.term, metadata.conf_state.voters) == (2, 1, [1, 2, 3])

    def test_the_last_index_and_term_of_a_snapshot_serve_the_consistency_check(self) -> None:
        cluster = Cluster()
        cluster.elect(1)
        cluster.propose(1, b"a")
        for member in cluster.members.values():
            member.take_snapshot()
            assert member.storage.first_index() == 3
        cluster.propose(1, b"b")
        assert cluster[2].payloads == [b"a", b"b"]

    def test_a_snapshot_with_new_information_supersedes_the_whole_log(self) -> None:
        member = Member(log=log_of(1, 1, 1))
        (answer,) = member.receive(Message(MessageType.SNAP, 1, 2, 3, snapshot=snapshot_at(11, 2)))
        assert (answer.type, answer.index) == (MessageType.APP_RESP, 11)
        assert member.terms == []
        assert member.commit == 11
        assert member.node.raft.log.term(11) == 2

    def test_a_snapshot_that_describes_a_prefix_retains_what_follows(self) -> None:
        member = Member(log=log_of(1, 1, 1))
        (answer,) = member.receive(Message(MessageType.SNAP, 1, 2, 1, snapshot=snapshot_at(2, 1)))
        assert member.terms == [1, 1, 1]
        assert member.commit == 2
        assert answer.index == 2

    def test_a_snapshot_from_a_lower_term_is_ignored(self) -> None:
        member = Member(log=log_of(1, 3))
        assert member.receive(Message(MessageType.SNAP, 1, 2, 2, snapshot=snapshot_at(11, 2))) == []
        assert member.terms == [1, 3]

    def test_an_old_snapshot_is_answered_with_what_is_committed(self) -> None:
        member = Member()
        member.receive(Message(MessageType.APP, 1, 2, 1, 0, 0, log_of(1, 1, 1), 3))
        (answer,) = member.receive(Message(MessageType.SNAP, 1, 2, 1, snapshot=snapshot_at(2, 1)))
        assert answer.index == 3
        assert member.terms == [1, 1, 1]

    def test_an_old_snapshot_does_not_replace_one_that_reaches_further(self) -> None:
        member = Member()
        member.receive(Message(MessageType.APP, 1, 2, 1, 0, 0, log_of(1, 1, 1), 3))
        member.take_snapshot()
        (answer,) = member.receive(Message(MessageType.SNAP, 1, 2, 1, snapshot=snapshot_at(2, 1)))
        assert answer.index == 3
        assert (member.commit, member.node.raft.log.last_index()) == (3, 3)

    def test_servers_take_snapshots_independently(self) -> None:
        cluster = Cluster()
        cluster.elect(1)
        cluster.propose(1, b"a")
        cluster[2].take_snapshot()
        cluster.propose(1, b"b")
        assert cluster[2].payloads == [b"a", b"b"]
        cluster.elect(2)

    def test_the_snapshot_is_part_of_the_restart(self) -> None:
        cluster = Cluster()
        cluster.elect(1)
        cluster.propose(1, b"a", b"b")
        cluster[2].take_snapshot(keep=1)
        cluster[2].restart()
        cluster.propose(1, b"c")
        assert cluster[2].payloads == [b"a", b"b", b"c"]


class TestClientInteraction8:
    def test_a_leader_commits_an_empty_entry_at_the_start_of_its_term(self) -> None:
        cluster = Cluster()
        cluster.elect(1)
        assert cluster[2].applied == [Entry(1, 1)]

    def test_a_read_is_held_back_until_an_entry_of_the_term_is_committed(self) -> None:
        member = Member()
        member.become_leader()
        member.node.read_index(b"r")
        assert of_type(member.work(), MessageType.HEARTBEAT) == []
        sent = member.receive(Message(MessageType.APP_RESP, 1, 2, 1, index=1))
        beats = of_type(sent, MessageType.HEARTBEAT)
        assert beats
        member.receive(Message(MessageType.HEARTBEAT_RESP, 1, 2, 1, context=beats[0].context))
        assert [(read.index, read.request_ctx) for read in member.reads] == [(1, b"r")]

    def test_a_read_exchanges_heartbeats_with_a_majority_before_it_is_answered(self) -> None:
        cluster = Cluster(5)
        cluster.elect(1)
        cluster.separate(1, 2)
        cluster[1].node.read_index(b"r")
        cluster.settle()
        assert cluster[1].reads == []
        cluster.heal()
        cluster.tick()
        assert [read.request_ctx for read in cluster[1].reads] == [b"r"]

    def test_a_deposed_leader_answers_no_read(self) -> None:
        cluster = Cluster()
        cluster.elect(1)
        cluster.separate(1)
        cluster.elect(2)
        cluster.propose(2, b"newer")
        cluster[1].node.read_index(b"stale")
        cluster.settle()
        cluster.heal()
        cluster.tick(3)
        assert cluster[1].reads == []
