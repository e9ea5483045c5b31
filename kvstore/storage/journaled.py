"""A writer whose batches are durable at once: in the journal first, in the environment at leisure.

An append of the log is worth one short synchronous write, made right here on the loop: it takes a tenth of a
millisecond, and the turn that asked for it goes on where handing it to a process would cost two more turns and twice
that time. What the journal holds is moved into the environment by the writer behind, many batches in one commit.

The loop must not wait for a disk that is slow. A write that is not done within a moment goes on beside the loop: what
comes meanwhile is written together once it is done, and for a while no write is waited for. Where the system has no
writes beside a program, one that took too long sends what follows to the writer behind for a while, as is sent what is
too large for the journal, or all of it while the journal is full.

If the environment finds no room on the disk, what was sent there waits until there is some, and whatever comes later
would wait behind it, a vote for a new leader among it. The journal has its room already. So what waits is written into
it after all, if it fits, and goes on from there.
"""

from __future__ import annotations

import asyncio
import errno
import marshal
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from kvstore.storage.batch import Operation, WriteBatch, WriteStats
from kvstore.storage.errors import DiskFull, StorageError, WriterFailed
from kvstore.storage.journal import Journal, Mark
from kvstore.storage.meta import JOURNAL_KEY, META
from kvstore.storage.writer import Done, Writer, WriterEvents

# The oldest format with everything a batch consists of; what was written in it is read by every later Python.
_FORMAT: Final = 2

_MOVED_AT_LEAST_EVERY: Final = 1.0
# Of the journal, so that there is room while they are moved.
_MOVED_FROM: Final = 0.5

# So long the loop waits for a write that it can do other things beside: nearly all are done by then, and what follows
# from them is done in the same turn.
_PATIENCE: Final = 0.002
# A call that begins a write and takes longer than this is felt by whoever shares the loop.
_SLOW_SECONDS: Final = 0.008
# For so many times as long as was waited for a slow write none is waited for, or all go to the writer behind.
_REST: Final = 20.0


def encode(operations: list[Operation]) -> bytes:
    """A batch as a record's payload."""
    return marshal.dumps(operations, _FORMAT)


def decode(payload: bytes) -> list[Operation]:
    """The batch of a payload."""
    operations: list[Operation] = marshal.loads(payload)
    return operations


class _Waiting(NamedTuple):
    """A batch for the journal, and whom to tell once it is durable and once the environment behind has it."""

    operations: list[Operation]
    done: Done
    stored: Done | None


