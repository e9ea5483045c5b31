"""Formats of a data directory: upgraded in place step by step, and refused untouched where that cannot be done."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path

import lmdb
import pytest

from kvstore.storage import backend as backends
from kvstore.storage.convert import CONVERTED_FILE
from kvstore.storage.datadir import DataDirectory
from kvstore.storage.errors import CorruptStore, FormatTooNew, FormatTooOld, ProtocolTooOld
from kvstore.storage.formats import FORMATS, Formats
from kvstore.storage.meta import FORMAT, MetaReader
from tests.storage.harness import TABLES
from tests.storage.older import become_format_2, unseal
from tests.storage.test_datadir import IDENTITY, close, make_member, open_stores


def format_of(path: Path) -> int:
    with lmdb.open(str(path), max_dbs=64, readonly=True, lock=False) as env:
        table = env.open_db(b"meta", create=False)
        with env.begin(db=table) as txn:
            return int.from_bytes(txn.get(b"format") or b"", "big")


def set_format(path: Path, version: int) -> None:
    with lmdb.open(str(path), max_dbs=64) as env:
        table = env.open_db(b"meta")
        with env.begin(write=True, db=table) as txn:
            txn.put(b"format", version.to_bytes(8, "big"))


def everything_in(path: Path) -> dict[str, str]:
    """Every file and directory, with the hash of what is in it."""
    return {
        str(each.relative_to(path)): hashlib.sha256(each.read_bytes()).hexdigest() if each.is_file() else ""
        for each in path.rglob("*")
    }


def log_and_state(path: Path) -> tuple[Path, Path]:
    return path / "member" / "wal", path / "member" / "db"


def writing(name: str) -> Callable[[Path, Path], None]:
    """A step that leaves a file in the log's directory."""

    def step(log: Path, state: Path) -> None:
        (log / name).write_bytes(b"")

    return step


async def test_a_directory_is_brought_to_the_newest_format_step_by_step(tmp_path: Path) -> None:
    await make_member(tmp_path, applied=4)
    order: list[str] = []
    formats = Formats(
        newest=FORMAT + 2,
        steps={
            FORMAT: lambda log, state: order.append(f"first with state at {format_of(state)}"),
            FORMAT + 1: lambda log, state: order.append(f"second with state at {format_of(state)}"),
        },
    )
    directory = DataDirectory.open(tmp_path, formats=formats)
    assert directory.identity == IDENTITY
    directory.close()

    assert order == [f"first with state at {FORMAT}", f"second with state at {FORMAT + 1}"]
    assert [format_of(path) for path in log_and_state(tmp_path)] == [FORMAT + 2, FORMAT + 2]


async def test_a_directory_of_the_newest_format_is_left_as_it_is(tmp_path: Path) -> None:
    await make_member(tmp_path, applied=4)
    formats = Formats(newest=FORMAT, steps={FORMAT - 1: writing("never")})
    DataDirectory.open(tmp_path, formats=formats).close()
    assert not [name for name in everything_in(tmp_path) if name.endswith("never")]


async def test_a_step_that_was_interrupted_is_done_again(tmp_path: Path) -> None:
    await make_member(tmp_path, applied=4)
    log, state = log_and_state(tmp_path)

    def dies(log: Path, state: Path) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        DataDirectory.open(tmp_path, formats=Formats(FORMAT + 1, {FORMAT: dies}))
    assert format_of(log) == format_of(state) == FORMAT

    # Between the two numbers: the state has the new one, the log not yet.
    unseal(log)

    def again(log: Path, state: Path) -> None:
        FORMATS.steps[FORMAT - 1](log, state)
        writing("again")(log, state)

    DataDirectory.open(tmp_path, formats=Formats(FORMAT, {FORMAT - 1: again})).close()
    assert (log / "again").exists()
    assert format_of(log) == format_of(state) == FORMAT


