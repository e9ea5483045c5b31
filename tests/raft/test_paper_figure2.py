"""One test for each rule of figure 2 of the Raft paper (Ongaro and Ousterhout, 2014), in its order."""

from __future__ import annotations

import pytest

from raft import Entry, HardState, Message, MessageType, StateType
from tests.raft.harness import ELECTION_TICK, Cluster, Member, log_of, of_type

_APP, _APP_RESP = MessageType.APP, MessageType.APP_RESP
_VOTE, _VOTE_RESP = MessageType.VOTE, MessageType.VOTE_RESP


def append(term: int, index: int, log_term: int, entries: list[Entry] | None = None, commit: int = 0) -> Message:
    """An append from member 2 to member 1."""
    return Message(_APP, 1, 2, term, log_term, index, entries or [], commit)


class TestState:
    def test_persistent_state_is_in_the_ready_that_carries_the_response(self) -> None:
        member = Member()
        member.node.step(append(2, 0, 0, log_of(2)))
        ready = member.node.ready()
        assert ready.hard_state == HardState(term=2)
        assert [entry.index for entry in ready.entries] == [1]
        assert [m.type for m in ready.messages] == [_APP_RESP]
        assert ready.must_sync

    def test_vote_is_persistent_before_it_is_answered(self) -> None:
        member = Member()
        member.node.step(Message(_VOTE, 1, 2, 2))
        ready = member.node.ready()
        assert ready.hard_state == HardState(term=2, vote=2)
        assert of_type(ready.messages, _VOTE_RESP)
        assert ready.must_sync

    def test_a_vote_in_a_term_entered_before_is_persistent_too(self) -> None:
        member = Member(hard_state=HardState(term=2))
        member.node.step(Message(_VOTE, 1, 2, 2))
        ready = member.node.ready()
        assert ready.hard_state == HardState(term=2, vote=2)
        assert ready.must_sync

    def test_current_term_is_0_on_first_boot_and_rises(self) -> None:
        member = Member()
        assert member.term == 0
        member.receive(append(3, 0, 0))
        member.receive(append(2, 0, 0))
        assert member.term == 3

    def test_voted_for_survives_a_restart(self) -> None:
        member = Member()
        member.receive(Message(_VOTE, 1, 2, 2))
        member.restart()
        assert (member.term, member.vote) == (2, 2)
        (answer,) = member.receive(Message(_VOTE, 1, 3, 2))
        assert answer.reject

    def test_log_survives_a_restart(self) -> None:
        member = Member()
        member.receive(append(2, 0, 0, log_of(1, 2)))
        member.restart()
        assert member.terms == [1, 2]

    def test_commit_index_starts_at_0_and_only_rises(self) -> None:
        member = Member()
        assert member.commit == 0
        member.receive(append(1, 0, 0, log_of(1, 1, 1), commit=2))
        member.receive(append(1, 3, 1, commit=1))
        assert member.commit == 2

    def test_next_index_is_initialised_to_leader_last_log_index_plus_1(self) -> None:
        member = Member(log=log_of(1, 1))
        member.become_leader()
        peer = member.node.status().progress[2]
        # The leader has appended its own first entry at 3 meanwhile, and begins before it.
        assert peer.next == 3

    def test_match_index_is_initialised_to_0(self) -> None:
        member = Member(log=log_of(1, 1))
        member.become_leader()
        assert member.node.status().progress[2].match == 0


