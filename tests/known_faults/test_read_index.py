"""Reads that a deposed leader confirmed."""

from __future__ import annotations

from kvstore import errors
from kvstore.server.reads import RETRY_SECONDS, ReadRounds
from raft import Message, MessageType, ReadState, StateType
from tests.raft.harness import Cluster, of_type

READ = b"read"


def test_stale_read_after_a_pause_by_a_heartbeats_answer_that_comes_twice() -> None:
    """etcd 3.4 to 3.6 (issue 20418): a read was known to the leader by a name that its retries shared, and heartbeats
    carried that name. An answer delivered late, after the leader had been replaced without noticing, confirmed the
    retry of a read that it had been confirmed for long before, with the old leader's commit index.

    Here a heartbeat carries how many reads the leader had taken when it left. A retry is a read of its own, with a
    higher number, whatever its name.
    """
    cluster = Cluster()
    old = cluster.elect(1)
    cluster.propose(1, b"before")
    cluster.settle()
    late: list[Message] = []
    old.node.read_index(READ)
    for heartbeat in of_type(old.work(), MessageType.HEARTBEAT):
        late += of_type(cluster[heartbeat.to].receive(heartbeat), MessageType.HEARTBEAT_RESP)
    assert len(late) == 2
    old.receive(*late)
    assert [read.request_ctx for read in old.reads] == [READ]

    cluster.separate(1)
    cluster.elect(2)
    cluster.propose(2, b"after")
    cluster.settle()
    assert cluster[2].commit > old.commit
    assert old.role is StateType.LEADER
    old.node.read_index(READ)
    old.work()
    old.receive(*late)
    assert len(old.reads) == 1, "a leader that was replaced confirmed a read"


def test_read_index_confirmed_by_the_answer_to_a_later_request() -> None:
    """etcd's raft released all reads before one that a quorum had confirmed. Together with names that were used again
    an answer that was meant for an earlier use of a name released reads that nobody had been asked about.

    Here an answer counts for the reads that had arrived when its heartbeat left, and for no other.
    """
    cluster = Cluster()
    leader = cluster.elect(1)
    cluster.propose(1, b"a")
    cluster.settle()
    leader.node.read_index(b"first")
    first = of_type(leader.work(), MessageType.HEARTBEAT)
    answers = [
        answer
        for heartbeat in first
        for answer in of_type(cluster[heartbeat.to].receive(heartbeat), MessageType.HEARTBEAT_RESP)
    ]
    leader.node.read_index(b"second")
    leader.node.read_index(b"first")
    leader.work()
    leader.receive(*answers)
    assert [read.request_ctx for read in leader.reads] == [b"first"]
    leader.receive(*answers)
    assert [read.request_ctx for read in leader.reads] == [b"first"]


def test_read_index_confirmed_by_the_answer_to_an_earlier_leadership() -> None:
    """The same for a member that leads twice: it counts reads anew, and answers to heartbeats of the first time, which
    carry higher numbers, are still on their way.
    """
    cluster = Cluster()
    leader = cluster.elect(1)
    cluster.propose(1, b"a")
    cluster.settle()
    for _ in range(3):
        leader.node.read_index(b"early")
    late = [
        answer
        for heartbeat in of_type(leader.work(), MessageType.HEARTBEAT)
        for answer in of_type(cluster[heartbeat.to].receive(heartbeat), MessageType.HEARTBEAT_RESP)
    ]
    assert late
    cluster.elect(2)
    cluster.settle()
    cluster.elect(1)
    cluster.propose(1, b"b")
    cluster.settle()
    leader.node.read_index(b"late")
    leader.work()
    leader.receive(*late)
    assert not leader.reads


def test_stale_read_of_one_that_arrived_while_a_round_was_under_way() -> None:
    """A round has fixed its index before the write that the read must show; etcd, too, gives it to the next one."""
    asked: list[bytes] = []
    outcomes: list[str] = []
    reads = ReadRounds(1, 1, asked.append, timeout=5.0)
    reads.join(lambda error: outcomes.append("early"), 0.0)
    reads.begin(0.0)
    reads.join(lambda error: outcomes.append("late"), 0.0)
    reads.begin(0.0)
    reads.confirmed([ReadState(7, asked[0])], applied=7)
    assert outcomes == ["early"]
    reads.confirmed([ReadState(8, asked[1])], applied=8)
    assert outcomes == ["early", "late"]


def test_stale_read_by_the_answer_to_a_request_that_was_given_up() -> None:
    """etcd sent the same request again every half second (pull request 21399), so an answer that was on its way when
    the leader changed was taken for the answer to the last attempt.

    Here every attempt has a name that was never used, and an answer to one that was given up serves nobody.
    """
    asked: list[bytes] = []
    outcomes: list[errors.KvstoreError | None] = []
    reads = ReadRounds(1, 1, asked.append, timeout=5.0)
    reads.join(outcomes.append, 0.0)
    reads.begin(0.0)
    reads.tick(RETRY_SECONDS)
    reads.restart(RETRY_SECONDS)
    assert len(set(asked)) == 3
    reads.confirmed([ReadState(7, asked[0]), ReadState(7, asked[1])], applied=7)
    assert outcomes == []
    reads.confirmed([ReadState(8, asked[2])], applied=8)
    assert outcomes == [None]
