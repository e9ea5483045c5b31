"""The state on disk: tables with an overlay of what is not committed yet, flushed in batches that are true together.

Every flush carries the tables' changes, the applied position and the small values of `meta` in one transaction, so what
is on disk is always the state at one index of the log. Runs on the member's loop and never waits there for a disk to
write. Knows no revisions and no requests.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from kvstore.storage import environment, helper, structure
from kvstore.storage.batch import DUP, TableSpec, WriteBatch, WriteStats
from kvstore.storage.engine import EngineOptions, call_reader
from kvstore.storage.environment import Environment
from kvstore.storage.errors import CorruptStore, DiskFull, StorageError
from kvstore.storage.meta import APPLIED_KEY, META, Identity, Meta, Position, decode_position
from kvstore.storage.overlay import Remains
from kvstore.storage.snapshot import SnapshotReader
from kvstore.storage.table import DupTable, Table
from kvstore.storage.writer import WriterEvents

_FLUSH_SECONDS: Final = 0.1
_FLUSH_OPERATIONS: Final = 300_000
# A flush begins no sooner after the one before than so many times as long as that took.
_FLUSH_DUTY: Final = 10
_LONGEST_PAUSE: Final = 5.0
# Objects of changes that are on disk, in each turn of the loop: half a millisecond.
_LET_GO_AT_ONCE: Final = 4_000


@dataclass(frozen=True, slots=True)
class BackendOptions:
    """When the state is flushed: after so many seconds, or once so many rows have changed.

    The log holds what is not flushed, so a flush is never urgent, and it competes with the log for the disk: after one
    that took long the next waits up to five seconds, so that flushing takes a tenth of the time.
    """

    flush_seconds: float = _FLUSH_SECONDS
    flush_operations: int = _FLUSH_OPERATIONS
    engine: EngineOptions = field(default_factory=lambda: EngineOptions(count_free=True))


class Backend:
    """The tables of one environment, on the loop. Open it with open_with_process() or open_inline()."""

    def __init__(
        self, env: Environment, options: BackendOptions | None = None, events: WriterEvents | None = None
    ) -> None:
        """Take over `env`, which close() closes."""
        self.path = env.path
        self.events = events or WriterEvents()
        self._env = env
        self._options = options or BackendOptions()
        self._writer = env.writer
        kinds = {spec: DupTable if spec.kind == DUP else Table for spec in env.tables}
        self._tables = {spec.name: kind(spec, self._damaged) for spec, kind in kinds.items()}
        self._all = list(self._tables.values())
        self.meta = Meta(self.table(META.name))
        self.on_damage: Callable[[CorruptStore], None] = _ignore
        """Called with everything that is found to be damaged, each time that it is found; it is raised, too."""
        self.size = env.sizes.file_bytes
        self.size_in_use = env.sizes.file_bytes - env.sizes.free_bytes
        # Set by the member while the tables are ahead of `applied`.
        self.applying = False
        self._remains = Remains()
        self._in_flight = False
        self._flush_again = False
        self._last_flush = 0.0
        self._pause = self._options.flush_seconds
        # How many flushes were begun and done. What is active now goes into the next one.
        self._begun = 0
        self._done = 0
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []
        self._failure: StorageError | None = None
        self._disk_full = False
        self._closing = False
        self._rebase()
        # Whatever is damaged in `meta` is found now and not when it is wanted.
        len(self.meta)
        self.applied = self.flushed = decode_position(self.table(META.name).get(APPLIED_KEY))
        # The position that the overlay was last counted at.
        self._counted: Position | None = None
        env.writer.events = WriterEvents(self._full, self._recovered, self._failed, self._committed)
        if env.engine is not None:
            env.engine.before_remap = self._end_reading
            env.engine.after_remap = self._rebase

    @property
    def flushed_index(self) -> int:
        """The applied index that is durable, with everything up to it."""
        return self.flushed.index

    @property
    def is_full(self) -> bool:
        """Whether a flush waits for room on the disk."""
        return self._disk_full

    @property
    def overlay_ops(self) -> int:
        """Changed keys that are not known to be on disk: what piles up if flushing does not keep pace."""
        return sum([table.changes() for table in self._all])

    def table(self, name: str) -> Table:
        """A table of keys and values. Raises StorageError if there is none of this name."""
        table = self._tables.get(name)
        if not isinstance(table, Table):
            raise StorageError(f"{self.path}: there is no table {name!r} of keys and values")
        return table

    def dup_table(self, name: str) -> DupTable:
        """A table of keys and sets of values. Raises StorageError if there is none of this name."""
        table = self._tables.get(name)
        if not isinstance(table, DupTable):
            raise StorageError(f"{self.path}: there is no table {name!r} of keys and sets")
        return table

    def set_applied(self, index: int, term: int) -> None:
        """Say up to where the log is in the tables. Goes into the next flush."""
        self.applied = Position(index, term)

    def maybe_flush(self, now: float) -> None:
        """Flush if it is time and none is under way; to be called at the end of each turn. now: loop.time()."""
        if self._remains:
            self._remains.let_go(_LET_GO_AT_ONCE)
        pause_over = now - self._last_flush >= self._pause
        # Counting costs more than a turn that has applied nothing.
        if self._in_flight or (not pause_over and self.applied is self._counted):
            return
        self._counted = self.applied
        changed = self.overlay_ops
        due = pause_over and (changed or self.applied != self.flushed)
        if due or changed >= self._options.flush_operations:
            self._last_flush = now
            self.flush()

    def flush(self) -> None:
        """Freeze the overlay and send it; if a flush is under way, right after it. After a failure nothing is done."""
        if self.applying:
            raise AssertionError("a flush while an entry is applied would store half of it")
        if self._failure is not None:
            return
        if self._in_flight:
            self._flush_again = True
            return
        self._in_flight = True
        self._begun += 1
        applied = self.applied
        self.table(META.name).active[APPLIED_KEY] = applied.encode()
        batch = WriteBatch()
        for table in self._all:
            table.freeze(batch)
        self._writer.submit(batch, lambda: self._flushed(applied))

    async def flush_all(self) -> None:
        """Make everything done so far durable. Raises the error of a writer that failed."""
        target = self._begun + 1
        self.flush()
        await self._wait(target)

    async def wait_flushed(self, index: int) -> None:
        """Wait until everything up to the applied index `index` is durable, flushing now if it is not.

        Raises the error of a writer that failed.
        """
        while self.flushed.index < index:
            await self.flush_all()

    def run_job(self, function: str, arguments: Any) -> Future[Any]:
        """Run "package.module:name"(WriteTransaction, arguments) in the writer, in a transaction of its own.

        It sees what was flushed before, and the tables see what it did once the future is done. Arguments and result
        are plain values (numbers, strings, bytes, lists, tuples, dicts). It delays flushes, so do large work in steps.
        The future fails with CorruptStore if the function reads a damaged row, with JobFailed if it raises anything
        else. Await it with asyncio.wrap_future().
        """
        future = self._writer.run(function, arguments)
        future.add_done_callback(self._rebase_after)
        return future

    async def run_reader(self, function: str, arguments: Any) -> Any:
        """Run "package.module:name"(ReadTransaction, arguments) beside the loop on the state as it is now, or later.

        Takes a process of its own and some 50 ms to start it. With an inline writer it is a plain call. Raises
        CorruptStore if the function reads a damaged row, JobFailed if it raises or the process dies.
        """
        await self.flush_all()
        engine = self._env.engine
        try:
            if engine is not None:
                return call_reader(function, engine.env, engine.handles, arguments)
            return await helper.call(self.path, self._env.tables, function, arguments)
        except CorruptStore as error:
            self._damaged(error)
            raise

    async def snapshot(self) -> SnapshotReader:
        """A consistent copy of the state as it is now, or a little later, as a stream. Close it when done.

        Raises SnapshotFailed, CorruptStore if some of the state cannot be read.
        """
        await self.flush_all()
        try:
            return await SnapshotReader.start(self.path, self._env.tables)
        except CorruptStore as error:
            self._damaged(error)
            raise

    async def look(self) -> None:
        """Look at every page on disk and every row in it, beside the loop and at leisure: minutes for a million keys.

        Raises CorruptStore for the first that is damaged, which is reported, too; JobFailed if the process dies. With
        an inline writer it is a plain call.
        """
        engine = self._env.engine
        try:
            if engine is not None:
                structure.check(engine.env, self._env.tables)
            else:
                await helper.look(self.path, self._env.tables)
        except CorruptStore as error:
            self._damaged(error)
            raise

    async def defragment(self) -> None:
        """Give the free pages of the file back to the file system. Reads and changes go on; flushes wait.

        Needs room for a second copy for the time being. Raises DiskFull; nothing has changed then.
        """
        await self._follow(self._writer.compact(), _nothing)

    async def replace(self, file: Path, identity: Identity, then: Callable[[], None] | None = None) -> None:
        """Put a received snapshot in the place of the state.

        file: the database (without a trailing hash), whole, verified and synced, in the data directory; it is moved.
        identity: this member's; the file has the sender's. Nothing may be applied until this returns. Afterwards
        `applied` is the snapshot's. then: called at the moment when the tables show the new state, before anybody can
        read them; for what is derived from them. Raises what it raises. Raises CorruptStore or DiskFull; the old state
        is in place then.
        """

        def load() -> None:
            self._load()
            if then is not None:
                then()

        # What has changed belongs to the old file.
        await self.flush_all()
        changes = WriteBatch()
        changes.put(META.name, identity.rows())
        await self._follow(self._writer.swap_in(file, changes), load)

    def retry(self) -> None:
        """Try at once to write what the full disk has refused."""
        self._writer.retry()

    def abandon(self, error: StorageError) -> None:
        """Flush nothing more: what is in memory cannot be trusted. What is on disk is whole, only older."""
        self._failed(error)

    async def close(self) -> None:
        """Flush what is there and end the writer. After a failure, or with a full disk, the log has to do.

        What nobody has changed is left as it is: it may have been opened only to be refused.
        """
        self._closing = True
        changed = self._in_flight or self.overlay_ops or self.applied != self.flushed
        if changed and self._failure is None and not self._disk_full:
            with suppress(StorageError):
                await self.flush_all()
        self._end_reading()
        await self._env.close()

    def _damaged(self, error: CorruptStore) -> None:
        self.on_damage(error)

    def _rebase(self) -> None:
        self._txn, handles = self._env.reading.begin()
        for name, table in self._tables.items():
            table.rebase(self._txn, handles[name])

    def _end_reading(self) -> None:
        self._txn.abort()

    def _rebase_after(self, future: Future[Any]) -> None:
        error = future.exception()
        if error is None:
            self._rebase()
        elif isinstance(error, CorruptStore):
            self._damaged(error)

    async def _follow(self, future: Future[None], then: Callable[[], None]) -> None:
        """Read from the new file once the writer has put it in place."""

        failures: list[Exception] = []

        def follow(future: Future[None]) -> None:
            # At once, before the next flush is acknowledged: that one is in the new file.
            if future.exception() is None:
                try:
                    self._env.reading.reopen()
                    self._rebase()
                    then()
                except Exception as error:  # raised below: nobody hears a callback
                    failures.append(error)
                    if isinstance(error, StorageError):
                        self._failed(error)

        future.add_done_callback(follow)
        # Whoever asked may go away; the writer does it all the same, and it must be followed.
        await asyncio.shield(asyncio.wrap_future(future))
        if failures:
            raise failures[0]

    def _load(self) -> None:
        for table in self._all:
            table.discard(self._remains)
        self.applied = self.flushed = decode_position(self.table(META.name).get(APPLIED_KEY))

    def _flushed(self, applied: Position) -> None:
        self.flushed = applied
        self._in_flight = False
        self._done += 1
        self._rebase()
        for table in self._all:
            table.drop_frozen(self._remains)
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            for target, future in waiting:
                if target > self._done:
                    self._waiting.append((target, future))
                elif not future.done():
                    future.set_result(None)
        if self._flush_again:
            self._flush_again = False
            self.flush()

    async def _wait(self, target: int) -> None:
        if self._failure is not None:
            raise self._failure
        if self._done >= target:
            return
        future = asyncio.get_running_loop().create_future()
        self._waiting.append((target, future))
        await future

    def _full(self, error: DiskFull) -> None:
        self._disk_full = True
        self.events.full(error)
        if self._closing:
            self._fail_waiting(error)

    def _recovered(self) -> None:
        self._disk_full = False
        self.events.recovered()

    def _failed(self, error: StorageError) -> None:
        if self._failure is not None:
            return
        self._failure = error
        self._fail_waiting(error)
        self.events.failed(error)

    def _fail_waiting(self, error: StorageError) -> None:
        waiting, self._waiting = self._waiting, []
        for _, future in waiting:
            if not future.done():
                future.set_exception(error)

    def _committed(self, stats: WriteStats) -> None:
        self._pause = max(self._options.flush_seconds, min(_FLUSH_DUTY * stats.seconds, _LONGEST_PAUSE))
        self.size = stats.file_bytes
        self.size_in_use = stats.file_bytes - stats.free_bytes
        self.events.committed(stats)


def open_inline(
    path: Path,
    tables: Sequence[TableSpec],
    options: BackendOptions | None = None,
    events: WriterEvents | None = None,
    schedule: Callable[[Callable[[], None]], object] | None = None,
) -> Backend:
    """A backend that writes in this process, for tests and tools. `path` is its directory, which must exist.

    See InlineWriter about `schedule`. Raises what Engine raises.
    """
    options = options or BackendOptions()
    return Backend(environment.open_inline(path, [META, *tables], options.engine, schedule), options, events)


def open_with_process(
    path: Path,
    tables: Sequence[TableSpec],
    options: BackendOptions | None = None,
    events: WriterEvents | None = None,
    keep_open: Sequence[int] = (),
) -> Backend:
    """A backend with a writer process, for a member; call it on the loop. keep_open: descriptors the process inherits.

    Makes the tables in a new directory, which takes a moment. Raises what Engine raises.
    """
    options = options or BackendOptions()
    return Backend(environment.open_with_process(path, [META, *tables], options.engine, keep_open), options, events)


def _nothing() -> None:
    pass


def _ignore(_: CorruptStore) -> None:
    pass
