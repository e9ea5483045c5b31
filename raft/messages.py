"""The values that pass between a member, its storage, its state machine and its peers.

Plain data, with the names and numbers of raftpb. Knows no behaviour: what a message does is the state machine's
business (raft.py), how it crosses a network is the caller's.

Entries and messages are shared freely (a batch goes to every peer as the same objects) and are therefore never
changed after they were handed out. They are not frozen because creating a frozen dataclass costs three times as much;
and what is made several times a write has its initialiser written out because mypyc compiles no other: that is 0.03
instead of 0.2 us for each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

NONE: Final = 0
"""The id of no member: no leader, no vote, no transfer target."""

NO_LIMIT: Final = (1 << 64) - 1
"""A size or count that never limits."""

LOCAL_APPEND_THREAD: Final = (1 << 64) - 1
"""Target of MsgStorageAppend with asynchronous storage writes."""

LOCAL_APPLY_THREAD: Final = (1 << 64) - 2
"""Target of MsgStorageApply with asynchronous storage writes."""


class EntryType(IntEnum):
    """What the payload of an entry is."""

    NORMAL = 0
    CONF_CHANGE = 1
    CONF_CHANGE_V2 = 2


class MessageType(IntEnum):
    """What a message asks or answers."""

    HUP = 0
    BEAT = 1
    PROP = 2
    APP = 3
    APP_RESP = 4
    VOTE = 5
    VOTE_RESP = 6
    SNAP = 7
    HEARTBEAT = 8
    HEARTBEAT_RESP = 9
    UNREACHABLE = 10
    SNAP_STATUS = 11
    CHECK_QUORUM = 12
    TRANSFER_LEADER = 13
    TIMEOUT_NOW = 14
    READ_INDEX = 15
    READ_INDEX_RESP = 16
    PRE_VOTE = 17
    PRE_VOTE_RESP = 18
    STORAGE_APPEND = 19
    STORAGE_APPEND_RESP = 20
    STORAGE_APPLY = 21
    STORAGE_APPLY_RESP = 22
    FORGET_LEADER = 23


class StateType(IntEnum):
    """The role of a member."""

    FOLLOWER = 0
    CANDIDATE = 1
    LEADER = 2
    PRE_CANDIDATE = 3


class ConfChangeType(IntEnum):
    """What a single change does to a member."""

    ADD_NODE = 0
    REMOVE_NODE = 1
    UPDATE_NODE = 2
    ADD_LEARNER_NODE = 3


class ConfChangeTransition(IntEnum):
    """How a ConfChangeV2 is carried out: through a joint configuration or not, and who ends it."""

    AUTO = 0
    JOINT_IMPLICIT = 1
    JOINT_EXPLICIT = 2


class ReadOnlyOption(IntEnum):
    """How a leader makes sure that it still leads before it answers a read."""

    SAFE = 0
    LEASE_BASED = 1


@dataclass(slots=True, init=False)
class Entry:
    """One entry of the log. `term` and `index` of a proposal are filled in by the leader."""

    term: int
    index: int
    type: EntryType
    data: bytes

    def __init__(self, term: int = 0, index: int = 0, type: EntryType = EntryType.NORMAL, data: bytes = b"") -> None:
        self.term = term
        self.index = index
        self.type = type
        self.data = data


@dataclass(slots=True, init=False)
class HardState:
    """What must be on disk before any message that depends on it leaves."""

    term: int
    vote: int
    commit: int

    def __init__(self, term: int = 0, vote: int = NONE, commit: int = 0) -> None:
        self.term = term
        self.vote = vote
        self.commit = commit


@dataclass(slots=True, init=False)
class SoftState:
    """What is useful to know but need not be stored: the leader as far as known, and this member's role."""

    lead: int
    raft_state: StateType

    def __init__(self, lead: int = NONE, raft_state: StateType = StateType.FOLLOWER) -> None:
        self.lead = lead
        self.raft_state = raft_state


@dataclass(slots=True)
class ConfState:
    """The configuration as a snapshot carries it. `voters_outgoing` is not empty exactly in a joint configuration."""

    voters: list[int] = field(default_factory=list)
    learners: list[int] = field(default_factory=list)
    voters_outgoing: list[int] = field(default_factory=list)
    learners_next: list[int] = field(default_factory=list)
    auto_leave: bool = False


@dataclass(slots=True)
class SnapshotMetadata:
    """What a snapshot covers: everything up to `index`, which had `term`, and the configuration there."""

    conf_state: ConfState = field(default_factory=ConfState)
    index: int = 0
    term: int = 0


@dataclass(slots=True)
class Snapshot:
    """The state machine at an index. `data` is opaque to the library; index 0 means no snapshot."""

    data: bytes = b""
    metadata: SnapshotMetadata = field(default_factory=SnapshotMetadata)

    def is_empty(self) -> bool:
        """Whether this stands for no snapshot at all."""
        return self.metadata.index == 0


@dataclass(slots=True, init=False)
class Message:
    """One message. Which fields have a meaning depends on `type`, as in raftpb.

    term 0 marks a message that is local or not bound to a term (HUP, BEAT, PROP, READ_INDEX).
    responses: with asynchronous storage writes, what the storage thread sends once its work is durable.
    """

    type: MessageType
    to: int
    from_: int
    term: int
    log_term: int
    index: int
    entries: Sequence[Entry]
    commit: int
    vote: int
    snapshot: Snapshot | None
    reject: bool
    reject_hint: int
    context: bytes
    responses: Sequence[Message]

    def __init__(
        self,
        type: MessageType = MessageType.HUP,
        to: int = NONE,
        from_: int = NONE,
        term: int = 0,
        log_term: int = 0,
        index: int = 0,
        entries: Sequence[Entry] = (),
        commit: int = 0,
        vote: int = NONE,
        snapshot: Snapshot | None = None,
        reject: bool = False,
        reject_hint: int = 0,
        context: bytes = b"",
        responses: Sequence[Message] = (),
    ) -> None:
        self.type = type
        self.to = to
        self.from_ = from_
        self.term = term
        self.log_term = log_term
        self.index = index
        self.entries = entries
        self.commit = commit
        self.vote = vote
        self.snapshot = snapshot
        self.reject = reject
        self.reject_hint = reject_hint
        self.context = context
        self.responses = responses


@dataclass(slots=True)
class ConfChange:
    """A change of one member, the first version: the payload of an entry of type CONF_CHANGE."""

    id: int = 0
    type: ConfChangeType = ConfChangeType.ADD_NODE
    node_id: int = NONE
    context: bytes = b""


@dataclass(slots=True)
class ConfChangeSingle:
    """One member's part of a ConfChangeV2."""

    type: ConfChangeType = ConfChangeType.ADD_NODE
    node_id: int = NONE


@dataclass(slots=True)
class ConfChangeV2:
    """A change of any number of members: the payload of an entry of type CONF_CHANGE_V2.

    Without changes and with the AUTO transition it leaves a joint configuration.
    """

    transition: ConfChangeTransition = ConfChangeTransition.AUTO
    changes: Sequence[ConfChangeSingle] = ()
    context: bytes = b""


@dataclass(slots=True, init=False)
class ReadState:
    """The answer to read_index: the read with `request_ctx` may be served once `index` is applied."""

    index: int
    request_ctx: bytes

    def __init__(self, index: int = 0, request_ctx: bytes = b"") -> None:
        self.index = index
        self.request_ctx = request_ctx


@dataclass(slots=True)
class Peer:
    """A member of the first configuration; `context` is handed to the state machine with the change that adds it."""

    id: int
    context: bytes = b""
