"""A full disk: nothing is torn, nothing is lost, and what waited is done in order when there is room again."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvstore.storage import backend as backends
from kvstore.storage.engine import Engine, EngineOptions
from kvstore.storage.errors import DiskFull, StorageError
from kvstore.storage.writer import InlineWriter, WriterEvents
from tests.storage.harness import SECONDS, TABLES, process_writer, put, put_and_wait, rows_of, until

SIZE = 4 << 20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    mount = shutil.which("mount")
    if mount is None or os.geteuid() != 0:
        pytest.skip("mounting a file system takes root")
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run([mount, "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


def fill(disk: Path, leave: int) -> Path:
    """Take all the room but `leave` bytes."""
    file = disk / "filler"
    status = os.statvfs(disk)
    with file.open("wb") as writer:
        writer.write(bytes(max(0, status.f_bavail * status.f_frsize - leave)))
    return file


async def test_batches_wait_for_room_and_keep_their_order(small_disk: Path) -> None:
    path = small_disk / "db"
    path.mkdir()
    log: list[str] = []
    events = WriterEvents(
        full=lambda error: log.append(f"full: {error}"),
        recovered=lambda: log.append("recovered"),
        failed=lambda error: log.append(f"failed: {error}"),
    )
    writer = process_writer(path, events)
    await put_and_wait(writer, {b"first": b"x"})
    filler = fill(small_disk, 256 << 10)
    rows = {b"%03d" % number: os.urandom(10_000) for number in range(100)}
    put(writer, rows, lambda: log.append("large"))
    put(writer, {b"001": b"newer"}, lambda: log.append("small"))
    await until(lambda: bool(log))
    assert len(log) == 1
    assert log[0].startswith("full: ")
    assert "No space left" in log[0]
    job = writer.run("tests.storage.harness:copy_row", (b"001", b"copy"))
    filler.unlink()
    writer.retry()
    assert await asyncio.wrap_future(job) == b"newer"
    assert log[1:] == ["recovered", "large", "small"]
    await writer.close()
    assert rows_of(path) == {**rows, b"first": b"x", b"001": b"newer", b"copy": b"newer"}


async def test_a_backend_reads_and_takes_changes_while_the_disk_is_full(small_disk: Path) -> None:
    path = small_disk / "db"
    path.mkdir()
    log: list[str] = []
    events = WriterEvents(full=lambda _: log.append("full"), recovered=lambda: log.append("recovered"))
    backend = backends.open_with_process(path, TABLES[1:], events=events)
    await backend.flush_all()
    filler = fill(small_disk, 128 << 10)
    table = backend.table("current")
    for number in range(100):
        table.put(b"%03d" % number, os.urandom(10_000))
    backend.set_applied(100, 1)
    backend.flush()
    await until(lambda: log == ["full"])
    table.put(b"000", b"while full")
    table.delete(b"001")
    assert backend.flushed_index == 0
    assert [key for key, _ in table.items(b"000", b"004")] == [b"000", b"002", b"003"]
    filler.unlink()
    backend.retry()
    await backend.wait_flushed(100)
    assert log == ["full", "recovered"]
    await backend.close()
    rows = rows_of(path)
    assert rows[b"000"] == b"while full"
    assert len(rows) == 99


async def test_a_backend_closes_although_the_disk_is_full(small_disk: Path) -> None:
    path = small_disk / "db"
    path.mkdir()
    for full_before_close in (True, False):
        log: list[str] = []
        events = WriterEvents(full=lambda _, log=log: log.append("full"))  # type: ignore[misc]
        backend = backends.open_with_process(path, TABLES[1:], events=events)
        await backend.flush_all()
        filler = fill(small_disk, 128 << 10)
        backend.table("current").put(b"a", os.urandom(1_000_000))
        if full_before_close:
            backend.flush()
            await until(lambda log=log: log == ["full"])  # type: ignore[misc]
        async with asyncio.timeout(SECONDS):
            await backend.close()
        assert log == ["full"]
        filler.unlink()
        assert rows_of(path) == {}


async def test_a_directory_cannot_be_defragmented_without_room(small_disk: Path) -> None:
    path = small_disk / "db"
    path.mkdir()
    backend = backends.open_with_process(path, TABLES[1:])
    backend.table("current").put(b"a", os.urandom(1_000_000))
    await backend.flush_all()
    filler = fill(small_disk, 300 << 10)
    with pytest.raises(DiskFull):
        await backend.defragment()
    assert sorted(os.listdir(path)) == ["data.mdb", "lock.mdb"]
    backend.table("current").put(b"b", b"1")
    await backend.flush_all()
    filler.unlink()
    await backend.defragment()
    assert len(backend.table("current").get(b"a") or b"") == 1_000_000
    await backend.close()


def test_an_inline_writer_keeps_batches_until_it_is_told_to_retry(small_disk: Path) -> None:
    path = small_disk / "db"
    path.mkdir()
    log: list[str] = []
    events = WriterEvents(full=lambda _: log.append("full"), recovered=lambda: log.append("recovered"))
    writer = InlineWriter(Engine(path, TABLES, EngineOptions()), events)
    filler = fill(small_disk, 128 << 10)
    put(writer, {b"a": os.urandom(1_000_000)}, lambda: log.append("a"))
    put(writer, {b"b": b"1"}, lambda: log.append("b"))
    writer.retry()
    assert log == ["full", "full"]
    filler.unlink()
    writer.retry()
    assert log == ["full", "full", "a", "b", "recovered"]
    writer.engine.close()


async def test_a_limit_on_the_size_of_files_is_a_full_disk_too(tmp_path: Path) -> None:
    errors: list[StorageError] = []
    writer = process_writer(tmp_path, WriterEvents(full=errors.append), module="tests.storage.limited_writer")
    await put_and_wait(writer, {b"a": b"1"})
    put(writer, {b"b": os.urandom(2_000_000)}, lambda: None)
    await until(lambda: bool(errors))
    assert "File too large" in str(errors[0])
    await writer.close()
    assert rows_of(tmp_path) == {b"a": b"1"}
