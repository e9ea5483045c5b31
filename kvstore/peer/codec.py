"""Raft's values as they cross the network: raft's dataclasses to and from the messages of protos/kvstore/pb/peer.proto.

The only place that knows both.
"""

from __future__ import annotations

from zlib import crc32

from kvstore.pb import peer_pb2 as pb
from kvstore.wire import length_delimited
from raft.messages import ConfState, Entry, EntryType, Message, MessageType, Snapshot, SnapshotMetadata

_LOCAL = frozenset(
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


_CHECKSUM_TAG = b"\x1d"


class MalformedMessage(ValueError):
    """A peer sent something that is no raft message."""


class DamagedBatch(MalformedMessage):
    """A batch is not what its sender has sent."""


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
    if message.type in _LOCAL:
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


def encode_batch(messages: list[Message]) -> bytes:
    """All messages that were ready for one peer, as one MessageBatch."""
    return pb.MessageBatch(messages=[encode_message(message) for message in messages]).SerializeToString()


def seal(batch: bytes) -> bytes:
    """A MessageBatch that holds an encoded one with its checksum (protocol version 2)."""
    return length_delimited(2, batch) + _CHECKSUM_TAG + crc32(batch).to_bytes(4, "little")


def unseal(batch: pb.MessageBatch) -> pb.MessageBatch:
    """The batch inside, or the batch itself if it is not sealed. Raises DamagedBatch."""
    if not batch.sealed:
        return batch
    if crc32(batch.sealed) != batch.checksum:
        raise DamagedBatch(f"{len(batch.sealed)} bytes of messages arrived damaged: their checksum is wrong")
    return pb.MessageBatch.FromString(batch.sealed)


def decode_batch(batch: pb.MessageBatch) -> list[Message]:
    """The inverse of encode_batch. Raises MalformedMessage; a snapshot comes with its data or not at all."""
    messages = [decode_message(message) for message in batch.messages]
    if any(message.type is MessageType.SNAP for message in messages):
        raise MalformedMessage("a snapshot without its data")
    return messages
