"""One JSON object a line for every transition, as the TLA+ trace checker of etcd's raft specification reads them.

Only observes; nothing here is called while no sink is configured.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from raft.config import TraceSink
from raft.describe import MESSAGE_NAMES, STATE_NAMES
from raft.messages import ConfChangeType, ConfChangeV2, Entry, EntryType, Message, MessageType
from raft.tables import handler_table
from raft.tracker import Configuration

if TYPE_CHECKING:
    from raft.raft import Raft

# What the specification calls the messages it models. It has no pre-vote, no proposals and no storage messages.
_MODELLED = handler_table(
    {
        MessageType.APP: "AppendEntriesRequest",
        MessageType.HEARTBEAT: "AppendEntriesRequest",
        MessageType.SNAP: "AppendEntriesRequest",
        MessageType.APP_RESP: "AppendEntriesResponse",
        MessageType.HEARTBEAT_RESP: "AppendEntriesResponse",
        MessageType.VOTE: "RequestVoteRequest",
        MessageType.VOTE_RESP: "RequestVoteResponse",
    }
)
_ACTIONS = {
    ConfChangeType.ADD_NODE: "AddNewServer",
    ConfChangeType.REMOVE_NODE: "RemoveServer",
    ConfChangeType.ADD_LEARNER_NODE: "AddLearner",
}


class Tracer:
    """Writes events to a sink. Each holds the state after the transition; those of receiving and applying, before."""

    def __init__(self, sink: TraceSink) -> None:
        self._sink = sink

    def event(
        self, name: str, r: Raft, message: Message | None = None, properties: dict[str, Any] | None = None
    ) -> None:
        """Write one event: the member's state and what goes with it."""
        voters = r.tracker.config.voters
        event: dict[str, Any] = {
            "name": name,
            "nid": str(r.id),
            "state": {"term": r.term, "vote": str(r.vote), "commit": r.log.committed},
            "role": STATE_NAMES[r.state],
            "log": r.log.last_index(),
            "conf": [_ids(voters.incoming), _ids(voters.outgoing)],
        }
        if message is not None:
            event["msg"] = _message(message)
        if properties:
            if "cc" in properties:
                event["cc"] = properties["cc"]
            event["prop"] = properties
        self._sink(json.dumps({"tag": "trace", "event": event}, separators=(",", ":")))

    def send(self, r: Raft, m: Message) -> None:
        """A message was queued."""
        name = _MODELLED[m.type]
        if name is None:
            return
        properties = None
        if m.type == MessageType.APP and m.from_ in r.tracker.progress:
            own = r.tracker.progress[m.from_]
            properties = {"match": own.match, "next": own.next}
        self.event("Send" + name, r, m, properties)

    def receive(self, r: Raft, m: Message) -> None:
        """A message arrived, and is about to be handled."""
        name = _MODELLED[m.type]
        if name is not None:
            self.event("Receive" + name, r, m)

    def replicate(self, r: Raft, entries: Sequence[Entry]) -> None:
        """A leader takes entries into its log."""
        for entry in entries:
            if entry.type == EntryType.NORMAL:
                self.event("Replicate", r)

    def change_conf(self, r: Raft, change: ConfChangeV2) -> None:
        """A leader takes a configuration change into its log."""
        changes = [
            {"nid": str(single.node_id), "action": _ACTIONS[single.type]}
            for single in change.changes
            if single.type in _ACTIONS
        ]
        if changes:
            self.event("ChangeConf", r, properties={"cc": {"changes": changes}})

    def apply_conf_change(self, r: Raft, config: Configuration) -> None:
        """A member is about to follow `config`."""
        self.event("ApplyConfChange", r, properties={"cc": {"newconf": _ids(config.voters.incoming)}})


def _ids(ids: set[int]) -> list[str]:
    return [str(id) for id in sorted(ids)]


def _message(m: Message) -> dict[str, Any]:
    # The specification sees a snapshot as an append of everything up to its index.
    snapshot = m.type == MessageType.SNAP and m.snapshot is not None
    entries = m.snapshot.metadata.index if snapshot and m.snapshot is not None else len(m.entries)
    return {
        "type": MESSAGE_NAMES[m.type],
        "term": m.term,
        "from": str(m.from_),
        "to": str(m.to),
        "entries": entries,
        "logTerm": 0 if snapshot else m.log_term,
        "index": 0 if snapshot else m.index,
        "commit": m.commit,
        "vote": str(m.vote),
        "reject": m.reject,
        "rejectHint": m.reject_hint,
    }
