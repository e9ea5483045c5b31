"""Snapshot files as clients keep them: a copy of the state followed by its SHA-256; checking one, and beginning anew
from one.

Everything here blocks and belongs into tools, not on a member's loop. Knows which tables say who the members are only
through its caller.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from zlib import crc32

import lmdb

from kvstore.storage.batch import TableSpec, WriteBatch
from kvstore.storage.convert import seal_state
from kvstore.storage.datadir import MEMBER
from kvstore.storage.engine import MAX_TABLES, MIB, Engine, EngineOptions, sync_directory, sync_name
from kvstore.storage.errors import CorruptStore, FormatTooNew, SnapshotInvalid, StorageError
from kvstore.storage.meta import APPLIED_KEY, CUT_KEY, HARD_STATE_KEY, META, Identity, Position
from kvstore.storage.pages import DATA_FILE, Meta, check_file
from kvstore.storage.wal import ENTRIES, encode_hard_state
from raft.messages import HardState

HASH_SIZE: Final = hashlib.sha256().digest_size
HISTORY: Final = "history"
"""The table whose keys begin with a revision of 8 bytes, the newest last."""
REVISION_KEY: Final = b"revision"
"""The row of `meta` with a revision, 8 bytes, that the state is at least at."""

_PIECE: Final = 1 * MIB


@dataclass(frozen=True, slots=True)
class SnapshotInfo:
    """What a snapshot file holds.

    hash: CRC-32 over every row of every table. revision: the store's. total_keys: rows of all tables. total_size: bytes
    of the copy without the hash behind it.
    """

    hash: int
    revision: int
    total_keys: int
    total_size: int


def verify(path: Path, skip_hash_check: bool = False) -> SnapshotInfo:
    """Check a snapshot file and tell what is in it.

    skip_hash_check: take a file as it lies in a data directory, too, which has no hash. Raises SnapshotInvalid.
    """
    meta = _check(path, skip_hash_check)
    try:
        with lmdb.open(os.fspath(path), 0, subdir=False, readonly=True, lock=False, max_dbs=MAX_TABLES) as env:
            names = sorted(env.dbs())
            if META.name.encode() not in names:
                raise SnapshotInvalid(f"{path}: is an LMDB file, but not a snapshot")
            tables = {name: env.open_db(name, create=False) for name in names}
            with env.begin() as txn:
                checksum, rows = 0, 0
                for name in names:
                    before = rows
                    for key, value in txn.cursor(tables[name]):
                        checksum = crc32(value, crc32(key, checksum))
                        rows += 1
                    said = txn.stat(tables[name])["entries"]
                    if rows - before != said:
                        raise SnapshotInvalid(
                            f"{path}: table {name.decode()} has {rows - before} rows, not {said}: it is a copy of a "
                            "damaged state, or damaged itself; take one of another member"
                        )
                revision = _number(txn.get(REVISION_KEY, b"", tables[META.name.encode()]))
                if HISTORY.encode() in names:
                    with txn.cursor(tables[HISTORY.encode()]) as cursor:
                        revision = max(revision, _number(cursor.key()) if cursor.last() else 0)
    except lmdb.Error as error:
        raise SnapshotInvalid(f"{path}: {error}") from error
    return SnapshotInfo(checksum, revision, rows, meta.file_size)


def restore(
    path: Path,
    data_dir: Path,
    identity: Identity,
    members: int,
    meta: Mapping[str, bytes],
    tables: Mapping[str, Mapping[bytes, bytes | None]],
    wal_dir: Path | None = None,
    skip_hash_check: bool = False,
) -> None:
    """Make the data directory of a member of a new cluster that begins with the state in a snapshot file.

    identity: of the new cluster and member. members: how many the cluster has; the log begins behind as many entries
    of term 1, so that every member begins at the same place. meta: rows of `meta` to set, such as the ConfState.
    tables: plain tables whose rows are replaced by these, such as those of the members.

    The directory appears whole or not at all. Raises SnapshotInvalid for the file, StorageError if there is a member
    in data_dir already or it cannot be written.
    """
    target = data_dir.absolute() / MEMBER
    wal_target = wal_dir.absolute() if wal_dir is not None else target / "wal"
    for each in (target, wal_target):
        if each.exists() and (each.is_file() or any(each.iterdir())):
            raise StorageError(f"{each}: there is something already; restore into a directory of its own")
    file = _check(path, skip_hash_check)
    work = work_directory(data_dir, os.getpid())
    position = Position(members, 1)
    try:
        db = work / "db"
        wal = wal_target if wal_dir is not None else work / "wal"
        for each in (work, db, wal):
            each.mkdir(mode=0o700, parents=True, exist_ok=True)
        _copy(path, db / DATA_FILE, file.file_size)
        seal_state(db / DATA_FILE)
        _make_state(db, identity, position, meta, tables)
        _make_log(wal, identity, position)
        for each in (db, wal, work):
            sync_directory(each)
        if target.exists():
            target.rmdir()
        work.rename(target)
        sync_directory(target.parent)
        for each in (target.parent, wal_target):
            sync_name(each)
    except OSError as error:
        raise StorageError(f"{data_dir}: cannot be written: {error}") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def work_directory(data_dir: Path, pid: int) -> Path:
    """Where restore() works in the process `pid`: what is to be removed if that died."""
    return data_dir.absolute() / f"{MEMBER}.restoring-{pid}"


def _make_state(
    db: Path,
    identity: Identity,
    position: Position,
    meta: Mapping[str, bytes],
    tables: Mapping[str, Mapping[bytes, bytes | None]],
) -> None:
    rows: dict[bytes, bytes | None] = {key.encode(): value for key, value in meta.items()}
    rows.update(identity.rows())
    rows[APPLIED_KEY] = position.encode()
    engine = Engine(db, [META, *(TableSpec(name) for name in tables)], EngineOptions())
    try:
        batch = WriteBatch()
        for name, content in tables.items():
            batch.drop(name)
            batch.put(name, content)
        batch.put(META.name, rows)
        engine.commit([batch.operations])
    finally:
        engine.close()


def _make_log(wal: Path, identity: Identity, position: Position) -> None:
    engine = Engine(wal, [META, ENTRIES], EngineOptions())
    try:
        state = HardState(position.term, 0, position.index)
        rows = [*identity.rows(), (CUT_KEY, position.encode()), (HARD_STATE_KEY, encode_hard_state(state))]
        batch = WriteBatch()
        batch.put(META.name, rows)
        engine.commit([batch.operations])
    finally:
        engine.close()


def _check(path: Path, skip_hash_check: bool) -> Meta:
    try:
        meta = check_file(path)
        size = path.stat().st_size
        if size == meta.file_size + HASH_SIZE:
            if not skip_hash_check:
                _check_hash(path, meta.file_size)
        elif not skip_hash_check:
            raise SnapshotInvalid(f"{path}: has no hash behind the data; was it copied from a data directory?")
    except (CorruptStore, FormatTooNew) as error:
        raise SnapshotInvalid(str(error)) from error
    except OSError as error:
        raise SnapshotInvalid(f"{path}: {error.strerror}") from error
    return meta


def _check_hash(path: Path, size: int) -> None:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        left = size
        while left and (piece := file.read(min(_PIECE, left))):
            digest.update(piece)
            left -= len(piece)
        if file.read() != digest.digest():
            raise SnapshotInvalid(f"{path}: the SHA-256 behind the data is not that of the data")


def _copy(source: Path, target: Path, size: int) -> None:
    with source.open("rb") as reader, target.open("xb") as writer:
        os.fchmod(writer.fileno(), 0o600)
        left = size
        while left and (piece := reader.read(min(_PIECE, left))):
            writer.write(piece)
            left -= len(piece)
        writer.flush()
        os.fsync(writer.fileno())


def _number(value: bytes) -> int:
    return int.from_bytes(value[:8], "big")
