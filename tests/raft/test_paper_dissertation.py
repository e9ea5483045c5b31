"""The rules of the dissertation (Ongaro, 2014): 3.10 leadership transfer, 4 membership, 6.4 reads, 9.6 pre-vote."""

from __future__ import annotations

import pytest

from raft import (
    ConfChange,
    ConfChangeSingle,
    ConfChangeTransition,
    ConfChangeType,
    ConfChangeV2,
    EntryType,
    HardState,
    Message,
    MessageType,
    ProposalDropped,
    ReadOnlyOption,
    StateType,
)
from tests.raft.harness import ELECTION_TICK, Cluster, FixedRandom, Member, log_of, of_type

_ADD, _REMOVE = ConfChangeType.ADD_NODE, ConfChangeType.REMOVE_NODE
_LEARN = ConfChangeType.ADD_LEARNER_NODE
_PRE_VOTE, _PRE_VOTE_RESP = MessageType.PRE_VOTE, MessageType.PRE_VOTE_RESP


class TestLeadershipTransfer310:
    def test_the_target_takes_over_without_waiting_for_a_timeout(self) -> None:
        cluster = Cluster(check_quorum=True, pre_vote=True)
        cluster.elect(1)
        cluster[1].node.transfer_leader(3)
        cluster.settle()
        assert cluster.leaders() == [3]

    def test_the_prior_leader_stops_accepting_requests(self) -> None:
        cluster = Cluster()
        cluster.elect(1)
        cluster.separate(3)
        cluster[1].node.transfer_leader(3)
        with pytest.raises(ProposalDropped):
            cluster[1].node.propose(b"x")

    def test_the_prior_leader_brings_the_target_up_to_date_first(self) -> None:
        cluster = Cluster()
        cluster.elect(1)
        cluster.separate(3)
        cluster.propose(1, b"a", b"b")
        cluster.heal()
        cluster[1].node.transfer_leader(3)
        assert of_type(cluster[1].work(), MessageType.TIMEOUT_NOW) == []
        cluster.tick()
        assert cluster.leaders() == [3]
        assert cluster[3].payloads == [b"a", b"b"]

    def test_a_target_that_needs_a_snapshot_gets_it_and_leads(self) -> None:
        cluster = Cluster()
        cluster.elect(1)
        cluster.separate(3)
        cluster.propose(1, b"a", b"b")
        cluster[1].take_snapshot()
        cluster.heal()
        cluster[1].node.transfer_leader(3)
        cluster.tick(2)
        assert cluster.leaders() == [3]

    def test_timeout_now_starts_an_election_that_needs_no_pre_vote(self) -> None:
        member = Member(pre_vote=True)
        sent = member.receive(Message(MessageType.TIMEOUT_NOW, 1, 2))
        assert {m.type for m in sent} == {MessageType.VOTE}

    def test_other_servers_vote_although_their_leader_lives(self) -> None:
        member = Member(check_quorum=True)
        member.receive(Message(MessageType.HEARTBEAT, 1, 2, 1))
        (answer,) = member.receive(Message(MessageType.VOTE, 1, 3, 2, context=b"CampaignTransfer"))
        assert not answer.reject

    def test_a_transfer_is_aborted_after_an_election_timeout(self) -> None:
        cluster = Cluster()
        cluster.elect(1)
        cluster.separate(3)
        cluster[1].node.transfer_leader(3)
        cluster.tick(ELECTION_TICK - 1, ids=[1])
        with pytest.raises(ProposalDropped):
            cluster[1].node.propose(b"x")
        cluster.tick(ids=[1])
        cluster.propose(1, b"y")
        assert cluster[1].payloads == [b"y"]

    def test_a_second_transfer_replaces_the_first(self) -> None:
        cluster = Cluster()
        cluster.elect(1)
        cluster.separate(3)
        cluster[1].node.transfer_leader(3)
        cluster[1].node.transfer_leader(2)
        cluster.settle()
        assert cluster[2].role == StateType.LEADER

    def test_the_same_transfer_again_does_not_extend_its_time(self) -> None:
        member = Member()
        member.become_leader()
        member.node.transfer_leader(2)
        member.tick(ELECTION_TICK - 1)
        member.node.transfer_leader(2)
        assert member.node.status().lead_transferee == 2
        member.tick()
        assert member.node.status().lead_transferee == 0

    @pytest.mark.parametrize("target", [1, 9, 4], ids=["itself", "a stranger", "a learner"])
    def test_a_target_that_cannot_take_over_is_ignored(self, target: int) -> None:
        member = Member(learners=[4])
        member.become_leader()
        member.node.transfer_leader(target)
        assert member.node.status().lead_transferee == 0

    def test_a_follower_passes_the_request_on(self) -> None:
        cluster = Cluster()
        cluster.elect(1)
        cluster[2].node.transfer_leader(3)
        cluster.settle()
        assert cluster.leaders() == [3]

    def test_a_target_removed_meanwhile_ends_the_transfer(self) -> None:
        cluster = Cluster()
        cluster.elect(1)
        cluster[1].node.propose_conf_change(ConfChange(type=_REMOVE, node_id=3))
        cluster.separate(3)
        cluster[1].node.transfer_leader(3)
        cluster.settle()
        assert cluster[1].node.status().lead_transferee == 0
        cluster.propose(1, b"x")

    def test_a_removed_member_ignores_timeout_now(self) -> None:
        member = Member(9, [1, 2, 3])
        assert member.receive(Message(MessageType.TIMEOUT_NOW, 9, 1)) == []
        assert member.role == StateType.FOLLOWER


