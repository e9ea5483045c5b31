"""Disks: a member's two environments, written in this process as its writer processes would, and lost like theirs.

A batch is on disk when its transaction has been committed, some time after it was handed over; the member hears of it
later still. A crash drops what is not committed, except that the disk may have got further than the member knew: some
of what was handed over, in order, is committed before the end. The log's journal is a real file (`durable.py`), small,
so that it comes round again and again. Some systems write it beside the program, on others the program waits.
"""

from __future__ import annotations

import asyncio
import marshal
import os
import tempfile
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from kvstore.storage import environment, journal
from kvstore.storage.backend import Backend, BackendOptions
from kvstore.storage.batch import PUT, Operation, TableSpec, WriteBatch, WriteStats
from kvstore.storage.engine import MIB, Engine, EngineOptions, begin_reading
from kvstore.storage.environment import EngineReading, Environment
from kvstore.storage.errors import DiskFull, JobFailed, StorageError, WriterFailed
from kvstore.storage.helper import Helper
from kvstore.storage.journal import Journal
from kvstore.storage.journaled import JournaledWriter
from kvstore.storage.meta import JOURNAL_KEY, META
from kvstore.storage.snapshot import SnapshotReader
from kvstore.storage.transaction import ReadTransaction
from kvstore.storage.wal import ENTRIES, Wal, WalOptions
from kvstore.storage.writer import Done, WriterEvents
from raft.messages import Entry, HardState, SnapshotMetadata
from tests.member_simulation.durable import BlockingFile, DiskHabits, LaterFile, WorkClock
from tests.member_simulation.timeline import ProcessLoop, Timeline

_MAP_SIZE = 256 * MIB
_JOURNAL_BYTES = 128 * 1024


@dataclass(slots=True)
class _Batch:
    operations: Sequence[Operation]
    done: Done
    stored: Done | None = None


@dataclass(slots=True)
class _Job:
    """Anything but a batch. commit: does it, and gives what tells the member. on_loop: what it does is seen at once, so
    it is done when the member is told."""

    commit: Callable[[], Callable[[], None]]
    on_loop: bool = False


