"""Ranges: short ones at once, long ones a few at a time."""

from __future__ import annotations

from collections.abc import Callable, Generator

from kvstore import errors
from kvstore.pb.rpc_pb2 import RangeRequest
from kvstore.rpc import Promise
from kvstore.server.long_answers import MAX_LONG, MAX_WAITING, RangeAnswers, When, at_once


class Ranges:
    """Answers whose ranges take as many steps as their limit says, and the turns of a loop."""

    def __init__(self) -> None:
        self.begun = 0
        self.open = 0
        self.most_open = 0
        self.turns: list[Callable[[], None]] = []
        self.answers = RangeAnswers(self._steps, lambda: b"header ", self.turns.append)

    def _steps(self, request: RangeRequest) -> Generator[None, None, bytes]:
        if request.limit < 0:
            raise errors.Compacted
        self.begun += 1
        self.open += 1
        try:
            for _ in range(request.limit):
                self.most_open = max(self.most_open, self.open)
                yield
            return request.key
        finally:
            self.open -= 1

    def ask(self, steps: int, when: When = at_once) -> Promise[bytes]:
        promise: Promise[bytes] = Promise()
        promise.then(lambda _: None)
        self.answers.answer(RangeRequest(key=b"k", limit=steps), promise, when)
        return promise

    def run(self) -> None:
        while self.turns:
            turns, self.turns[:] = list(self.turns), []
            for turn in turns:
                turn()


def test_a_short_range_is_answered_at_once_whatever_else_is_going_on() -> None:
    ranges = Ranges()
    for _ in range(5 * MAX_LONG):
        ranges.ask(3)
    short = ranges.ask(0)
    assert short.done()
    assert short.result() == b"header k"


def test_long_ranges_are_made_a_few_at_a_time() -> None:
    ranges = Ranges()
    promises = [ranges.ask(3) for _ in range(5 * MAX_LONG)]
    assert ranges.open == MAX_LONG
    ranges.run()
    assert [promise.result() for promise in promises] == [b"header k"] * len(promises)
    # One more is looked at, to find out whether it is a long one.
    assert ranges.most_open <= MAX_LONG + 1
    assert ranges.open == 0


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
    kept: list[Callable[[], None]] = []
    for _ in range(MAX_LONG):
        ranges.ask(2)
    unread = ranges.ask(2, kept.append)
    read = ranges.ask(2)
    ranges.run()
    assert read.done()
    assert not unread.done()
    kept.pop()()
    ranges.run()
    assert unread.done()


def test_errors_reach_who_asked() -> None:
    ranges = Ranges()
    assert isinstance(ranges.ask(-1).exception(), errors.Compacted)


def test_more_than_can_wait_are_refused() -> None:
    ranges = Ranges()
    for _ in range(MAX_LONG + MAX_WAITING):
        ranges.ask(1)
    assert isinstance(ranges.ask(1).exception(), errors.RequestTooManyRequests)
