"""Everything stored is looked at from time to time, whatever one look comes to."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from kvstore.server.scrub import Scrubber
from kvstore.storage.backend import Backend, BackendOptions, open_with_process
from kvstore.storage.batch import TableSpec
from kvstore.storage.engine import EngineOptions
from kvstore.storage.errors import CorruptStore, JobFailed
from kvstore.storage.pages import DATA_FILE, LEAF

OPTIONS = BackendOptions(engine=EngineOptions(map_size=1 << 24, unsafe_no_fsync=True))


async def test_a_look_that_fails_does_not_keep_from_the_next() -> None:
    looks: list[int] = []
    enough = asyncio.Event()

    async def look() -> None:
        looks.append(len(looks))
        if len(looks) == 1:
            raise CorruptStore("damaged")
        if len(looks) == 2:
            raise JobFailed("died")
        if len(looks) == 4:
            enough.set()

    scrubber = Scrubber(look, first=0, between=0)
    scrubber.start()
    async with asyncio.timeout(10):
        await enough.wait()
    await scrubber.stop()
    assert len(looks) >= 4


async def test_a_member_that_stops_waits_for_no_look() -> None:
    begun = asyncio.Event()

    async def look() -> None:
        begun.set()
        await asyncio.Event().wait()

    scrubber = Scrubber(look, first=0)
    scrubber.start()
    async with asyncio.timeout(10):
        await begun.wait()
        await scrubber.stop()


async def test_one_that_was_never_started_stops() -> None:
    async with asyncio.timeout(10):
        await Scrubber(lambda: asyncio.sleep(0)).stop()


async def test_a_process_looks_while_the_file_is_written_and_replaced_and_finds_a_damaged_page(tmp_path: Path) -> None:
    backend = open_with_process(tmp_path, [TableSpec("t")], OPTIONS)
    found: list[CorruptStore] = []
    backend.on_damage = found.append
    try:
        await write(backend, 0)
        looking = asyncio.create_task(backend.look())
        for round_ in range(1, 4):
            await write(backend, round_)
            await backend.defragment()
        await looking
        await backend.look()
        assert not found
        damage_a_leaf(tmp_path / DATA_FILE)
        with pytest.raises(CorruptStore, match=r"data\.mdb: table t: page \d+ is not filled by its nodes; remove"):
            await backend.look()
        assert len(found) == 1
    finally:
        await backend.close()


async def write(backend: Backend, round_: int) -> None:
    for number in range(3000):
        backend.table("t").put(b"%05d" % (number * (round_ + 1)), b"value %d" % round_ * 5)
    await backend.flush_all()


def damage_a_leaf(file: Path) -> None:
    data = file.read_bytes()
    for page in range(8192, len(data), 4096):
        # Its flags, and what tells how many nodes it has.
        if data[page + 10] == LEAF and data.count(b"value 3", page, page + 4096) > 20:
            fewer = int.from_bytes(data[page + 12 : page + 14], "little") - 8
            with file.open("r+b") as stream:
                stream.seek(page + 12)
                stream.write(fewer.to_bytes(2, "little"))
            return
    raise AssertionError("there is no leaf with rows of the table")


async def test_a_process_that_dies_of_what_it_reads_is_damage(tmp_path: Path) -> None:
    backend = open_with_process(tmp_path, [TableSpec("t")], OPTIONS)
    try:
        with pytest.raises(CorruptStore, match="ended by SIGABRT; remove"):
            await backend.run_reader("tests.server.test_scrub:abort", ())
        with pytest.raises(JobFailed, match="died"):
            await backend.run_reader("tests.server.test_scrub:leave", ())
    finally:
        await backend.close()


def abort(_: object, __: object) -> None:
    """As LMDB ends the process whose page is another than it takes it for."""
    signal.raise_signal(signal.SIGABRT)


def leave(_: object, __: object) -> None:
    """For a reason that has nothing to do with what was read."""
    os._exit(1)
