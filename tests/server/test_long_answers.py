"""Reads: short ones at once, long ones as far as there is time and room for them."""

from __future__ import annotations

from collections.abc import Callable, Generator

from kvstore import errors
from kvstore.pb.rpc_pb2 import RangeRequest
from kvstore.rpc import Promise
from kvstore.server.long_answers import EAGER, LONG_BYTES, MAX_LONG, MAX_WAITING, TURN_BYTES, Asker, ReadAnswers


class Client:
    """An asker whose answers are made when the test says so. room: whether it lacks that."""

    def __init__(self, *, reads: bool = True, pressed: bool = False) -> None:
        self.reads = reads
        self.pressed = pressed
        self.kept: list[Callable[[], None]] = []

    @property
    def waits_for_room(self) -> bool:
        return bool(self.kept)

    def when_relieved(self, callback: Callable[[], None]) -> None:
        if self.reads:
            callback()
        else:
            self.kept.append(callback)

    def when_room(self, callback: Callable[[], None]) -> None:
        self.kept.append(callback)


class Ranges:
    """Answers whose ranges take as many steps as their limit says, and the turns of a loop.

    size: bytes of an answer; 0 for the key alone.
    """

    def __init__(self, size: int = 0) -> None:
        self.begun = 0
        self.open = 0
        self.most_open = 0
        self.turns: list[Callable[[], None]] = []
        self.answers = ReadAnswers(self._steps, lambda: b"header ", self.turns.append)
        self._size = size

    def _steps(self, request: RangeRequest) -> Generator[None, None, bytes]:
        if request.limit < 0:
            raise errors.Compacted
        self.begun += 1
        self.open += 1
        try:
            for _ in range(request.limit):
                self.most_open = max(self.most_open, self.open)
                yield
            return b"x" * self._size or request.key
        finally:
            self.open -= 1

    def ask(self, steps: int, asker: Asker = EAGER, end: bytes = b"l") -> Promise[bytes]:
        promise: Promise[bytes] = Promise()
        promise.then(lambda _: None)
        self.answers.range(RangeRequest(key=b"k", range_end=end, limit=steps), promise, asker)
        return promise

    def turn(self) -> None:
        turns, self.turns[:] = list(self.turns), []
        for turn in turns:
            turn()

    def run(self) -> None:
        while self.turns:
            self.turn()


def test_a_short_range_is_answered_at_once_whatever_else_is_going_on() -> None:
    ranges = Ranges()
    for _ in range(3):
        ranges.ask(3)
    short = ranges.ask(0)
    assert short.done()
    assert short.result() == b"header k"
    for _ in range(5 * MAX_LONG):
        ranges.ask(3)
    key = ranges.ask(0, end=b"")
    assert key.result() == b"header k"
    assert ranges.begun < 3 * MAX_LONG


def test_long_ranges_are_made_a_few_at_a_time() -> None:
    ranges = Ranges()
    promises = [ranges.ask(50) for _ in range(5 * MAX_LONG)]
    ranges.run()
    assert [promise.result() for promise in promises] == [b"header k"] * len(promises)
    # One more is looked at, to find out whether it is a long one.
    assert MAX_LONG <= ranges.most_open <= MAX_LONG + 1
    assert ranges.open == 0


def test_what_is_made_in_a_turn_is_bounded_but_for_single_keys() -> None:
    size = TURN_BYTES // 4
    ranges = Ranges(size)
    promises = [ranges.ask(0) for _ in range(10)]
    assert [promise.done() for promise in promises] == [True] * 4 + [False] * 6
    assert ranges.ask(0, end=b"").done()
    ranges.turn()
    assert [promise.done() for promise in promises] == [True] * 8 + [False] * 2
    promises[9].ignore()
    ranges.run()
    assert promises[8].done()
    assert ranges.begun == 10


def test_a_long_answer_waits_for_room_and_is_made_anew() -> None:
    ranges, client = Ranges(LONG_BYTES + 1), Client(pressed=True)
    waiting = ranges.ask(0, client)
    assert not waiting.done()
    assert len(client.kept) == 1
    # Its turn has come though there is still no room.
    client.kept.pop()()
    assert len(waiting.result()) == len(b"header ") + LONG_BYTES + 1
    assert ranges.begun == 2

    steps = ranges.ask(3, client)
    ranges.run()
    assert ranges.open == 0
    assert not steps.done()
    client.kept.pop()()
    ranges.run()
    assert steps.done()


def test_behind_one_that_waits_for_room_no_other_is_looked_at() -> None:
    ranges, client = Ranges(LONG_BYTES + 1), Client(pressed=True)
    promises = [ranges.ask(0, client) for _ in range(5)]
    assert ranges.begun == 1
    for callback in client.kept:
        callback()
    assert all(promise.done() for promise in promises)


def test_a_short_answer_does_not_wait_for_room() -> None:
    ranges, client = Ranges(LONG_BYTES), Client(pressed=True)
    assert ranges.ask(0, client).done()
    assert not client.kept


def test_a_single_key_waits_for_no_turn_and_only_if_it_is_long_for_room() -> None:
    ranges, client = Ranges(TURN_BYTES), Client(pressed=True)
    ranges.ask(0)
    assert not ranges.ask(0).done()
    assert ranges.ask(0, end=b"").done()
    key = ranges.ask(0, client, end=b"")
    assert not key.done()
    client.kept.pop()()
    assert key.done()
    small = Ranges()
    small.ask(0)
    assert small.ask(0, client, end=b"").done()


def test_what_is_made_in_one_go_is_made_within_the_same_bounds() -> None:
    ranges, client = Ranges(), Client(pressed=True)
    made: list[int] = []

    def whole(size: int, asker: Asker) -> Promise[bytes]:
        promise: Promise[bytes] = Promise()
        promise.then(lambda _: None)
        ranges.answers.whole(lambda: made.append(size) or b"x" * size, promise, asker)  # type: ignore[func-returns-value]
        return promise

    assert whole(LONG_BYTES, client).done()
    assert not whole(LONG_BYTES + 1, client).done()
    assert whole(2 * TURN_BYTES, EAGER).done()
    later = whole(1, EAGER)
    assert not later.done()
    ranges.run()
    assert later.result() == b"header x"
    assert made == [LONG_BYTES, LONG_BYTES + 1, 2 * TURN_BYTES, 1]


def test_a_range_nobody_waits_for_any_more_is_not_made() -> None:
    ranges = Ranges()
    promises = [ranges.ask(1_000) for _ in range(2 * MAX_LONG)]
    begun = ranges.begun
    for promise in promises:
        promise.ignore()
    ranges.run()
    assert ranges.begun == begun
    assert ranges.open == 0
    last = ranges.ask(3)
    ranges.run()
    assert last.done()


def test_a_range_whose_client_does_not_read_leaves_its_place_to_others() -> None:
    ranges = Ranges()
    for _ in range(MAX_LONG):
        ranges.ask(2)
    client = Client(reads=False)
    unread = ranges.ask(2, client)
    read = ranges.ask(2)
    ranges.run()
    assert read.done()
    assert not unread.done()
    client.kept.pop()()
    ranges.run()
    assert unread.done()


def test_errors_reach_who_asked() -> None:
    ranges = Ranges()
    assert isinstance(ranges.ask(-1).exception(), errors.Compacted)


def test_more_than_can_wait_are_refused() -> None:
    ranges = Ranges()
    for _ in range(2 * MAX_LONG + MAX_WAITING):
        ranges.ask(1_000)
    assert isinstance(ranges.ask(1).exception(), errors.RequestTooManyRequests)