class TestAppendEntries:
    def test_1_reply_false_if_term_is_lower_than_current_term(self) -> None:
        member = Member(hard_state=HardState(term=3), check_quorum=True)
        sent = member.receive(append(2, 0, 0, log_of(2)))
        # The answer tells the current term and acknowledges nothing.
        assert [(m.type, m.term, m.index) for m in sent] == [(_APP_RESP, 3, 0)]
        assert member.terms == []

    def test_1_without_check_quorum_a_lower_term_is_not_answered(self) -> None:
        member = Member(hard_state=HardState(term=3))
        assert member.receive(append(2, 0, 0, log_of(2))) == []
        assert member.terms == []

    @pytest.mark.parametrize(("index", "log_term"), [(3, 1), (2, 2)], ids=["missing", "other term"])
    def test_2_reply_false_if_log_does_not_contain_previous_entry(self, index: int, log_term: int) -> None:
        member = Member(log=log_of(1, 1))
        (answer,) = member.receive(append(3, index, log_term, [Entry(3, index + 1)]))
        assert answer.reject
        assert answer.index == index
        assert member.terms == [1, 1]

    def test_3_delete_a_conflicting_entry_and_all_that_follow_it(self) -> None:
        member = Member(log=log_of(1, 1, 2, 2))
        (answer,) = member.receive(append(3, 1, 1, [Entry(3, 2)]))
        assert not answer.reject
        assert member.terms == [1, 3]

    def test_3_entries_that_agree_are_kept_with_all_that_follow(self) -> None:
        member = Member(log=log_of(1, 1, 1))
        member.receive(append(1, 1, 1, [Entry(1, 2)]))
        # The append was only an old one that came late.
        assert member.terms == [1, 1, 1]

    def test_4_append_any_new_entries_not_already_in_the_log(self) -> None:
        member = Member(log=log_of(1, 1))
        (answer,) = member.receive(append(2, 1, 1, [Entry(1, 2), Entry(2, 3), Entry(2, 4)]))
        assert answer.index == 4
        assert member.terms == [1, 1, 2, 2]

    @pytest.mark.parametrize("count", [0, 1])
    def test_3_only_what_the_append_has_shown_to_agree_is_acknowledged(self, count: int) -> None:
        # What follows may differ from the leader's log: nothing in the append says.
        member = Member(log=log_of(1, 1, 1, 1))
        (answer,) = member.receive(append(2, 1, 1, log_of(1, 1)[1 : 1 + count]))
        assert (answer.reject, answer.index) == (False, 1 + count)
        assert member.terms == [1, 1, 1, 1]

    @pytest.mark.parametrize(("leader_commit", "expected"), [(2, 2), (9, 3)])
    def test_5_commit_index_is_the_minimum_of_leader_commit_and_last_new_entry(
        self, leader_commit: int, expected: int
    ) -> None:
        member = Member(log=log_of(1, 1, 1, 1, 1))
        member.receive(append(1, 2, 1, [Entry(1, 3)], commit=leader_commit))
        assert member.commit == expected


class TestRequestVote:
    def test_1_reply_false_if_term_is_lower_than_current_term(self) -> None:
        member = Member(hard_state=HardState(term=3))
        sent = member.receive(Message(_VOTE, 1, 2, 2, log_term=9, index=9))
        # Silence is no vote either; the candidate hears of the term from whoever it disturbs.
        assert sent == []
        assert member.vote == 0

    @pytest.mark.parametrize("already", [0, 2], ids=["null", "candidateId"])
    def test_2_grant_if_voted_for_is_null_or_candidate_id(self, already: int) -> None:
        member = Member(hard_state=HardState(term=2, vote=already))
        (answer,) = member.receive(Message(_VOTE, 1, 2, 2))
        assert not answer.reject
        assert member.vote == 2

    def test_2_deny_if_voted_for_another(self) -> None:
        member = Member(hard_state=HardState(term=2, vote=3))
        (answer,) = member.receive(Message(_VOTE, 1, 2, 2))
        assert answer.reject
        assert member.vote == 3

    def test_2_deny_if_candidate_log_is_not_up_to_date(self) -> None:
        member = Member(log=log_of(1, 2))
        (answer,) = member.receive(Message(_VOTE, 1, 2, 3, log_term=1, index=5))
        assert answer.reject
        assert member.vote == 0


class TestAllServers:
    def test_committed_entries_are_applied_in_log_order(self) -> None:
        member = Member()
        member.receive(append(1, 0, 0, log_of(1, 1, 1), commit=2))
        assert [entry.index for entry in member.applied] == [1, 2]
        member.receive(append(1, 3, 1, commit=3))
        assert [entry.index for entry in member.applied] == [1, 2, 3]

    @pytest.mark.parametrize("role", [StateType.FOLLOWER, StateType.CANDIDATE, StateType.LEADER])
    @pytest.mark.parametrize("kind", [_APP, MessageType.HEARTBEAT, _VOTE])
    def test_a_higher_term_converts_to_follower(self, role: StateType, kind: MessageType) -> None:
        member = Member()
        if role == StateType.CANDIDATE:
            member.become_candidate()
        elif role == StateType.LEADER:
            member.become_leader()
        assert member.role == role
        member.receive(Message(kind, 1, 2, 7))
        assert (member.role, member.term) == (StateType.FOLLOWER, 7)

    @pytest.mark.parametrize(
        "kind",
        [_APP_RESP, _VOTE_RESP, MessageType.HEARTBEAT_RESP, MessageType.PRE_VOTE_RESP],
        ids=lambda kind: kind.name,
    )
    def test_a_higher_term_in_a_response_converts_to_follower(self, kind: MessageType) -> None:
        member = Member()
        member.become_leader()
        member.receive(Message(kind, 1, 2, 7, reject=True))
        assert (member.role, member.term, member.lead) == (StateType.FOLLOWER, 7, 0)


