"""The rules of section 5 of the Raft paper, the algorithm itself, beyond what figure 2 says."""

from __future__ import annotations

import random

import pytest

from raft import Config, ConfigError, Entry, HardState, MemoryStorage, Message, MessageType, ProposalDropped, StateType
from tests.raft.harness import ELECTION_TICK, Cluster, FixedRandom, Member, log_of

_APP, _APP_RESP = MessageType.APP, MessageType.APP_RESP
_VOTE, _VOTE_RESP = MessageType.VOTE, MessageType.VOTE_RESP


def cluster_with_logs(*logs: list[Entry], term: int = 0) -> Cluster:
    """A group whose members begin with these logs, in `term` or that of the highest of them."""
    cluster = Cluster(0)
    term = term or max(entry.term for log in logs for entry in log)
    for id, log in enumerate(logs, 1):
        voters = range(1, len(logs) + 1)
        cluster.add(Member(id, voters, log=log, hard_state=HardState(term=term)))
    return cluster


class TestBasics51:
    def test_at_most_one_leader_per_term(self) -> None:
        cluster = Cluster(5)
        terms: dict[int, int] = {}
        for id in (1, 2, 3, 1, 5):
            cluster.elect(id)
            term = cluster[id].term
            assert terms.setdefault(term, id) == id

    def test_a_follower_redirects_a_command_to_the_leader(self) -> None:
        cluster = Cluster()
        cluster.elect(1)
        cluster.propose(2, b"from 2")
        assert cluster[1].payloads == [b"from 2"]

    def test_a_follower_without_leader_takes_no_command(self) -> None:
        with pytest.raises(ProposalDropped):
            Member().node.propose(b"x")

    def test_a_candidate_takes_no_command(self) -> None:
        member = Member()
        member.become_candidate()
        with pytest.raises(ProposalDropped):
            member.node.propose(b"x")

    def test_a_stale_leader_reverts_to_follower(self) -> None:
        cluster = Cluster()
        cluster.elect(1)
        cluster.separate(1)
        cluster.elect(2)
        assert cluster.leaders() == [1, 2]
        cluster.heal()
        cluster.tick()
        assert cluster.leaders() == [2]
        assert cluster[1].term == cluster[2].term

    def test_a_request_with_a_stale_term_is_rejected(self) -> None:
        member = Member(hard_state=HardState(term=5), log=log_of(1))
        member.receive(Message(_APP, 1, 2, 4, 1, 1, [Entry(4, 2)]))
        assert member.terms == [1]


class TestLeaderElection52:
    def test_servers_start_up_as_followers(self) -> None:
        assert Member().role == StateType.FOLLOWER

    @pytest.mark.parametrize("drawn", range(ELECTION_TICK))
    def test_election_timeouts_are_chosen_from_a_fixed_interval(self, drawn: int) -> None:
        member = Member(random_source=FixedRandom(drawn))
        member.tick(ELECTION_TICK + drawn - 1)
        assert member.term == 0
        member.tick()
        assert (member.term, member.role) == (1, StateType.CANDIDATE)

    def test_election_timeouts_are_random(self) -> None:
        member = Member(random_source=random.Random(1))
        timeouts = set()
        for _ in range(50 * ELECTION_TICK):
            before = member.term
            member.tick()
            if member.term > before:
                timeouts.add(member.node.raft.randomized_election_timeout)
        assert timeouts > {ELECTION_TICK, 2 * ELECTION_TICK - 1}
        assert min(timeouts) == ELECTION_TICK
        assert max(timeouts) == 2 * ELECTION_TICK - 1

    def test_a_candidate_restarts_its_randomized_timeout_at_each_election(self) -> None:
        source = FixedRandom(0)
        member = Member(random_source=source)
        source.value = ELECTION_TICK - 1
        member.become_candidate()
        member.tick(2 * ELECTION_TICK - 2)
        assert member.term == 1
        member.tick()
        assert member.term == 2

    def test_random_timeouts_resolve_split_votes(self) -> None:
        cluster = Cluster(4)
        cluster[1].node.campaign()
        cluster[2].node.campaign()
        cluster.separate(1, 3)
        cluster.settle()
        assert cluster.leaders() == []
        cluster.heal()
        for _ in range(20 * ELECTION_TICK):
            cluster.tick()
            if cluster.leaders():
                break
        assert len(cluster.leaders()) == 1

    def test_each_server_votes_for_at_most_one_candidate_first_come_first_served(self) -> None:
        member = Member()
        first, second = member.receive(Message(_VOTE, 1, 3, 1), Message(_VOTE, 1, 2, 1))
        assert (first.to, first.reject) == (3, False)
        assert (second.to, second.reject) == (2, True)

    def test_a_candidate_ignores_a_leader_of_a_lower_term_and_continues(self) -> None:
        member = Member(hard_state=HardState(term=3))
        member.become_candidate()
        member.receive(Message(_APP, 1, 2, 3))
        assert member.role == StateType.CANDIDATE

    def test_heartbeats_prevent_new_elections(self) -> None:
        cluster = Cluster()
        cluster.elect(1)
        cluster.tick(10 * ELECTION_TICK)
        assert cluster.leaders() == [1]
        assert cluster[1].term == 1

    def test_a_single_voter_elects_itself(self) -> None:
        member = Member(voters=[1])
        member.tick(2 * ELECTION_TICK)
        assert member.role == StateType.LEADER


