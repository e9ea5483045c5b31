"""The data directory of a member: its layout, who may use it, and whose it is.

    <data-dir>/member/LOCK       locked by the member and the writers that it started
    <data-dir>/member/wal/       the log and its journal; elsewhere if a separate directory is given, with its own LOCK
    <data-dir>/member/db/        the state
    <data-dir>/member/incoming/  snapshots that are being received

What a crash leaves behind is put right here and in Wal.reconcile(), by these rules. The order of writing makes them
enough: the state is written before the log when a member begins and when a snapshot is put in place.

- The log has no identity and the state was never applied to: the first start did not get through. Start over. A file
  whose header never reached the disk is as good as none.
- The log has no identity and the state was applied to: somebody has removed the log. Refuse.
- The log has an identity and the state has none: somebody has removed the state. Refuse.
- A file in incoming/, or a copy beside the state that was not put in its place: delete it.
- The journal holds batches that the log has not: the log is brought up to it when it is opened, before it is read.
- The state is ahead of the log: a snapshot was put in place and the log not started over. Wal.reconcile() does it.
- Log and state are of different formats: an upgrade of the directory was interrupted. Do its last step again.

A directory that is refused is not changed, not even by the note of who has locked it. Before anything in it is read its
pages are looked at (at_rest.py); large tables of the state are left to whoever opens it.

Knows no raft and no cluster: identities are numbers that come from outside.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import lmdb

from kvstore.storage import journal
from kvstore.storage.at_rest import Unseen, check_environment, check_tables_of
from kvstore.storage.backend import Backend
from kvstore.storage.batch import TableSpec
from kvstore.storage.convert import SEALED_FORMAT
from kvstore.storage.engine import LEFTOVERS, sync_directory, sync_name
from kvstore.storage.errors import WAY_OUT, CorruptStore, DataDirLocked, StorageError
from kvstore.storage.formats import FORMATS, Formats
from kvstore.storage.meta import (
    APPLIED_KEY,
    META,
    Identity,
    MetaReader,
    check_identity,
    decode_format,
    decode_identity,
    decode_position,
)
from kvstore.storage.pages import DATA_FILE, check_file, never_committed
from kvstore.storage.seal import Seal
from kvstore.storage.wal import ENTRIES, Wal

MEMBER: Final = "member"

MOST_PAGES: Final = 4000
"""Of a table of the state that is looked at while its directory is opened: some 15 ms."""

_LOCK: Final = "LOCK"
_SECONDS_BETWEEN_TRIES: Final = 0.05


class Stores(Protocol):
    """The opened log and state of a member."""

    wal: Wal
    backend: Backend


class DataDirectory:
    """A locked data directory. Made by open().

    wal, db, incoming: the directories, all on disk. identity: whose data it is; None for a member that never got
    through its first start. descriptors: to be inherited by the writers, so that the lock lasts as long as they do.
    unseen: what of the state is to be looked at (helper.LookAtRest) before anything in it is read or changed.
    """

    def __init__(self, path: Path, wal: Path, locks: list[int]) -> None:
        """Made by open()."""
        self.path = path
        self.wal = wal
        self.db = path / MEMBER / "db"
        self.incoming = path / MEMBER / "incoming"
        self.identity: Identity | None = None
        self.unseen: Unseen | None = None
        self._locks = locks

    @classmethod
    def open(
        cls,
        path: str | Path,
        wal_path: str | Path | None = None,
        lock_timeout: float = 5.0,
        *,
        tables: Sequence[TableSpec] | None = None,
        formats: Formats = FORMATS,
        accept: Callable[[MetaReader], None] | None = None,
    ) -> DataDirectory:
        """Lock a data directory, making it if need be, put right what a crash has left, and bring it to the newest
        format.

        lock_timeout: seconds to wait for the lock. A member that died may have left a writer that finishes its last
        batch; blocks for so long. tables: of the state, beside its meta table; a state with others is refused, unless
        nobody says which there should be. accept: is shown the state's meta table, if there is one, before anything is
        changed, and may raise to refuse it. Raises DataDirLocked, CorruptStore, FormatTooNew, FormatTooOld, what accept
        raises, or StorageError where the operating system refuses.
        """
        path = Path(path).absolute()
        member = path / MEMBER
        wal = Path(wal_path).absolute() if wal_path else member / "wal"
        directory = cls(path, wal, [])
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            for locked in [member] if wal.parent == member else [member, wal]:
                locked.mkdir(mode=0o700, parents=True, exist_ok=True)
                directory._locks.append(_lock(locked / _LOCK, lock_timeout))
            log = _peek(wal, _anything, (META, ENTRIES), None)
            state = _peek(directory.db, accept or _anything, None if tables is None else (META, *tables), MOST_PAGES)
            directory._identify(log, state, formats)
            for lock in directory._locks:
                _sign(lock)
            for each in (wal, directory.db, directory.incoming):
                each.mkdir(mode=0o700, parents=True, exist_ok=True)
            directory._remove_leftovers()
            if directory.identity is None:
                directory._start_over()
                return directory
            found = min(log.format, state.format)
            if found < formats.newest:
                # It is about to be read, all of it.
                check_environment(directory.db)
                formats.upgrade(found, wal, directory.db)
            else:
                directory.unseen = state.unseen
        except OSError as error:
            directory.close()
            raise StorageError(f"the data directory {path} cannot be used: {error}") from error
        except BaseException:
            directory.close()
            raise
        return directory

    @property
    def descriptors(self) -> tuple[int, ...]:
        """The descriptors of the locks."""
        return tuple(self._locks)

    def check(self, expected: Identity) -> None:
        """Raise IdentityMismatch, saying what to do, if the directory has an identity and it is another one."""
        if self.identity is not None:
            check_identity(self.identity, expected, self.path)

    async def record(self, stores: Stores, identity: Identity) -> None:
        """Say whose data it is from now on: in the state first, in the log last. Durable on return.

        Goes together with whatever was put into the state before.
        """
        stores.backend.table(META.name).active.update(dict(identity.rows()))
        await stores.backend.flush_all()
        # A synced file whose name is not is gone after a power cut. From here on something may be acknowledged.
        self._sync_names()
        await stores.wal.record(identity)
        self.identity = identity

    def close(self) -> None:
        """Give up the locks, as far as no writer holds them."""
        for lock in self._locks:
            os.close(lock)
        self._locks.clear()

    def _sync_names(self) -> None:
        """Make the names of the directories and of all that was made in them durable."""
        for directory in dict.fromkeys((self.db, self.wal, self.path / MEMBER, self.path)):
            sync_directory(directory)
        sync_name(self.wal)
        sync_name(self.path)

    def _remove_leftovers(self) -> None:
        for file in self.incoming.iterdir():
            file.unlink()
        for directory in (self.db, self.wal):
            for name in LEFTOVERS:
                (directory / name).unlink(missing_ok=True)
        (self.wal / journal.NEW_FILE).unlink(missing_ok=True)

    def _identify(self, log: _Found, state: _Found, formats: Formats) -> None:
        if log.identity is None:
            if state.applied:
                raise CorruptStore(
                    f"{self.wal}: there is no log, but the state in {self.db} is that of entry {state.applied}; "
                    "put the log back, or remove this member from the cluster and add it again with an empty directory"
                )
            return
        if state.identity is None:
            raise CorruptStore(
                f"{self.db}: there is no state, but a log in {self.wal}; "
                "put the state back, or remove this member from the cluster and add it again with an empty directory"
            )
        check_identity(state.identity, log.identity, self.db)
        formats.check(min(log.format, state.format), self.path)
        self.identity = log.identity

    def _start_over(self) -> None:
        for directory in (self.db, self.wal):
            for file in directory.iterdir():
                if file.name != _LOCK:
                    shutil.rmtree(file) if file.is_dir() else file.unlink()
            sync_directory(directory)
            sync_directory(directory.parent)


@dataclass(frozen=True, slots=True)
class _Found:
    """What an environment says of itself before it is opened in earnest. Nothing if it is not there."""

    identity: Identity | None = None
    format: int = 0
    applied: int = 0
    unseen: Unseen | None = None


def _anything(_: MetaReader) -> None:
    """Accepts every environment."""


def _peek(
    path: Path, accept: Callable[[MetaReader], None], tables: Sequence[TableSpec] | None, most: int | None
) -> _Found:
    """Look into an environment that nobody has open, without changing anything.

    tables: that it has if it has any, in all formats that there have been; None if nobody knows. most: as
    check_environment().
    """
    data = path / DATA_FILE
    if not data.exists() or never_committed(data):
        return _Found()
    try:
        check_file(data)
    except CorruptStore as error:
        raise CorruptStore(f"{error}; {WAY_OUT}") from error
    unseen = check_environment(path, most)
    try:
        with lmdb.open(os.fspath(path), map_size=0, max_dbs=1, readonly=True, lock=False) as env:
            try:
                table = env.open_db(META.name.encode(), create=False)
            except lmdb.NotFoundError:
                # All tables are made in one transaction.
                check_tables_of(path, tables or [META])
                return _Found()
            with env.begin(db=table) as txn:
                version = decode_format(txn, path)
                if version is None:
                    # Of any version that got no further. The index comes first in all of them.
                    return _Found(None, 0, int.from_bytes((txn.get(APPLIED_KEY) or b"")[:8], "big"))
                meta: MetaReader = _SealedRows(txn, path) if version >= SEALED_FORMAT else txn
                identity = decode_identity(meta, path)
                accept(meta)
                if tables is not None:
                    check_tables_of(path, tables)
                return _Found(identity, version, decode_position(meta.get(APPLIED_KEY)).index, unseen)
    except lmdb.Error as error:
        raise CorruptStore(f"{data}: {error}; {WAY_OUT}") from error


class _SealedRows:
    """The rows of a `meta` table, their seals checked and taken off."""

    def __init__(self, txn: lmdb.Transaction[bytes], path: Path) -> None:
        self._txn = txn
        self._seal = Seal.of(META, os.fspath(path))

    def get(self, key: bytes, /) -> bytes | None:
        stored = self._txn.get(key)
        return None if stored is None else self._seal.take_off(key, stored)


def _lock(path: Path, timeout: float) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + timeout
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
                os.close(descriptor)
                raise DataDirLocked(
                    f"{path.parent}: another process uses this data directory"
                    + (f" (process {holder})" if holder else "")
                    + "; stop it, or give this member a directory of its own"
                ) from None
            time.sleep(_SECONDS_BETWEEN_TRIES)
        except OSError:
            os.close(descriptor)
            raise
        else:
            return descriptor


def _sign(lock: int) -> None:
    """Note in a lock's file who holds it."""
    os.truncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
