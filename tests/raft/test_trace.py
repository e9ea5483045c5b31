"""The trace: every transition as the TLA+ trace checker reads it."""

from __future__ import annotations

import json
from typing import Any

from raft import ConfChange, ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2
from tests.raft.harness import Cluster, Member, log_of


class Sink:
    """Keeps the lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def __call__(self, line: str, /) -> None:
        self.lines.append(line)

    def events(self, *names: str) -> list[dict[str, Any]]:
        """The events, or those with these names."""
        parsed = [json.loads(line) for line in self.lines]
        assert all(line["tag"] == "trace" for line in parsed)
        return [line["event"] for line in parsed if not names or line["event"]["name"] in names]

    def names(self) -> list[str]:
        """The names of the events in order, without those of messages."""
        return [e["name"] for e in self.events() if not e["name"].startswith(("Send", "Receive"))]


def test_starting_alone_and_taking_a_proposal() -> None:
    sink = Sink()
    member = Member(voters=[1], trace=sink)
    member.become_leader()
    member.node.propose(b"x")
    member.work()
    names = sink.names()
    assert names[:3] == ["InitState", "ApplyConfChange", "BecomeFollower"]
    transitions = [name for name in names if name in ("BecomeCandidate", "BecomeLeader", "Replicate", "Commit")]
    assert transitions == ["BecomeCandidate", "BecomeLeader", "Replicate", "Commit", "Replicate", "Commit"]
    assert names.count("Ready") == 5


def test_an_event_tells_the_state_after_the_transition() -> None:
    sink = Sink()
    Member(log=log_of(1, 2), trace=sink).become_candidate()
    (event,) = sink.events("BecomeCandidate")
    assert event == {
        "name": "BecomeCandidate",
        "nid": "1",
        "state": {"term": 3, "vote": "1", "commit": 0},
        "role": "StateCandidate",
        "log": 2,
        "conf": [["1", "2", "3"], []],
    }


def test_messages_are_told_when_sent_and_when_received() -> None:
    sink = Sink()
    cluster = Cluster(trace=sink)
    cluster.elect(1)
    cluster.propose(1, b"x")
    cluster.tick()
    for name in ("AppendEntriesRequest", "AppendEntriesResponse", "RequestVoteRequest", "RequestVoteResponse"):
        sent = [event["msg"] for event in sink.events("Send" + name)]
        received = [event["msg"] for event in sink.events("Receive" + name)]
        assert sent
        assert sorted(map(str, sent)) == sorted(map(str, received))
    request = next(e for e in sink.events("SendAppendEntriesRequest") if e["msg"]["entries"])
    assert request["msg"] == {
        "type": "MsgApp",
        "term": 1,
        "from": "1",
        "to": "2",
        "entries": 1,
        "logTerm": 0,
        "index": 0,
        "commit": 0,
        "vote": "0",
        "reject": False,
        "rejectHint": 0,
    }
    assert request["prop"] == {"match": 0, "next": 1}
    assert {e["msg"]["type"] for e in sink.events("SendAppendEntriesRequest")} == {"MsgApp", "MsgHeartbeat"}


def test_a_snapshot_is_an_append_of_everything_before_it() -> None:
    sink = Sink()
    cluster = Cluster(trace=sink)
    cluster.elect(1)
    cluster.separate(3)
    cluster.propose(1, b"a", b"b")
    cluster[1].take_snapshot()
    cluster.heal()
    cluster.tick(2)
    (event,) = [e for e in sink.events("ReceiveAppendEntriesRequest") if e["msg"]["type"] == "MsgSnap"]
    assert (event["msg"]["entries"], event["msg"]["index"], event["msg"]["logTerm"]) == (3, 0, 0)


def test_configuration_changes_are_told_when_proposed_and_when_applied() -> None:
    sink = Sink()
    member = Member(voters=[1], trace=sink)
    member.become_leader()
    member.node.propose_conf_change(ConfChange(type=ConfChangeType.ADD_LEARNER_NODE, node_id=2))
    member.work()
    changes = [ConfChangeSingle(ConfChangeType.ADD_NODE, 3), ConfChangeSingle(ConfChangeType.REMOVE_NODE, 2)]
    member.node.propose_conf_change(ConfChangeV2(ConfChangeTransition.JOINT_EXPLICIT, changes))
    member.work()
    proposed = [event["prop"]["cc"] for event in sink.events("ChangeConf")]
    assert proposed == [
        {"changes": [{"nid": "2", "action": "AddLearner"}]},
        {"changes": [{"nid": "3", "action": "AddNewServer"}, {"nid": "2", "action": "RemoveServer"}]},
    ]
    applied = sink.events("ApplyConfChange")
    assert [event["prop"]["cc"]["newconf"] for event in applied] == [["1"], ["1"], ["1", "3"]]
    assert all(event["cc"] == event["prop"]["cc"] for event in applied)
    # The state of this one event is that before the change.
    assert applied[-1]["conf"] == [["1"], []]
    assert sink.events("Ready")[-1]["conf"] == [["1", "3"], ["1"]]


def test_a_refused_change_is_replicated_as_an_entry_without_effect() -> None:
    sink = Sink()
    member = Member(voters=[1], trace=sink)
    member.become_leader()
    member.node.propose_conf_change(ConfChangeV2())
    assert sink.events("ChangeConf") == []
    assert len(sink.events("Replicate")) == 2


def test_pre_votes_and_proposals_are_not_part_of_the_specification() -> None:
    sink = Sink()
    cluster = Cluster(trace=sink, pre_vote=True)
    cluster.elect(1)
    cluster.propose(2, b"x")
    kinds = {event["msg"]["type"] for event in sink.events() if "msg" in event}
    assert kinds == {"MsgApp", "MsgAppResp", "MsgVote", "MsgVoteResp"}


def test_nothing_is_computed_without_a_sink() -> None:
    cluster = Cluster()
    cluster.elect(1)
    assert all(member.node.raft.tracer is None for member in cluster.members.values())