class TestLogReplication53:
    def test_entries_carry_the_term_in_which_the_leader_created_them(self) -> None:
        cluster = Cluster()
        cluster.elect(1)
        cluster.propose(1, b"a")
        cluster.elect(2)
        cluster.propose(2, b"b")
        assert cluster[3].terms == [1, 1, 2, 2]

    def test_committing_an_entry_commits_all_preceding_ones_of_former_leaders(self) -> None:
        cluster = cluster_with_logs(log_of(1, 2), log_of(1), log_of(1))
        cluster.elect(1)
        assert cluster[1].commit == 3
        assert [entry.term for entry in cluster[2].applied] == [1, 2, 3]

    def test_a_follower_learns_what_is_committed_from_later_appends(self) -> None:
        member = Member()
        member.receive(Message(_APP, 1, 2, 1, 0, 0, log_of(1)))
        assert member.applied == []
        member.receive(Message(_APP, 1, 2, 1, 1, 1, (), 1))
        assert [entry.index for entry in member.applied] == [1]

    def test_two_entries_with_the_same_index_and_term_have_the_same_predecessors(self) -> None:
        cluster = Cluster(5)
        cluster.elect(1)
        cluster.propose(1, b"a")
        cluster.separate(1, 2)
        cluster.propose(1, b"x", b"y")
        cluster.elect(3)
        cluster.propose(3, b"b")
        cluster.heal()
        cluster.tick(3)
        logs = [member.terms for member in cluster.members.values()]
        for a in logs:
            for b in logs:
                common = [i for i in range(min(len(a), len(b))) if a[i] == b[i]]
                assert common == list(range(len(common)))

    def test_a_leader_never_overwrites_or_deletes_entries_in_its_log(self) -> None:
        member = Member(log=log_of(1, 1, 2))
        member.become_leader()
        before = member.terms
        member.receive(Message(_APP_RESP, 1, 2, member.term, index=3, reject=True, reject_hint=0))
        member.receive(Message(_APP, 1, 2, member.term - 1, 0, 0, log_of(9)))
        assert member.terms == before

    @pytest.mark.parametrize(
        "follower",
        [
            log_of(1, 1, 1, 4, 4, 5, 5, 6, 6),
            log_of(1, 1, 1, 4),
            log_of(1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6),
            log_of(1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7),
            log_of(1, 1, 1, 4, 4, 4, 4),
            log_of(1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3),
        ],
        ids=["a", "b", "c", "d", "e", "f"],
    )
    def test_figure_7_the_leader_makes_every_log_like_its_own(self, follower: list[Entry]) -> None:
        # The third member votes, so that the leader of the figure can be elected whatever the follower holds.
        cluster = cluster_with_logs(log_of(1, 1, 1, 4, 4, 5, 5, 6, 6, 6), follower, log_of(1), term=7)
        cluster.elect(1)
        cluster.propose(1, b"new")
        cluster.tick(2)
        assert cluster[2].terms == cluster[1].terms == [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 8, 8]

    def test_the_leader_skips_all_conflicting_entries_of_a_term_at_once(self) -> None:
        # One by one this would take a rejection an index.
        cluster = cluster_with_logs(log_of(1, *[3] * 50), log_of(1, *[2] * 60), log_of(1))
        rejections: list[Message] = []

        def count(message: Message) -> bool:
            if message.reject:
                rejections.append(message)
            return False

        cluster.lost = count
        cluster.elect(1)
        cluster.tick(5)
        assert cluster[2].terms == cluster[1].terms
        assert len(rejections) <= 4


class TestElectionRestriction541:
    @pytest.mark.parametrize(
        ("log", "log_term", "index", "granted"),
        [
            (log_of(1), 1, 1, True),
            (log_of(1), 1, 2, True),
            (log_of(1, 1), 1, 1, False),
            (log_of(1), 2, 1, True),
            (log_of(1, 1), 2, 1, True),
            (log_of(2), 1, 1, False),
            (log_of(2), 1, 9, False),
        ],
    )
    def test_a_voter_denies_its_vote_if_its_own_log_is_more_up_to_date(
        self, log: list[Entry], log_term: int, index: int, granted: bool
    ) -> None:
        member = Member(log=log)
        (answer,) = member.receive(Message(_VOTE, 1, 2, 9, log_term, index))
        assert answer.reject is not granted

    def test_a_candidate_without_all_committed_entries_cannot_win(self) -> None:
        cluster = Cluster()
        cluster.elect(1)
        cluster.separate(3)
        cluster.propose(1, b"committed")
        cluster.heal()
        cluster[3].node.campaign()
        cluster.settle()
        assert cluster.leaders() == []
        cluster.elect(2)
        assert b"committed" in cluster[2].payloads


