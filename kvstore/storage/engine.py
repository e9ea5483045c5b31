"""One LMDB environment: opening it, committing batches durably, growing its map, replacing its file.

The write side runs in a writer process, or in the calling process for tests and tools; a member's loop opens the same
environment for reading with open_for_reading(). Knows LMDB's errors and turns them into those of this package. Knows
no sockets and no event loop.
"""

from __future__ import annotations

import errno
import fcntl
import importlib
import marshal
import os
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import lmdb

from kvstore.storage import pace
from kvstore.storage.batch import DUP, Operation, TableSpec, WriteStats
from kvstore.storage.convert import CONVERTED_FILE, seal_state
from kvstore.storage.errors import WAY_OUT, CorruptStore, DiskFull, JobFailed, StorageError, WriterFailed
from kvstore.storage.longkey import LAYERS_SUFFIX
from kvstore.storage.pace import Retired
from kvstore.storage.pages import DATA_FILE, LOCK_FILE, check_file, count_free_pages, read_meta
from kvstore.storage.seal import Seal
from kvstore.storage.transaction import Handles, ReadTransaction, TableHandle, WriteTransaction

MIB: Final = 1 << 20

MAX_TABLES: Final = 64
"""Tables that an environment may have, those of the layers included."""

_DAMAGE: Final = (
    lmdb.CorruptedError,
    lmdb.PageNotFoundError,
    lmdb.InvalidError,
    lmdb.VersionMismatchError,
    lmdb.NotFoundError,
)
_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_PROBE_SIZE: Final = 256 * 1024
_COMPACTED_FILE: Final = "compacted.mdb"
_SECONDS_BETWEEN_READER_CHECKS: Final = 10.0