class TestFollowers:
    def test_respond_to_candidates_and_leaders(self) -> None:
        member = Member()
        assert of_type(member.receive(Message(_VOTE, 1, 2, 1)), _VOTE_RESP)
        assert of_type(member.receive(append(1, 0, 0, log_of(1))), _APP_RESP)
        assert of_type(member.receive(Message(MessageType.HEARTBEAT, 1, 2, 1)), MessageType.HEARTBEAT_RESP)

    def test_convert_to_candidate_when_the_election_timeout_elapses(self) -> None:
        member = Member()
        member.tick(2 * ELECTION_TICK)
        assert member.role == StateType.CANDIDATE

    def test_stay_follower_while_the_leader_is_heard(self) -> None:
        member = Member()
        for _ in range(10):
            member.tick(ELECTION_TICK - 1)
            member.receive(append(1, 0, 0))
        assert member.role == StateType.FOLLOWER

    def test_stay_follower_for_another_timeout_after_granting_a_vote(self) -> None:
        member = Member()
        member.tick(ELECTION_TICK - 1)
        member.receive(Message(_VOTE, 1, 2, 1))
        member.tick(ELECTION_TICK - 1)
        assert member.role == StateType.FOLLOWER


class TestCandidates:
    def test_election_increments_term_votes_for_self_and_asks_all_others(self) -> None:
        member = Member(voters=range(1, 6), log=log_of(1, 4))
        sent = member.become_candidate()
        assert (member.term, member.vote) == (5, 1)
        assert [(m.type, m.to, m.term, m.log_term, m.index) for m in sent] == [
            (_VOTE, id, 5, 4, 2) for id in (2, 3, 4, 5)
        ]

    def test_election_resets_the_timer(self) -> None:
        member = Member()
        member.tick(ELECTION_TICK - 1)
        member.become_candidate()
        member.tick(ELECTION_TICK - 1)
        assert member.term == 1

    @pytest.mark.parametrize(("size", "needed"), [(3, 1), (5, 2), (7, 3)])
    def test_votes_from_a_majority_make_a_leader(self, size: int, needed: int) -> None:
        member = Member(voters=range(1, size + 1))
        member.become_candidate()
        for voter in range(2, needed + 2):
            assert member.role == StateType.CANDIDATE
            member.receive(Message(_VOTE_RESP, 1, voter, 1))
        assert member.role == StateType.LEADER

    def test_votes_denied_by_a_majority_make_a_follower(self) -> None:
        member = Member()
        member.become_candidate()
        member.receive(Message(_VOTE_RESP, 1, 2, 1, reject=True), Message(_VOTE_RESP, 1, 3, 1, reject=True))
        assert member.role == StateType.FOLLOWER

    def test_one_voter_counts_once(self) -> None:
        member = Member(voters=range(1, 6))
        member.become_candidate()
        for _ in range(3):
            member.receive(Message(_VOTE_RESP, 1, 2, 1))
        assert member.role == StateType.CANDIDATE

    def test_a_vote_counts_only_in_the_term_it_was_asked_for(self) -> None:
        member = Member()
        member.become_candidate()
        member.become_candidate()
        member.receive(Message(_VOTE_RESP, 1, 2, 1))
        assert (member.role, member.term) == (StateType.CANDIDATE, 2)
        member.receive(Message(_VOTE_RESP, 1, 2, 2))
        assert member.role == StateType.LEADER

    def test_an_append_from_the_new_leader_converts_to_follower(self) -> None:
        member = Member()
        member.become_candidate()
        member.receive(append(1, 0, 0))
        assert (member.role, member.lead) == (StateType.FOLLOWER, 2)

    def test_a_timeout_starts_a_new_election(self) -> None:
        member = Member()
        member.become_candidate()
        sent = member.tick(2 * ELECTION_TICK)
        assert member.term == 2
        assert {m.term for m in of_type(sent, _VOTE)} == {2}


