"""Processes killed at the worst moments: what was acknowledged is there, and nothing is there by halves."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kvstore.storage.datadir import DataDirectory
from kvstore.storage.engine import Engine
from kvstore.storage.environment import FileReading
from kvstore.storage.errors import StorageError
from kvstore.storage.pages import DATA_FILE
from kvstore.storage.transaction import ReadTransaction
from kvstore.storage.writer import WriterEvents
from tests.storage.harness import SECONDS, TABLES, process_writer, put, put_and_wait, rows_of, until


@pytest.mark.parametrize(
    ("moment", "survives"),
    [("before_transaction", False), ("before_commit", False), ("after_commit", True)],
)
async def test_a_writer_killed_around_a_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str, survives: bool
) -> None:
    monkeypatch.setenv("KILL_AT", moment)
    monkeypatch.setenv("KILL_KEY", "second")
    errors: list[StorageError] = []
    writer = process_writer(tmp_path, WriterEvents(failed=errors.append), module="tests.storage.killed_writer")
    await put_and_wait(writer, {b"first": b"1"})
    acknowledged: list[int] = []
    put(writer, {b"second": b"1", b"third": bytes(100_000)}, lambda: acknowledged.append(1))
    await until(lambda: bool(errors))
    await writer.close()
    assert not acknowledged
    rows = rows_of(tmp_path)
    assert rows.pop(b"first") == b"1"
    assert rows == ({b"second": b"1", b"third": bytes(100_000)} if survives else {})


def start_member(path: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.storage.killed_member", str(path), *arguments], stdout=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("moment", ["before_send", "mid_frame", "at_once", "after_acknowledgement"])
async def test_a_member_killed_while_it_writes(tmp_path: Path, moment: str) -> None:
    """Each batch sets the same value in a hundred rows; the member prints the number of each that is acknowledged."""
    member = start_member(tmp_path, moment)
    output, _ = await asyncio.to_thread(member.communicate, timeout=SECONDS)
    assert member.returncode == -signal.SIGKILL
    acknowledged = max((int(line) for line in output.split()), default=0)
    # Its writer may still be at work: the lock tells when it is not.
    directory = DataDirectory.open(tmp_path)
    rows = rows_of(directory.db)
    directory.close()
    values = {int.from_bytes(value, "big") for value in rows.values()}
    assert len(rows) == 100
    assert len(values) == 1
    assert values.pop() >= acknowledged > 0


@pytest.mark.parametrize("seed", range(3))
async def test_a_member_killed_at_any_moment(tmp_path: Path, seed: int) -> None:
    member = start_member(tmp_path, "never")
    assert member.stdout is not None
    for _ in range(20 + 13 * seed):
        last = await asyncio.to_thread(member.stdout.readline)
    member.kill()
    rest = member.communicate(timeout=SECONDS)[0].split("\n")
    acknowledged = max(int(line) for line in [last.strip(), *rest[:-1]] if line)
    directory = DataDirectory.open(tmp_path)
    rows = rows_of(directory.db)
    directory.close()
    assert len(rows) == 100
    assert len(set(rows.values())) == 1
    assert int.from_bytes(rows[b"000"], "big") >= acknowledged


@pytest.mark.parametrize("moment", ["before_swap", "before_unlink", "before_rename", "after_rename"])
async def test_a_writer_killed_while_it_exchanges_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    monkeypatch.setenv("KILL_AT", moment)
    monkeypatch.setenv("KILL_KEY", "")
    errors: list[StorageError] = []
    writer = process_writer(tmp_path, WriterEvents(failed=errors.append), module="tests.storage.killed_writer")
    rows = {b"%04d" % number: bytes(1000) for number in range(1000)}
    await put_and_wait(writer, rows)
    await put_and_wait(writer, {b"0000": b"newest"})
    size = (tmp_path / DATA_FILE).stat().st_size
    writer.compact()
    await until(lambda: bool(errors))
    await writer.close()
    assert rows_of(tmp_path) == {**rows, b"0000": b"newest"}
    assert ((tmp_path / DATA_FILE).stat().st_size < size) == (moment == "after_rename")
    engine = Engine(tmp_path, TABLES)
    engine.compact()
    engine.close()
    assert sorted(os.listdir(tmp_path)) == ["data.mdb", "lock.mdb"]
    assert rows_of(tmp_path) == {**rows, b"0000": b"newest"}


@pytest.mark.parametrize("then", [signal.SIGCONT, signal.SIGKILL], ids=["goes-on", "is-killed"])
async def test_nobody_opens_an_environment_between_the_two_steps_of_an_exchange_of_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, then: signal.Signals
) -> None:
    """Its lock file is gone by then, and its data file is the old one."""
    monkeypatch.setenv("KILL_AT", "before_rename")
    monkeypatch.setenv("KILL_KEY", "")
    monkeypatch.setenv("KILL_WITH", "SIGSTOP")
    errors: list[StorageError] = []
    writer = process_writer(tmp_path, WriterEvents(failed=errors.append), module="tests.storage.killed_writer")
    rows = {b"%04d" % number: b"x" for number in range(100)}
    await put_and_wait(writer, rows)
    old = (tmp_path / DATA_FILE).stat().st_ino
    compacted = writer.compact()
    await until(lambda: is_stopped(writer.pid))
    try:
        assert sorted(os.listdir(tmp_path)) == ["compacted.mdb", DATA_FILE]
        with open_directory(tmp_path) as directory, pytest.raises(BlockingIOError):
            fcntl.flock(directory, fcntl.LOCK_SH | fcntl.LOCK_NB)
        opening = asyncio.create_task(asyncio.to_thread(FileReading, tmp_path, TABLES))
    except BaseException:
        # One that is stopped outlives the test.
        then = signal.SIGKILL
        raise
    finally:
        os.kill(writer.pid, then)
    async with asyncio.timeout(SECONDS):
        reading = await opening
    txn, handles = reading.begin()
    assert dict(ReadTransaction(txn, handles).items("current")) == rows
    del txn
    if then is signal.SIGKILL:
        await until(lambda: bool(errors))
        await writer.close()
        writer = process_writer(tmp_path)
    else:
        await asyncio.wrap_future(compacted)
    assert ((tmp_path / DATA_FILE).stat().st_ino == old) == (then is signal.SIGKILL)
    await put_and_wait(writer, {b"later": b"y"})
    txn, handles = reading.begin()
    assert ReadTransaction(txn, handles).get("current", b"later") == b"y"
    del txn
    reading.close()
    await writer.close()


def is_stopped(pid: int) -> bool:
    """Whether a process has been stopped by a signal."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


@contextmanager
def open_directory(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
