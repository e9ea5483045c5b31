"""Unary calls: closed loops that keep so many under way, or an open loop that starts them by the clock.

In a closed loop every slot makes its next call when its last is answered. In an open loop calls are due at even
intervals whatever the server does; a call that finds no free slot waits, and its latency counts from when it was due.
So a server that stalls is charged for every call that the stall held up (no coordinated omission).
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from time import perf_counter_ns

from kvbench.latency import FOLD_AT
from kvbench.load import Result
from kvbench.requests import MakeRequest
from kvstore.rpc import Channel, Promise, RpcError

RETRY_SECONDS = 0.01
TICK_SECONDS = 0.001
ENDLESS = 1 << 62


class UnaryDriver:
    """Makes calls over channels until it is told to stop or has made enough.

    slots: calls under way on each channel at most. total: calls to make, None for no end.
    timeout: seconds of a call, None for none: a deadline costs the generator and the server a header field a call.
    result: what it counts into.
    """

    def __init__(
        self,
        channels: Sequence[Channel],
        slots: int,
        make: MakeRequest,
        *,
        total: int | None,
        timeout: float | None,
        result: Result,
    ) -> None:
        self.result = result
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._left = total if total is not None else ENDLESS
        self._slots = [_Slot(self, channel, make, timeout) for _ in range(slots) for channel in channels]
        self._busy = 0
        self._began = 0
        self._last_answer = 0
        self._longest_gap = 0
        self._append = self.result.latencies.samples.append
        self._next: Callable[[_Slot], None] = self._make_another
        self._due: deque[int] = deque()
        self._idle: list[_Slot] = []
        self._clock: asyncio.Task[None] | None = None

    def start_closed(self) -> None:
        """Make calls as fast as they are answered."""
        self._began = self._last_answer = perf_counter_ns()
        self._busy = len(self._slots)
        for slot in self._slots:
            self._make_another(slot)

    def start_open(self, rate: float) -> None:
        """Make `rate` calls a second."""
        self._began = self._last_answer = perf_counter_ns()
        self._idle = list(reversed(self._slots))
        self._next = self._make_due
        self._clock = asyncio.get_running_loop().create_task(self._tick(rate))

    async def _tick(self, rate: float) -> None:
        interval = 1e9 / rate
        made = 0
        while self._left > 0:
            now = perf_counter_ns()
            due = min(int((now - self._began) / interval) + 1, made + self._left)
            self._due.extend(self._began + int(number * interval) for number in range(made, due))
            self._left -= due - made
            made = due
            while self._due and self._idle:
                self._busy += 1
                self._make_due(self._idle.pop())
            await asyncio.sleep(TICK_SECONDS)
        self._finish_if_idle()

    def stop(self) -> None:
        """Start no more calls; done resolves when those under way have ended."""
        self._left = 0
        self._due.clear()
        self._finish_if_idle()

    def _make_another(self, slot: "_Slot") -> None:
        if self._left > 0:
            self._left -= 1
            slot.call(perf_counter_ns())
        else:
            self._busy -= 1
            self._finish_if_idle()

    def _make_due(self, slot: "_Slot") -> None:
        if self._due:
            slot.call(self._due.popleft())
        else:
            self._idle.append(slot)
            self._busy -= 1
            self._finish_if_idle()

    def _finish_if_idle(self) -> None:
        if self._left <= 0 and not self._busy and not self._due and not self.done.done():
            self.result.elapsed = (self._last_answer - self._began) / 1e9
            self.result.longest_gap = self._longest_gap / 1e9
            self.result.latencies.fold()
            self.done.set_result(None)

    def answered(self, slot: "_Slot", call: Promise[bytes]) -> None:
        """A call has ended. Costs some 600 ns; with making the next one, the generator's own part of a call."""
        now = perf_counter_ns()
        error = call.exception()
        if error is not None:
            self._failed(slot, error)
            return
        self._append((now - slot.due) // 1000)
        result = self.result
        result.operations += 1
        result.response_bytes += len(call.result())
        gap = now - self._last_answer
        if gap > self._longest_gap:
            self._longest_gap = gap
        self._last_answer = now
        if not result.operations % FOLD_AT:
            result.latencies.fold()
        self._next(slot)

    def _failed(self, slot: "_Slot", error: BaseException) -> None:
        if not isinstance(error, RpcError):
            raise error
        self.result.errors[f"{error.code.name}: {error.message}"] += 1
        # A server that refuses does so at once: without a pause the loop would only count refusals.
        asyncio.get_running_loop().call_later(RETRY_SECONDS, self._next, slot)


class _Slot:
    """One call under way at a time."""

    __slots__ = ("_channel", "_driver", "_make", "_on_answer", "_timeout", "due")

    def __init__(self, driver: UnaryDriver, channel: Channel, make: MakeRequest, timeout: float | None) -> None:
        self._driver = driver
        self._channel = channel
        self._make = make
        self._timeout = timeout
        self._on_answer = self._answered
        self.due = 0

    def call(self, due: int) -> None:
        """Make a call whose latency counts from `due`, of perf_counter_ns."""
        self.due = due
        method, request = self._make()
        self._channel.unary(method, request, timeout=self._timeout).then(self._on_answer)

    def _answered(self, call: Promise[bytes]) -> None:
        self._driver.answered(self, call)
