"""The interface of one member: what it takes, what it hands out, and how it starts."""

from __future__ import annotations

import random
from typing import Any

import pytest

from raft import (
    LOCAL_APPEND_THREAD,
    ConfChange,
    ConfChangeError,
    ConfChangeSingle,
    ConfChangeTransition,
    ConfChangeType,
    ConfChangeV2,
    Config,
    ConfState,
    Entry,
    EntryType,
    HardState,
    InvariantViolation,
    MemoryStorage,
    Message,
    MessageType,
    MisuseError,
    Peer,
    ProgressState,
    ProposalDropped,
    RawNode,
    Ready,
    SoftState,
    StateType,
    StepLocalMessage,
    StepPeerNotFound,
    decode_conf_change,
)
from tests.raft.harness import Cluster, Member, log_of


def config(storage: MemoryStorage | None = None, **fields: Any) -> Config:
    return Config(
        id=1,
        election_tick=10,
        heartbeat_tick=1,
        storage=storage or MemoryStorage(),
        random_source=random.Random(1),
        **fields,
    )


class TestStepping:
    @pytest.mark.parametrize(
        "kind",
        [
            MessageType.HUP,
            MessageType.BEAT,
            MessageType.UNREACHABLE,
            MessageType.SNAP_STATUS,
            MessageType.CHECK_QUORUM,
            MessageType.STORAGE_APPEND,
            MessageType.STORAGE_APPEND_RESP,
            MessageType.STORAGE_APPLY,
            MessageType.STORAGE_APPLY_RESP,
        ],
    )
    def test_what_never_crosses_a_network_is_refused(self, kind: MessageType) -> None:
        with pytest.raises(StepLocalMessage):
            Member().node.step(Message(kind, 1, 2, 1))

    def test_a_storage_threads_response_is_taken(self) -> None:
        member = Member()
        member.node.step(Message(MessageType.STORAGE_APPEND_RESP, 1, LOCAL_APPEND_THREAD, 0))
        assert not member.node.has_ready()

    @pytest.mark.parametrize(
        "kind",
        [
            MessageType.APP_RESP,
            MessageType.VOTE_RESP,
            MessageType.PRE_VOTE_RESP,
            MessageType.HEARTBEAT_RESP,
            MessageType.READ_INDEX_RESP,
        ],
    )
    def test_responses_from_strangers_are_refused(self, kind: MessageType) -> None:
        with pytest.raises(StepPeerNotFound):
            Member().node.step(Message(kind, 1, 9, 1))

    def test_requests_from_strangers_are_taken(self) -> None:
        # A member that is catching up may not know the leader yet.
        member = Member()
        assert member.receive(Message(MessageType.APP, 1, 9, 1))
        assert member.lead == 9

    def test_an_empty_proposal_is_wrong_use(self) -> None:
        member = Member()
        member.become_leader()
        with pytest.raises(MisuseError, match="empty MsgProp"):
            member.node.step(Message(MessageType.PROP, 1, 2))

    def test_a_malformed_read_is_ignored(self) -> None:
        member = Member(voters=[1])
        member.become_leader()
        member.receive(Message(MessageType.READ_INDEX, 1, 2))
        follower = Member()
        follower.receive(Message(MessageType.READ_INDEX_RESP, 1, 2))
        assert member.reads == follower.reads == []


