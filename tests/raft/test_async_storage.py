"""Asynchronous storage writes: work comes as messages to two threads, and may overlap."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from raft import (
    LOCAL_APPEND_THREAD,
    LOCAL_APPLY_THREAD,
    ConfChange,
    ConfChangeType,
    Config,
    ConfState,
    Entry,
    HardState,
    MemoryStorage,
    Message,
    MessageType,
    MisuseError,
    RawNode,
    Snapshot,
    SnapshotMetadata,
    SoftState,
    StateType,
    decode_entry,
    encode_conf_change,
)
from tests.raft.harness import FixedRandom, log_of, snapshot_at

_APP, _APP_RESP = MessageType.APP, MessageType.APP_RESP


@dataclass
class AsyncMember:
    """A member whose storage threads work only when the test says so."""

    node: RawNode
    storage: MemoryStorage
    appends: list[Message] = field(default_factory=list)
    applies: list[Message] = field(default_factory=list)
    sent: list[Message] = field(default_factory=list)

    def take_ready(self) -> None:
        """Hand out what is ready, without doing it."""
        while self.node.has_ready():
            for message in self.node.ready().messages:
                self._queue_of(message).append(message)

    def _queue_of(self, message: Message) -> list[Message]:
        return {LOCAL_APPEND_THREAD: self.appends, LOCAL_APPLY_THREAD: self.applies}.get(message.to, self.sent)

    def receive(self, message: Message) -> None:
        """Step a message and hand out what follows."""
        self.node.step(message)
        self.take_ready()

    def write(self) -> list[Message]:
        """Do one unit of the append thread's work; its responses are for the test to deliver."""
        message = self.appends.pop(0)
        if message.term or message.vote or message.commit:
            self.storage.set_hard_state(HardState(message.term, message.vote, message.commit))
        if message.snapshot is not None:
            self.storage.apply_snapshot(message.snapshot)
        self.storage.append(message.entries)
        return list(message.responses)

    def respond(self, responses: list[Message]) -> None:
        """Deliver responses to this member itself, and send the others."""
        for message in responses:
            if message.to == self.node.raft.id:
                self.node.step(message)
            else:
                self.sent.append(message)
        self.take_ready()

    def unstable_terms(self) -> list[int]:
        """The terms of the entries not known to be stored."""
        return [entry.term for entry in self.node.raft.log.unstable.entries]


def member(voters: tuple[int, ...] = (1, 2, 3)) -> AsyncMember:
    storage = MemoryStorage(Snapshot(metadata=SnapshotMetadata(ConfState(list(voters)), 1, 1)))
    config = Config(
        id=1,
        election_tick=10,
        heartbeat_tick=1,
        storage=storage,
        applied=1,
        async_storage_writes=True,
        random_source=FixedRandom(),
    )
    return AsyncMember(RawNode(config), storage)


def append(term: int, index: int, log_term: int, *terms: int, commit: int = 0) -> Message:
    entries = [Entry(t, index + offset, data=b"%d" % t) for offset, t in enumerate(terms, 1)]
    return Message(_APP, 1, 2, term, log_term, index, entries, commit)


def test_advance_is_wrong_use() -> None:
    with pytest.raises(MisuseError, match="async_storage_writes"):
        member().node.advance()


def test_a_ready_need_not_wait_for_the_last_write() -> None:
    m = member()
    m.receive(append(1, 1, 1, 1))
    m.receive(append(1, 2, 1, 1))
    assert [[entry.index for entry in work.entries] for work in m.appends] == [[2], [3]]
    assert m.sent == []


def test_an_acknowledgement_leaves_only_after_its_write() -> None:
    m = member()
    m.receive(append(1, 1, 1, 1))
    m.respond(m.write())
    assert [(message.type, message.to, message.index) for message in m.sent] == [(_APP_RESP, 2, 2)]
    assert m.unstable_terms() == []


def test_a_vote_leaves_only_after_its_write() -> None:
    m = member()
    m.receive(Message(MessageType.VOTE, 1, 2, 5, 9, 9))
    assert m.sent == []
    m.respond(m.write())
    assert [message.type for message in m.sent] == [MessageType.VOTE_RESP]
    assert m.storage.hard_state == HardState(5, 2, 1)


def test_a_candidates_own_vote_counts_only_after_its_write() -> None:
    m = member(voters=(1,))
    m.node.campaign()
    m.take_ready()
    assert m.node.basic_status().soft_state == SoftState(0, StateType.CANDIDATE)
    m.respond(m.write())
    assert m.node.basic_status().soft_state == SoftState(1, StateType.LEADER)


def test_a_leader_counts_its_own_entries_only_after_their_write() -> None:
    m = member(voters=(1,))
    m.node.campaign()
    m.take_ready()
    m.respond(m.write())
    assert m.node.raft.log.committed == 1
    m.respond(m.write())
    assert m.node.raft.log.committed == 2