LEFTOVERS: Final = (_COMPACTED_FILE, CONVERTED_FILE)
"""Files that a crash may leave in an environment's directory; to be removed while nobody uses it."""


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How an environment is run.

    map_size: bytes of address space to begin with; doubled whenever it is full.
    count_free: tell with every commit how much of the file is free; costs reading the list of free pages.
    unsafe_no_fsync: do not wait for the disk. A power cut may then destroy the file. Never a default.
    lock_memory: where the file is read beside its writer, lock its pages into memory.
    """

    map_size: int = 1024 * MIB
    count_free: bool = False
    unsafe_no_fsync: bool = False
    lock_memory: bool = False


class Engine:
    """The only writer of an environment. Calls block until what they did is on disk."""

    def __init__(self, path: Path, tables: Sequence[TableSpec], options: EngineOptions | None = None) -> None:
        """Open the environment in directory `path`, which must exist, and make the tables if it has none.

        Raises CorruptStore, also if only some of the tables are there; FormatTooNew, DiskFull, or WriterFailed for what
        else LMDB objects to.
        """
        self.path = path
        self._tables = tuple(tables)
        self._options = options or EngineOptions()
        self._map_size = self._options.map_size
        self._page_size = 0
        self._next_reader_check = 0.0
        self._env: lmdb.Environment
        self._handles: Handles
        self._fd = -1
        self.before_remap: Callable[[], None] = _nothing
        self.after_remap: Callable[[], None] = _nothing
        self.retire: Callable[[Retired], None] = Retired.close
        self._open()

    @property
    def env(self) -> lmdb.Environment:
        """LMDB's environment, for reading in the same process; another one after swap_in()."""
        return self._env

    @property
    def handles(self) -> Handles:
        """The opened tables, valid as long as `env` is."""
        return self._handles

    def close(self) -> None:
        """Close the environment. Closing twice is fine."""
        self._env.close()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def commit(self, batches: Sequence[Sequence[Operation]]) -> WriteStats:
        """Execute batches in one transaction; they are durable on return.

        Raises DiskFull if there is no room (nothing of them is done, and it may be tried again), CorruptStore, or
        WriterFailed for any other error.
        """
        stats = WriteStats(batches=len(batches))
        began = time.perf_counter()

        def execute(txn: WriteTransaction) -> int:
            for operations in batches:
                txn.execute(operations)
            return txn.rows

        stats.rows = self._transact(execute, stats)
        stats.seconds = time.perf_counter() - began
        self._measure(stats)
        return stats

    def run(self, function: str, arguments: Any) -> tuple[Any, WriteStats]:
        """Call function "package.module:name" with a WriteTransaction and the arguments; commit; give its result.

        The function is called again from the start if the map had to grow. Raises CorruptStore if it reads a damaged
        row and JobFailed if it raises (nothing is committed then), otherwise as commit().
        """
        call = load_function(function)
        stats = WriteStats()
        began = time.perf_counter()

        def execute(txn: WriteTransaction) -> tuple[Any, int]:
            try:
                result = call(txn, arguments)
                marshal.dumps(result)
            except (lmdb.Error, CorruptStore):
                raise
            except Exception as error:
                raise JobFailed(_traceback(error)) from error
            return result, txn.rows

        result, stats.rows = self._transact(execute, stats)
        stats.seconds = time.perf_counter() - began
        self._measure(stats)
        return result, stats

    def compact(self) -> WriteStats:
        """Write a copy without the free pages and put it in the place of the file.

        Readers of other processes keep the old file until they open the new one. Raises as commit().
        """
        target = self.path / _COMPACTED_FILE
        target.unlink(missing_ok=True)
        try:
            fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                pace.copy(self._env, fd)
            finally:
                os.close(fd)
            return self.swap_in(target)
        except (lmdb.Error, OSError) as error:
            with suppress(OSError):
                target.unlink(missing_ok=True)
            raise self._translate(error) from error

    def swap_in(self, file: Path, operations: Sequence[Operation] = ()) -> WriteStats:
        """Put `file`, whole and synced and on the same file system, in the place of the data file, at once and durably.

        operations: what to change in `file` first. The lock file goes with the old data file: whoever still reads that
        holds both and is not disturbed. A crash leaves the old file or the new one. Raises as commit(); CorruptStore
        before anything changed if `file` is bad.
        """
        # A copy from a member of an earlier version.
        seal_state(file)
        meta = check_file(file)
        if operations:
            self._amend(file, max(self._map_size, 2 * meta.file_size), operations)
        self.before_remap()
        self.close()
        with _nobody_else_opens(self.path, fcntl.LOCK_EX):
            old = Retired(self.path / DATA_FILE, self.path / LOCK_FILE)
            try:
                (self.path / LOCK_FILE).unlink()
                os.replace(file, self.path / DATA_FILE)
                # Until the new name is durable a crash may bring the old file back.
                sync_directory(self.path)
            except BaseException:
                old.close()
                raise
            self.retire(old)
            if file.parent != self.path:
                sync_directory(file.parent)
            self._open()
        self.after_remap()
        return self.measure()

    def measure(self) -> WriteStats:
        """Sizes as they are now."""
        stats = WriteStats()
        self._measure(stats)
        return stats

    def _open(self) -> None:
        self._fd = -1
        data = self.path / DATA_FILE
        if data.exists():
            self._map_size = max(self._map_size, check_file(data).map_size)
        try:
            self._env = lmdb.open(
                os.fspath(self.path),
                map_size=self._map_size,
                max_dbs=MAX_TABLES,
                mode=0o600,
                max_spare_txns=1,
                sync=not self._options.unsafe_no_fsync,
            )
            try:
                self._map_size = self._env.info()["map_size"]
                self._page_size = self._env.stat()["psize"]
                self._env.reader_check()
                with self._env.begin(write=True) as txn:
                    self._handles = _open_tables(self._env, self._tables, txn, create=_is_new(txn))
                self._fd = os.open(data, os.O_RDONLY | os.O_CLOEXEC)
            except BaseException:
                self._env.close()
                raise
        except lmdb.Error as error:
            raise self._translate(error) from error

    def _transact(self, execute: Callable[[WriteTransaction], Any], stats: WriteStats) -> Any:
        while True:
            try:
                raw = self._env.begin(write=True)
                try:
                    result = execute(WriteTransaction(raw, self._handles))
                    began = time.perf_counter()
                    raw.commit()
                    stats.commit_seconds = time.perf_counter() - began
                    return result
                except BaseException:
                    raw.abort()
                    raise
            except lmdb.MapFullError:
                self._grow()
            except lmdb.Error as error:
                reason = self._reason(error)
                if isinstance(reason, DiskFull):
                    self._give_back()
                raise reason from error

    def _reason(self, error: lmdb.Error) -> Exception:
        """What an LMDB error is. It calls a full disk an I/O error if part of a write still found room."""
        if error.code == errno.EIO:
            try:
                self._probe()
            except OSError as found:
                return self._translate(found)
        return self._translate(error)

    def _probe(self) -> None:
        """Raise OSError if the file cannot grow."""
        fd = os.open(self.path / DATA_FILE, os.O_RDWR | os.O_CLOEXEC)
        try:
            size = os.fstat(fd).st_size
            try:
                written = 0
                while written < _PROBE_SIZE:
                    written += os.pwrite(fd, bytes(_PROBE_SIZE - written), size + written)
                os.fsync(fd)
            finally:
                os.ftruncate(fd, size)
        finally:
            os.close(fd)

    def _give_back(self) -> None:
        """Cut off what a failed transaction has written behind the last page, and use the environment again.

        Others need the room: the log lies on the same disk, as a rule. LMDB gives an environment up if not even a meta
        page could be written; what it holds then is the last commit.
        """
        size = read_meta(self._fd, self.path / DATA_FILE).file_size
        if os.fstat(self._fd).st_size > size:
            os.truncate(self.path / DATA_FILE, size)
        try:
            self._env.begin(write=True).abort()
        except lmdb.PanicError:
            self._reopen()

    def _reopen(self) -> None:
        self.before_remap()
        self.close()
        self._open()
        self.after_remap()

    def _grow(self) -> None:
        self._map_size *= 2
        self.before_remap()
        try:
            self._env.set_mapsize(self._map_size)
        except lmdb.Error as error:
            raise self._translate(error) from error
        self.after_remap()

    def _amend(self, file: Path, map_size: int, operations: Sequence[Operation]) -> None:
        """Change a file that is not in its place yet."""
        try:
            with (
                lmdb.open(os.fspath(file), map_size, subdir=False, max_dbs=MAX_TABLES, lock=False) as env,
                env.begin(write=True) as raw,
            ):
                WriteTransaction(raw, _open_tables(env, self._tables, raw, create=_is_new(raw))).execute(operations)
        except lmdb.Error as error:
            raise self._translate(error) from error

    def _translate(self, error: Exception) -> Exception:
        code = error.code if isinstance(error, lmdb.Error) else getattr(error, "errno", 0)
        if code in _NO_ROOM:
            return DiskFull(f"{self.path}: {os.strerror(code)}")
        if isinstance(error, _DAMAGE):
            return CorruptStore(f"{self.path / DATA_FILE}: {error}; {WAY_OUT}")
        return WriterFailed(f"{self.path}: {error}")

    def _measure(self, stats: WriteStats) -> None:
        stats.file_bytes = (self._env.info()["last_pgno"] + 1) * self._page_size
        stats.map_bytes = self._map_size
        if self._options.count_free:
            meta = read_meta(self._fd, self.path / DATA_FILE)
            stats.free_bytes = count_free_pages(self._fd, meta, self.path / DATA_FILE) * meta.page_size
        now = time.monotonic()
        if now >= self._next_reader_check:
            # A reader that was killed holds on to the pages of its snapshot until somebody notices.
            self._next_reader_check = now + _SECONDS_BETWEEN_READER_CHECKS
            self._env.reader_check()


