"""Text for people: messages, entries and Readys in the notation that log lines and recorded scenarios use.

Only formats; nothing in the library depends on the result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Final

from raft.confchange import as_v2
from raft.confcodec import decode_entry
from raft.errors import CodecError
from raft.messages import (
    LOCAL_APPEND_THREAD,
    LOCAL_APPLY_THREAD,
    NONE,
    ConfChange,
    ConfChangeSingle,
    ConfChangeType,
    ConfChangeV2,
    ConfState,
    Entry,
    EntryType,
    HardState,
    Message,
    ReadState,
    Snapshot,
    SoftState,
)

if TYPE_CHECKING:
    from raft.rawnode import Ready

EntryFormatter = Callable[[bytes], str]
"""Turns the payload of a normal entry into text."""

MESSAGE_NAMES: Final = (
    "MsgHup",
    "MsgBeat",
    "MsgProp",
    "MsgApp",
    "MsgAppResp",
    "MsgVote",
    "MsgVoteResp",
    "MsgSnap",
    "MsgHeartbeat",
    "MsgHeartbeatResp",
    "MsgUnreachable",
    "MsgSnapStatus",
    "MsgCheckQuorum",
    "MsgTransferLeader",
    "MsgTimeoutNow",
    "MsgReadIndex",
    "MsgReadIndexResp",
    "MsgPreVote",
    "MsgPreVoteResp",
    "MsgStorageAppend",
    "MsgStorageAppendResp",
    "MsgStorageApply",
    "MsgStorageApplyResp",
    "MsgForgetLeader",
)
"""Names of the message types, by their number."""

STATE_NAMES: Final = ("StateFollower", "StateCandidate", "StateLeader", "StatePreCandidate")
"""Names of the roles, by their number."""

_ENTRY_NAMES = ("EntryNormal", "EntryConfChange", "EntryConfChangeV2")
_CHANGE_NAMES = ("ConfChangeAddNode", "ConfChangeRemoveNode", "ConfChangeUpdateNode", "ConfChangeAddLearnerNode")
_TRANSITION_NAMES = (
    "ConfChangeTransitionAuto",
    "ConfChangeTransitionJointImplicit",
    "ConfChangeTransitionJointExplicit",
)
_CHANGE_LETTERS = {
    ConfChangeType.ADD_NODE: "v",
    ConfChangeType.ADD_LEARNER_NODE: "l",
    ConfChangeType.REMOVE_NODE: "r",
    ConfChangeType.UPDATE_NODE: "u",
}
_ESCAPES = {7: r"\a", 8: r"\b", 9: r"\t", 10: r"\n", 11: r"\v", 12: r"\f", 13: r"\r", 34: r"\"", 92: r"\\"}
_SURROGATE_FOR_BYTE = 0xDC00


def quote(data: bytes) -> str:
    """The payload in double quotes: UTF-8 as it is, everything not printable escaped."""
    out = []
    for char in data.decode("utf-8", "surrogateescape"):
        code = ord(char)
        if code in _ESCAPES:
            out.append(_ESCAPES[code])
        elif char.isprintable():
            out.append(char)
        elif _SURROGATE_FOR_BYTE <= code <= _SURROGATE_FOR_BYTE + 0xFF:
            out.append(f"\\x{code - _SURROGATE_FOR_BYTE:02x}")
        elif code < 0x20 or code == 0x7F:
            out.append(f"\\x{code:02x}")
        else:
            out.append(f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}")
    return f'"{"".join(out)}"'


def describe_changes(changes: Iterable[ConfChangeSingle]) -> str:
    """v1 l2 r3 u4: add voter, add learner, remove, update."""
    return " ".join(f"{_CHANGE_LETTERS[ConfChangeType(change.type)]}{change.node_id}" for change in changes)


def describe_conf_change(change: ConfChange | ConfChangeV2) -> str:
    """{ConfChangeTransitionAuto [{ConfChangeAddNode 3}] []}: every field, in the order of raftpb."""
    context = _list(change.context)
    if isinstance(change, ConfChange):
        return f"{{{_CHANGE_NAMES[change.type]} {change.node_id} {context} {change.id}}}"
    singles = " ".join(f"{{{_CHANGE_NAMES[single.type]} {single.node_id}}}" for single in change.changes)
    return f"{{{_TRANSITION_NAMES[change.transition]} [{singles}] {context}}}"


def describe_entry(entry: Entry, formatter: EntryFormatter = quote) -> str:
    """2/15 EntryNormal "payload": term, index, type and what it holds."""
    if entry.type == EntryType.NORMAL:
        text = formatter(entry.data)
    else:
        try:
            text = describe_changes(as_v2(decode_entry(entry)).changes)
        except CodecError as error:
            text = str(error)
    return f"{entry.term}/{entry.index} {_ENTRY_NAMES[entry.type]}{' ' if text else ''}{text}"


def describe_entries(entries: Iterable[Entry], formatter: EntryFormatter = quote) -> str:
    """One line an entry."""
    return "".join(describe_entry(entry, formatter) + "\n" for entry in entries)


def describe_hard_state(state: HardState) -> str:
    """Term:2 Vote:1 Commit:15."""
    vote = f" Vote:{state.vote}" if state.vote else ""
    return f"Term:{state.term}{vote} Commit:{state.commit}"


def describe_soft_state(state: SoftState) -> str:
    """Lead:1 State:StateLeader."""
    return f"Lead:{state.lead} State:{STATE_NAMES[state.raft_state]}"


def describe_conf_state(state: ConfState) -> str:
    """Voters:[1 2] VotersOutgoing:[] Learners:[3] LearnersNext:[] AutoLeave:false."""
    return (
        f"Voters:{_list(state.voters)} VotersOutgoing:{_list(state.voters_outgoing)} "
        f"Learners:{_list(state.learners)} LearnersNext:{_list(state.learners_next)} "
        f"AutoLeave:{str(state.auto_leave).lower()}"
    )


def describe_snapshot(snapshot: Snapshot) -> str:
    """Index:15 Term:2 and the configuration; not the data."""
    metadata = snapshot.metadata
    return f"Index:{metadata.index} Term:{metadata.term} ConfState:{describe_conf_state(metadata.conf_state)}"


def describe_message(message: Message, formatter: EntryFormatter = quote, indent: str = "") -> str:
    """1->2 MsgApp Term:2 Log:2/14 Commit:13 Entries:[2/15 EntryNormal "payload"], over several lines if need be."""
    m = message
    out = [
        f"{indent}{_target(m.from_)}->{_target(m.to)} {MESSAGE_NAMES[m.type]} Term:{m.term} Log:{m.log_term}/{m.index}"
    ]
    if m.reject:
        out.append(f" Rejected (Hint: {m.reject_hint})")
    if m.commit:
        out.append(f" Commit:{m.commit}")
    if m.vote:
        out.append(f" Vote:{m.vote}")
    if len(m.entries) == 1:
        out.append(f" Entries:[{describe_entry(m.entries[0], formatter)}]")
    elif m.entries:
        lines = "".join(f"\n{indent}  {describe_entry(entry, formatter)}" for entry in m.entries)
        out.append(f" Entries:[{lines}\n{indent}]")
    if m.snapshot is not None and not m.snapshot.is_empty():
        out.append(f"\n{indent}  Snapshot: {describe_snapshot(m.snapshot)}")
    if m.responses:
        lines = "".join("\n" + describe_message(response, formatter, indent + "  ") for response in m.responses)
        out.append(f" Responses:[{lines}\n{indent}]")
    return "".join(out)


def describe_ready(ready: Ready, formatter: EntryFormatter = quote) -> str:
    """Every field that holds something, each on its own lines."""
    out = []
    if ready.soft_state is not None:
        out.append(describe_soft_state(ready.soft_state) + "\n")
    if ready.hard_state is not None:
        out.append(f"HardState {describe_hard_state(ready.hard_state)}\n")
    if ready.read_states:
        out.append(f"ReadStates {_read_states(ready.read_states)}\n")
    if ready.entries:
        out.append("Entries:\n" + describe_entries(ready.entries, formatter))
    if ready.snapshot is not None:
        out.append(f"Snapshot {describe_snapshot(ready.snapshot)}\n")
    if ready.committed_entries:
        out.append("CommittedEntries:\n" + describe_entries(ready.committed_entries, formatter))
    if ready.messages:
        out.append("Messages:\n" + "".join(describe_message(m, formatter) + "\n" for m in ready.messages))
    if not out:
        return "<empty Ready>"
    return f"Ready MustSync={str(ready.must_sync).lower()}:\n{''.join(out)}"


def _read_states(states: Sequence[ReadState]) -> str:
    return f"[{' '.join(f'{{{state.index} {_list(state.request_ctx)}}}' for state in states)}]"


def _list(numbers: Iterable[int]) -> str:
    return f"[{' '.join(map(str, numbers))}]"


def _target(id: int) -> str:
    if id == NONE:
        return "None"
    if id == LOCAL_APPEND_THREAD:
        return "AppendThread"
    if id == LOCAL_APPLY_THREAD:
        return "ApplyThread"
    return f"{id:x}"
