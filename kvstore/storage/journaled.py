"""A writer whose batches are durable at once: in the journal first, in the environment at leisure.

An append of the log is worth one short synchronous write, made right here on the loop: it takes a tenth of a
millisecond, and the turn that asked for it goes on where handing it to a process would cost two more turns and twice
that time. What the journal holds is moved into the environment by the writer behind, many batches in one commit.

The loop must not wait for a disk that is slow. A write that took too long sends what follows to the writer behind for
a while, as it sends what is too large for the journal, or all of it while the journal is full.
"""

from __future__ import annotations

import asyncio
import errno
import marshal
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from kvstore.storage.batch import Operation, WriteBatch, WriteStats
from kvstore.storage.errors import StorageError, WriterFailed
from kvstore.storage.journal import Journal, Mark
from kvstore.storage.meta import JOURNAL_KEY, META
from kvstore.storage.writer import Done, Writer, WriterEvents

# The oldest format with everything a batch consists of; what was written in it is read by every later Python.
_FORMAT: Final = 2

_MOVED_AT_LEAST_EVERY: Final = 1.0
# Of the journal, so that there is room while they are moved.
_MOVED_FROM: Final = 0.5

# Slower than this a write is felt by whoever shares the loop; the journal then rests for so many times as long.
_SLOW_SECONDS: Final = 0.008
_REST: Final = 20.0


def encode(operations: list[Operation]) -> bytes:
    """A batch as a record's payload."""
    return marshal.dumps(operations, _FORMAT)


def decode(payload: bytes) -> list[Operation]:
    """The batch of a payload."""
    operations: list[Operation] = marshal.loads(payload)
    return operations


class JournaledWriter:
    """A Writer with a journal in front of another one, which it closes. Call it on the loop only."""

    def __init__(
        self,
        behind: Writer,
        journal: Journal,
        path: Path,
        *,
        loop: asyncio.AbstractEventLoop,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """The environment behind must have stored the journal's mark. clock: seconds, for how long a write takes."""
        self._behind = behind
        self._journal = journal
        self._path = path
        self._loop = loop
        self._clock = clock
        self._events = WriterEvents()
        self._failed = False
        # What the environment behind was not given yet, and whom to tell once it has it.
        self._unmoved: list[Operation] = []
        self._stored: list[Done] = []
        self._enough = _MOVED_FROM * journal.size
        self._moving = False
        self._timer: asyncio.TimerHandle | None = None
        # Batches on their way that are in no journal. Nothing overtakes them.
        self._direct = 0
        self._rests_until = 0.0

    @property
    def events(self) -> WriterEvents:
        """As Writer.events. A commit is told of if somebody waited for it."""
        return self._events

    @events.setter
    def events(self, events: WriterEvents) -> None:
        self._events = events
        self._behind.events = replace(events, committed=self._committed_behind, failed=self._fail)

    def submit(self, batch: WriteBatch, done: Done, stored: Done | None = None) -> None:
        """As Writer.submit; usually done when the call returns."""
        if self._failed:
            return
        operations = batch.operations
        if self._direct or self._clock() < self._rests_until:
            self._submit_behind(operations, done, stored)
            return
        payload = encode(operations)
        if not self._journal.fits(len(payload)):
            self._submit_behind(operations, done, stored)
            return
        if not self._write(payload):
            if not self._failed:
                self._submit_behind(operations, done, stored)
            return
        self._keep(operations, stored)
        done()
        if not self._moving and self._journal.used >= self._enough:
            self._move()

    def defer(self, batch: WriteBatch, done: Done) -> None:
        """As Writer.defer."""
        self._keep(batch.operations, done)

    def settle(self, done: Done) -> None:
        """As Writer.settle."""
        self._submit_behind([], done, None)

    def run(self, function: str, arguments: Any) -> Future[Any]:
        """As Writer.run."""
        self._move()
        return self._behind.run(function, arguments)

    def compact(self) -> Future[None]:
        """As Writer.compact."""
        self._move()
        return self._behind.compact()

    def swap_in(self, file: Path, changes: WriteBatch) -> Future[None]:
        """As Writer.swap_in. The file must not hold a mark: the journal's goes with the changes."""
        self._move()
        changes.put(META.name, [(JOURNAL_KEY, self._journal.mark.encode())])
        return self._behind.swap_in(file, changes)

    def retry(self) -> None:
        """As Writer.retry."""
        self._behind.retry()

    async def close(self) -> None:
        """Move everything, say that no journal is needed to read the environment, and end the writer behind."""
        self._stop_timer()
        if not self._failed:
            last = WriteBatch([*self._take(), *_put_mark(self._journal.mark.closed())])
            stored, self._stored = self._stored, []
            self._behind.submit(last, lambda: _call_all(stored))
        try:
            await self._behind.close()
        finally:
            self._journal.close()

    def _write(self, payload: bytes) -> bool:
        """Put a record into the journal: whether it is durable. If not, either there is no room or all is over."""
        began = self._clock()
        try:
            self._journal.append(payload)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                # On a file system that never writes in place. The journal is not tried again.
                self._rests_until = float("inf")
            else:
                self._fail(WriterFailed(f"{self._path}: the journal cannot be written: {error}"))
            return False
        ended = self._clock()
        seconds = ended - began
        if seconds >= _SLOW_SECONDS:
            self._rests_until = ended + _REST * seconds
        self._events.committed(WriteStats(batches=1, seconds=seconds, commit_seconds=seconds))
        return True

    def _keep(self, operations: list[Operation], stored: Done | None) -> None:
        self._unmoved += operations
        if stored is not None:
            self._stored.append(stored)
        if self._timer is None and not self._moving:
            self._timer = self._loop.call_later(_MOVED_AT_LEAST_EVERY, self._move)

    def _move(self) -> None:
        """Have the environment execute what only the journal has."""
        self._stop_timer()
        if self._failed or not self._unmoved:
            return
        self._moving = True
        mark = self._journal.mark
        stored, self._stored = self._stored, []

        def moved() -> None:
            self._moving = False
            self._journal.release(mark)
            if self._journal.used >= self._enough:
                self._move()
            elif self._unmoved and self._timer is None:
                self._timer = self._loop.call_later(_MOVED_AT_LEAST_EVERY, self._move)
            _call_all(stored)

        self._behind.submit(WriteBatch([*self._take(), *_put_mark(mark)]), moved)

    def _submit_behind(self, operations: list[Operation], done: Done, stored: Done | None) -> None:
        """Have the environment execute what the journal has, and more that it has not."""
        self._stop_timer()
        self._direct += 1
        mark = self._journal.mark
        earlier, self._stored = self._stored, []

        def executed() -> None:
            self._direct -= 1
            self._journal.release(mark)
            _call_all(earlier)
            done()
            if stored is not None:
                stored()

        self._behind.submit(WriteBatch([*self._take(), *operations, *_put_mark(mark)]), executed)

    def _take(self) -> list[Operation]:
        taken, self._unmoved = self._unmoved, []
        return taken

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _committed_behind(self, stats: WriteStats) -> None:
        if self._direct:
            self._events.committed(stats)

    def _fail(self, error: StorageError) -> None:
        if not self._failed:
            self._failed = True
            self._stop_timer()
            self._events.failed(error)


def _put_mark(mark: Mark) -> list[Operation]:
    batch = WriteBatch()
    batch.put(META.name, [(JOURNAL_KEY, mark.encode())])
    return batch.operations


def _call_all(callbacks: list[Done]) -> None:
    for callback in callbacks:
        callback()