class TestReady:
    def test_nothing_is_ready_when_nothing_happened(self) -> None:
        assert not Member().node.has_ready()

    def test_a_ready_must_be_advanced_before_the_next(self) -> None:
        member = Member(voters=[1])
        member.node.campaign()
        member.node.ready()
        with pytest.raises(MisuseError, match="before advance"):
            member.node.ready()

    def test_a_change_of_leader_or_role_is_told_once(self) -> None:
        member = Member()
        member.node.step(Message(MessageType.HEARTBEAT, 1, 2, 1))
        ready = member.node.ready()
        assert ready.soft_state == SoftState(2, StateType.FOLLOWER)
        member.node.advance(ready)
        member.node.step(Message(MessageType.HEARTBEAT, 1, 2, 1))
        assert member.node.ready().soft_state is None

    def test_the_hard_state_is_told_when_it_changed(self) -> None:
        member = Member()
        member.node.step(Message(MessageType.APP, 1, 2, 1, 0, 0, log_of(1)))
        ready = member.node.ready()
        assert ready.hard_state == HardState(1)
        member.storage.append(ready.entries)
        member.node.advance(ready)
        member.node.step(Message(MessageType.HEARTBEAT, 1, 2, 1, commit=1))
        ready = member.node.ready()
        assert ready.hard_state == HardState(1, 0, 1)
        # A commit index need not be synced: it is found again.
        assert not ready.must_sync

    def test_entries_are_committed_before_they_are_stored_only_by_others(self) -> None:
        member = Member(voters=[1])
        member.become_leader()
        member.node.propose(b"x")
        ready = member.node.ready()
        assert [entry.data for entry in ready.entries] == [b"x"]
        assert list(ready.committed_entries) == []
        member.storage.append(ready.entries)
        member.node.advance(ready)
        assert [entry.data for entry in member.node.ready().committed_entries] == [b"x"]

    def test_a_batch_is_one_append(self) -> None:
        member = Member(voters=[1])
        member.become_leader()
        member.node.propose_batch([b"a", b"b", b"c"])
        assert [entry.data for entry in member.node.ready().entries] == [b"a", b"b", b"c"]

    def test_an_empty_batch_is_nothing(self) -> None:
        member = Member()
        member.node.propose_batch([])
        assert not member.node.has_ready()

    def test_the_limit_of_committed_entries_holds_for_one_ready(self) -> None:
        member = Member(voters=[1], max_committed_size_per_ready=30)
        member.become_leader()
        member.node.propose_batch([bytes(10)] * 4)
        ready = member.node.ready()
        member.storage.append(ready.entries)
        member.node.advance(ready)
        sizes = []
        while member.node.has_ready():
            ready = member.node.ready()
            sizes.append(len(ready.committed_entries))
            member.node.advance(ready)
        assert sizes == [1, 1, 1, 1]

    def test_a_default_ready_asks_for_nothing(self) -> None:
        assert Ready() == Ready(None, None, (), (), None, (), [], False)


class TestStarting:
    def test_bootstrap_makes_the_first_configuration(self) -> None:
        storage = MemoryStorage()
        node = RawNode(config(storage))
        node.bootstrap([Peer(1, b"one"), Peer(2)])
        ready = node.ready()
        assert ready.hard_state == HardState(1, 0, 2)
        assert ready.must_sync
        changes = [decode_conf_change(entry.data) for entry in ready.committed_entries]
        assert changes == [
            ConfChange(0, ConfChangeType.ADD_NODE, 1, b"one"),
            ConfChange(0, ConfChangeType.ADD_NODE, 2),
        ]
        assert ready.entries == ready.committed_entries
        # In force at once, and again without effect when applied.
        assert node.status().config.conf_state() == ConfState([1, 2])
        for change in changes:
            assert node.apply_conf_change(change) == ConfState([1, 2])

    def test_bootstrap_needs_a_peer_and_an_empty_storage(self) -> None:
        with pytest.raises(MisuseError, match="at least one peer"):
            RawNode(config()).bootstrap([])
        storage = MemoryStorage()
        storage.append(log_of(1))
        with pytest.raises(MisuseError, match="nonempty"):
            RawNode(config(storage)).bootstrap([Peer(1)])

    def test_restart_hands_out_what_is_committed_and_not_applied(self) -> None:
        member = Member(log=log_of(1, 1, 1), hard_state=HardState(1, 2, 2))
        ready = member.node.ready()
        assert [entry.index for entry in ready.committed_entries] == [1, 2]
        assert ready.hard_state is None
        assert not ready.must_sync

    def test_restart_after_the_state_machine_does_not(self) -> None:
        storage = MemoryStorage()
        storage.append(log_of(1, 1, 1))
        storage.set_hard_state(HardState(1, 0, 2))
        assert not RawNode(config(storage, applied=2)).has_ready()

    def test_restart_in_a_joint_configuration(self) -> None:
        state = ConfState([1, 2, 4], [5], [1, 2, 3], [3], True)
        storage = MemoryStorage()
        storage.initial_state = lambda: (storage.hard_state, state)  # type: ignore[method-assign]
        node = RawNode(config(storage))
        assert node.status().config.conf_state() == state

    def test_a_commit_index_beyond_the_log_is_a_broken_storage(self) -> None:
        with pytest.raises(InvariantViolation, match="out of range"):
            Member(log=log_of(1), hard_state=HardState(1, 0, 2))

    def test_a_member_without_configuration_does_not_campaign(self) -> None:
        node = RawNode(config())
        for _ in range(100):
            node.tick()
        assert node.basic_status().hard_state.term == 0


