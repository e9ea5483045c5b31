"""Copies of the state: exact, streamed, and the beginning of a new cluster."""

from __future__ import annotations

import asyncio
import hashlib
import os
from pathlib import Path

import lmdb
import pytest

from kvstore.storage import backend as backends
from kvstore.storage import snapshot_file
from kvstore.storage import wal as wals
from kvstore.storage.backend import Backend
from kvstore.storage.datadir import DataDirectory
from kvstore.storage.errors import SnapshotFailed, SnapshotInvalid, StorageError
from kvstore.storage.meta import META, Identity, Position
from kvstore.storage.seal import Seal
from kvstore.storage.snapshot import CHUNK_SIZE, SnapshotReader
from raft.messages import HardState
from tests.storage.harness import TABLES
from tests.storage.older import unseal

IDENTITY = Identity(0xC2, 0xA2)


async def save(backend: Backend, path: Path) -> None:
    """What a client writes: the copy and its hash."""
    async with await backend.snapshot() as copy:
        data = b"".join([chunk async for chunk in copy])
        assert len(data) == copy.size
    await asyncio.to_thread(path.write_bytes, data + hashlib.sha256(data).digest())


def read(data: bytes, path: Path) -> dict[str, dict[bytes, bytes]]:
    """The tables of a copy."""
    path.write_bytes(data)
    with lmdb.open(str(path), subdir=False, readonly=True, lock=False, max_dbs=32) as env:
        tables = {}
        for name in env.dbs():
            with env.begin(db=env.open_db(name, create=False)) as txn:
                tables[name.decode()] = dict(txn.cursor())
        return tables


async def test_a_copy_under_writes_is_exactly_the_state_at_its_position(tmp_path: Path) -> None:
    (tmp_path / "db").mkdir()
    backend = backends.open_with_process(tmp_path / "db", TABLES[1:])
    table, past = backend.table("current"), backend.dup_table("past")
    states: dict[int, dict[bytes, bytes]] = {}
    model: dict[bytes, bytes] = {}
    stopped = False

    async def write() -> None:
        index = 0
        while not stopped:
            index += 1
            for number in range(index % 7, 2000, 7):
                key = b"%04d" % number
                model[key] = table.active[key] = b"%d" % index * 50
                past.add(key, index.to_bytes(12, "big"))
            backend.set_applied(index, 1)
            backend.meta["revision"] = index.to_bytes(8, "big")
            states[index] = dict(model)
            backend.flush()
            await asyncio.sleep(0.001)

    writing = asyncio.create_task(write())
    while not backend.flushed_index:
        await backend.flush_all()
    for _ in range(3):
        before = backend.applied.index
        copy = await backend.snapshot()
        assert copy.applied.index >= before
        assert copy.meta["revision"] == copy.applied.index.to_bytes(8, "big")
        while backend.flushed_index < copy.applied.index + 20:
            await backend.flush_all()
        chunks = [chunk async for chunk in copy]
        copy.close()
        assert sum(map(len, chunks)) == copy.size
        assert {len(chunk) for chunk in chunks[:-1]} <= {CHUNK_SIZE}
        tables = read(b"".join(chunks), tmp_path / "copy")
        assert {key: stored[:-4] for key, stored in tables["current"].items()} == states[copy.applied.index]
        assert tables["meta"][b"applied"][:-4] == copy.applied.encode()
    stopped = True
    await writing
    await backend.close()


async def test_the_size_is_known_although_keys_have_trees_of_duplicates(tmp_path: Path) -> None:
    backend = backends.open_with_process(tmp_path, TABLES[1:])
    for number in range(5000):
        backend.dup_table("past").add(b"one key", number.to_bytes(12, "big"))
    backend.table("current").put(b"large", bytes(100_000))
    async with await backend.snapshot() as copy:
        assert sum([len(chunk) async for chunk in copy]) == copy.size
    await backend.close()


async def test_a_copy_that_is_not_read_to_its_end_can_be_closed(tmp_path: Path) -> None:
    backend = backends.open_with_process(tmp_path, TABLES[1:])
    for number in range(100):
        backend.table("current").put(b"%d" % number, os.urandom(100_000))
    copy = await backend.snapshot()
    await anext(copy)
    copy.close()
    copy = await backend.snapshot()
    copy._helper._process.kill()
    with pytest.raises(SnapshotFailed, match="the copy ended after"):
        async for _ in copy:
            pass
    copy.close()
    await backend.close()


async def test_a_copy_of_nothing_fails(tmp_path: Path) -> None:
    with pytest.raises(SnapshotFailed):
        await SnapshotReader.start(tmp_path / "nowhere", TABLES)


