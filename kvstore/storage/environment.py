"""An environment as its member holds it: a writer for changes and a way to read what is committed.

Puts an engine, a writer and the reading side together, either in one process or with a writer process. Knows nothing of
what the tables hold.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import lmdb

from kvstore.storage import journal
from kvstore.storage.batch import PUT, TableSpec, WriteStats
from kvstore.storage.engine import Engine, EngineOptions, begin_reading, open_for_reading
from kvstore.storage.errors import DiskFull, StorageError
from kvstore.storage.journal import Journal
from kvstore.storage.journaled import JournaledWriter, decode
from kvstore.storage.meta import JOURNAL_KEY, META
from kvstore.storage.pages import DATA_FILE
from kvstore.storage.resident import ResidentMap
from kvstore.storage.transaction import Handles, ReadTransaction
from kvstore.storage.writer import InlineWriter, ProcessWriter, Writer


class Reading(Protocol):
    """Where committed rows are read: an environment that can be opened again when its file was replaced."""

    def begin(self) -> tuple[lmdb.Transaction[bytes], Handles]:
        """A transaction on the newest commit; the caller aborts it or lets it go."""

    def reopen(self) -> None:
        """Follow to the file that has taken the old one's place. Transactions on the old one end."""

    def close(self) -> None:
        """Close the environment."""


class FileReading:
    """Reads an environment that a writer process writes."""

    def __init__(self, path: Path, tables: Sequence[TableSpec], resident: ResidentMap | None = None) -> None:
        """Open the environment in `path`, which must have the tables. Raises CorruptStore or FormatTooNew.

        resident: keeps its pages in memory; without it they come as they are read.
        """
        self._path = path
        self._tables = tables
        self._resident = resident
        self._env, self._handles = open_for_reading(path, tables)

    def begin(self) -> tuple[lmdb.Transaction[bytes], Handles]:
        """As Reading.begin. Raises StorageError if the pages are to be locked into memory and may not be."""
        txn = begin_reading(self._env)
        if self._resident is not None:
            info = self._env.info()
            self._resident.used((info["last_pgno"] + 1) * txn.stat()["psize"], info["map_size"])
        return txn, self._handles

    def reopen(self) -> None:
        """As Reading.reopen."""
        old = self._env
        self._env, self._handles = open_for_reading(self._path, self._tables)
        self._forget()
        old.close()

    def close(self) -> None:
        """As Reading.close."""
        self._forget()
        self._env.close()

    def _forget(self) -> None:
        if self._resident is not None:
            self._resident.replaced()


class EngineReading:
    """Reads the environment of an engine in the same process."""

    def __init__(self, engine: Engine) -> None:
        """Read what `engine` writes."""
        self._engine = engine

    def begin(self) -> tuple[lmdb.Transaction[bytes], Handles]:
        """As Reading.begin."""
        return begin_reading(self._engine.env), self._engine.handles

    def reopen(self) -> None:
        """The engine has done it."""

    def close(self) -> None:
        """The engine does it."""


@dataclass(slots=True)
class Environment:
    """What an open function below gives: the writer, the reading side, the sizes at the start.

    engine: the engine that runs in this process, if it does. Its before_remap and after_remap are the owner's to set.
    """

    path: Path
    tables: Sequence[TableSpec]
    writer: Writer
    reading: Reading
    sizes: WriteStats
    engine: Engine | None = None

    async def close(self) -> None:
        """End the writer after what it has to do, then close the reading side."""
        try:
            await self.writer.close()
        finally:
            self.reading.close()


def open_inline(
    path: Path,
    tables: Sequence[TableSpec],
    options: EngineOptions,
    schedule: Callable[[Callable[[], None]], object] | None = None,
) -> Environment:
    """Everything in this process, what a crash has left in a journal included; there is none from then on.

    See InlineWriter about `schedule`. Raises what Engine raises, CorruptStore for a damaged journal.
    """
    engine = Engine(path, tables, options)
    if META in tables:
        try:
            _execute_journal(engine, path)
        except BaseException:
            engine.close()
            raise
    return Environment(
        path, tables, InlineWriter(engine, schedule=schedule), EngineReading(engine), engine.measure(), engine
    )


def open_with_process(
    path: Path, tables: Sequence[TableSpec], options: EngineOptions, keep_open: Sequence[int] = ()
) -> Environment:
    """A writer process; call it on the running loop. keep_open: descriptors that the process inherits.

    Makes the tables in a new directory, which takes a moment. The file's pages are brought into memory beside the
    loop. Raises what Engine raises.
    """
    engine = Engine(path, tables, options)
    sizes = engine.measure()
    engine.close()
    writer = ProcessWriter(path, tables, options, loop=asyncio.get_running_loop(), keep_open=keep_open)
    resident = ResidentMap(path / DATA_FILE, lock=options.lock_memory)
    return Environment(path, tables, writer, FileReading(path, tables, resident), sizes)


def open_with_journal(
    path: Path, tables: Sequence[TableSpec], options: EngineOptions, keep_open: Sequence[int] = ()
) -> Environment:
    """As open_with_process(), with a journal in front of the process, for batches that somebody waits for.

    What a crash has left in the journal is executed first. Where there is no room for a journal, or the system does
    not know synchronous writes, there is none. `tables` must have META. Raises what Engine raises.
    """
    engine = Engine(path, tables, options)
    try:
        _execute_journal(engine, path)
        made = _prepare_journal(engine, path, durable=not options.unsafe_no_fsync)
        sizes = engine.measure()
    finally:
        engine.close()
    loop = asyncio.get_running_loop()
    writer: Writer = ProcessWriter(path, tables, options, loop=loop, keep_open=keep_open)
    if made is not None:
        writer = JournaledWriter(writer, made, path, loop=loop)
    return Environment(path, tables, writer, FileReading(path, tables), sizes)


def _execute_journal(engine: Engine, path: Path) -> None:
    """Bring the environment up to what was acknowledged. It needs no journal then."""
    with engine.env.begin() as txn:
        stored = ReadTransaction(txn, engine.handles).get(META.name, JOURNAL_KEY)
    mark = None if stored is None else journal.decode_mark(stored, path)
    if mark is None or mark.is_closed:
        journal.check_unused(path, mark)
        return
    batches = [decode(record.payload) for record in journal.records(path, mark)]
    engine.commit([*batches, [(PUT, META.name, [(JOURNAL_KEY, mark.closed().encode())])]])


def _prepare_journal(engine: Engine, path: Path, *, durable: bool) -> Journal | None:
    if not journal.SUPPORTED:
        return None
    try:
        made = journal.prepare(path, durable=durable)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return None
        raise StorageError(f"{path / journal.FILE}: the journal cannot be made: {error}") from error
    try:
        # In this order: a live journal that the environment does not know is a sign of damage.
        engine.commit([[(PUT, META.name, [(JOURNAL_KEY, made.mark.encode())])]])
        made.set_live()
    except DiskFull:
        made.close()
        return None
    except BaseException:
        made.close()
        raise
    return made
