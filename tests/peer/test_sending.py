"""Raft's messages to one member: on its stream in their order, held while that is full, counted when they are lost."""

from collections.abc import Awaitable

from kvstore.peer.batches import decode_batch, encode_batch, seal, unseal
from kvstore.peer.sending import BATCH_BYTES, MAX_HELD, PeerStats, PeerStream, Sender
from raft.messages import Entry, Message, MessageType, Snapshot, SnapshotMetadata


def append(index: int) -> Message:
    return Message(MessageType.APP, to=2, from_=1, term=3, index=index, entries=[Entry(3, index + 1, data=b"x")])


def beat(commit: int) -> Message:
    return Message(MessageType.HEARTBEAT, to=2, from_=1, term=3, commit=commit, entries=[])


SNAPSHOT = Message(MessageType.SNAP, to=2, from_=1, term=3, snapshot=Snapshot(metadata=SnapshotMetadata(index=9)))


class Stream:
    """Keeps what is written; what is not flushed has not left."""

    def __init__(self) -> None:
        self.connected = True
        self.writable = True
        # How many more are taken before it is full.
        self.room = 1 << 20
        self.sent: list[bytes] = []
        self._written: list[bytes] = []

    def write(self, message: bytes, /) -> object:
        assert self.writable, "written to a stream that is full"
        self._written.append(message)
        self.room -= 1
        self.writable = self.room > 0
        return None

    def flush(self) -> None:
        self.sent += self._written
        self._written = []

    @property
    def messages(self) -> list[list[Message]]:
        return [decode_batch(each) for each in self.sent]

    def drain(self) -> Awaitable[None]:
        raise AssertionError("the sender does not wait")

    def half_close(self) -> None:
        raise AssertionError("the sender does not end it")

    def read(self) -> Awaitable[object]:
        raise AssertionError("the sender does not read")

    def cancel(self) -> object:
        raise AssertionError("the sender does not end it")


class Owner:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.seals = False
        self.snapshots: list[Message] = []
        self.full: list[PeerStream] = []
        self.lost = 0

    def send_snapshot(self, message: Message) -> None:
        self.snapshots.append(message)

    def is_full(self, stream: PeerStream) -> None:
        self.full.append(stream)

    def report_lost(self) -> None:
        self.lost += 1


def sender(stream: Stream | None) -> tuple[Sender, Owner, PeerStats]:
    owner, stats = Owner(), PeerStats()
    made = Sender(owner, stats)
    made.stream = stream
    return made, owner, stats


def test_messages_leave_at_once_and_together() -> None:
    stream = Stream()
    made, owner, stats = sender(stream)
    made.send([append(1), beat(1)])
    made.send([append(2)])
    assert stream.messages == [[append(1), beat(1)], [append(2)]]
    assert stats.sent_bytes == sum(len(each) for each in stream.sent)
    assert (stats.sent_failures, owner.full, owner.lost) == (0, [], 0)


def test_it_is_connected_while_it_has_a_stream_that_is() -> None:
    stream = Stream()
    made, _, _ = sender(None)
    assert not made.connected
    made.stream = stream
    assert made.connected
    stream.connected = False
    assert not made.connected
    stream.connected = True
    made.end()
    assert not made.connected


def test_they_have_a_checksum_once_the_cluster_speaks_the_version_that_has_them() -> None:
    stream = Stream()
    made, owner, stats = sender(stream)
    made.send([beat(1)])
    owner.seals = True
    made.send([beat(2)])
    made.knock()
    assert stream.sent == [encode_batch([beat(1)]), seal(encode_batch([beat(2)])), seal(b"")]
    assert unseal(stream.sent[2]) == b""
    assert stats.sent_bytes == sum(len(each) for each in stream.sent)


def test_a_copy_is_begun_and_what_comes_with_it_is_sent() -> None:
    stream = Stream()
    made, owner, _ = sender(stream)
    made.send([beat(1), SNAPSHOT, append(1)])
    made.send([SNAPSHOT])
    assert owner.snapshots == [SNAPSHOT, SNAPSHOT]
    assert stream.messages == [[beat(1), append(1)]]


