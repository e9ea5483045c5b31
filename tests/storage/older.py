"""Directories as builds have left them that knew no seals (format 2), and journals of those that knew no stamps."""

from __future__ import annotations

from pathlib import Path
from struct import Struct
from zlib import crc32

import lmdb

from kvstore.storage import journal
from kvstore.storage.batch import APPEND, DUP, OPEN, TableSpec
from kvstore.storage.journal import Mark
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


def unstamp(file: Path, mark: Mark) -> None:
    """Make a journal that nobody has open one of a build without stamps, with the records from `mark` on.

    They must not go on at the beginning. The layout is written out here: the product only reads it.
    """
    records = [record.payload for record in journal.records(file.parent, mark)]
    size = file.stat().st_size
    data = bytearray(size)
    head = Struct("<8s8sQB").pack(b"kvjrnl01", mark.id, size, 1)
    data[:29] = head + crc32(head).to_bytes(4, "little")
    offset = mark.offset
    for sequence, payload in enumerate(records, mark.sequence):
        fields = Struct("<IQ8s").pack(len(payload), sequence, mark.id)
        record = crc32(payload, crc32(fields)).to_bytes(4, "little") + fields + payload
        data[offset : offset + len(record)] = record
        offset += len(record) + -len(record) % 4096
    file.write_bytes(data)
