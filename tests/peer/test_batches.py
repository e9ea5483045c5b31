"""Raft's messages written and read by hand, held against protobuf: the same bytes, and of any the same messages."""

from collections.abc import Sequence

import pytest
from google.protobuf.message import DecodeError
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kvstore.pb import peer_pb2 as pb
from kvstore.peer.batches import DamagedBatch, decode_batch, encode_batch, is_sealed, seal, unseal
from kvstore.peer.codec import LOCAL, MalformedMessage, decode_message, encode_message
from kvstore.wire import length_delimited, varint
from raft.messages import ConfState, Entry, EntryType, Message, MessageType, Snapshot, SnapshotMetadata

NUMBERS = st.one_of(
    st.sampled_from((0, 1, 127, 128, 1 << 14, 1 << 28, (1 << 62) - 1, 1 << 62, 1 << 63, (1 << 64) - 1)),
    st.integers(0, (1 << 64) - 1),
)
ENTRIES = st.builds(Entry, NUMBERS, NUMBERS, st.sampled_from(EntryType), st.binary(max_size=300))
FROM_PEERS = [kind for kind in MessageType if kind not in LOCAL and kind is not MessageType.SNAP]
MESSAGES = st.builds(
    Message,
    type=st.sampled_from(FROM_PEERS),
    to=NUMBERS,
    from_=NUMBERS,
    term=NUMBERS,
    log_term=NUMBERS,
    index=NUMBERS,
    entries=st.lists(ENTRIES, max_size=3),
    commit=NUMBERS,
    vote=NUMBERS,
    reject=st.booleans(),
    reject_hint=NUMBERS,
    context=st.binary(max_size=20),
)
BEAT = Message(MessageType.HEARTBEAT, entries=[], to=1, from_=2, term=3, commit=4, context=b"now")


def by_protobuf(data: bytes) -> list[Message] | None:
    """What protobuf makes of a batch; None if it, or what is in it, is to be refused."""
    try:
        batch = pb.MessageBatch.FromString(data)
        messages = [decode_message(message) for message in batch.messages]
    except (DecodeError, MalformedMessage):
        return None
    return None if batch.sealed or any(message.type is MessageType.SNAP for message in messages) else messages


def by_hand(data: bytes) -> list[Message] | None:
    try:
        return decode_batch(data)
    except MalformedMessage:
        return None


@given(st.lists(MESSAGES, max_size=3))
def test_what_is_written_is_what_protobuf_writes(messages: list[Message]) -> None:
    expected = pb.MessageBatch(messages=[encode_message(message) for message in messages]).SerializeToString()
    assert encode_batch(messages) == expected
    assert decode_batch(expected) == messages


@settings(max_examples=300)
@given(st.lists(MESSAGES, min_size=1, max_size=2).map(encode_batch), st.data())
def test_bytes_changed_lost_and_added_are_read_as_protobuf_reads_them(encoded: bytes, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(encoded)))
    until = data.draw(st.integers(at, min(len(encoded), at + 3)))
    changed = encoded[:at] + data.draw(st.binary(max_size=3)) + encoded[until:]
    assert by_hand(changed) == by_protobuf(changed)


def field(number: int, wire: int, value: bytes) -> bytes:
    return varint(number << 3 | wire) + value


def bodies(numbers: Sequence[int], longer: Sequence[int], inner: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """Bodies of messages whose fields stand in any order, any number of times, in wide varints now and then."""
    wide = st.sampled_from((b"\x80\x00", b"\x83\x80\x00", b"\xff" * 9 + b"\x01", b"\xff" * 9 + b"\x02", b"\xff" * 10))
    value = st.one_of(NUMBERS.map(varint), wide, st.integers(0, 5).map(varint))
    plain = st.builds(lambda number, encoded: field(number, 0, encoded), st.sampled_from(numbers), value)
    nested = st.builds(length_delimited, st.sampled_from(longer), inner)
    unsorted = st.lists(st.one_of(plain, nested, plain), max_size=6)
    return st.one_of(unsorted, unsorted.map(lambda fields: sorted(fields))).map(b"".join)


ANY_ENTRY = bodies((1, 2, 3, 5), (4,), st.binary(max_size=5))
ANY_FIELDS = bodies((2, 3, 4, 5, 6, 8, 10, 11, 13, 14), (7, 7, 7, 12), ANY_ENTRY)
# Mostly of a type that a peer may send, or nothing would be left to compare.
ANY_MESSAGE = st.one_of(
    st.builds(lambda kind, rest: field(1, 0, varint(kind)) + rest, st.sampled_from(FROM_PEERS), ANY_FIELDS),
    st.builds(lambda kind, rest: field(1, 0, varint(kind)) + rest, st.sampled_from(FROM_PEERS), ANY_FIELDS),
    bodies((1, 4, 14), (7, 9, 12), st.binary(max_size=5)),
)
ANY_BATCH = bodies((3,), (1, 1, 1, 1, 2), ANY_MESSAGE)


@settings(max_examples=300)
@given(ANY_BATCH)
@example(b"")
@example(b"\x0a\x00")
@example(b"\x0a\x02\x08\x07")
@example(b"\x0a\x06\x08\x03\x3a\x02\x22\x00")
@example(b"\x0a\x0c\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01")
def test_fields_in_any_order_and_number_are_read_as_protobuf_reads_them(data: bytes) -> None:
    assert by_hand(data) == by_protobuf(data)


@settings(max_examples=600)
@given(ANY_MESSAGE)
@example(b"\x08\x03\x3a\x02\x22\x05\x62\x05ahead")
@example(b"\x08\x03\x62\x05ah")
@example(b"\x08\x03\x20" + b"\x80" * 10 + b"\x00")
def test_a_single_message_is_read_as_protobuf_reads_it(body: bytes) -> None:
    data = length_delimited(1, body)
    assert by_hand(data) == by_protobuf(data)


def test_a_message_about_a_snapshot_is_written_whole_and_not_taken_from_a_batch() -> None:
    snapshot = Snapshot(metadata=SnapshotMetadata(ConfState([1, 2], [3]), 7, 2))
    message = Message(MessageType.SNAP, 2, 1, 3, entries=[], snapshot=snapshot)
    data = encode_batch([BEAT, message])
    assert [decode_message(each) for each in pb.MessageBatch.FromString(data).messages] == [BEAT, message]
    with pytest.raises(MalformedMessage, match="a snapshot without its data"):
        decode_batch(data)


@given(st.lists(MESSAGES, max_size=2))
def test_a_sealed_batch_is_opened_by_hand_and_by_protobuf(messages: list[Message]) -> None:
    inner = encode_batch(messages)
    sealed = seal(inner)
    assert is_sealed(sealed)
    assert not is_sealed(inner)
    assert unseal(sealed) == inner
    message = pb.MessageBatch.FromString(sealed)
    assert (message.sealed, len(message.messages)) == (inner, 0)
    # A field of a later version behind it changes nothing.
    assert unseal(sealed + b"\x20\x01") == inner


@given(st.integers(0, 999), st.integers(0, 7))
def test_a_bit_turned_over_in_a_sealed_batch_is_noticed(position: int, bit: int) -> None:
    sealed = bytearray(seal(encode_batch([BEAT, BEAT])))
    # Not the tag: without it this is no sealed batch, nor any other.
    sealed[1 + position % (len(sealed) - 1)] ^= 1 << bit
    with pytest.raises(DamagedBatch):
        unseal(bytes(sealed))
