"""Ranges, answered: short ones at once, long ones a few at a time, so that those under way have a bounded size.

A range is long if it takes more than one step. While as many are under way as may be, what a further one has found in
its first step is thrown away and it waits for its turn: a thousand half-made answers would take the memory of all of
them, and each would come as late as the last.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from typing import Final

from kvstore import errors
from kvstore.pb import rpc_pb2 as pb
from kvstore.rpc import Promise

When = Callable[[Callable[[], None]], None]
"""Calls back when an answer may be made: at once, or when the client that asked has read what was made before."""

MAX_LONG: Final = 16
"""Long answers under way at once."""

MAX_WAITING: Final = 10_000
"""Long answers that may wait for their turn."""

Steps = Generator[None, None, bytes]


def at_once(answer: Callable[[], None]) -> None:
    """The When of somebody who takes every answer."""
    answer()


class RangeAnswers:
    """Answers one member's ranges.

    steps: begins a range, to be gone on with as long as it yields. header: of a response, encoded as it is now.
    call_soon: does something in the next turn of the loop.
    """

    def __init__(
        self,
        steps: Callable[[pb.RangeRequest], Steps],
        header: Callable[[], bytes],
        call_soon: Callable[[Callable[[], None]], object],
    ) -> None:
        self._steps = steps
        self._header = header
        self._call_soon = call_soon
        self._under_way = 0
        self._waiting: deque[tuple[pb.RangeRequest, Promise[bytes], When]] = deque()

    def answer(self, request: pb.RangeRequest, promise: Promise[bytes], when: When) -> None:
        """Resolve `promise` with the encoded response."""
        steps = self._begin(request, promise)
        if steps is None:
            return
        if self._under_way < MAX_LONG:
            self._under_way += 1
            self._call_soon(lambda: self._go_on(steps, promise))
            return
        steps.close()
        if len(self._waiting) >= MAX_WAITING:
            promise.set_exception(errors.RequestTooManyRequests())
        else:
            self._waiting.append((request, promise, when))

    def _begin(self, request: pb.RangeRequest, promise: Promise[bytes]) -> Steps | None:
        """The range after its first step; None if that was all."""
        try:
            steps = self._steps(request)
        except errors.KvstoreError as error:
            promise.set_exception(error)
            return None
        return steps if self._step(steps, promise) else None

    def _step(self, steps: Steps, promise: Promise[bytes]) -> bool:
        """Take one step: whether there are more."""
        try:
            next(steps)
        except StopIteration as stop:
            promise.set_result(self._header() + stop.value)
        except errors.KvstoreError as error:
            promise.set_exception(error)
        else:
            return True
        return False

    def _go_on(self, steps: Steps, promise: Promise[bytes]) -> None:
        # Nobody waits for it any more: its client has left, or its time is up.
        if promise.observed and self._step(steps, promise):
            self._call_soon(lambda: self._go_on(steps, promise))
            return
        steps.close()
        self._under_way -= 1
        while self._waiting and self._under_way < MAX_LONG:
            request, waiting, when = self._waiting.popleft()
            if waiting.observed:
                self._resume(request, waiting, when)

    def _resume(self, request: pb.RangeRequest, promise: Promise[bytes], when: When) -> None:
        # Others of the same client may have been answered meanwhile.
        when(lambda: self.answer(request, promise, when))
