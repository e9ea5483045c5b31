"""Disks: a member's two environments, written in this process as its writer processes would, and lost like theirs.

The state's batches are on disk when their transaction has been committed, some time after they were handed over; the
member hears of it later still. The log's are in a journal first: durable, and told so, before they can be read.
A crash drops what is neither, except that the disk may have got further than the member knew: some of what was handed
over, in order, is kept. What was deferred may be lost from between what is kept.
"""

from __future__ import annotations

import asyncio
import marshal
import tempfile
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from kvstore.storage.backend import Backend, BackendOptions
from kvstore.storage.batch import Operation, TableSpec, WriteBatch, WriteStats
from kvstore.storage.engine import MIB, Engine, EngineOptions, begin_reading
from kvstore.storage.environment import EngineReading, Environment
from kvstore.storage.errors import DiskFull, JobFailed, StorageError, WriterFailed
from kvstore.storage.helper import Helper
from kvstore.storage.meta import META
from kvstore.storage.snapshot import SnapshotReader
from kvstore.storage.transaction import ReadTransaction
from kvstore.storage.wal import ENTRIES, Wal, WalOptions
from kvstore.storage.writer import Done, WriterEvents
from raft.messages import Entry, HardState, SnapshotMetadata
from tests.member_simulation.timeline import ProcessLoop, Timeline

_MAP_SIZE = 256 * MIB


@dataclass(slots=True)
class DiskHabits:
    """How a member's disk behaves; changed while it runs.

    slow: factor on what everything takes. full: nothing more can be written.
    """

    seconds: float = 0.001
    slow: float = 1.0
    full: bool = False


@dataclass(slots=True)
class _Batch:
    """deferred: executed in its turn, whether or not it is durable. durable: whether it will be there after a crash."""

    operations: Sequence[Operation]
    done: Done
    stored: Done | None = None
    deferred: bool = False
    durable: bool = False


@dataclass(slots=True)
class _Job:
    """Anything but a batch. commit: does it, and gives what tells the member. on_loop: what it does is seen at once, so
    it is done when the member is told."""

    commit: Callable[[], Callable[[], None]]
    on_loop: bool = False


@dataclass(slots=True)
class SimulatedWriter:
    """A Writer whose process is imagined, and its journal with it.

    _queue: what the environment does not show yet, in order.
    """

    engine: Engine
    loop: ProcessLoop
    timeline: Timeline
    habits: DiskHabits
    name: str
    journaled: bool
    events: WriterEvents = field(default_factory=WriterEvents)
    _queue: deque[_Batch | _Job] = field(default_factory=deque)
    _journaling: bool = False
    _working: bool = False
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
        self._add(_Batch(marshal.loads(marshal.dumps(batch.operations)), done, deferred=True))

    def settle(self, done: Done) -> None:
        """As Writer.settle."""
        self._add(_Batch((), done, deferred=True))

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
        """Die with the member. What is durable is kept, and some of what follows it in order."""
        if self._dead:
            return
        self._dead = True
        chance = self.timeline.chance
        more = 0 if self.habits.full else chance.randint(0, 3)
        for entry in self._queue:
            if isinstance(entry, _Job):
                if self.journaled or not more:
                    break
                entry.commit()
                more -= 1
            elif entry.deferred:
                if chance.random() < 0.5:
                    self.engine.commit([entry.operations])
            elif entry.durable or more:
                more -= not entry.durable
                self.engine.commit([entry.operations])
            else:
                break
        self._queue.clear()
        self.engine.close()

    def break_down(self) -> None:
        """The writer's process dies, the member does not."""
        if not self._dead and not self._broken:
            self._broken = self._working = self._journaling = True
            failed, self.events = self.events.failed, WriterEvents()
            self.loop.call_soon(failed, WriterFailed(f"{self.name}: the simulated writer died"))

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
        self.events.committed(stats)
        _call_all(all_done)

    def _add(self, entry: _Batch | _Job) -> None:
        if not self._dead:
            self._queue.append(entry)
            self._work()

    def _seconds(self) -> float:
        return self.habits.seconds * self.habits.slow * self.timeline.chance.expovariate(1.0)

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
        if self.journaled and not self._journaling:
            fresh = [e for e in self._queue if isinstance(e, _Batch) and not e.deferred and not e.durable]
            if fresh:
                self._journaling = True
                self.timeline.after(self._seconds(), lambda: self._journal(fresh))
        if not self._working:
            run = 0
            for entry in self._queue:
                if isinstance(entry, _Job) or not (entry.durable or entry.deferred or not self.journaled):
                    break
                run += 1
            if run or isinstance(self._queue[0], _Job):
                self._working = True
                # The process behind a journal is in no hurry.
                factor = self.timeline.chance.choice((1, 10, 100)) if self.journaled else 1
                self.timeline.after(factor * self._seconds(), lambda: self._execute(run))

    def _journal(self, batches: Sequence[_Batch]) -> None:
        if self._dead or self._broken:
            return
        for batch in batches:
            batch.durable = True
        self.loop.call_soon(_call_all, [batch.done for batch in batches])
        self._journaling = False
        self._work()

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
            if not batch.durable:
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
        self.locks: Sequence[int] = ()
        self.wal: _ToldWal | None = None

    def open_log(self, path: Path, options: WalOptions, events: WriterEvents, keep_open: Sequence[int]) -> Wal:
        """As wal.open_with_process."""
        self.locks = keep_open
        env = self._open(path, [META, ENTRIES], options.engine, "log")
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

    def _open(self, path: Path, tables: Sequence[TableSpec], options: EngineOptions, name: str) -> Environment:
        engine = Engine(path, tables, replace(options, map_size=_MAP_SIZE, count_free=False, unsafe_no_fsync=True))
        writer = SimulatedWriter(
            engine, self._loop, self._timeline, self._habits, f"{self._name}/{name}", name == "log"
        )
        self.writers.append(writer)
        return Environment(path, tables, writer, EngineReading(engine), engine.measure(), engine)