class TestClusterMembershipChanges4:
    def test_41_one_change_at_a_time_another_becomes_an_entry_without_effect(self) -> None:
        member = Member()
        member.become_leader()
        member.receive(Message(MessageType.APP_RESP, 1, 2, 1, index=1))
        member.node.propose_conf_change(ConfChange(type=_ADD, node_id=4))
        member.node.propose_conf_change(ConfChange(type=_ADD, node_id=5))
        member.work()
        first, second = member.storage.entries(2, 4)
        assert first.type == EntryType.CONF_CHANGE
        assert (second.type, second.data) == (EntryType.NORMAL, b"")

    def test_41_the_next_change_is_taken_once_the_first_is_applied(self) -> None:
        cluster = Cluster()
        cluster.elect(1)
        for id in (3, 2):
            cluster[1].node.propose_conf_change(ConfChange(type=_REMOVE, node_id=id))
            cluster.settle()
        assert cluster[1].conf_state.voters == [1]

    def test_41_the_switch_lets_several_changes_into_the_log(self) -> None:
        member = Member(disable_conf_change_validation=True)
        member.become_leader()
        for id in (4, 5):
            member.node.propose_conf_change(ConfChange(type=_ADD, node_id=id))
        member.work()
        assert [entry.type for entry in member.storage.entries(2, 4)] == [EntryType.CONF_CHANGE] * 2

    def test_41_a_new_leader_waits_until_its_log_is_applied(self) -> None:
        member = Member(log=log_of(1, 1))
        member.become_leader()
        member.node.propose_conf_change(ConfChange(type=_ADD, node_id=4))
        member.work()
        # There might be a change among the entries before that it has not applied.
        assert member.storage.entries(4, 5)[0].type == EntryType.NORMAL

    def test_41_committing_needs_only_the_majority_of_the_new_configuration(self) -> None:
        cluster = Cluster(4)
        cluster.elect(1)
        cluster.separate(3, 4)
        cluster.propose(1, b"x")
        assert cluster[1].payloads == []
        cluster.heal()
        cluster.tick(2)
        cluster[1].node.propose_conf_change(ConfChange(type=_REMOVE, node_id=4))
        cluster.settle()
        cluster.separate(3, 4)
        cluster.propose(1, b"y")
        assert cluster[1].payloads == [b"x", b"y"]

    def test_42_1_a_learner_catches_up_before_it_is_promoted(self) -> None:
        cluster = Cluster()
        cluster.add(Member(4, [1, 2, 3]))
        cluster.elect(1)
        cluster.propose(1, b"a", b"b")
        cluster[1].node.propose_conf_change(ConfChange(type=_LEARN, node_id=4))
        cluster.settle()
        progress = cluster[1].node.status().progress[4]
        assert progress.is_learner
        assert progress.match == cluster[1].commit
        cluster[1].node.propose_conf_change(ConfChange(type=_ADD, node_id=4))
        cluster.settle()
        assert cluster[4].conf_state.voters == [1, 2, 3, 4]
        cluster.elect(4)

    def test_42_2_a_leader_may_replicate_on_until_its_removal_is_known(self) -> None:
        cluster = Cluster()
        cluster.elect(1)
        cluster[1].node.propose_conf_change(ConfChange(type=_REMOVE, node_id=1))
        cluster.settle()
        assert cluster[1].role == StateType.LEADER
        with pytest.raises(ProposalDropped):
            cluster[1].node.propose(b"x")
        cluster.tick()
        assert cluster[2].conf_state.voters == [2, 3]
        cluster.elect(2)

    def test_42_3_disruptive_servers_cannot_depose_a_leader_that_is_heard(self) -> None:
        cluster = Cluster(check_quorum=True)
        cluster.elect(1)
        for _ in range(3):
            cluster[2].receive(Message(MessageType.VOTE, 2, 9, cluster[2].term + 1, 9, 9))
            cluster.tick(2)
        assert cluster.leaders() == [1]
        assert cluster[1].term == 1

    def test_42_4_a_configuration_change_to_a_single_member_commits_at_once(self) -> None:
        cluster = Cluster(2)
        cluster.elect(1)
        cluster[1].node.propose_conf_change(ConfChange(type=_REMOVE, node_id=2))
        cluster.settle()
        cluster.separate(2)
        cluster.propose(1, b"alone")
        assert cluster[1].payloads == [b"alone"]

    def test_43_several_members_change_through_a_joint_configuration(self) -> None:
        cluster = Cluster()
        cluster.add(Member(4, [1, 2, 3]))
        cluster.elect(1)
        cluster[1].node.propose_conf_change(
            ConfChangeV2(changes=[ConfChangeSingle(_ADD, 4), ConfChangeSingle(_REMOVE, 3)])
        )
        cluster.settle()
        assert cluster[4].conf_state.voters == [1, 2, 4]

    def test_43_a_change_in_the_joint_configuration_is_refused(self) -> None:
        member = Member(voters=[1])
        member.become_leader()
        changes = [ConfChangeSingle(_LEARN, 2), ConfChangeSingle(_LEARN, 3)]
        # Explicitly entered, so it is not left by itself.
        member.node.propose_conf_change(ConfChangeV2(ConfChangeTransition.JOINT_EXPLICIT, changes))
        member.work()
        assert member.node.status().config.voters.is_joint()
        member.node.propose_conf_change(ConfChange(type=_LEARN, node_id=4))
        member.work()
        assert member.applied[-1].type == EntryType.NORMAL

    def test_43_leaving_when_not_joint_is_refused(self) -> None:
        member = Member(voters=[1])
        member.become_leader()
        member.node.propose_conf_change(ConfChangeV2())
        member.work()
        assert member.applied[-1].type == EntryType.NORMAL

    def test_a_member_with_unapplied_changes_does_not_campaign(self) -> None:
        member = Member(max_committed_size_per_ready=1)
        change = log_of(1, 1)
        change[1].type = EntryType.CONF_CHANGE
        member.node.step(Message(MessageType.APP, 1, 2, 1, 0, 0, change, 2))
        member.node.campaign()
        assert member.role == StateType.FOLLOWER


