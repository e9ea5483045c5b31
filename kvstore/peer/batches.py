"""Batches of raft's messages as they cross the network: a MessageBatch of protos/kvstore/pb/peer.proto, in bytes.

Every write brings each member several of them, so a message of the usual form is written and read without building
protobuf's objects. Whatever is not of that form, as what is damaged or comes from a later version, is read by codec.py.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final
from zlib import crc32

from google.protobuf.message import DecodeError

from kvstore.pb import peer_pb2 as pb
from kvstore.peer.codec import LOCAL, MalformedMessage, decode_message, encode_message
from kvstore.wire import length_delimited, varint
from raft.messages import Entry, EntryType, Message, MessageType

_CHECKSUM_TAG: Final = 0x1D
_SEALED_TAG: Final = 0x12
_MESSAGE_TAG: Final = 0x0A
_CHECKSUM_BYTES: Final = 5
"""The field of the checksum, with its tag."""

_MESSAGE_TYPES: Final = tuple(MessageType)
_ENTRY_TYPES: Final = tuple(EntryType)
_USUAL: Final = tuple(kind not in LOCAL and kind is not MessageType.SNAP for kind in MessageType)
"""Whether messages of a type are read here."""

# The numbers of RaftMessage's fields.
_TYPE: Final = 1
_TO: Final = 2
_FROM: Final = 3
_TERM: Final = 4
_LOG_TERM: Final = 5
_INDEX: Final = 6
_ENTRIES: Final = 7
_COMMIT: Final = 8
_REJECT: Final = 10
_REJECT_HINT: Final = 11
_CONTEXT: Final = 12
_VOTE: Final = 13

# A number of this many bits needs a tenth byte, of which only the lowest bit counts.
_BITS: Final = 63

_member_id = lru_cache(maxsize=256)(varint)
"""The same few numbers of ten bytes again and again."""


class DamagedBatch(MalformedMessage):
    """A batch is not what its sender has sent."""


def seal(batch: bytes) -> bytes:
    """A MessageBatch that holds an encoded one with its checksum (protocol version 2)."""
    return b"".join((b"\x12", varint(len(batch)), batch, b"\x1d", crc32(batch).to_bytes(4, "little")))


def is_sealed(data: bytes) -> bool:
    """Whether an encoded batch is one that holds another."""
    return len(data) > 0 and data[0] == _SEALED_TAG


def unseal(data: bytes) -> bytes:
    """The encoded batch inside a sealed one. Raises DamagedBatch."""
    size, at = _varint(data, 1, len(data))
    end = at + size
    if size >= 0 and end + _CHECKSUM_BYTES == len(data) and data[end] == _CHECKSUM_TAG:
        batch, checksum = data[at:end], int.from_bytes(data[end + 1 :], "little")
    else:
        try:
            message = pb.MessageBatch.FromString(data)
        except DecodeError as error:
            raise DamagedBatch(f"{len(data)} bytes of messages arrived damaged: {error}") from error
        batch, checksum = message.sealed, message.checksum
    if crc32(batch) != checksum:
        raise DamagedBatch(f"{len(batch)} bytes of messages arrived damaged: their checksum is wrong")
    return batch


def encode_batch(messages: list[Message]) -> bytes:
    """All messages that were ready for one peer, as one MessageBatch."""
    parts: list[bytes] = []
    for message in messages:
        if message.snapshot is not None:
            parts.append(length_delimited(1, encode_message(message).SerializeToString()))
            continue
        fields = _fields(message)
        size = 0
        for field in fields:
            size += len(field)
        parts += (b"\x0a", varint(size))
        parts += fields
    return b"".join(parts)


def _fields(message: Message) -> list[bytes]:
    """An encoded RaftMessage, in parts."""
    fields: list[bytes] = []
    if message.type:
        fields += (b"\x08", varint(message.type))
    if message.to:
        fields += (b"\x10", _member_id(message.to))
    if message.from_:
        fields += (b"\x18", _member_id(message.from_))
    if message.term:
        fields += (b"\x20", varint(message.term))
    if message.log_term:
        fields += (b"\x28", varint(message.log_term))
    if message.index:
        fields += (b"\x30", varint(message.index))
    for entry in message.entries:
        data = entry.data
        head = _entry_head(entry)
        fields += (b"\x3a", varint(len(head) + len(data)), head, data)
    if message.commit:
        fields += (b"\x40", varint(message.commit))
    if message.reject:
        fields.append(b"\x50\x01")
    if message.reject_hint:
        fields += (b"\x58", varint(message.reject_hint))
    if message.context:
        fields += (b"\x62", varint(len(message.context)), message.context)
    if message.vote:
        fields += (b"\x68", _member_id(message.vote))
    return fields


def _entry_head(entry: Entry) -> bytes:
    """An encoded Entry without the bytes of its data, which come last."""
    head = b""
    if entry.term:
        head += b"\x08" + varint(entry.term)
    if entry.index:
        head += b"\x10" + varint(entry.index)
    if entry.type:
        head += b"\x18" + varint(entry.type)
    if entry.data:
        head += b"\x22" + varint(len(entry.data))
    return head


def decode_batch(data: bytes) -> list[Message]:
    """The inverse of encode_batch. Raises MalformedMessage; a snapshot comes with its data or not at all."""
    messages = _usual_batch(data)
    return messages if messages is not None else _any_batch(data)


def _any_batch(data: bytes) -> list[Message]:
    try:
        batch = pb.MessageBatch.FromString(data)
    except DecodeError as error:
        raise MalformedMessage(f"{len(data)} bytes that are no messages: {error}") from error
    if batch.sealed:
        raise MalformedMessage("a sealed batch within another, or beside messages")
    messages = [decode_message(message) for message in batch.messages]
    if any(message.type is MessageType.SNAP for message in messages):
        raise MalformedMessage("a snapshot without its data")
    return messages


def _usual_batch(data: bytes) -> list[Message] | None:
    messages: list[Message] = []
    at, end = 0, len(data)
    while at < end:
        if data[at] != _MESSAGE_TAG:
            return None
        size, at = _varint(data, at + 1, end)
        stop = at + size
        if size < 0 or stop > end:
            return None
        message = _usual_message(data, at, stop)
        if message is None:
            return None
        messages.append(message)
        at = stop
    return messages


def _usual_message(data: bytes, at: int, end: int) -> Message | None:
    """The message between two offsets; None if it has fields that are not usual, or is none.

    Of a field that comes several times the last one counts, as with protobuf.
    """
    message = Message()
    entries: list[Entry] = []
    kind = 0
    while at < end:
        tag = data[at]
        field = tag >> 3
        number, at = _varint(data, at + 1, end)
        if number < 0:
            return None
        if tag & 7 == 2:
            stop = at + number
            if stop > end:
                return None
            if field == _ENTRIES:
                entry = _usual_entry(data, at, stop)
                if entry is None:
                    return None
                entries.append(entry)
            elif field == _CONTEXT:
                message.context = data[at:stop]
            else:
                return None
            at = stop
        elif tag & 7 != 0:
            return None
        elif field == _TYPE:
            kind = number
        elif field == _TO:
            message.to = number
        elif field == _FROM:
            message.from_ = number
        elif field == _TERM:
            message.term = number
        elif field == _LOG_TERM:
            message.log_term = number
        elif field == _INDEX:
            message.index = number
        elif field == _COMMIT:
            message.commit = number
        elif field == _REJECT:
            message.reject = number != 0
        elif field == _REJECT_HINT:
            message.reject_hint = number
        elif field == _VOTE:
            message.vote = number
        else:
            return None
    if kind >= len(_USUAL) or not _USUAL[kind]:
        return None
    message.type = _MESSAGE_TYPES[kind]
    message.entries = entries
    return message


def _usual_entry(data: bytes, at: int, end: int) -> Entry | None:
    """The same for an entry."""
    term = index = kind = 0
    payload = b""
    while at < end:
        tag = data[at]
        number, at = _varint(data, at + 1, end)
        if number < 0:
            return None
        if tag == 0x08:
            term = number
        elif tag == 0x10:
            index = number
        elif tag == 0x18:
            kind = number
        elif tag == 0x22:
            stop = at + number
            if stop > end:
                return None
            payload = data[at:stop]
            at = stop
        else:
            return None
    if kind >= len(_ENTRY_TYPES):
        return None
    return Entry(term, index, _ENTRY_TYPES[kind], payload)


def _varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """The number at an offset and the offset behind it; -1 for one that does not end before `end`, or is too large."""
    number = shift = 0
    while at < end:
        byte = data[at]
        at += 1
        if byte < 0x80:
            if shift == _BITS and byte > 1:
                return -1, at
            return number | byte << shift, at
        number |= (byte & 0x7F) << shift
        shift += 7
        if shift > _BITS:
            return -1, at
    return -1, at