class TestCommittingFromPreviousTerms542:
    def test_figure_8_an_entry_of_a_former_term_is_not_committed_by_counting(self) -> None:
        # (c): S1 leads again in term 4; its entry of term 2 reaches a majority, and may still be overwritten by S5.
        cluster = cluster_with_logs(log_of(1, 2), log_of(1, 2), log_of(1), log_of(1), log_of(1, 3))
        leader = cluster[1]
        cluster.separate(1, 2, 3)
        # All of its own term is lost, so that only the entry of term 2 spreads.
        cluster.lost = lambda m: m.type == _APP and any(entry.term > 3 for entry in m.entries)
        leader.node.campaign()
        cluster.settle()
        assert leader.role == StateType.LEADER
        leader.receive(Message(_APP_RESP, 1, 2, leader.term, index=2), Message(_APP_RESP, 1, 3, leader.term, index=2))
        assert leader.commit == 0
        # (e): once one of its own term is on a majority, all before it is committed as well.
        leader.receive(Message(_APP_RESP, 1, 2, leader.term, index=3), Message(_APP_RESP, 1, 3, leader.term, index=3))
        assert leader.commit == 3


class TestSafety543:
    def test_leader_completeness_every_later_leader_has_every_committed_entry(self) -> None:
        cluster = Cluster(5)
        committed: list[bytes] = []
        rng = random.Random(7)
        for round_ in range(30):
            cluster.heal()
            cluster.separate(*rng.sample(range(1, 6), 2))
            for id in rng.sample(range(1, 6), 5):
                cluster[id].node.campaign()
                cluster.settle()
                term = max(member.term for member in cluster.members.values())
                leaders = [id for id in cluster.leaders() if cluster[id].term == term]
                if leaders:
                    held = [entry.data for entry in cluster[leaders[0]].node.raft.log.entries(1, 1 << 30)]
                    assert [data for data in held if data in committed] == committed
            for id in cluster.leaders():
                cluster.propose(id, b"%d/%d" % (round_, id))
            longest = max((member.payloads for member in cluster.members.values()), key=len)
            assert longest[: len(committed)] == committed
            committed = list(longest)
        assert len(committed) > 10


class TestFollowerAndCandidateCrashes55:
    def test_requests_are_retried_until_the_crashed_server_restarts(self) -> None:
        cluster = Cluster()
        cluster.elect(1)
        cluster.separate(3)
        cluster.propose(1, b"a", b"b")
        cluster.tick(3)
        cluster[3].restart()
        cluster.heal()
        cluster.tick(2)
        assert cluster[3].payloads == [b"a", b"b"]

    def test_requests_are_idempotent(self) -> None:
        member = Member()
        request = Message(_APP, 1, 2, 1, 0, 0, log_of(1, 1), 1)
        first = member.receive(request)
        again = member.receive(request)
        assert first[0].index == 2
        assert not again[0].reject
        assert member.terms == [1, 1]
        assert [entry.index for entry in member.applied] == [1]

    def test_a_vote_request_is_idempotent(self) -> None:
        member = Member()
        first, again = member.receive(Message(_VOTE, 1, 2, 1), Message(_VOTE, 1, 2, 1))
        assert not first.reject
        assert not again.reject

    def test_a_restarted_member_applies_what_it_had_not(self) -> None:
        member = Member()
        member.receive(Message(_APP, 1, 2, 1, 0, 0, log_of(1, 1, 1), 2))
        member.applied.pop()
        member.restart()
        member.work()
        assert [entry.index for entry in member.applied] == [1, 2]


class TestTiming56:
    def test_the_heartbeat_interval_must_be_below_the_election_timeout(self) -> None:
        with pytest.raises(ConfigError, match="election_tick"):
            Config(id=1, election_tick=5, heartbeat_tick=5, storage=MemoryStorage())

    def test_safety_does_not_depend_on_timing(self) -> None:
        # One member's clock runs fifty times as fast: it disturbs, and nothing is lost.
        cluster = Cluster()
        cluster.elect(1)
        for round_ in range(10):
            for _ in range(5):
                cluster.tick(10, ids=[3])
                cluster.tick()
            for id in cluster.leaders():
                cluster.propose(id, b"%d" % round_)
        longest = max((member.payloads for member in cluster.members.values()), key=len)
        assert len(longest) == 10
        for member in cluster.members.values():
            assert member.payloads == longest[: len(member.payloads)]
