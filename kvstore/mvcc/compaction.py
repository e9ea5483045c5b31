"""Physical compaction: freeing what a compaction has made unreachable, in small steps, in the writer process.

The compacted revision itself is the store's and holds from the moment that it is applied; this follows at leisure and
is taken up again after a restart. Knows when to step; what a step does is in writer_jobs.py.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from kvstore.mvcc.encoding import REVISION
from kvstore.storage.backend import Backend

Later = Callable[[float, Callable[[], None]], object]
"""Calls a function after so many seconds, as `loop.call_later` does."""

_FINISHED_KEY = "finished_compaction"
_STEP = "kvstore.mvcc.writer_jobs:compact_step"


class Immediately:
    """A `Later` without a clock: calls at once, one after the other. For tests and tools."""

    def __init__(self) -> None:
        self._queue: deque[Callable[[], None]] = deque()
        self._running = False

    def __call__(self, delay: float, function: Callable[[], None]) -> None:
        self._queue.append(function)
        if self._running:
            return
        self._running = True
        try:
            while self._queue:
                self._queue.popleft()()
        finally:
            self._running = False


@dataclass(frozen=True, slots=True)
class CompactionConfig:
    """How compaction is paced: rows that a step looks at, seconds between two steps."""

    batch_limit: int = 1000
    sleep_interval: float = 0.01


class Compactor:
    """Runs the steps of one compaction after the other.

    may_start: whether no read needs what a compaction at this revision removes.
    """

    def __init__(
        self, backend: Backend, may_start: Callable[[int], bool], later: Later, config: CompactionConfig
    ) -> None:
        self._backend = backend
        self._may_start = may_start
        self._later = later
        self._config = config
        self._run = 0
        self._target = -1
        self._active = -1
        self._cursor = b""
        self._waiting: list[tuple[int, Callable[[], None]]] = []
        self.finished = -1
        self.removed = 0
        self.steps = 0
        self.failures = 0

    @property
    def running(self) -> bool:
        """Whether a compaction is under way."""
        return self._active >= 0

    def load(self, compacted: int) -> None:
        """Take up what the backend holds: at start, or when a snapshot has replaced it."""
        self._run += 1
        self._active = -1
        self._target = compacted
        self.finished = int.from_bytes(self._backend.meta.get(_FINISHED_KEY, b"\xff"), "big", signed=True)
        self._answer()
        self.poke()

    def schedule(self, revision: int) -> None:
        """Free what is unreachable at a compacted revision. It must be in the backend's meta already."""
        assert revision > self._target, "compactions go forward"
        self._target = revision
        self.poke()

    def when_finished(self, revision: int, callback: Callable[[], None]) -> None:
        """Call back when everything that a compaction at this revision frees is freed; at once if it is."""
        if self.finished >= revision:
            callback()
        else:
            self._waiting.append((revision, callback))

    def poke(self) -> None:
        """Start if there is something to do and nothing in the way."""
        if self._active >= 0 or self._target <= self.finished or not self._may_start(self._target):
            return
        self._active = self._target
        self._cursor = REVISION.pack(0, 0)
        # Not at once: this may be called while an entry of the log is applied, half of which must not be flushed.
        self._later(0.0, self._begin_of(self._run))

    def _begin_of(self, run: int) -> Callable[[], None]:
        def begin() -> None:
            if run == self._run:
                self._backend.flush()
                self._step_of(run)()

        return begin

    def _step_of(self, run: int) -> Callable[[], None]:
        def step() -> None:
            if run == self._run:
                arguments = (self._active, self._cursor, self._config.batch_limit)
                self._backend.run_job(_STEP, arguments).add_done_callback(lambda future: self._stepped(run, future))

        return step

    def _stepped(self, run: int, future: Future[Any]) -> None:
        if run != self._run:
            return
        if future.cancelled() or future.exception() is not None:
            # The next compaction, or the next start, tries again from the beginning.
            self.failures += 1
            self._active = -1
            return
        following, removed = future.result()
        self.steps += 1
        if removed < 0:
            self._backend.flush()
        else:
            self.removed += removed
            if following is None:
                self._finish()
                return
            self._cursor = following
        self._later(self._config.sleep_interval, self._step_of(run))

    def _finish(self) -> None:
        self.finished = self._active
        self._active = -1
        self._backend.meta[_FINISHED_KEY] = self.finished.to_bytes(8, "big", signed=True)
        self._answer()
        self.poke()

    def _answer(self) -> None:
        ready = [callback for revision, callback in self._waiting if revision <= self.finished]
        self._waiting = [entry for entry in self._waiting if entry[0] > self.finished]
        for callback in ready:
            callback()