async def test_what_was_stored_is_there_after_an_upgrade(tmp_path: Path) -> None:
    await make_member(tmp_path, applied=4)
    state = log_and_state(tmp_path)[1]
    long = b"long/" * 300
    written = backends.open_inline(state, TABLES[1:])
    for number in range(3000):
        written.table("current").put(b"%d" % number, b"value %d " % number * 50)
        written.dup_table("past").add(b"%d" % (number % 7), number.to_bytes(13, "big"))
    written.table("current").put(long, b"in layers")
    written.dup_table("past").add(long, bytes(13))
    await written.flush_all()
    before = list(written.table("current").scan(b"", None)), list(written.dup_table("past").items(b"", None))
    await written.close()
    become_format_2(tmp_path)

    directory = DataDirectory.open(tmp_path)
    stores = open_stores(directory)
    assert stores.wal.last_index() == 10
    assert stores.backend.applied.index == 4
    assert list(stores.backend.table("current").scan(b"", None)) == before[0]
    assert list(stores.backend.dup_table("past").items(b"", None)) == before[1]
    await close(stores)
    directory.close()
    assert [format_of(path) for path in log_and_state(tmp_path)] == [FORMAT, FORMAT]
    assert not (state / CONVERTED_FILE).exists()


@pytest.mark.parametrize("environment", ["wal", "db"])
async def test_an_upgrade_that_was_interrupted_is_taken_up(tmp_path: Path, environment: str) -> None:
    await make_member(tmp_path, applied=4)
    (tmp_path / "member" / "db" / CONVERTED_FILE).write_bytes(b"half of a copy")
    unseal(tmp_path / "member" / environment)
    directory = DataDirectory.open(tmp_path)
    stores = open_stores(directory)
    assert stores.wal.last_index() == 10
    assert stores.backend.applied.index == 4
    await close(stores)
    directory.close()
    assert [format_of(path) for path in log_and_state(tmp_path)] == [FORMAT, FORMAT]


@pytest.mark.parametrize("environment", ["wal", "db"])
async def test_a_damaged_format_is_not_upgraded(tmp_path: Path, environment: str) -> None:
    await make_member(tmp_path, applied=4)
    for version in (1, 2):
        set_format(tmp_path / "member" / environment, version)
        before = everything_in(tmp_path)
        with pytest.raises(CorruptStore, match="remove this member from the cluster"):
            DataDirectory.open(tmp_path)
        assert everything_in(tmp_path) == before


async def test_a_format_without_a_way_to_the_newest_is_refused_untouched(tmp_path: Path) -> None:
    await make_member(tmp_path, applied=4)
    before = everything_in(tmp_path)
    formats = Formats(FORMAT + 3, {FORMAT + 1: writing("never"), FORMAT + 2: writing("never")})
    reason = re.escape(
        f"written in format {FORMAT}, and this version of kvstore reads formats {FORMAT + 1} to {FORMAT + 3}; start it"
    )
    with pytest.raises(FormatTooOld, match=reason):
        DataDirectory.open(tmp_path, formats=formats)
    assert everything_in(tmp_path) == before


@pytest.mark.parametrize("environment", ["wal", "db"])
async def test_a_newer_format_is_refused_untouched(tmp_path: Path, environment: str) -> None:
    await make_member(tmp_path, applied=4)
    (tmp_path / "member" / "incoming" / "left").write_bytes(b"by the newer version")
    set_format(tmp_path / "member" / environment, FORMAT + 1)
    before = everything_in(tmp_path)
    reason = f"written in format {FORMAT + 1}, and this version of kvstore reads formats up to {FORMAT}; use the"
    with pytest.raises(FormatTooNew, match=reason):
        DataDirectory.open(tmp_path)
    assert everything_in(tmp_path) == before


async def test_what_the_owner_does_not_accept_is_left_untouched(tmp_path: Path) -> None:
    await make_member(tmp_path, applied=4)
    before = everything_in(tmp_path)

    def refuse(meta: MetaReader) -> None:
        assert meta.get(b"cluster_id") == IDENTITY.cluster_id.to_bytes(8, "big")
        raise ProtocolTooOld("not with this build")

    with pytest.raises(ProtocolTooOld):
        DataDirectory.open(tmp_path, accept=refuse)
    assert everything_in(tmp_path) == before
    DataDirectory.open(tmp_path).close()
