"""Reads that wait for a quorum of heartbeat answers."""

from __future__ import annotations

from raft import (
    ConfChange,
    ConfChangeType,
    Config,
    ConfState,
    Entry,
    HardState,
    MemoryStorage,
    Message,
    MessageType,
    RawNode,
    ReadOnlyOption,
    ReadState,
    Snapshot,
    SnapshotMetadata,
    StateType,
)
from raft.quorum import JointConfig
from raft.readonly import ReadOnly
from tests.raft.harness import Cluster

_VOTERS = JointConfig({1, 2, 3})


def request(name: bytes) -> Message:
    return Message(MessageType.READ_INDEX, entries=[Entry(data=name)])


def names(confirmed: list[tuple[Message, int]]) -> list[tuple[bytes, int]]:
    return [(message.entries[0].data, index) for message, index in confirmed]


def test_a_quorum_of_answers_confirms_every_read_up_to_the_round() -> None:
    reads = ReadOnly(ReadOnlyOption.SAFE)
    reads.add(request(b"a"), 5)
    reads.add(request(b"b"), 6)
    context = reads.heartbeat_context()
    reads.add(request(b"c"), 7)
    reads.receive_ack(1, context)
    assert reads.confirm(_VOTERS) == []
    reads.receive_ack(3, context)
    assert names(reads.confirm(_VOTERS)) == [(b"a", 5), (b"b", 6)]
    assert reads.confirm(_VOTERS) == []


def test_answers_to_different_rounds_confirm_what_they_have_in_common() -> None:
    reads = ReadOnly(ReadOnlyOption.SAFE)
    reads.add(request(b"a"), 5)
    first = reads.heartbeat_context()
    reads.add(request(b"b"), 6)
    reads.receive_ack(1, reads.heartbeat_context())
    reads.receive_ack(2, first)
    assert names(reads.confirm(_VOTERS)) == [(b"a", 5)]


def test_a_late_answer_does_not_take_an_earlier_one_back() -> None:
    reads = ReadOnly(ReadOnlyOption.SAFE)
    reads.add(request(b"a"), 5)
    first = reads.heartbeat_context()
    reads.add(request(b"b"), 6)
    second = reads.heartbeat_context()
    for context in (second, first):
        reads.receive_ack(2, context)
    reads.receive_ack(1, second)
    assert len(reads.confirm(_VOTERS)) == 2


def test_without_reads_heartbeats_carry_nothing() -> None:
    reads = ReadOnly(ReadOnlyOption.SAFE)
    assert reads.heartbeat_context() == b""
    reads.receive_ack(2, b"")
    assert reads.confirm(_VOTERS) == []


def test_answers_from_strangers_confirm_nothing() -> None:
    reads = ReadOnly(ReadOnlyOption.SAFE)
    reads.add(request(b"a"), 5)
    context = reads.heartbeat_context()
    for id in (1, 8, 9):
        reads.receive_ack(id, context)
    assert reads.confirm(_VOTERS) == []


def test_an_answer_that_claims_too_much_confirms_no_more_than_there_is() -> None:
    reads = ReadOnly(ReadOnlyOption.SAFE)
    reads.add(request(b"a"), 5)
    for id in (1, 2):
        reads.receive_ack(id, b"\xff" * 8)
    assert names(reads.confirm(_VOTERS)) == [(b"a", 5)]


def test_a_leader_that_is_alone_answers_no_read_before_it_has_committed_in_its_term() -> None:
    # The last entry was committed and applied before the restart, but the commit index was not stored with it.
    storage = MemoryStorage(Snapshot(b"", SnapshotMetadata(ConfState(voters=[1]), 1, 1)))
    storage.append([Entry(1, 2, data=b"acknowledged")])
    storage.set_hard_state(HardState(term=1, vote=1, commit=1))
    node = RawNode(Config(id=1, election_tick=10, heartbeat_tick=1, storage=storage, applied=1))
    node.campaign()
    states: list[ReadState] = []

    def persist_and_advance() -> None:
        ready = node.ready()
        states.extend(ready.read_states)
        storage.append(ready.entries)
        if ready.hard_state is not None:
            storage.set_hard_state(ready.hard_state)
        node.advance()

    while node.basic_status().soft_state.raft_state is not StateType.LEADER:
        persist_and_advance()
    node.read_index(b"read")
    assert states == []
    while node.has_ready():
        persist_and_advance()
    assert [state.request_ctx for state in states] == [b"read"]
    assert states[0].index >= 2


def test_a_removed_leader_asks_the_last_voter_before_it_answers_a_read() -> None:
    cluster = Cluster(2)
    cluster.elect(1)
    cluster[1].node.propose_conf_change(ConfChange(type=ConfChangeType.REMOVE_NODE, node_id=1))
    cluster.settle()
    assert (cluster[1].role, cluster[1].conf_state.voters) == (StateType.LEADER, [2])
    cluster.separate(1)
    # Alone in its group by now, member 2 needs nobody to lead it and to commit.
    cluster.elect(2)
    cluster.propose(2, b"new")
    cluster[1].node.read_index(b"stale")
    cluster.settle()
    assert cluster[1].reads == []


def test_a_removed_leader_that_the_last_voter_follows_answers_reads() -> None:
    cluster = Cluster(2)
    cluster.elect(1)
    cluster[1].node.propose_conf_change(ConfChange(type=ConfChangeType.REMOVE_NODE, node_id=1))
    cluster.settle()
    cluster[1].node.read_index(b"read")
    cluster.settle()
    assert [(read.request_ctx, read.index) for read in cluster[1].reads] == [(b"read", cluster[1].commit)]