async def make_snapshot(tmp_path: Path) -> Path:
    (tmp_path / "db").mkdir()
    backend = backends.open_inline(tmp_path / "db", [*TABLES[1:], *MEMBERS])
    backend.table("current").put(b"a", b"1")
    backend.table("current").put(b"x" * 700, b"long")
    backend.table("history").put((7).to_bytes(8, "big") + bytes(4), b"1")
    backend.table("members").put(b"old", b"member")
    backend.meta["revision"] = (5).to_bytes(8, "big")
    backend.meta["conf_state"] = b"old"
    backend.set_applied(500, 9)
    await save(backend, tmp_path / "snapshot")
    await backend.close()
    return tmp_path / "snapshot"


MEMBERS = [TABLES[1].__class__("members")]


async def test_a_snapshot_file_tells_what_is_in_it(tmp_path: Path) -> None:
    path = await make_snapshot(tmp_path)
    info = snapshot_file.verify(path)
    assert info.revision == 7
    assert info.total_size == path.stat().st_size - 32
    # One row of history, one member, three of meta, two of current, one of them in a layer and so with a pointer.
    assert info.total_keys == 1 + 1 + 3 + 3
    assert info == snapshot_file.verify(path)
    assert snapshot_file.verify(tmp_path / "db" / "data.mdb", skip_hash_check=True).revision == 7


async def test_a_snapshot_file_that_is_not_right_is_refused(tmp_path: Path) -> None:
    path = await make_snapshot(tmp_path)
    good = path.read_bytes()
    changed = bytearray(good)
    changed[3 * 4096 + 100] ^= 1
    for data, message in [
        (bytes(changed), "the SHA-256 behind the data is not that of the data"),
        (good[:-32], "has no hash behind the data"),
        (good[:-5000], "the file has"),
        (good[:50], "ends within its header"),
        (b"text" * 10_000, "not that of an LMDB file"),
    ]:
        path.write_bytes(data)
        with pytest.raises(SnapshotInvalid, match=message):
            snapshot_file.verify(path)
        with pytest.raises(SnapshotInvalid, match=message):
            snapshot_file.restore(path, tmp_path / "new", IDENTITY, 3, {}, {})
        assert not (tmp_path / "new" / "member").exists()
    with pytest.raises(SnapshotInvalid, match="No such file"):
        snapshot_file.verify(tmp_path / "nothing")


@pytest.mark.parametrize(("wal_elsewhere", "unsealed"), [(False, False), (True, False), (False, True)])
async def test_a_restored_member_begins_a_cluster_of_its_own_with_the_old_data(
    tmp_path: Path, wal_elsewhere: bool, unsealed: bool
) -> None:
    path = await make_snapshot(tmp_path)
    if unsealed:
        # As a build has saved it that knew no seals.
        data = tmp_path / "data"
        data.write_bytes(path.read_bytes()[:-32])
        with lmdb.open(str(data), subdir=False, max_dbs=32) as env, env.begin(write=True) as txn:
            seal = Seal.of(META, "here")
            for key, value in dict(IDENTITY.rows()).items():
                txn.put(key, seal.put_on(key, value), db=env.open_db(b"meta", txn))
        unseal(data, subdir=False)
        path.write_bytes(data.read_bytes())
    wal_dir = tmp_path / "log" if wal_elsewhere else None
    snapshot_file.restore(
        path,
        tmp_path / "new",
        IDENTITY,
        3,
        {"conf_state": b"new"},
        {"members": {b"n1": b"1", b"n2": b"2"}},
        wal_dir,
        skip_hash_check=unsealed,
    )
    assert os.listdir(tmp_path / "new") == ["member"]
    directory = DataDirectory.open(tmp_path / "new", wal_dir)
    assert directory.identity == IDENTITY
    backend = backends.open_inline(directory.db, [*TABLES[1:], *MEMBERS])
    assert backend.applied == Position(3, 1)
    assert backend.meta["conf_state"] == b"new"
    assert backend.table("members").items(b"", None) == [(b"n1", b"1"), (b"n2", b"2")]
    assert backend.table("current").items(b"", None) == [(b"a", b"1"), (b"x" * 700, b"long")]
    wal = wals.open_inline(directory.wal)
    assert wal.hard_state == HardState(1, 0, 3)
    assert (wal.first_index(), wal.last_index(), wal.term(3)) == (4, 3, 1)
    wal.reconcile(backend.applied, lambda: None)
    assert wal.first_index() == 4
    await backend.close()
    await wal.close()
    directory.close()
    with pytest.raises(StorageError, match="there is something already"):
        snapshot_file.restore(path, tmp_path / "new", IDENTITY, 3, {}, {}, wal_dir)