class TestReadOnlyQueries64:
    def test_the_read_index_is_the_commit_index_when_the_read_arrives(self) -> None:
        cluster = Cluster()
        cluster.elect(1)
        cluster.propose(1, b"a")
        cluster[1].node.read_index(b"r")
        cluster.propose(1, b"b")
        assert [(read.index, read.request_ctx) for read in cluster[1].reads] == [(2, b"r")]

    def test_a_follower_asks_the_leader_for_the_read_index(self) -> None:
        cluster = Cluster()
        cluster.elect(1)
        cluster.propose(1, b"a")
        cluster[3].node.read_index(b"r")
        cluster.settle()
        assert [(read.index, read.request_ctx) for read in cluster[3].reads] == [(2, b"r")]
        assert cluster[1].reads == []

    def test_one_round_of_heartbeats_serves_all_reads_that_wait(self) -> None:
        cluster = Cluster()
        cluster.elect(1)
        for name in (b"1", b"2", b"3"):
            cluster[1].node.read_index(name)
        cluster.settle()
        assert [read.request_ctx for read in cluster[1].reads] == [b"1", b"2", b"3"]

    def test_an_answer_to_an_earlier_round_does_not_confirm_a_later_read(self) -> None:
        member = Member()
        member.become_leader()
        member.receive(Message(MessageType.APP_RESP, 1, 2, 1, index=1))
        member.node.read_index(b"first")
        (beat, _) = of_type(member.work(), MessageType.HEARTBEAT)
        member.node.read_index(b"second")
        member.work()
        member.receive(Message(MessageType.HEARTBEAT_RESP, 1, 2, 1, context=beat.context))
        assert [read.request_ctx for read in member.reads] == [b"first"]

    @pytest.mark.parametrize("unheard", [(4, 5), (2, 3)], ids=["new majority", "old majority"])
    def test_in_a_joint_configuration_a_read_needs_both_majorities(self, unheard: tuple[int, int]) -> None:
        cluster = Cluster()
        for id in (4, 5):
            cluster.add(Member(id, [1, 2, 3]))
        cluster.elect(1)
        changes = [ConfChangeSingle(_ADD, 4), ConfChangeSingle(_ADD, 5), ConfChangeSingle(_REMOVE, 2)]
        cluster[1].node.propose_conf_change(ConfChangeV2(ConfChangeTransition.JOINT_EXPLICIT, changes))
        cluster.settle()
        cluster.separate(*unheard)
        cluster[1].node.read_index(b"r")
        cluster.settle()
        assert cluster[1].reads == []
        cluster.heal()
        cluster.tick()
        assert [read.request_ctx for read in cluster[1].reads] == [b"r"]

    def test_a_read_is_not_answered_by_a_later_leadership_than_the_one_it_came_to(self) -> None:
        cluster = Cluster()
        cluster.elect(1)
        cluster.separate(1)
        cluster.elect(2)
        cluster.propose(2, b"new")
        # Member 1 takes itself for the leader and knows nothing of what is committed by now.
        cluster[1].node.read_index(b"stale")
        cluster.heal()
        cluster.tick(2)
        cluster.elect(1)
        cluster[1].node.read_index(b"fresh")
        cluster.settle()
        assert [(read.request_ctx, read.index) for read in cluster[1].reads] == [(b"fresh", cluster[1].commit)]

    def test_a_single_voter_answers_at_once(self) -> None:
        member = Member(voters=[1])
        member.become_leader()
        member.node.read_index(b"r")
        member.work()
        assert [read.index for read in member.reads] == [1]

    def test_a_member_without_leader_drops_the_read(self) -> None:
        member = Member()
        member.node.read_index(b"r")
        assert member.work() == []
        assert member.reads == []

    def test_64_1_a_lease_answers_without_a_round(self) -> None:
        member = Member(check_quorum=True, read_only_option=ReadOnlyOption.LEASE_BASED)
        member.become_leader()
        member.receive(Message(MessageType.APP_RESP, 1, 2, 1, index=1))
        member.node.read_index(b"r")
        assert of_type(member.work(), MessageType.HEARTBEAT) == []
        assert [read.index for read in member.reads] == [1]

    def test_64_1_a_lease_read_waits_for_the_first_commit_of_the_term(self) -> None:
        member = Member(check_quorum=True, read_only_option=ReadOnlyOption.LEASE_BASED)
        member.become_leader()
        member.node.read_index(b"r")
        member.work()
        assert member.reads == []
        member.receive(Message(MessageType.APP_RESP, 1, 2, 1, index=1))
        assert [read.index for read in member.reads] == [1]

    def test_64_1_a_leader_that_hears_no_quorum_gives_its_lease_up(self) -> None:
        cluster = Cluster(check_quorum=True, read_only_option=ReadOnlyOption.LEASE_BASED)
        cluster.elect(1)
        cluster.separate(1)
        cluster.tick(2 * ELECTION_TICK, ids=[1])
        cluster[1].node.read_index(b"r")
        cluster.settle()
        assert cluster[1].role != StateType.LEADER
        assert cluster[1].reads == []

    def test_64_1_a_follower_keeps_to_the_lease_even_if_asked_to_forget_its_leader(self) -> None:
        member = Member(check_quorum=True, read_only_option=ReadOnlyOption.LEASE_BASED)
        member.receive(Message(MessageType.HEARTBEAT, 1, 2, 1))
        member.node.forget_leader()
        assert member.receive(Message(MessageType.VOTE, 1, 3, 2, 9, 9)) == []
        assert (member.term, member.lead) == (1, 2)


