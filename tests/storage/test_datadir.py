"""The data directory: who may use it, whose it is, and what is done about what a crash has left."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import lmdb
import pytest

from kvstore.storage import backend as backends
from kvstore.storage import wal as wals
from kvstore.storage.backend import Backend
from kvstore.storage.batch import APPEND, TableSpec
from kvstore.storage.datadir import DataDirectory
from kvstore.storage.errors import CorruptStore, DataDirLocked, FormatTooNew, IdentityMismatch, StorageError
from kvstore.storage.meta import META, Identity, Position
from kvstore.storage.pages import DATA_FILE
from kvstore.storage.seal import Seal
from kvstore.storage.wal import Wal
from tests.storage.harness import TABLES
from tests.storage.test_wal import append, entries, nothing

IDENTITY = Identity(0xC1, 0xA1)


def open_stores(directory: DataDirectory) -> SimpleNamespace:
    return SimpleNamespace(wal=wals.open_inline(directory.wal), backend=backends.open_inline(directory.db, TABLES[1:]))


async def make_member(path: Path, applied: int = 0, wal_path: Path | None = None) -> None:
    directory = DataDirectory.open(path, wal_path)
    stores = open_stores(directory)
    await directory.record(stores, IDENTITY)
    await append(stores.wal, entries(1, 10))
    if applied:
        stores.backend.set_applied(applied, 1)
        await stores.backend.flush_all()
    await close(stores)
    directory.close()


async def close(stores: SimpleNamespace) -> None:
    wal: Wal = stores.wal
    backend: Backend = stores.backend
    await backend.close()
    await wal.close()


def test_a_new_directory_is_only_its_owners(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "data"
    directory = DataDirectory.open(path)
    assert directory.identity is None
    for each in (path, path / "member", directory.wal, directory.db, directory.incoming):
        assert stat.S_IMODE(each.stat().st_mode) == 0o700
    assert stat.S_IMODE((path / "member" / "LOCK").stat().st_mode) == 0o600
    directory.close()


def test_a_second_member_is_told_who_uses_the_directory(tmp_path: Path) -> None:
    directory = DataDirectory.open(tmp_path)
    program = (
        "import sys; from kvstore.storage.datadir import DataDirectory; DataDirectory.open(sys.argv[1], None, 0.2)"
    )
    result = subprocess.run([sys.executable, "-c", program, tmp_path], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert f"{tmp_path}/member: another process uses this data directory (process {os.getpid()})" in result.stderr
    with pytest.raises(DataDirLocked):
        DataDirectory.open(tmp_path, lock_timeout=0)
    directory.close()
    DataDirectory.open(tmp_path, lock_timeout=0).close()


async def test_the_lock_lasts_as_long_as_a_writer(tmp_path: Path) -> None:
    directory = DataDirectory.open(tmp_path)
    backend = backends.open_with_process(directory.db, TABLES[1:], keep_open=directory.descriptors)
    await backend.flush_all()
    directory.close()
    with pytest.raises(DataDirLocked):
        DataDirectory.open(tmp_path, lock_timeout=0)
    await backend.close()
    DataDirectory.open(tmp_path, lock_timeout=5).close()


def test_a_directory_that_cannot_be_made_is_an_error_that_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="cannot be used"):
        DataDirectory.open(tmp_path / "file")


async def test_a_member_finds_itself_again(tmp_path: Path) -> None:
    await make_member(tmp_path, applied=4)
    directory = DataDirectory.open(tmp_path)
    assert directory.identity == IDENTITY
    directory.check(IDENTITY)
    stores = open_stores(directory)
    assert stores.backend.applied == Position(4, 1)
    assert stores.wal.identity == IDENTITY
    await close(stores)
    directory.close()


async def test_a_directory_of_others_is_refused_with_what_to_do(tmp_path: Path) -> None:
    await make_member(tmp_path)
    directory = DataDirectory.open(tmp_path)
    with pytest.raises(IdentityMismatch, match="belongs to cluster c1, not to c2; use another data directory"):
        directory.check(Identity(0xC2, 0xA1))
    with pytest.raises(IdentityMismatch, match="belongs to member a1, not to a2; use another data directory"):
        directory.check(Identity(0xC1, 0xA2))
    directory.close()


async def test_a_log_and_a_state_of_different_members_are_refused(tmp_path: Path) -> None:
    await make_member(tmp_path / "one")
    await make_member(tmp_path / "two")
    with lmdb.open(str(tmp_path / "two" / "member" / "db"), max_dbs=32) as env:
        table = env.open_db(b"meta")
        with env.begin(write=True, db=table) as txn:
            seal = Seal.of(META, "here")
            txn.put(b"member_id", seal.put_on(b"member_id", (99).to_bytes(8, "big")))
    with pytest.raises(IdentityMismatch):
        DataDirectory.open(tmp_path / "two")
    DataDirectory.open(tmp_path / "one").close()


async def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    await make_member(tmp_path)
    with lmdb.open(str(tmp_path / "member" / "wal"), max_dbs=32) as env:
        table = env.open_db(b"meta")
        with env.begin(write=True, db=table) as txn:
            txn.put(b"format", (9).to_bytes(8, "big"))
    with pytest.raises(FormatTooNew, match="format 9, and this version of kvstore reads formats up to 3"):
        DataDirectory.open(tmp_path)


async def test_a_first_start_that_did_not_get_through_is_started_over(tmp_path: Path) -> None:
    directory = DataDirectory.open(tmp_path)
    backend = backends.open_inline(directory.db, TABLES[1:])
    backend.table("meta").active.update(dict(IDENTITY.rows()))
    backend.table("current").put(b"a", b"1")
    await backend.flush_all()
    await backend.close()
    (directory.wal / "data.mdb").write_bytes(b"")
    directory.close()
    directory = DataDirectory.open(tmp_path)
    assert directory.identity is None
    assert not list(directory.db.iterdir())
    assert not list(directory.wal.iterdir())
    directory.close()


async def test_a_state_without_its_log_is_not_thrown_away(tmp_path: Path) -> None:
    await make_member(tmp_path, applied=4)
    (tmp_path / "member" / "wal" / "data.mdb").unlink()
    with pytest.raises(CorruptStore, match=r"there is no log, but the state .* is that of entry 4"):
        DataDirectory.open(tmp_path)
    assert (tmp_path / "member" / "db" / "data.mdb").exists()


async def test_a_log_without_its_state_is_refused(tmp_path: Path) -> None:
    await make_member(tmp_path, applied=4)
    (tmp_path / "member" / "db" / "data.mdb").unlink()
    with pytest.raises(CorruptStore, match="there is no state, but a log"):
        DataDirectory.open(tmp_path)


async def test_what_was_being_received_or_compacted_is_deleted(tmp_path: Path) -> None:
    await make_member(tmp_path)
    (tmp_path / "member" / "incoming" / "snapshot").write_bytes(b"half")
    (tmp_path / "member" / "db" / "compacted.mdb").write_bytes(b"half")
    directory = DataDirectory.open(tmp_path)
    assert not list(directory.incoming.iterdir())
    assert sorted(os.listdir(directory.db)) == ["data.mdb", "lock.mdb"]
    directory.close()


async def test_the_log_may_lie_elsewhere(tmp_path: Path) -> None:
    await make_member(tmp_path / "data", wal_path=tmp_path / "log")
    assert (tmp_path / "log" / "data.mdb").exists()
    assert not (tmp_path / "data" / "member" / "wal").exists()
    directory = DataDirectory.open(tmp_path / "data", tmp_path / "log")
    assert directory.identity == IDENTITY
    with pytest.raises(DataDirLocked):
        DataDirectory.open(tmp_path / "other", tmp_path / "log", lock_timeout=0)
    directory.close()


async def test_a_snapshot_put_in_place_before_the_log_was_started_over(tmp_path: Path) -> None:
    """A crash between the two steps of installing a snapshot."""
    await make_member(tmp_path, applied=4)
    directory = DataDirectory.open(tmp_path)
    stores = open_stores(directory)
    stores.backend.set_applied(70, 3)
    await stores.backend.flush_all()
    await close(stores)
    directory.close()

    directory = DataDirectory.open(tmp_path)
    stores = open_stores(directory)
    stores.wal.reconcile(stores.backend.applied, nothing)
    assert (stores.wal.first_index(), stores.wal.last_index(), stores.wal.term(70)) == (71, 70, 3)
    await close(stores)
    directory.close()


@pytest.mark.parametrize("environment", ["wal", "db"])
@pytest.mark.parametrize("damage", ["header", "truncated", "empty header", "second meta page"])
async def test_damage_is_found_before_it_can_do_harm(tmp_path: Path, environment: str, damage: str) -> None:
    await make_member(tmp_path, applied=4)
    file = tmp_path / "member" / environment / "data.mdb"
    data = bytearray(file.read_bytes())
    match damage:
        case "header":
            data[16:20] = b"\0\0\0\0"
        case "truncated":
            del data[5 * 4096 :]
        case "empty header":
            del data[100:]
        case "second meta page":
            data[4096 + 16 : 4096 + 20] = b"abcd"
    file.write_bytes(data)
    with pytest.raises(CorruptStore, match=str(file)):
        DataDirectory.open(tmp_path)


def files_in(path: Path) -> dict[Path, bytes]:
    return {each: each.read_bytes() for each in path.rglob("*") if each.is_file()}


def rename(path: Path, name: bytes, other: bytes) -> None:
    """Call a table of an environment otherwise; the two names are next to each other in the list."""
    data = path / DATA_FILE
    whole = data.read_bytes()
    # The flag of a table and the size of its name stand before it.
    assert len(name) == len(other)
    begin = b"\x02\0" + len(name).to_bytes(2, "little")
    assert begin + name in whole
    data.write_bytes(whole.replace(begin + name, begin + other))


@pytest.mark.parametrize(
    ("environment", "name", "other"),
    [
        ("db", b"current", b"curRent"),
        ("db", b"history.layers", b"history.lcyers"),
        ("db", b"meta", b"mepa"),
        ("wal", b"entries", b"enTries"),
        ("wal", b"meta", b"mepa"),
    ],
)
async def test_a_table_of_another_name_is_refused_and_nothing_is_changed(
    tmp_path: Path, environment: str, name: bytes, other: bytes
) -> None:
    await make_member(tmp_path, applied=4)
    rename(tmp_path / "member" / environment, name, other)
    before = files_in(tmp_path)
    with pytest.raises(CorruptStore, match=r"data\.mdb: the list of tables: .*remove this member from the cluster"):
        DataDirectory.open(tmp_path, tables=TABLES[1:])
    assert files_in(tmp_path) == before


async def test_a_log_that_was_never_applied_and_has_lost_a_name_is_not_started_over(tmp_path: Path) -> None:
    await make_member(tmp_path)
    rename(tmp_path / "member" / "wal", b"meta", b"mepa")
    with pytest.raises(CorruptStore, match="the list of tables: meta is not there; remove this member"):
        DataDirectory.open(tmp_path, tables=TABLES[1:])


async def test_a_table_that_a_member_knows_nothing_of_is_refused(tmp_path: Path) -> None:
    await make_member(tmp_path, applied=4)
    for tables in (TABLES[1:-1], [*TABLES[1:], TableSpec("none")], [TableSpec("past", APPEND), *TABLES[1:-1]]):
        with pytest.raises(CorruptStore, match="the list of tables: "):
            DataDirectory.open(tmp_path, tables=tables)
    DataDirectory.open(tmp_path, tables=TABLES[1:]).close()


async def test_a_directory_whose_tables_were_not_made_yet_is_begun_again(tmp_path: Path) -> None:
    directory = DataDirectory.open(tmp_path)
    for each in (directory.wal, directory.db):
        lmdb.open(os.fspath(each), map_size=1 << 20, max_dbs=4).close()
    directory.close()
    directory = DataDirectory.open(tmp_path, tables=TABLES[1:])
    assert directory.identity is None
    directory.close()
