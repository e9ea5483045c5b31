"""Reads, answered: short ones at once, long ones as far as there is time and room for them.

A read is long if it takes more than one step, or its answer many bytes. Three things make it wait. Others under way:
a thousand half-made answers would take the memory of all of them, and each would come as late as the last. What was
made in this turn of the loop: others are to have their turn as well. And answers that all clients together have not
read yet. What was found before it was clear that the read is long is thrown away.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Generator, Iterator
from typing import Final, Protocol

from kvstore import errors
from kvstore.mvcc.ranges import StreamPart
from kvstore.pb import rpc_pb2 as pb
from kvstore.rpc import Promise
from kvstore.storage.errors import CorruptStore

LONG_BYTES: Final = 64 << 10
"""An answer of more is long, however few steps it took."""

MAX_LONG: Final = 16
"""Answers of more than one step under way at once."""

TURN_BYTES: Final = 4 << 20
"""Answers made in one turn of the loop; ranges that come later wait for the next."""

STEP_BYTES: Final = 1 << 20
"""What the first step of a longer read counts for in a turn."""

MAX_WAITING: Final = 10_000
"""Answers that may wait for those under way, and for the next turn."""

Steps = Generator[None, None, bytes]
Call = Callable[[], None]


class Asker(Protocol):
    """Whoever asked: says when an answer may be made for it. The context of a call is one."""

    @property
    def pressed(self) -> bool:
        """Whether a long answer should wait for room."""

    @property
    def waits_for_room(self) -> bool:
        """Whether another answer for it already does."""

    def when_relieved(self, callback: Call) -> None:
        """Call back at once, or when it has read what was made before."""

    def when_room(self, callback: Call) -> None:
        """Call back when there is room for a long answer, or when it may be made all the same."""


class Eager:
    """An asker that takes everything at once."""

    pressed = False
    waits_for_room = False

    @staticmethod
    def when_relieved(callback: Call) -> None:
        """Call back at once."""
        callback()

    @staticmethod
    def when_room(callback: Call) -> None:
        """Call back at once."""
        callback()


EAGER: Final = Eager()


class ReadAnswers:
    """Answers one member's reads.

    range_steps: begins a range, to be gone on with as long as it yields. header: of a response, encoded as it is now.
    call_soon: does something in the next turn of the loop.
    """

    def __init__(
        self,
        range_steps: Callable[[pb.RangeRequest], Steps],
        header: Callable[[], bytes],
        call_soon: Callable[[Call], object],
    ) -> None:
        self._range_steps = range_steps
        self._header = header
        self._call_soon = call_soon
        self._under_way = 0
        # For those under way to become fewer.
        self._waiting: deque[_Read] = deque()
        # For the next turn.
        self._later: deque[_Read] = deque()
        # Bytes that may still be made in this turn. That of a turn in which they are not used up serves the next.
        self._left = TURN_BYTES
        self._streaming = asyncio.Semaphore(MAX_LONG)

    def range(self, request: pb.RangeRequest, promise: Promise[bytes], asker: Asker) -> None:
        """Resolve `promise` with the encoded response."""
        if request.range_end:
            self._schedule(_Read(lambda: self._range_steps(request), promise, asker))
            return
        # One key: the hot path, which no turn is waited for.
        try:
            next(self._range_steps(request))
        except StopIteration as stop:
            found = stop.value
            if len(found) > LONG_BYTES and asker.pressed:
                asker.when_room(lambda: self._make(_Read(lambda: self._range_steps(request), promise, asker)))
            else:
                promise.set_result(self._header() + found)
        except (errors.KvstoreError, CorruptStore) as error:
            promise.set_exception(error)

    def whole(self, make: Callable[[], bytes], promise: Promise[bytes], asker: Asker) -> None:
        """The same with a response that is made, but for its header, in one go."""
        self._schedule(_Read(lambda: _one_step(make), promise, asker))

    async def part(self, parts: Iterator[StreamPart | None], asker: Asker) -> StreamPart | None:
        """The next message of a range that is answered as a stream, in its turn; None after the last."""
        async with self._streaming:
            if not asker.pressed:
                return await _next_part(parts)
        room: Promise[None] = Promise()
        asker.when_room(lambda: room.set_result(None))
        await room
        return await _next_part(parts)

    def _schedule(self, read: _Read) -> None:
        if self._left > 0:
            self._answer(read)
        else:
            self._queue(read, self._later)

    def _queue(self, read: _Read, queue: deque[_Read]) -> None:
        if len(queue) >= MAX_WAITING:
            read.promise.set_exception(errors.RequestTooManyRequests())
        else:
            queue.append(read)

    def _answer(self, read: _Read) -> None:
        """Answer, unless there is no room and it turns out to be long."""
        asker = read.asker
        if not asker.pressed:
            self._make(read)
            return
        if asker.waits_for_room:
            # Most likely like the one before, and not worth looking at to find out.
            asker.when_room(lambda: self._make(read))
            return
        steps, found = self._begin(read)
        if steps is not None:
            steps.close()
        elif found is None:
            return
        elif len(found) <= LONG_BYTES:
            self._give(read, found)
            return
        asker.when_room(lambda: self._make(read))

    def _make(self, read: _Read) -> None:
        """Answer, whether there is room or not."""
        steps, found = self._begin(read)
        if found is not None:
            self._give(read, found)
        elif steps is not None:
            if self._under_way < MAX_LONG:
                self._under_way += 1
                self._call_soon(lambda: self._go_on(read, steps))
            else:
                steps.close()
                self._queue(read, self._waiting)

    def _begin(self, read: _Read) -> tuple[Steps | None, bytes | None]:
        """Take the first step: what is left to do, or what was found; neither if there was an error."""
        try:
            steps = read.steps()
            next(steps)
        except StopIteration as stop:
            self._spend(len(stop.value))
            return None, stop.value
        except (errors.KvstoreError, CorruptStore) as error:
            read.promise.set_exception(error)
            return None, None
        self._spend(STEP_BYTES)
        return steps, None

    def _go_on(self, read: _Read, steps: Steps) -> None:
        # Nobody waits for it any more: its client has left, or its time is up.
        if read.promise.observed and self._step(read, steps):
            self._call_soon(lambda: self._go_on(read, steps))
            return
        steps.close()
        self._under_way -= 1
        while self._waiting and self._under_way < MAX_LONG:
            self._resume(self._waiting.popleft())

    def _step(self, read: _Read, steps: Steps) -> bool:
        """Take one step: whether there are more."""
        try:
            next(steps)
        except StopIteration as stop:
            self._give(read, stop.value)
        except (errors.KvstoreError, CorruptStore) as error:
            read.promise.set_exception(error)
        else:
            return True
        return False

    def _give(self, read: _Read, found: bytes) -> None:
        read.promise.set_result(self._header() + found)

    def _spend(self, size: int) -> None:
        if self._left > 0:
            self._left -= size
            if self._left <= 0:
                self._call_soon(self._next_turn)

    def _next_turn(self) -> None:
        self._left = TURN_BYTES
        while self._later and self._left > 0:
            self._resume(self._later.popleft())

    def _resume(self, read: _Read) -> None:
        # Others of the same client may have been answered meanwhile.
        if read.promise.observed:
            read.asker.when_relieved(lambda: self._answer(read))


async def _next_part(parts: Iterator[StreamPart | None]) -> StreamPart | None:
    for part in parts:
        if part is not None:
            return part
        await asyncio.sleep(0)
    return None


def _one_step(make: Callable[[], bytes]) -> Steps:
    yield from ()
    return make()


class _Read:
    """A read that is to be answered. steps: begins it."""

    __slots__ = ("asker", "promise", "steps")

    def __init__(self, steps: Callable[[], Steps], promise: Promise[bytes], asker: Asker) -> None:
        self.steps = steps
        self.promise = promise
        self.asker = asker
