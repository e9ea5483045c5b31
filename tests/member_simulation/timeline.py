"""Virtual time: one line of events for a whole world, and an event loop for each process that lives on it.

Nothing waits. When nothing is left to do at a moment, time jumps to the next event. What happens at the same moment
happens in an order drawn by chance. A process is a loop of its own, so it can have a clock that runs wrong, be paused,
and die between any two of its turns. Knows nothing of what the processes do.
"""

from __future__ import annotations

import asyncio
import hashlib
import heapq
import random
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, Final, TypeVar

T = TypeVar("T")

_RESOLUTION: Final = 1e-7
"""Seconds by which a timer may be early: local clocks are multiples of the world's."""

KEPT_LINES: Final = 4000


class Violation(AssertionError):
    """Something that must hold does not."""


class Trace:
    """What happened, in order: the last lines as text, and a hash of everything.

    told: given each line as it is noted. hidden: a text that is another one each time, to be left out.
    """

    def __init__(self, told: Callable[[str], None] | None = None) -> None:
        self.lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._digest = hashlib.blake2b(digest_size=16)
        self._told = told
        self.hidden = ""

    def add(self, line: str) -> None:
        """Note something worth reading."""
        if self.hidden:
            line = line.replace(self.hidden, "...")
        self.lines.append(line)
        self._digest.update(line.encode())
        if self._told is not None:
            self._told(line)

    def mark(self, data: bytes) -> None:
        """Note something that is too frequent to be read."""
        self._digest.update(data)

    def hash(self) -> str:
        """Of everything so far; equal for equal runs."""
        return self._digest.hexdigest()


class Timeline:
    """The one clock and the one queue of a world."""

    def __init__(self, chance: random.Random, trace: Trace) -> None:
        self.now = 0.0
        self.chance = chance
        self.trace = trace
        self.events = 0
        self.failures: list[BaseException] = []
        self._queue: list[tuple[float, float, int, Callable[[], object]]] = []
        self._serial = 0
        self._stopped = False

    def note(self, text: str) -> None:
        """Put a line into the trace."""
        self.trace.add(f"{self.now:11.6f} {text}")

    def fail(self, error: BaseException) -> None:
        """Something does not hold: nothing further happens."""
        self.note(f"VIOLATION {error!r}")
        self.failures.append(error)

    def at(self, when: float, action: Callable[[], object]) -> None:
        """Do something at a moment; in no certain order with what else is done then."""
        self._serial += 1
        heapq.heappush(self._queue, (max(when, self.now), self.chance.random(), self._serial, action))

    def after(self, seconds: float, action: Callable[[], object]) -> None:
        """Do something in a while."""
        self.at(self.now + seconds, action)

    def stop(self) -> None:
        """Return from `run` after the present event."""
        self._stopped = True

    def run(self, until: float) -> None:
        """Let time pass. Raises the first thing that did not hold."""
        queue = self._queue
        self._stopped = False
        while queue and not self._stopped:
            when, _, _, action = queue[0]
            if when > until:
                break
            heapq.heappop(queue)
            self.now = when
            self.events += 1
            action()
            if self.failures:
                raise self.failures[0]
        if not self._stopped:
            self.now = max(self.now, until)

    def close(self) -> None:
        """Forget what was still to happen."""
        self._queue.clear()