@dataclass(slots=True)
class SimulatedWriter:
    """A Writer whose process is imagined. _queue: what is not committed yet, in order."""

    engine: Engine
    loop: ProcessLoop
    timeline: Timeline
    habits: DiskHabits
    name: str
    events: WriterEvents = field(default_factory=WriterEvents)
    _queue: deque[_Batch | _Job] = field(default_factory=deque)
    _working: bool = False
    _seconds: float = 0.0
    _told_full: bool = False
    _dead: bool = False
    _broken: bool = False
    _closing: asyncio.Future[None] | None = None

    # Writer.

    def submit(self, batch: WriteBatch, done: Done, stored: Done | None = None) -> None:
        """As Writer.submit."""
        # As the socket would: what is written is what the batch held now.
        self._add(_Batch(marshal.loads(marshal.dumps(batch.operations)), done, stored))

    def defer(self, batch: WriteBatch, done: Done) -> None:
        """As Writer.defer."""
        self.submit(batch, done)

    def settle(self, done: Done) -> None:
        """As Writer.settle."""
        self.submit(WriteBatch(), done)

    def run(self, function: str, arguments: Any) -> Future[Any]:
        """As Writer.run."""
        future: Future[Any] = Future()
        arguments = marshal.loads(marshal.dumps(arguments))

        def commit() -> Callable[[], None]:
            try:
                result, stats = self.engine.run(function, arguments)
            except JobFailed as error:
                failed = error
                return lambda: future.set_exception(failed)
            return lambda: self._told(stats, (lambda: future.set_result(result),))

        self._add(_Job(commit))
        return future

    def compact(self) -> Future[None]:
        """As Writer.compact."""
        return self._exchange(self.engine.compact)

    def swap_in(self, file: Path, changes: WriteBatch) -> Future[None]:
        """As Writer.swap_in."""
        operations: list[Operation] = marshal.loads(marshal.dumps(changes.operations))
        return self._exchange(lambda: self.engine.swap_in(file, operations))

    def retry(self) -> None:
        """As Writer.retry."""
        self._work()

    async def close(self) -> None:
        """As Writer.close."""
        loop = asyncio.get_running_loop()
        if self._dead:
            # The process is gone, and whoever asks is, too.
            await loop.create_future()
        if (self._queue or self._working) and not self._broken:
            self._closing = loop.create_future()
            await self._closing
        self._dead = True
        self.engine.close()

    # The imagined process and its disk.

    def crash(self) -> None:
        """Die with the member, after committing some of what was handed over."""
        if self._dead:
            return
        self._dead = True
        more = 0 if self.habits.full or self._broken else self.timeline.chance.randint(0, 3)
        for entry in islice(self._queue, more):
            if isinstance(entry, _Job):
                entry.commit()
            else:
                self.engine.commit([entry.operations])
        self._queue.clear()
        self.engine.close()

    def break_down(self) -> None:
        """The writer's process dies, the member does not."""
        if not self._dead and not self._broken:
            self._broken = self._working = True
            failed, self.events = self.events.failed, WriterEvents()
            self.loop.call_soon(failed, WriterFailed(f"{self.name}: the simulated writer died"))
            if self._closing is not None and not self._closing.done():
                # It has ended, if not as it was to.
                self._closing.set_result(None)

    def _exchange(self, action: Callable[[], WriteStats]) -> Future[None]:
        future: Future[None] = Future()

        def commit() -> Callable[[], None]:
            try:
                stats = action()
            except StorageError as error:
                failed = error
                return lambda: future.set_exception(failed)
            return lambda: self._told(stats, (lambda: future.set_result(None),))

        self._add(_Job(commit, on_loop=True))
        return future

    def _told(self, stats: WriteStats, all_done: Sequence[Done]) -> None:
        # What it took here is nobody's business.
        stats.seconds = stats.commit_seconds = self._seconds
        self.events.committed(stats)
        _call_all(all_done)

    def _add(self, entry: _Batch | _Job) -> None:
        if not self._dead:
            self._queue.append(entry)
            self._work()

    def _work(self) -> None:
        """Begin with what waits, if there is room for it."""
        if self._dead:
            return
        if not self._queue:
            if self._closing is not None and not self._closing.done():
                self.loop.call_soon(self._closing.set_result, None)
            return
        if self.habits.full:
            if not self._told_full:
                self._told_full = True
                self.loop.call_soon(self.events.full, DiskFull(f"{self.name}: the simulated disk is full"))
            self.timeline.after(0.5, self._work)
            return
        if self._told_full:
            self._told_full = False
            self.loop.call_soon(self.events.recovered)
        if not self._working:
            self._working = True
            run = 0
            for entry in self._queue:
                if isinstance(entry, _Job):
                    break
                run += 1
            self._seconds = self.habits.seconds * self.habits.slow * self.timeline.chance.expovariate(1.0)
            self.timeline.after(self._seconds, lambda: self._execute(run))

    def _execute(self, run: int) -> None:
        if self._dead or self._broken:
            return
        if run:
            self._commit([entry for entry in islice(self._queue, run) if isinstance(entry, _Batch)])
            for _ in range(run):
                self._queue.popleft()
        else:
            job = self._queue.popleft()
            assert isinstance(job, _Job)
            if job.on_loop:
                self.loop.call_soon(self._execute_on_loop, job)
                return
            self.loop.call_soon(job.commit())
        self._working = False
        self._work()

    def _commit(self, batches: Sequence[_Batch]) -> None:
        stats = self.engine.commit([batch.operations for batch in batches])
        calls = []
        for batch in batches:
            calls.append(batch.done)
            if batch.stored is not None:
                calls.append(batch.stored)
        self.loop.call_soon(self._told, stats, calls)

    def _execute_on_loop(self, job: _Job) -> None:
        job.commit()()
        self._working = False
        self._work()


def _call_all(calls: Sequence[Done]) -> None:
    for call in calls:
        call()


class _Whole(Helper):
    """Stands for a helper process whose copy has arrived whole already."""

    def __init__(self) -> None:
        pass

    async def read(self) -> bytes:
        return b""

    def close(self) -> None:
        pass


class SimulatedBackend(Backend):
    """The state, copied in this process."""

    chance: Callable[[], float] = staticmethod(lambda: 0.0)

    async def snapshot(self) -> SnapshotReader:
        """As Backend.snapshot."""
        await self.flush_all()
        await asyncio.sleep(self.chance())
        engine = self._env.engine
        assert engine is not None
        raw = begin_reading(engine.env)
        try:
            meta = dict(ReadTransaction(raw, engine.handles).items(META.name))
            with tempfile.TemporaryFile(dir=self.path.parent) as file:
                engine.env.copyfd(file.fileno(), compact=True, txn=raw)
                file.seek(0)
                return SnapshotReader(_Whole(), meta, bytearray(file.read()))
        finally:
            raw.abort()