class TestConfChanges:
    def test_the_new_configuration_is_returned(self) -> None:
        member = Member(voters=[1])
        change = ConfChangeV2(
            ConfChangeTransition.JOINT_EXPLICIT,
            [ConfChangeSingle(ConfChangeType.ADD_NODE, 2), ConfChangeSingle(ConfChangeType.ADD_LEARNER_NODE, 3)],
        )
        assert member.node.apply_conf_change(change) == ConfState([1, 2], [3], [1])
        assert member.node.apply_conf_change(ConfChangeV2()) == ConfState([1, 2], [3])

    def test_a_change_that_does_not_fit_is_refused_and_changes_nothing(self) -> None:
        member = Member(voters=[1])
        with pytest.raises(ConfChangeError, match="non-joint"):
            member.node.apply_conf_change(ConfChangeV2())
        assert member.node.status().config.conf_state() == ConfState([1])

    def test_a_change_emptied_by_its_owner_has_no_effect(self) -> None:
        member = Member(voters=[1, 2])
        assert member.node.apply_conf_change(ConfChange(type=ConfChangeType.REMOVE_NODE)) == ConfState([1, 2])

    def test_context_travels_with_the_change(self) -> None:
        member = Member(voters=[1])
        member.become_leader()
        member.node.propose_conf_change(ConfChange(7, ConfChangeType.UPDATE_NODE, 1, b"ctx"))
        member.work()
        (entry,) = member.storage.entries(2, 3)
        assert entry.type == EntryType.CONF_CHANGE
        assert decode_conf_change(entry.data) == ConfChange(7, ConfChangeType.UPDATE_NODE, 1, b"ctx")

    def test_a_leader_demoted_to_learner_may_step_down(self) -> None:
        cluster = Cluster(step_down_on_removal=True)
        cluster.elect(1)
        demote = ConfChangeV2(changes=[ConfChangeSingle(ConfChangeType.ADD_LEARNER_NODE, 1)])
        cluster[1].node.propose_conf_change(demote)
        cluster.settle()
        assert cluster.leaders() == []
        with pytest.raises(ProposalDropped):
            cluster[1].node.propose(b"x")


class TestStatus:
    def test_a_leader_tells_the_progress_of_all(self) -> None:
        cluster = Cluster()
        cluster.elect(1)
        status = cluster[1].node.status()
        assert {id: progress.state for id, progress in status.progress.items()} == dict.fromkeys(
            (1, 2, 3), ProgressState.REPLICATE
        )
        assert status.soft_state == SoftState(1, StateType.LEADER)
        assert (status.hard_state, status.applied) == (HardState(1, 1, 1), 1)

    def test_a_follower_tells_no_progress(self) -> None:
        assert Member().node.status().progress == {}

    def test_a_status_stays_as_it_was(self) -> None:
        cluster = Cluster()
        cluster.elect(1)
        status = cluster[1].node.status()
        cluster.propose(1, b"x")
        assert status.progress[2].match == 1
        assert status.config.voters.incoming == {1, 2, 3}


def test_the_same_calls_have_the_same_outcome() -> None:
    def run() -> list[str]:
        cluster = Cluster(pre_vote=True, check_quorum=True)
        log: list[str] = []

        def record(message: Message) -> bool:
            log.append(repr(message))
            return False

        cluster.lost = record
        cluster.tick(40)
        for id in cluster.leaders():
            cluster.propose(id, b"a", b"b")
        cluster.tick(5)
        return log

    first = run()
    assert len(first) > 50
    assert run() == first


def test_entries_handed_out_are_those_that_were_proposed() -> None:
    member = Member(voters=[1])
    member.become_leader()
    member.node.propose(b"x")
    member.work()
    assert member.applied == [Entry(1, 1), Entry(1, 2, EntryType.NORMAL, b"x")]
