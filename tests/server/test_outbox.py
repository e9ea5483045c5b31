"""Messages to the peers: together, in order, and news of a commit with the entries that follow if there are any."""

from collections.abc import Callable

import pytest

from kvstore.server.outbox import ATTENTION_SECONDS, NOTICE_SECONDS, Outbox
from raft.messages import Entry, Message, MessageType


class Network:
    """Keeps what is sent, and the timers."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, list[Message]]] = []
        self.timers: list[Callable[[], None]] = []
        self.now = 100.0
        self.outbox = Outbox(self, self._later, lambda: self.now)

    def send(self, to: int, messages: list[Message]) -> None:
        self.sent.append((to, list(messages)))

    def _later(self, seconds: float, callback: Callable[[], None]) -> None:
        assert seconds == NOTICE_SECONDS
        self.timers.append(callback)

    def send_all(self, *messages: Message) -> None:
        for message in messages:
            self.outbox.add(message)
        self.outbox.send()

    def pass_time(self) -> None:
        timers, self.timers = self.timers, []
        for timer in timers:
            timer()


def notice(to: int, commit: int, term: int = 1) -> Message:
    return Message(type=MessageType.APP, to=to, term=term, commit=commit)


def entries(to: int, commit: int, term: int = 1) -> Message:
    return Message(type=MessageType.APP, to=to, term=term, commit=commit, entries=[Entry(term, 9)])


def answer(to: int, index: int, term: int = 1, reject: bool = False) -> Message:
    return Message(type=MessageType.APP_RESP, to=to, term=term, index=index, reject=reject)


HEARTBEAT = Message(type=MessageType.HEARTBEAT, to=2, term=1, commit=1)


def test_messages_of_a_turn_go_together_to_each_peer() -> None:
    network = Network()
    first, second, third = entries(2, 5), HEARTBEAT, entries(3, 5)
    network.send_all(first, third, second)
    assert network.sent == [(2, [first, second]), (3, [third])]
    network.outbox.send()
    assert len(network.sent) == 2


def test_a_notice_goes_with_the_entries_that_follow() -> None:
    network = Network()
    network.send_all(notice(2, 5), notice(3, 5))
    assert network.sent == []
    network.send_all(entries(2, 5), entries(3, 6))
    assert network.sent == [(2, [entries(2, 5)]), (3, [entries(3, 6)])]
    network.pass_time()
    assert len(network.sent) == 2


def test_a_notice_that_nothing_follows_goes_alone_a_moment_later() -> None:
    network = Network()
    network.send_all(notice(2, 5))
    network.send_all(notice(2, 6), notice(2, 7))
    assert len(network.timers) == 1
    network.pass_time()
    assert network.sent == [(2, [notice(2, 7)])]
    network.send_all(notice(2, 8))
    network.pass_time()
    assert network.sent[1:] == [(2, [notice(2, 8)])]


@pytest.mark.parametrize("following", [HEARTBEAT, entries(2, 4), entries(2, 5, term=2)])
def test_a_notice_goes_before_what_does_not_say_it(following: Message) -> None:
    network = Network()
    network.send_all(notice(2, 5))
    network.send_all(following)
    assert network.sent == [(2, [notice(2, 5), following])]
    network.pass_time()
    assert len(network.sent) == 1


def test_a_notice_among_other_messages_does_not_wait() -> None:
    network = Network()
    network.send_all(HEARTBEAT, notice(2, 5))
    assert network.sent == [(2, [HEARTBEAT, notice(2, 5)])]
    assert network.timers == []


def test_a_peer_whose_clients_wait_is_told_at_once() -> None:
    network = Network()
    network.outbox.attend(2)
    network.send_all(notice(2, 5), notice(3, 5))
    assert network.sent == [(2, [notice(2, 5)])]
    network.pass_time()
    assert network.sent[1:] == [(3, [notice(3, 5)])]
    network.now += ATTENTION_SECONDS + 0.1
    network.send_all(notice(2, 6))
    assert len(network.sent) == 2


def test_an_acknowledgement_goes_at_once_and_its_repetition_with_the_next() -> None:
    network = Network()
    network.send_all(answer(2, 5))
    assert network.sent == [(2, [answer(2, 5)])]
    network.send_all(answer(2, 5))
    assert len(network.sent) == 1
    network.send_all(answer(2, 6))
    assert network.sent[1:] == [(2, [answer(2, 6)])]
    network.pass_time()
    assert len(network.sent) == 2


def test_a_repeated_acknowledgement_that_nothing_follows_goes_a_moment_later() -> None:
    network = Network()
    network.send_all(answer(2, 5))
    network.send_all(answer(2, 5))
    network.pass_time()
    assert network.sent == [(2, [answer(2, 5)]), (2, [answer(2, 5)])]


@pytest.mark.parametrize("following", [HEARTBEAT, answer(2, 5, term=2), answer(2, 9, reject=True), entries(2, 5)])
def test_a_repeated_acknowledgement_goes_before_what_does_not_say_it(following: Message) -> None:
    network = Network()
    network.send_all(answer(2, 5))
    network.send_all(answer(2, 5))
    network.send_all(following)
    assert network.sent[1:] == [(2, [answer(2, 5), following])]


@pytest.mark.parametrize("message", [answer(2, 5, reject=True), answer(3, 5), answer(2, 5, term=2), answer(2, 4)])
def test_what_was_not_said_before_does_not_wait(message: Message) -> None:
    network = Network()
    network.send_all(answer(2, 5))
    network.send_all(message)
    assert network.sent[1:] == [(message.to, [message])]


def test_a_repeated_acknowledgement_waits_for_a_peer_whose_clients_wait_too() -> None:
    # They wait for commits, and it commits nothing.
    network = Network()
    network.outbox.attend(2)
    network.send_all(answer(2, 5))
    network.send_all(answer(2, 5))
    assert len(network.sent) == 1
