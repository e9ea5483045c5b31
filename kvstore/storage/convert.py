"""Bringing files of format 2 to format 3, in which rows are sealed.

A state is written anew, in several transactions, and the new file takes the place of the old one when it is whole: so
memory is bounded, a crash leaves one or the other, and no row is sealed twice. It needs room for a second copy. Of a
log only the few rows of `meta` change, in one transaction.

Knows what the formats look like; whose files they are, and when they are converted, is others' business.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import lmdb

from kvstore.storage.batch import APPEND, DUP, OPEN, TableSpec
from kvstore.storage.errors import WAY_OUT, CorruptStore, DiskFull, FormatTooNew
from kvstore.storage.longkey import LAYERS_SUFFIX, walk
from kvstore.storage.meta import CLUSTER_KEY, FORMAT, FORMAT_KEY, META, encode_format, too_new
from kvstore.storage.pages import DATA_FILE, check_file
from kvstore.storage.seal import SEAL_SIZE, Seal
from kvstore.storage.transaction import ReadTransaction, TableHandle, WriteTransaction

SEALED_FORMAT: Final = 3
"""The first format in which rows are sealed."""

CONVERTED_FILE: Final = "converted.mdb"
"""A new state that a crash has left before it took the old one's place."""

_MAX_TABLES: Final = 64
_NUMBER_SIZE: Final = 8
_PART_ROWS: Final = 10_000
_PART_BYTES: Final = 16 << 20
_SPARE: Final = 64 << 20

Pair = tuple[bytes, bytes]


def seal_state(file: Path) -> None:
    """Bring a state's data file, which nobody has open, to format 3 if it is of an earlier one.

    Its directory is not synced. Raises CorruptStore, FormatTooNew, or DiskFull; the file is as it was then.
    """
    target = file.with_name(CONVERTED_FILE)
    target.unlink(missing_ok=True)
    meta = check_file(file)
    try:
        with lmdb.open(os.fspath(file), 0, subdir=False, readonly=True, lock=False, max_dbs=_MAX_TABLES) as source:
            if not _is_to_be_sealed(source, file):
                return
            size = max(meta.map_size, 2 * meta.file_size + _SPARE)
            # What a power cut leaves of it is deleted, so one sync at the end is enough.
            with lmdb.open(
                os.fspath(target), size, subdir=False, lock=False, sync=False, max_dbs=_MAX_TABLES, mode=0o600
            ) as env:
                _copy_sealed(source, env, file)
                env.sync(True)
        os.replace(target, file)
    except (lmdb.Error, OSError) as error:
        raise _reason(error, file) from error
    finally:
        target.unlink(missing_ok=True)


def seal_log(directory: Path) -> None:
    """Bring the environment of a log, which nobody has open, to format 3 if it is of an earlier one.

    Raises CorruptStore, FormatTooNew, or DiskFull; nothing has changed then.
    """
    file = directory / DATA_FILE
    meta = check_file(file)
    try:
        with lmdb.open(os.fspath(directory), meta.map_size + _SPARE, max_dbs=_MAX_TABLES) as env:
            if not _is_to_be_sealed(env, file):
                return
            seal = Seal.of(META, os.fspath(directory))
            with env.begin(write=True) as txn:
                table = env.open_db(META.name.encode(), txn, create=False)
                with txn.cursor(table) as cursor:
                    rows = list(cursor)
                for key, value in rows:
                    txn.put(key, seal.put_on(key, value), db=table)
                txn.put(FORMAT_KEY, encode_format(SEALED_FORMAT), db=table)
    except (lmdb.Error, OSError) as error:
        raise _reason(error, file) from error


def _is_to_be_sealed(env: lmdb.Environment, path: Path) -> bool:
    try:
        table = env.open_db(META.name.encode(), create=False)
    except lmdb.NotFoundError:
        return False
    with env.begin(db=table) as txn:
        stored, cluster = txn.get(FORMAT_KEY), txn.get(CLUSTER_KEY)
    if stored is None:
        return False
    version = int.from_bytes(stored, "big")
    if version > FORMAT:
        raise FormatTooNew(too_new(version, path))
    sealed = cluster is not None and len(cluster) == _NUMBER_SIZE + SEAL_SIZE
    if sealed != (version >= SEALED_FORMAT):
        raise CorruptStore(f"{path}: says that it is of format {version}, and its rows are of another; {WAY_OUT}")
    return not sealed


def _copy_sealed(source: lmdb.Environment, target: lmdb.Environment, path: Path) -> None:
    for spec in _tables(source):
        where = os.fspath(path)
        handles = {}
        for env, seal in ((source, OPEN), (target, spec.seal)):
            dupsort = spec.kind == DUP
            main = env.open_db(spec.name.encode(), dupsort=dupsort, create=env is target)
            layers = env.open_db((spec.name + LAYERS_SUFFIX).encode(), dupsort=dupsort, create=env is target)
            sealed = Seal.of(TableSpec(spec.name, spec.kind, seal, spec.bare), where)
            handles[env is target] = TableHandle(spec.kind, main, layers, sealed)
        with source.begin() as reading:
            ReadTransaction(reading, {spec.name: handles[False]}).check_complete()
            for part in _parts(reading, handles[False]):
                with target.begin(write=True) as writing:
                    txn = WriteTransaction(writing, {spec.name: handles[True]})
                    if spec.kind == DUP:
                        txn.add_and_remove(spec.name, _by_key(part), {})
                    else:
                        txn.put_rows(spec.name, part)
    with target.begin(write=True) as writing:
        table = target.open_db(META.name.encode(), writing, create=False)
        writing.put(FORMAT_KEY, encode_format(SEALED_FORMAT), db=table)


def _tables(env: lmdb.Environment) -> list[TableSpec]:
    """The tables that a file of format 2 has."""
    with env.begin() as txn:
        names = [key.decode() for key in txn.cursor().iternext(keys=True, values=False)]
        found = []
        for name in names:
            if name == META.name:
                found.append(META)
            elif not name.endswith(LAYERS_SUFFIX):
                dup = env.open_db(name.encode(), txn, create=False).flags()["dupsort"]
                # The rows come in order, and fill their pages.
                found.append(TableSpec(name, DUP if dup else APPEND))
    return found


def _parts(txn: lmdb.Transaction[bytes], handle: TableHandle) -> Iterator[list[Pair]]:
    """All rows in order, those of a DUP table value by value, in lists that are not large."""
    part: list[Pair] = []
    size = 0
    for key, cursor in walk(txn, handle.main, handle.layers, b""):
        values: Any = cursor.iternext_dup() if handle.kind == DUP else (cursor.value(),)
        for value in values:
            part.append((key, value))
            size += len(key) + len(value)
            if len(part) >= _PART_ROWS or size >= _PART_BYTES:
                yield part
                part, size = [], 0
    if part:
        yield part


def _by_key(pairs: list[Pair]) -> dict[bytes, list[bytes]]:
    values: dict[bytes, list[bytes]] = {}
    for key, value in pairs:
        values.setdefault(key, []).append(value)
    return values


def _reason(error: Exception, path: Path) -> Exception:
    if isinstance(error, (lmdb.DiskError, OSError)):
        return DiskFull(f"{path}: there is no room for the copy that the new format needs: {error}")
    return CorruptStore(f"{path}: {error}; {WAY_OUT}")