def test_committed_entries_are_applied_only_after_their_write() -> None:
    m = member()
    m.receive(append(1, 1, 1, 1, commit=2))
    assert m.applies == []
    m.respond(m.write())
    assert [entry.index for work in m.applies for entry in work.entries] == [2]


def test_applying_is_acknowledged_by_the_apply_threads_response() -> None:
    m = member()
    m.receive(append(1, 1, 1, 1, commit=2))
    m.respond(m.write())
    assert m.node.raft.log.applied == 1
    m.respond(list(m.applies.pop(0).responses))
    assert m.node.raft.log.applied == 2


def test_a_hard_state_without_waiting_messages_needs_no_response() -> None:
    m = member()
    m.receive(append(1, 1, 1, 1))
    m.respond(m.write())
    m.receive(Message(MessageType.HEARTBEAT, 1, 2, 1, commit=2))
    (work, *_) = m.appends
    assert (work.commit, list(work.responses)) == (2, [])


def test_a_response_of_a_lower_term_drops_no_entries() -> None:
    """The entries go A, B, A at the same index; the report about the first A comes when B is on its way to disk."""
    m = member()
    m.receive(append(1, 1, 1, 1))
    first = m.write()
    m.receive(append(2, 1, 1, 2))
    # The leader of term 3 brings the entry of term 1 back, as it was.
    m.receive(append(3, 1, 1, 1))
    m.respond(first)
    assert m.unstable_terms() == [1]
    # On disk, B takes the place of A for a while: nobody may read it from there now.
    second = m.write()
    assert m.storage.term(2) == 2
    m.respond(second)
    assert m.node.raft.log.term(2) == 1
    m.respond(m.write())
    assert m.storage.term(2) == 1
    assert m.unstable_terms() == []


def test_what_a_dropped_response_would_have_said_comes_with_the_next() -> None:
    m = member()
    m.receive(append(1, 1, 1, 1))
    stale = m.write()
    # A new term that brings no entries, only a hard state to store.
    m.receive(Message(MessageType.VOTE, 1, 3, 2, 9, 9))
    m.respond(stale)
    assert m.unstable_terms() == [1]
    m.respond(m.write())
    assert m.unstable_terms() == []


def test_a_snapshot_stored_in_a_lower_term_counts_all_the_same() -> None:
    m = member()
    m.receive(Message(MessageType.SNAP, 1, 2, 1, snapshot=snapshot_at(9, 1)))
    responses = m.write()
    m.receive(Message(MessageType.HEARTBEAT, 1, 3, 2))
    m.respond(responses)
    assert m.node.raft.log.unstable.snapshot is None
    assert m.node.raft.log.applied == 9


def test_a_change_that_a_newer_snapshot_overtakes_leaves_its_configuration_alone() -> None:
    m = member((1, 2))
    kind, data = encode_conf_change(ConfChange(type=ConfChangeType.ADD_NODE, node_id=3))
    m.receive(Message(_APP, 1, 2, 1, 1, 1, [Entry(1, 2, kind, data)], 2))
    m.respond(m.write())
    (work,) = m.applies
    # While the apply thread is about to add member 3, a snapshot says that 3 was removed again, and 2 demoted.
    later = ConfState(voters=[1, 4], learners=[2])
    m.receive(Message(MessageType.SNAP, 1, 2, 1, snapshot=Snapshot(b"state", SnapshotMetadata(later, 9, 1))))
    reached = m.node.apply_conf_change(decode_entry(work.entries[0]))
    # The state machine is told the configuration of the index it has reached; in force is that of the snapshot.
    assert reached == ConfState(voters=[1, 2, 3])
    assert m.node.raft.tracker.config.conf_state() == later
    m.respond(m.write())
    assert m.node.apply_conf_change(ConfChange(type=ConfChangeType.ADD_NODE, node_id=5)).voters == [1, 4, 5]


def test_the_limit_of_entries_being_applied_holds_across_readys() -> None:
    storage = MemoryStorage()
    storage.append(log_of(1, 1, 1, 1))
    storage.set_hard_state(HardState(1, 0, 4))
    storage.initial_state = lambda: (storage.hard_state, ConfState([1]))  # type: ignore[method-assign]
    config = Config(
        id=1,
        election_tick=10,
        heartbeat_tick=1,
        storage=storage,
        async_storage_writes=True,
        max_committed_size_per_ready=30,
    )
    m = AsyncMember(RawNode(config), storage)
    m.take_ready()
    assert [[entry.index for entry in work.entries] for work in m.applies] == [[1, 2]]
    assert not m.node.has_ready()
    m.respond(list(m.applies.pop(0).responses))
    assert [[entry.index for entry in work.entries] for work in m.applies] == [[3, 4]]