class TestPreVote96:
    def test_a_pre_candidate_asks_for_the_next_term_without_entering_it(self) -> None:
        member = Member(pre_vote=True, log=log_of(1))
        sent = member.become_candidate()
        assert [(m.type, m.to, m.term, m.log_term, m.index) for m in sent] == [
            (_PRE_VOTE, 2, 2, 1, 1),
            (_PRE_VOTE, 3, 2, 1, 1),
        ]
        assert (member.role, member.term, member.vote) == (StateType.PRE_CANDIDATE, 1, 0)

    def test_a_majority_of_pre_votes_starts_the_election(self) -> None:
        member = Member(pre_vote=True)
        member.become_candidate()
        sent = member.receive(Message(_PRE_VOTE_RESP, 1, 2, 1))
        assert (member.role, member.term, member.vote) == (StateType.CANDIDATE, 1, 1)
        assert {m.type for m in sent} == {MessageType.VOTE}

    def test_granting_a_pre_vote_changes_neither_term_nor_vote(self) -> None:
        member = Member(pre_vote=True)
        (answer,) = member.receive(Message(_PRE_VOTE, 1, 2, 5))
        assert (answer.type, answer.reject, answer.term) == (_PRE_VOTE_RESP, False, 5)
        assert (member.term, member.vote) == (0, 0)

    def test_a_pre_vote_may_be_granted_to_several(self) -> None:
        member = Member(pre_vote=True)
        answers = member.receive(Message(_PRE_VOTE, 1, 2, 5), Message(_PRE_VOTE, 1, 3, 5))
        assert [answer.reject for answer in answers] == [False, False]

    def test_a_pre_vote_is_denied_to_a_log_that_is_not_up_to_date(self) -> None:
        member = Member(pre_vote=True, log=log_of(1, 2))
        (answer,) = member.receive(Message(_PRE_VOTE, 1, 2, 5, log_term=1, index=9))
        assert (answer.reject, answer.term) == (True, 2)

    def test_a_pre_vote_is_ignored_while_a_leader_is_heard(self) -> None:
        member = Member(pre_vote=True, check_quorum=True)
        member.receive(Message(MessageType.HEARTBEAT, 1, 2, 1))
        assert member.receive(Message(_PRE_VOTE, 1, 3, 2, 9, 9)) == []

    def test_a_member_that_forgot_its_leader_grants_a_pre_vote_at_once(self) -> None:
        member = Member(pre_vote=True, check_quorum=True)
        member.receive(Message(MessageType.HEARTBEAT, 1, 2, 1))
        member.node.forget_leader()
        (answer,) = member.receive(Message(_PRE_VOTE, 1, 3, 2, 9, 9))
        assert not answer.reject

    def test_a_partitioned_server_does_not_raise_its_term(self) -> None:
        cluster = Cluster(pre_vote=True)
        cluster.elect(1)
        cluster.separate(3)
        cluster.tick(10 * ELECTION_TICK, ids=[3])
        assert cluster[3].term == cluster[1].term

    def test_a_partitioned_server_does_not_disrupt_the_cluster_when_it_returns(self) -> None:
        cluster = Cluster(pre_vote=True, check_quorum=True)
        cluster.elect(1)
        cluster.separate(3)
        cluster.tick(4 * ELECTION_TICK)
        cluster.heal()
        cluster.tick(4 * ELECTION_TICK)
        assert cluster.leaders() == [1]
        assert cluster[1].term == 1
        assert cluster[3].lead == 1

    def test_a_denied_pre_vote_of_a_higher_term_is_followed(self) -> None:
        member = Member(pre_vote=True)
        member.become_candidate()
        member.receive(Message(_PRE_VOTE_RESP, 1, 2, 7, reject=True))
        assert (member.role, member.term) == (StateType.FOLLOWER, 7)

    def test_a_pre_vote_of_a_lower_term_is_told_the_term(self) -> None:
        member = Member(pre_vote=True, hard_state=HardState(term=7))
        (answer,) = member.receive(Message(_PRE_VOTE, 1, 2, 3))
        assert (answer.type, answer.reject, answer.term) == (_PRE_VOTE_RESP, True, 7)

    def test_late_pre_votes_are_not_votes(self) -> None:
        member = Member(voters=range(1, 6), pre_vote=True)
        member.become_candidate()
        member.receive(Message(_PRE_VOTE_RESP, 1, 2, 1), Message(_PRE_VOTE_RESP, 1, 3, 1))
        assert member.role == StateType.CANDIDATE
        member.receive(Message(_PRE_VOTE_RESP, 1, 4, 1), Message(_PRE_VOTE_RESP, 1, 5, 1))
        assert member.role == StateType.CANDIDATE

    def test_a_group_in_which_some_use_pre_votes_elects_a_leader(self) -> None:
        cluster = Cluster(0)
        for id in (1, 2, 3):
            cluster.add(Member(id, [1, 2, 3], pre_vote=id != 2, random_source=FixedRandom(id)))
        # One without pre-votes went ahead alone, and has the shorter log.
        cluster.elect(1)
        cluster.separate(2)
        cluster.propose(1, b"x")
        cluster.tick(5 * ELECTION_TICK, ids=[2])
        cluster.heal()
        for _ in range(20 * ELECTION_TICK):
            cluster.tick()
        (leader,) = cluster.leaders()
        assert leader in (1, 3)
        assert cluster[2].payloads == [b"x"]