def open_for_reading(path: Path, tables: Sequence[TableSpec]) -> tuple[lmdb.Environment, Handles]:
    """Open an environment that an Engine has open, or had, for reading only.

    Raises CorruptStore or FormatTooNew; StorageError if the system refuses it.
    """
    file = path / DATA_FILE
    try:
        while True:
            found = file.stat().st_ino
            check_file(file)
            # A map size of 0 takes over what the file says.
            with _nobody_else_opens(path, fcntl.LOCK_SH):
                env = lmdb.open(
                    os.fspath(path), map_size=0, max_dbs=MAX_TABLES, readonly=True, create=False, max_spare_txns=1
                )
            # Replaced meanwhile, or grown: nobody knows of a reader with the old file and the new lock file.
            if file.stat().st_ino == found:
                with suppress(lmdb.MapResizedError):
                    return env, _open_tables(env, tables, None, create=False)
            env.close()
    except _DAMAGE as error:
        raise CorruptStore(f"{file}: {error}; {WAY_OUT}") from error
    except lmdb.Error as error:
        raise StorageError(f"{file}: cannot be opened: {error}") from error


@contextmanager
def _nobody_else_opens(path: Path, mode: int) -> Iterator[None]:
    """While a reader opens an environment (LOCK_SH), its files are not exchanged (LOCK_EX).

    LMDB opens the data file first and then the lock file, into which the first one writes the newest commit. With the
    old data and the new lock file that would be an old one, and the writer would believe it.
    """
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(directory, mode)
        yield
    finally:
        os.close(directory)