class ProcessLoop(asyncio.BaseEventLoop):
    """The event loop of one process. No selector, no threads; what would run in a thread is done at once.

    rate, offset: how its clock runs. turn_seconds: what a turn takes.
    """

    def __init__(self, timeline: Timeline, name: str, rate: float = 1.0, offset: float = 0.0) -> None:
        super().__init__()
        self.name = name
        self.alive = True
        self.turn_seconds = 0.00005
        self._timeline = timeline
        self._rate = rate
        self._offset = offset
        self._ready: deque[asyncio.Handle] = deque()
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._serial = 0
        self._armed: float | None = None
        self._free = 0.0
        self._descriptors = 0
        self._readers: dict[int, tuple[Callable[..., object], tuple[Any, ...]]] = {}
        self._tasks: dict[asyncio.Task[Any], None] = {}

    # Life.

    def pause(self, seconds: float) -> None:
        """No turn for so long."""
        self._free = max(self._free, self._timeline.now + seconds)
        self._arm()

    def kill(self) -> None:
        """Die. What was under way is dropped where it stands; nothing it does while it is taken apart has an effect."""
        self.alive = False
        self._ready.clear()
        self._timers.clear()
        asyncio.events._set_running_loop(self)
        try:
            # Here and now, not when somebody collects garbage: the next incarnation must not meet the last one's end.
            for task in list(self._tasks):
                task._log_destroy_pending = False  # type: ignore[attr-defined]
                coroutine = task.get_coro()
                try:
                    if isinstance(coroutine, Coroutine):
                        coroutine.close()
                except BaseException as error:  # dying, it may say what it likes
                    self._timeline.trace.mark(type(error).__name__.encode())
        finally:
            asyncio.events._set_running_loop(None)
        self._tasks.clear()
        self._ready.clear()
        self._timers.clear()
        self._readers.clear()

    # Turns.

    def _arm(self) -> None:
        if not self.alive:
            return
        if self._ready:
            when = self._timeline.now
        elif self._timers:
            when = (self._timers[0][0] - self._offset) / self._rate
        else:
            return
        when = max(when, self._free)
        if self._armed is None or when < self._armed:
            self._armed = when
            self._timeline.at(when, lambda: self._turn_if(when))

    def _turn_if(self, when: float) -> None:
        if self._armed == when and self.alive:
            self._armed = None
            if self._free <= self._timeline.now:
                self._turn()
            self._arm()

    def _turn(self) -> None:
        ready, timers = self._ready, self._timers
        now = self.time() + _RESOLUTION
        while timers and timers[0][0] <= now:
            timer = heapq.heappop(timers)[2]
            if not timer.cancelled():
                ready.append(timer)
        if not ready:
            return
        asyncio.events._set_running_loop(self)
        try:
            for _ in range(len(ready)):
                handle = ready.popleft()
                if not handle.cancelled():
                    handle._run()
        finally:
            asyncio.events._set_running_loop(None)
        # Who waited for something in it may have made it longer.
        self._free = max(self._free, self._timeline.now + self.turn_seconds)

    # What asyncio asks of a loop.

    def time(self) -> float:
        """This process's own clock."""
        return self._offset + self._timeline.now * self._rate

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        """In the next turn."""
        handle = asyncio.Handle(callback, args, self, context)
        if self.alive:
            self._ready.append(handle)
            if asyncio.events._get_running_loop() is not self:
                self._arm()
        return handle

    call_soon_threadsafe = call_soon  # type: ignore[assignment]

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """Seconds of its own clock from now."""
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """At a time of its own clock."""
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        if self.alive:
            self._serial += 1
            heapq.heappush(self._timers, (when, self._serial, handle))
            if asyncio.events._get_running_loop() is not self:
                self._arm()
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """It is passed over when its time comes."""

    def new_descriptor(self) -> int:
        """What somebody else can make readable; no number of a file."""
        self._descriptors -= 1
        return self._descriptors

    def add_reader(self, fd: int, callback: Callable[..., object], *args: Any) -> None:  # type: ignore[override]
        """Of a number from new_descriptor."""
        assert fd not in self._readers, "two wait for the same"
        self._readers[fd] = (callback, args)

    def remove_reader(self, fd: int) -> bool:  # type: ignore[override]
        """Whether anybody was there."""
        return self._readers.pop(fd, None) is not None

    def readable(self, fd: int) -> None:
        """There is something to be read, as the loop finds out in its next turn."""
        self.call_soon(self._read, fd)

    def _read(self, fd: int) -> None:
        reader = self._readers.get(fd)
        if reader is not None:
            callback, args = reader
            callback(*args)

    def create_future(self) -> asyncio.Future[Any]:
        """A future of this loop."""
        return asyncio.Future(loop=self)

    def create_task(  # type: ignore[override]
        self, coro: Coroutine[Any, Any, T], *, name: str | None = None, context: Context | None = None
    ) -> asyncio.Task[T]:
        """A task, remembered so that it can die with the process."""
        task = asyncio.Task(coro, loop=self, name=name, context=context)
        self._tasks[task] = None
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.pop(task, None)

    def run_in_executor(  # type: ignore[override]
        self, executor: object, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        """Done at once; known a moment later."""
        future: asyncio.Future[T] = self.create_future()
        try:
            result = func(*args)
        except Exception as error:
            self.call_later(self._timeline.chance.uniform(0.0, 0.002), _set_exception, future, error)
        else:
            self.call_later(self._timeline.chance.uniform(0.0, 0.002), _set_result, future, result)
        return future

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Nothing may escape a callback or be left in a task."""
        if not self.alive:
            return
        error = context.get("exception")
        self._timeline.note(f"{self.name}: {context.get('message')}: {error!r}")
        cause = Violation(f"{self.name}: {context.get('message')}: {error!r}")
        cause.__cause__ = error
        self._timeline.fail(cause)

    def get_debug(self) -> bool:
        """Never."""
        return False

    def is_running(self) -> bool:
        """Whether this is its turn."""
        return asyncio.events._get_running_loop() is self

    def is_closed(self) -> bool:
        """Whether the process is dead. Its loop takes callbacks all the same, and drops them."""
        return not self.alive

    def __del__(self) -> None:
        """Nothing to be closed."""


def _set_result(future: asyncio.Future[T], result: T) -> None:
    if not future.done():
        future.set_result(result)


def _set_exception(future: asyncio.Future[Any], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