OnDurable = Callable[[HardState | None, Sequence[Entry], SnapshotMetadata | None], None]


class _ToldWal(Wal):
    """A log that also tells somebody else what is durable, before the member."""

    on_durable: OnDurable = staticmethod(lambda hard_state, entries, snapshot: None)

    def append(
        self,
        hard_state: HardState | None,
        entries: Sequence[Entry],
        snapshot: SnapshotMetadata | None,
        done: Done,
    ) -> None:
        """As Wal.append."""
        entries = list(entries)

        def durable() -> None:
            self.on_durable(hard_state, entries, snapshot)
            done()

        super().append(hard_state, entries, snapshot, durable)


class Disks:
    """What one incarnation of a member writes to."""

    def __init__(self, timeline: Timeline, loop: ProcessLoop, name: str, habits: DiskHabits) -> None:
        self._timeline = timeline
        self._loop = loop
        self._name = name
        self._habits = habits
        self.writers: list[SimulatedWriter] = []
        # Each with a duplicate of its own: whether the descriptor is still what it was is told by that.
        self._locks: list[tuple[int, int]] = []
        self._journal: Journal | None = None
        self._file: BlockingFile | LaterFile | None = None
        self._worked = 0.0
        self.wal: _ToldWal | None = None

    def crash(self) -> None:
        """The member is dead: lose what was not written, and let go of everything."""
        for writer in self.writers:
            writer.crash()
        if self._file is not None:
            self._file.lose()
        if self._journal is not None:
            self._journal.close()
        locks, self._locks = self._locks, []
        for lock, twin in locks:
            if _is_same_file(lock, twin):
                os.close(lock)
            os.close(twin)

    def let_go(self) -> None:
        """The member has closed its data directory by itself."""
        locks, self._locks = self._locks, []
        for _, twin in locks:
            os.close(twin)

    def clock(self) -> float:
        """For how long work takes in a turn; nobody else's clock."""
        self._worked += self._timeline.chance.choice((0.0, 0.0, 0.0, 0.0, 0.00001, 0.011))
        return self._worked

    def open_log(self, path: Path, options: WalOptions, events: WriterEvents, keep_open: Sequence[int]) -> Wal:
        """As wal.open_with_process."""
        self._locks = [(lock, os.dup(lock)) for lock in keep_open]
        env = self._open(path, [META, ENTRIES], options.engine, "log")
        engine = env.engine
        assert engine is not None
        environment._execute_journal(engine, path)
        self._journal = made = journal.prepare(path, _JOURNAL_BYTES, durable=False)
        engine.commit([[(PUT, META.name, [(JOURNAL_KEY, made.mark.encode())])]])
        clock = WorkClock(self._timeline, self._loop)
        self._file = made._file = self._open_journal(path / journal.FILE, clock)
        env.writer = JournaledWriter(env.writer, made, path, loop=self._loop, clock=clock)
        self.wal = _ToldWal(env, options, events)
        return self.wal

    def open_state(
        self,
        path: Path,
        tables: Sequence[TableSpec],
        options: BackendOptions,
        events: WriterEvents,
        keep_open: Sequence[int],
    ) -> Backend:
        """As backend.open_with_process."""
        env = self._open(path, [META, *tables], options.engine, "state")
        backend = SimulatedBackend(env, options, events)
        chance = self._timeline.chance
        backend.chance = lambda: chance.uniform(0.0, 0.1)
        return backend

    def tell(self, on_durable: OnDurable) -> None:
        """Tell somebody what the log has on disk from now on."""
        assert self.wal is not None
        self.wal.on_durable = on_durable

    def _open_journal(self, path: Path, clock: WorkClock) -> BlockingFile | LaterFile:
        if self._timeline.chance.random() < 0.25:
            return BlockingFile(path, self._timeline, clock, self._habits)
        return LaterFile(path, self._timeline, self._loop, clock, self._habits)

    def _open(self, path: Path, tables: Sequence[TableSpec], options: EngineOptions, name: str) -> Environment:
        engine = Engine(path, tables, replace(options, map_size=_MAP_SIZE, count_free=False, unsafe_no_fsync=True))
        writer = SimulatedWriter(engine, self._loop, self._timeline, self._habits, f"{self._name}/{name}")
        self.writers.append(writer)
        return Environment(path, tables, writer, EngineReading(engine), engine.measure(), engine)


def _is_same_file(descriptor: int, other: int) -> bool:
    try:
        return os.path.sameopenfile(descriptor, other)
    except OSError:
        # It is closed: the member has let go of it by itself.
        return False
