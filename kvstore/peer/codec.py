"""Raft's values as they cross the network: raft's dataclasses to and from the messages of protos/kvstore/pb/peer.proto.

Whole and slow; what is exchanged all the time goes through batches.py.
"""

from __future__ import annotations

from kvstore.pb import peer_pb2 as pb
from raft.messages import ConfState, Entry, EntryType, Message, MessageType, Snapshot, SnapshotMetadata

LOCAL = frozenset(
    {
        MessageType.HUP,
        MessageType.BEAT,
        MessageType.UNREACHABLE,
        MessageType.SNAP_STATUS,
        MessageType.CHECK_QUORUM,
        MessageType.STORAGE_APPEND,
        MessageType.STORAGE_APPEND_RESP,
        MessageType.STORAGE_APPLY,
        MessageType.STORAGE_APPLY_RESP,
        MessageType.FORGET_LEADER,
    }
)
"""What a node is told by its owner only; from a peer it would be a lie about this member itself."""

_ENTRY_TYPES = tuple(EntryType)
_MESSAGE_TYPES = tuple(MessageType)


class MalformedMessage(ValueError):
    """A peer sent something that is no raft message."""


def encode_conf_state(state: ConfState) -> pb.ConfState:
    """The configuration as snapshots and the state's meta table hold it."""
    return pb.ConfState(
        voters=state.voters,
        learners=state.learners,
        voters_outgoing=state.voters_outgoing,
        learners_next=state.learners_next,
        auto_leave=state.auto_leave,
    )


def decode_conf_state(state: pb.ConfState) -> ConfState:
    """The inverse of encode_conf_state."""
    return ConfState(
        voters=list(state.voters),
        learners=list(state.learners),
        voters_outgoing=list(state.voters_outgoing),
        learners_next=list(state.learners_next),
        auto_leave=state.auto_leave,
    )


def encode_message(message: Message) -> pb.RaftMessage:
    """One message; of a snapshot only the metadata travels here, its data has a stream of its own."""
    out = pb.RaftMessage(
        type=message.type,
        to=message.to,
        term=message.term,
        log_term=message.log_term,
        index=message.index,
        commit=message.commit,
        reject=message.reject,
        reject_hint=message.reject_hint,
        context=message.context,
        vote=message.vote,
        entries=[
            pb.Entry(term=entry.term, index=entry.index, type=entry.type, data=entry.data) for entry in message.entries
        ],
    )
    # `from` is a keyword of Python: the field can only be reached by name.
    setattr(out, "from", message.from_)
    if message.snapshot is not None:
        metadata = message.snapshot.metadata
        out.snapshot.conf_state.CopyFrom(encode_conf_state(metadata.conf_state))
        out.snapshot.index = metadata.index
        out.snapshot.term = metadata.term
    return out


def decode_message(message: pb.RaftMessage) -> Message:
    """The inverse of encode_message. Raises MalformedMessage for types that do not exist or never come from a peer."""
    if message.type in LOCAL:
        raise MalformedMessage(f"message type {message.type} does not come from a peer")
    # A negative one would be looked up from the end.
    if message.type < 0 or any(entry.type < 0 for entry in message.entries):
        raise MalformedMessage("a negative type")
    try:
        snapshot = None
        if message.HasField("snapshot"):
            part = message.snapshot
            metadata = SnapshotMetadata(decode_conf_state(part.conf_state), part.index, part.term)
            snapshot = Snapshot(b"", metadata)
        return Message(
            type=_MESSAGE_TYPES[message.type],
            to=message.to,
            from_=getattr(message, "from"),
            term=message.term,
            log_term=message.log_term,
            index=message.index,
            entries=[Entry(e.term, e.index, _ENTRY_TYPES[e.type], e.data) for e in message.entries],
            commit=message.commit,
            vote=message.vote,
            snapshot=snapshot,
            reject=message.reject,
            reject_hint=message.reject_hint,
            context=message.context,
        )
    except IndexError as error:
        raise MalformedMessage(f"message type {message.type} or the type of one of its entries is unknown") from error