def begin_reading(env: lmdb.Environment) -> lmdb.Transaction[bytes]:
    """A read transaction on the newest commit, following the writer where it has grown the map.

    Following invalidates the other transactions of this process on the environment.
    """
    while True:
        try:
            return env.begin()
        except lmdb.MapResizedError:
            env.set_mapsize(0)


def load_function(name: str) -> Callable[[Any, Any], Any]:
    """Import the function that "package.module:name" names. Raises JobFailed if there is none."""
    module, _, attribute = name.partition(":")
    try:
        function: Callable[[Any, Any], Any] = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise JobFailed(f"there is no function {name!r}: {error}") from error
    return function


def call_reader(function: str, env: lmdb.Environment, handles: Handles, arguments: Any) -> Any:
    """Call function "package.module:name" with a ReadTransaction and the arguments.

    Raises CorruptStore if it reads a damaged row, JobFailed if it raises anything else.
    """
    call = load_function(function)
    raw = begin_reading(env)
    try:
        result = call(ReadTransaction(raw, handles), arguments)
        marshal.dumps(result)
    except CorruptStore:
        raise
    except Exception as error:
        raise JobFailed(_traceback(error)) from error
    finally:
        raw.abort()
    return result


def sync_directory(path: Path) -> None:
    """Make renames and new names within a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_name(path: Path) -> None:
    """Make the name of a file or directory durable. Where its directory may not be read, it was not made just now."""
    with suppress(PermissionError):
        sync_directory(path.parent)


def _is_new(txn: lmdb.Transaction[bytes]) -> bool:
    """Whether there are no tables yet: in one that has any, one that is missing has been lost, and is not made anew."""
    return not txn.stat()["entries"]


def _open_tables(
    env: lmdb.Environment, tables: Sequence[TableSpec], txn: lmdb.Transaction[bytes] | None, *, create: bool
) -> dict[str, TableHandle]:
    handles = {}
    where = os.fspath(env.path())
    for table in tables:
        dupsort = table.kind == DUP
        try:
            main = env.open_db(table.name.encode(), txn, dupsort=dupsort, create=create)
            layers = env.open_db((table.name + LAYERS_SUFFIX).encode(), txn, dupsort=dupsort, create=create)
        except lmdb.NotFoundError as error:
            raise CorruptStore(f"{where}: table {table.name} is not there; {WAY_OUT}") from error
        # LMDB goes by what is stored of a table that is there.
        if any(each.flags()["dupsort"] != dupsort for each in (main, layers)):
            raise CorruptStore(f"{where}: table {table.name} is stored as another kind of table; {WAY_OUT}")
        handles[table.name] = TableHandle(table.kind, main, layers, Seal.of(table, where))
    return handles


def _traceback(error: Exception) -> str:
    return "".join(traceback.format_exception(error)).rstrip()


def _nothing() -> None:
    pass