def test_a_copy_needs_no_stream() -> None:
    made, owner, stats = sender(None)
    made.send([SNAPSHOT])
    assert owner.snapshots == [SNAPSHOT]
    assert stats.sent_failures == 0


def test_what_a_full_stream_does_not_take_goes_together_and_in_order_once_it_does() -> None:
    stream = Stream()
    made, owner, _ = sender(stream)
    stream.writable = False
    made.send([append(1)])
    made.send([append(2)])
    made.knock()
    assert owner.full == [stream], "asked once to say when it takes messages again"
    stream.writable = True
    # It takes them again, and its owner has not said so yet: what is held goes first.
    made.send([append(3)])
    assert stream.sent == []
    made.drained(stream)
    assert stream.messages == [[append(1), append(2), append(3)]]
    made.send([append(4)])
    assert stream.messages[1:] == [[append(4)]]
    assert owner.lost == 0


def large(index: int) -> Message:
    entry = Entry(3, index + 1, data=bytes(BATCH_BYTES // 2))
    return Message(MessageType.APP, to=2, from_=1, term=3, index=index, entries=[entry])


def test_many_large_messages_go_in_batches_that_the_other_side_can_hold() -> None:
    stream = Stream()
    made, owner, _ = sender(stream)
    made.send([large(1), large(2), beat(1), large(3), large(4), large(5)])
    assert stream.messages == [[large(1), large(2)], [beat(1), large(3), large(4)], [large(5)]]
    assert owner.full == []


def test_one_message_is_never_taken_apart() -> None:
    stream = Stream()
    made, _, _ = sender(stream)
    huge = Message(MessageType.APP, to=2, from_=1, entries=[Entry(3, 1, data=bytes(3 * BATCH_BYTES))])
    made.send([huge])
    made.send([beat(1), huge, beat(2)])
    assert stream.messages == [[huge], [beat(1), huge], [beat(2)]]


def test_a_stream_that_is_full_after_a_batch_gets_the_others_once_it_takes_them() -> None:
    stream = Stream()
    made, owner, _ = sender(stream)
    stream.room = 1
    made.send([large(number) for number in range(1, 7)])
    made.send([beat(1)])
    assert stream.messages == [[large(1), large(2)]]
    assert owner.full == [stream]
    stream.writable, stream.room = True, 1
    made.drained(stream)
    assert stream.messages[1:] == [[large(3), large(4)]]
    assert owner.full == [stream, stream], "asked again"
    stream.writable, stream.room = True, 9
    made.drained(stream)
    assert stream.messages[2:] == [[large(5), large(6)], [beat(1)]]
    made.send([beat(2)])
    assert stream.messages[4:] == [[beat(2)]]
    assert owner.lost == 0


def test_what_was_held_for_a_stream_that_has_ended_is_lost_and_not_sent_on_the_next_one() -> None:
    first, second = Stream(), Stream()
    made, owner, stats = sender(first)
    first.writable = False
    made.send([beat(1), append(1)])
    made.end()
    assert (stats.sent_failures, owner.lost, made.stream) == (2, 1, None)
    made.stream = second
    made.drained(first)
    assert second.sent == []
    made.send([append(2)])
    assert second.messages == [[append(2)]]


def test_without_a_stream_messages_are_lost_and_raft_hears_of_lost_entries_alone() -> None:
    made, owner, stats = sender(None)
    made.send([beat(1)])
    assert (stats.sent_failures, owner.lost) == (1, 0)
    made.send([append(1), append(2)])
    assert (stats.sent_failures, owner.lost) == (3, 1)
    made.knock()
    assert stats.sent_failures == 3


def test_no_more_is_held_than_the_limit() -> None:
    stream = Stream()
    made, owner, stats = sender(stream)
    stream.writable = False
    made.send([beat(number) for number in range(MAX_HELD)])
    made.send([append(1)])
    assert (stats.sent_failures, owner.lost) == (1, 1)
    stream.writable = True
    made.drained(stream)
    assert stream.messages == [[beat(number) for number in range(MAX_HELD)]]