class TestLeaders:
    def test_upon_election_send_appends_to_each_server(self) -> None:
        member = Member()
        sent = member.become_leader()
        assert {m.to for m in of_type(sent, _APP)} == {2, 3}

    def test_repeat_heartbeats_during_idle_periods(self) -> None:
        member = Member(heartbeat_tick=2)
        member.become_leader()
        assert [{m.to for m in of_type(member.tick(), MessageType.HEARTBEAT)} for _ in range(4)] == [
            set(),
            {2, 3},
            set(),
            {2, 3},
        ]

    def test_a_command_is_appended_to_the_local_log(self) -> None:
        member = Member()
        member.become_leader()
        member.node.propose(b"command")
        member.work()
        assert member.storage.entries(2, 3)[0] == Entry(1, 2, data=b"command")

    def test_a_command_is_applied_only_after_it_is_committed(self) -> None:
        member = Member()
        member.become_leader()
        member.node.propose(b"command")
        member.work()
        assert member.payloads == []
        member.receive(Message(_APP_RESP, 1, 2, 1, index=2))
        assert member.payloads == [b"command"]

    def test_entries_from_next_index_on_are_sent(self) -> None:
        member = Member()
        member.become_leader()
        member.receive(Message(_APP_RESP, 1, 2, 1, index=1))
        member.node.propose(b"a")
        member.node.propose(b"b")
        sent = [m for m in of_type(member.work(), _APP) if m.to == 2]
        assert [(m.index, [e.index for e in m.entries]) for m in sent] == [(1, [2]), (2, [3])]

    def test_success_updates_next_and_match_index(self) -> None:
        member = Member(log=log_of(1, 1))
        member.become_leader()
        member.receive(Message(_APP_RESP, 1, 2, 2, index=3))
        peer = member.node.status().progress[2]
        assert (peer.match, peer.next) == (3, 4)

    def test_an_acknowledgement_from_another_term_counts_for_nothing(self) -> None:
        member = Member(log=log_of(1, 1))
        member.become_leader()
        member.receive(Message(_APP_RESP, 1, 2, 1, index=3))
        assert member.node.status().progress[2].match == 0
        assert member.commit == 0

    def test_match_index_increases_monotonically(self) -> None:
        member = Member(log=log_of(1, 1))
        member.become_leader()
        member.receive(Message(_APP_RESP, 1, 2, 2, index=3), Message(_APP_RESP, 1, 2, 2, index=2))
        assert member.node.status().progress[2].match == 3

    def test_failure_decrements_next_index_and_retries(self) -> None:
        member = Member(log=log_of(1, 1))
        member.become_leader()
        (retry,) = member.receive(Message(_APP_RESP, 1, 2, 2, index=2, reject=True, reject_hint=1, log_term=1))
        assert (retry.type, retry.to, retry.index) == (_APP, 2, 1)
        assert [entry.index for entry in retry.entries] == [2, 3]

    def test_commit_index_is_what_a_majority_matches_in_the_current_term(self) -> None:
        member = Member(voters=range(1, 6))
        member.become_leader()
        member.node.propose(b"command")
        member.work()
        member.receive(Message(_APP_RESP, 1, 2, 1, index=2))
        assert member.commit == 0
        member.receive(Message(_APP_RESP, 1, 3, 1, index=2))
        assert member.commit == 2

    def test_commit_index_does_not_reach_entries_of_former_terms_by_counting(self) -> None:
        member = Member(log=log_of(1, 2))
        member.become_leader()
        assert member.term == 3
        member.receive(Message(_APP_RESP, 1, 2, 3, index=2))
        assert member.commit == 0
        member.receive(Message(_APP_RESP, 1, 2, 3, index=3))
        assert member.commit == 3

    def test_the_leader_itself_counts_only_what_it_has_stored(self) -> None:
        member = Member(voters=[1, 2])
        member.become_leader()
        member.node.propose(b"command")
        # The follower was faster than this member's own disk.
        ready = member.node.ready()
        member.node.step(Message(_APP_RESP, 1, 2, 1, index=2))
        assert member.commit == 1
        member.storage.append(ready.entries)
        member.node.advance(ready)
        assert member.commit == 2


def test_safety_all_members_apply_the_same_commands_in_the_same_order() -> None:
    cluster = Cluster(5)
    cluster.elect(1)
    cluster.propose(1, b"a", b"b")
    cluster.separate(1, 2)
    cluster.propose(1, b"lost")
    cluster.elect(3)
    cluster.propose(3, b"c")
    cluster.heal()
    cluster.tick(2)
    assert {id: member.payloads for id, member in cluster.members.items()} == {
        id: [b"a", b"b", b"c"] for id in range(1, 6)
    }