@dataclass(slots=True)
class _Direct:
    """A batch that was sent to the environment and into no journal. durable: whether it is, and its owner knows."""

    operations: list[Operation]
    done: Done
    durable: bool = False


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
        self._closing = False
        # What the environment behind was not given yet, and whom to tell once it has it.
        self._unmoved: list[Operation] = []
        self._stored: list[Done] = []
        self._enough = _MOVED_FROM * journal.size
        self._moving = False
        self._timer: asyncio.TimerHandle | None = None
        # What the environment will say once it has executed all that it was given.
        self._sent = journal.mark
        # What was sent past the journal and is not executed. Nothing overtakes those of them that are not durable.
        self._direct: deque[_Direct] = deque()
        self._outside = 0
        # Whether the environment waits for room on the disk; jobs that it was given; the next try to help it.
        self._full = False
        self._jobs = 0
        self._rescuing: asyncio.TimerHandle | None = None
        self._behind_until = 0.0
        self._impatient_until = 0.0
        self._unfit = False
        # What is being written into the journal beside the loop, since when, and what came meanwhile.
        self._under_way: _Waiting | None = None
        self._began = 0.0
        self._waiting: list[_Waiting] = []

    @property
    def events(self) -> WriterEvents:
        """As Writer.events. A commit is told of if somebody waited for it."""
        return self._events

    @events.setter
    def events(self, events: WriterEvents) -> None:
        self._events = events
        self._behind.events = WriterEvents(
            full=self._found_full, recovered=self._found_room, failed=self._fail, committed=self._committed_behind
        )

    def submit(self, batch: WriteBatch, done: Done, stored: Done | None = None) -> None:
        """As Writer.submit; usually done when the call returns."""
        if self._failed:
            return
        waiting = _Waiting(batch.operations, done, stored)
        # Not overtaken either by what somebody who is told of a write submits at once.
        if self._under_way is not None or self._waiting:
            self._waiting.append(waiting)
        else:
            self._take_in(waiting)

    def defer(self, batch: WriteBatch, done: Done) -> None:
        """As Writer.defer."""
        if self._under_way is None:
            self._keep(batch.operations, done)
        else:
            self._waiting.append(_Waiting(batch.operations, _nothing, done))

    def settle(self, done: Done) -> None:
        """As Writer.settle. Waits for a write under way, however long the disk takes, and the loop with it.

        Called once in a log's life: when it is told whose it is, before its member serves anybody.
        """
        self._finish_all()
        self._submit_behind([], _nothing, done)

    def run(self, function: str, arguments: Any) -> Future[Any]:
        """As Writer.run."""
        self._move()
        return self._counted(self._behind.run(function, arguments))

    def compact(self) -> Future[None]:
        """As Writer.compact."""
        self._move()
        return self._counted(self._behind.compact())

    def swap_in(self, file: Path, changes: WriteBatch) -> Future[None]:
        """As Writer.swap_in. The file must not hold a mark: the journal's goes with the changes.

        Waits as settle() does. A log is not replaced while its member runs.
        """
        self._finish_all()
        self._move()
        changes.put(META.name, [(JOURNAL_KEY, self._journal.mark.encode())])
        return self._counted(self._behind.swap_in(file, changes))

    def retry(self) -> None:
        """As Writer.retry."""
        self._behind.retry()

    async def close(self) -> None:
        """Move everything, say that no journal is needed to read the environment, and end the writer behind.

        The loop waits for a write under way, however long the disk takes; the member has stopped serving. A signal is
        not heard meanwhile: with a disk that never answers, the process has to be killed.
        """
        self._stop_timer()
        self._closing = True
        self._finish_all()
        if not self._failed:
            last = WriteBatch([*self._take(), *_put_mark(self._journal.mark.closed())])
            stored, self._stored = self._stored, []
            self._behind.submit(last, lambda: _call_all(stored))
        try:
            await self._behind.close()
        finally:
            self._journal.close()

    def _take_in(self, batch: _Waiting) -> None:
        if self._outside or self._unfit or self._clock() < self._behind_until:
            self._submit_behind(*batch)
            return
        payload = encode(batch.operations)
        if self._journal.fits(len(payload)):
            self._write(payload, batch)
        else:
            self._submit_behind(*batch)

    def _write(self, payload: bytes, batch: _Waiting) -> None:
        """Put a record into the journal, and the batch that it stands for among what is to be moved then."""
        began = self._clock()
        impatient = began < self._impatient_until
        try:
            self._journal.begin(payload)
            begun = self._clock()
            durable = self._journal.finish(0.0 if impatient else _PATIENCE)
        except OSError as error:
            self._not_written(batch, error)
            return
        ended = self._clock()
        if begun - began >= _SLOW_SECONDS:
            self._behind_until = ended + _REST * (begun - began)
        elif not impatient and ended - begun >= _PATIENCE:
            self._impatient_until = ended + _REST * (ended - begun)
        if durable:
            self._written(batch, ended - began)
        else:
            self._under_way = batch
            self._began = began
            self._loop.add_reader(self._journal.fileno(), self._guarded, self._look_now)

    def _guarded(self, action: Callable[[], None]) -> None:
        """Do something that the loop asks for: nobody else hears of what goes wrong in it."""
        try:
            action()
        except Exception as error:
            # What follows a write has failed half-way; nobody knows any more what was done.
            self._fail(WriterFailed(f"{self._path}: what was to follow a write failed: {error!r}"))
            raise

    def _look_now(self) -> None:
        self._look(0.0)

    def _look(self, patience: float) -> None:
        """See whether what is under way is durable; then write what came meanwhile, all of it in one record."""
        batch = self._under_way
        assert batch is not None, "nothing is under way"
        try:
            durable = self._journal.finish(patience)
        except OSError as error:
            self._end_of_write()
            self._not_written(batch, error)
        else:
            if not durable:
                return
            self._end_of_write()
            self._written(batch, self._clock() - self._began)
        # Who was told may have submitted more, which is then under way, or waits with the others.
        if self._waiting and self._under_way is None and not self._failed:
            waiting, self._waiting = self._waiting, []
            self._take_in(_joined(waiting))

    def _end_of_write(self) -> None:
        self._loop.remove_reader(self._journal.fileno())
        self._under_way = None

    def _finish_all(self) -> None:
        """Wait for what is being written into the journal, and what waits for it. The loop does nothing else."""
        while self._under_way is not None:
            self._look(_PATIENCE)

    def _written(self, batch: _Waiting, seconds: float) -> None:
        self._events.committed(WriteStats(batches=1, seconds=seconds, commit_seconds=seconds))
        self._keep(batch.operations, batch.stored)
        batch.done()
        if not self._moving and self._journal.used >= self._enough:
            self._move()

    def _not_written(self, batch: _Waiting, error: OSError) -> None:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            # On a file system that never writes in place. The journal is not tried again.
            self._unfit = True
            self._submit_behind(*batch)
        else:
            self._fail(WriterFailed(f"{self._path}: the journal cannot be written: {error}"))

    def _keep(self, operations: list[Operation], stored: Done | None) -> None:
        self._unmoved += operations
        if stored is not None:
            self._stored.append(stored)
        if self._timer is None and not self._moving:
            self._timer = self._loop.call_later(_MOVED_AT_LEAST_EVERY, self._move)

    def _move(self) -> None:
        """Have the environment execute what only the journal has."""
        self._stop_timer()
        if self._failed or self._closing or not self._lags:
            return
        self._moving = True
        mark = self._sent = self._journal.mark
        stored, self._stored = self._stored, []

        def moved() -> None:
            self._moving = False
            self._journal.release(mark)
            if self._journal.used >= self._enough:
                self._move()
            elif self._lags and self._timer is None:
                self._timer = self._loop.call_later(_MOVED_AT_LEAST_EVERY, self._move)
            _call_all(stored)

        self._behind.submit(WriteBatch([*self._take(), *_put_mark(mark)]), moved)

    def _submit_behind(self, operations: list[Operation], done: Done, stored: Done | None) -> None:
        """Have the environment execute what the journal has, and more that it has not."""
        self._stop_timer()
        direct = _Direct(operations, done)
        self._direct.append(direct)
        self._outside += 1
        mark = self._sent = self._journal.mark
        earlier, self._stored = self._stored, []

        def executed() -> None:
            self._direct.popleft()
            self._journal.release(mark)
            _call_all(earlier)
            self._now_durable(direct)
            if stored is not None:
                stored()

        self._behind.submit(WriteBatch([*self._take(), *operations, *_put_mark(mark)]), executed)
        if self._outside == 1:
            # With others before it, it is tried together with them, or they do not fit already.
            self._rescue_in(0.0)

    def _now_durable(self, direct: _Direct) -> None:
        if not direct.durable:
            direct.durable = True
            self._outside -= 1
            direct.done()

    def _rescue_in(self, seconds: float) -> None:
        if self._full and self._outside and self._rescuing is None:
            self._rescuing = self._loop.call_later(seconds, self._guarded, self._rescue)

    def _rescue(self) -> None:
        """Write what waits for room in the environment into the journal.

        The environment will execute it with the mark that it was sent with, which is before this record: after a crash
        it is executed again. That leaves what it left the first time, for rows are put and deleted whatever was there.
        It does so only because it is a single record: of several, the first ones alone, executed again behind all of
        them, would undo what the others did. For the same reason no job must be among what waits.
        """
        self._rescuing = None
        if not self._full or not self._outside or self._under_way is not None or self._jobs:
            return
        if self._failed or self._closing or self._unfit:
            return
        if (rest := self._behind_until - self._clock()) > 0:
            self._rescue_in(rest)
            return
        waiting = [direct for direct in self._direct if not direct.durable]

        def rescued() -> None:
            for direct in waiting:
                self._now_durable(direct)
            # What their owners have submitted thereupon.
            self._rescue_in(0.0)

        payload = encode([operation for direct in waiting for operation in direct.operations])
        if self._journal.fits(len(payload)):
            self._write(payload, _Waiting([], rescued, None))

    def _found_full(self, error: DiskFull) -> None:
        self._full = True
        self._events.full(error)
        self._rescue_in(0.0)

    def _found_room(self) -> None:
        self._full = False
        self._events.recovered()

    def _counted(self, job: Future[Any]) -> Future[Any]:
        self._jobs += 1
        job.add_done_callback(self._job_done)
        return job

    def _job_done(self, _: Future[Any]) -> None:
        self._jobs -= 1

    @property
    def _lags(self) -> bool:
        """Whether there is something in the journal that the environment was not told of."""
        return bool(self._unmoved) or self._sent != self._journal.mark

    def _take(self) -> list[Operation]:
        taken, self._unmoved = self._unmoved, []
        return taken

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _committed_behind(self, stats: WriteStats) -> None:
        if self._outside:
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


def _joined(batches: list[_Waiting]) -> _Waiting:
    """All batches as one."""
    operations = [operation for batch in batches for operation in batch.operations]
    done = [batch.done for batch in batches]
    stored = [batch.stored for batch in batches if batch.stored is not None]
    return _Waiting(operations, lambda: _call_all(done), lambda: _call_all(stored))


def _nothing() -> None:
    pass


def _call_all(callbacks: list[Done]) -> None:
    for callback in callbacks:
        callback()
