"""Directories as builds have left them that knew no seals: format 2."""

from __future__ import annotations

from pathlib import Path

import lmdb

from kvstore.storage.batch import APPEND, DUP, OPEN, TableSpec
from kvstore.storage.longkey import LAYERS_SUFFIX, walk
from kvstore.storage.meta import FORMAT_KEY
from kvstore.storage.seal import SEAL_SIZE, Seal
from kvstore.storage.transaction import TableHandle, WriteTransaction


def become_format_2(data_dir: Path) -> None:
    """Take the seals off everything that a stopped member has stored."""
    for environment in ("wal", "db"):
        unseal(data_dir / "member" / environment)


def unseal(path: Path, *, subdir: bool = True) -> None:
    """Take the seals off the rows of an environment that nobody has open, and say that it is of format 2."""
    with lmdb.open(str(path), max_dbs=64, subdir=subdir) as env:
        with env.begin() as txn:
            names = [name.decode() for name, _ in txn.cursor() if not name.endswith(LAYERS_SUFFIX.encode())]
        for name in names:
            if name != "entries":
                _unseal_table(env, name)
        table = env.open_db(b"meta")
        with env.begin(write=True, db=table) as txn:
            assert txn.put(FORMAT_KEY, (2).to_bytes(8, "big"))


def _unseal_table(env: lmdb.Environment, name: str) -> None:
    main, layers = env.open_db(name.encode()), env.open_db((name + LAYERS_SUFFIX).encode())
    with env.begin(write=True) as raw:
        dup = main.flags()["dupsort"]
        rows = []
        for key, cursor in walk(raw, main, layers, b""):
            rows += [(key, value) for value in (cursor.iternext_dup() if dup else [cursor.value()])]
        handle = TableHandle(DUP if dup else APPEND, main, layers, Seal.of(TableSpec(name, seal=OPEN), "here"))
        txn = WriteTransaction(raw, {name: handle})
        txn.drop(name)
        bare = [(key, value if key == FORMAT_KEY else value[:-SEAL_SIZE]) for key, value in rows]
        if dup:
            for key, value in bare:
                txn.add_and_remove(name, {key: [value]}, {})
        else:
            txn.put_rows(name, bare)
