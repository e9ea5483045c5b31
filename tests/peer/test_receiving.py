"""Raft's messages from one member: taken in their order as they arrive, until one cannot be read or is not wanted."""

from collections.abc import Sequence
from typing import Any

import pytest

from kvstore.peer.batches import encode_batch, seal
from kvstore.peer.codec import MalformedMessage
from kvstore.peer.receiving import Receiver
from kvstore.peer.versions import Versions
from kvstore.rpc import EOF, Promise, RpcError, StatusCode
from raft.messages import Message, MessageType

SENDER = 7


def beat(commit: int) -> Message:
    return Message(MessageType.HEARTBEAT, to=2, from_=SENDER, term=3, commit=commit, entries=[])


class Reader:
    """Gives what is put into it, at once or once it comes."""

    def __init__(self, *messages: Any) -> None:
        self._messages = list(messages)
        self._waiting: Promise[Any] | None = None
        self.reads = 0

    def read(self) -> Promise[Any]:
        self.reads += 1
        if self._messages:
            return Promise.resolved(self._messages.pop(0))
        self._waiting = Promise()
        return self._waiting

    def put(self, message: Any) -> None:
        assert self._waiting is not None
        self._waiting.set_result(message)

    def fail(self, error: Exception) -> None:
        assert self._waiting is not None
        self._waiting.set_exception(error)


class Host:
    """Notes what it is told."""

    def __init__(self, spoken: Versions = (1, 2)) -> None:
        self.spoken = spoken
        self.removed: set[int] = set()
        self.heard: list[tuple[int, int]] = []
        self.received: list[list[Message]] = []
        self.unreadable: list[tuple[int, str]] = []

    def is_removed(self, member: int) -> bool:
        return member in self.removed

    def heard_from(self, member: int, received_bytes: int) -> None:
        self.heard.append((member, received_bytes))

    def receive(self, messages: Sequence[Message]) -> None:
        self.received.append(list(messages))

    def note(self, member: int, error: MalformedMessage) -> None:
        self.unreadable.append((member, str(error)))


def receiver(reader: Reader, host: Host, sealed: bool = False) -> Receiver:
    return Receiver(reader, SENDER, sealed, host, host.note)


def refusal(made: Receiver) -> RpcError:
    with pytest.raises(RpcError) as refused:
        made.answer.result()
    return refused.value


def test_batches_are_taken_as_they_arrive_until_the_sender_ends() -> None:
    first, second = encode_batch([beat(1), beat(2)]), seal(encode_batch([beat(3)]))
    reader, host = Reader(first), Host()
    made = receiver(reader, host)
    assert host.received == [[beat(1), beat(2)]]
    reader.put(second)
    assert host.received == [[beat(1), beat(2)], [beat(3)]]
    assert host.heard == [(SENDER, len(first)), (SENDER, len(second))]
    assert not made.answer.done()
    reader.put(EOF)
    assert made.answer.result() == b""
    assert host.unreadable == []


def test_who_was_removed_hears_of_it_with_its_next_batch() -> None:
    reader, host = Reader(encode_batch([beat(1)])), Host()
    made = receiver(reader, host)
    host.removed.add(SENDER)
    reader.put(encode_batch([beat(2)]))
    assert refusal(made).code is StatusCode.PERMISSION_DENIED
    assert host.received == [[beat(1)]]
    assert len(host.heard) == 1


@pytest.mark.parametrize(
    ("batch", "sealed", "code"),
    [
        (b"\x0a\xff", False, StatusCode.INVALID_ARGUMENT),
        (encode_batch([Message(MessageType.BEAT)]), False, StatusCode.INVALID_ARGUMENT),
        (seal(encode_batch([beat(1)]))[:-1], False, StatusCode.DATA_LOSS),
        (encode_batch([beat(1)]), True, StatusCode.DATA_LOSS),
    ],
    ids=["cut off", "not for a peer", "seal cut off", "seal lost"],
)
def test_what_cannot_be_read_ends_the_call_and_is_told(batch: bytes, sealed: bool, code: StatusCode) -> None:
    reader, host = Reader(batch, encode_batch([beat(2)])), Host()
    made = receiver(reader, host, sealed)
    error = refusal(made)
    assert error.code is code
    assert host.unreadable == [(SENDER, error.message)]
    assert (host.received, reader.reads) == ([], 1)


def test_a_checksum_is_not_of_the_first_version() -> None:
    host = Host((1, 1))
    error = refusal(receiver(Reader(seal(encode_batch([beat(1)]))), host))
    assert (error.code, host.received) == (StatusCode.INVALID_ARGUMENT, [])
    assert "not of version 1" in error.message


def test_the_end_of_the_connection_ends_the_call() -> None:
    reader, host = Reader(), Host()
    made = receiver(reader, host)
    reader.fail(RpcError(StatusCode.CANCELLED, "it is gone"))
    assert refusal(made).code is StatusCode.CANCELLED


def test_what_the_host_cannot_cope_with_ends_the_call_and_not_the_connection() -> None:
    class Broken(Host):
        def receive(self, messages: Sequence[Message]) -> None:
            raise RuntimeError("no more")

    reader = Reader(encode_batch([beat(1)]))
    made = receiver(reader, Broken())
    with pytest.raises(RuntimeError, match="no more"):
        made.answer.result()
