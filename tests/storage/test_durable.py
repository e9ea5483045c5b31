"""Writes beside the loop: of the file itself, and of the journal before a disk that takes its time."""

import asyncio
import errno
import os
import select
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from kvstore.storage import durable, journal
from kvstore.storage.batch import WriteBatch
from kvstore.storage.durable import BlockingFile, DurableFile, open_asynchronous
from kvstore.storage.engine import Engine
from kvstore.storage.errors import StorageError, WriterFailed
from kvstore.storage.journaled import JournaledWriter
from kvstore.storage.meta import JOURNAL_KEY
from kvstore.storage.writer import InlineWriter, WriterEvents
from tests.faultfs import FaultFs, NoCompiler, trace
from tests.faultfs.control import FOR_EVER
from tests.storage.harness import SECONDS, TABLES, put, rows_of, until
from tests.storage.test_journal import opened

BLOCK = 4096
SMALL = 16 * BLOCK


@pytest.fixture
def file(tmp_path: Path) -> DurableFile:
    path = tmp_path / "file"
    path.write_bytes(bytes(SMALL))
    made = open_asynchronous(path, SMALL)
    if made is None:
        pytest.skip("the system has no asynchronous writes here")
    return made


def wait_for(file: DurableFile) -> int:
    while (written := file.finish(1.0)) is None:
        pass
    return written


def test_pieces_are_written_one_after_the_other(file: DurableFile, tmp_path: Path) -> None:
    for turn in range(3):
        file.begin((b"ab", b"", b"c" * 10, bytes([turn]) * (2 * BLOCK - 12)), BLOCK)
        assert wait_for(file) == 2 * BLOCK
        content = (tmp_path / "file").read_bytes()
        assert content[BLOCK : 3 * BLOCK] == b"ab" + b"c" * 10 + bytes([turn]) * (2 * BLOCK - 12)
        assert content[:BLOCK] == bytes(BLOCK)
        assert len(content) == SMALL
    file.close()
    file.close()


def test_a_write_that_is_not_done_makes_its_descriptor_readable(file: DurableFile) -> None:
    for _ in range(20):
        file.begin((bytes(SMALL),), 0)
        written = file.finish(0.0)
        if written is None:
            assert select.select([file.fileno()], [], [], SECONDS)[0]
            # It is not readable for what an earlier write has left there.
            written = file.finish(0.0)
        assert written == SMALL
    file.close()


def test_a_write_that_the_system_refuses_is_an_error_and_the_next_one_is_none(file: DurableFile) -> None:
    def write() -> None:
        file.begin((b"not a block",), 5)
        wait_for(file)

    with pytest.raises(OSError, match="Invalid argument"):
        write()
    file.begin((bytes(BLOCK),), 0)
    assert wait_for(file) == BLOCK
    file.close()


@pytest.mark.parametrize("numbers", [{}, {os.uname().machine: (1 << 30,) * 4}])
def test_a_system_without_it_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, numbers: dict[str, tuple[int, ...]]
) -> None:
    (tmp_path / "file").write_bytes(bytes(SMALL))
    monkeypatch.setattr(durable, "_SYSCALLS", numbers)
    before = len(os.listdir("/proc/self/fd"))
    assert open_asynchronous(tmp_path / "file", SMALL) is None
    assert len(os.listdir("/proc/self/fd")) == before
    written = journal.prepare(tmp_path, SMALL)
    assert isinstance(written._file, BlockingFile)
    start = written.mark
    written.append(b"payload")
    assert [record.payload for record in journal.records(tmp_path, start)] == [b"payload"]


# A journal before a disk that takes its time.


class HeldFile:
    """A file whose writes are done when they are let through; they are in it from the beginning if `early`."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR)
        self._done = os.eventfd(0, os.EFD_NONBLOCK)
        self._result: int | None = None
        self._begun: tuple[bytes, int] | None = None
        self.early = False
        self.quick = False
        self.writes = 0
        self.patience: list[float] = []
        self.waited: Callable[[float], None] = lambda seconds: None
        self.on_begin: Callable[[], None] = lambda: None

    def begin(self, pieces: Sequence[bytes], offset: int) -> None:
        assert self._begun is None
        self.on_begin()
        self._result = None
        self._begun = (b"".join(pieces), offset)
        self.writes += 1
        if self.quick:
            self.let_through()
        elif self.early:
            os.pwrite(self._fd, *self._begun)

    def let_through(self) -> None:
        assert self._begun is not None
        self.end(os.pwrite(self._fd, *self._begun))

    def end(self, result: int) -> None:
        """A result of the write under way; below zero an errno."""
        self._begun = None
        self._result = result
        os.eventfd_write(self._done, 1)

    @property
    def is_under_way(self) -> bool:
        return self._begun is not None

    def finish(self, patience: float) -> int | None:
        self.patience.append(patience)
        if self._result is None:
            self.waited(patience)
        else:
            os.eventfd_read(self._done)
            if self._result < 0:
                raise OSError(-self._result, os.strerror(-self._result))
        return self._result

    def fileno(self) -> int:
        return self._done

    def close(self) -> None:
        os.close(self._fd)
        os.close(self._done)


class Slow:
    """A journaled writer on a HeldFile; the environment behind executes what is let through."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.engine = Engine(path, TABLES)
        self.behind: list[Callable[[], None]] = []
        self.journal = journal.prepare(path, SMALL, durable=False)
        self.engine.commit([[(1, "meta", [(JOURNAL_KEY, self.journal.mark.encode())])]])
        self.file = HeldFile(path / journal.FILE)
        self.journal._file = self.file
        self.now = 0.0
        self.file.waited = self._wait
        self.done: list[int] = []
        self.failures: list[StorageError] = []
        self.writer = JournaledWriter(
            InlineWriter(self.engine, schedule=self.behind.append),
            self.journal,
            path,
            loop=asyncio.get_running_loop(),
            clock=lambda: self.now,
        )
        self.writer.events = WriterEvents(failed=self.failures.append)

    def _wait(self, seconds: float) -> None:
        self.now += seconds

    def put(self, number: int, size: int = 10) -> None:
        put(self.writer, {b"%04d" % number: bytes(size)}, lambda: self.done.append(number))

    async def let_through(self) -> None:
        """Let the write under way be done, and the loop notice it."""
        before = len(self.file.patience)
        self.file.let_through()
        await until(lambda: len(self.file.patience) > before)

    def execute(self) -> None:
        while self.behind:
            self.behind.pop(0)()

    async def crash(self) -> list[int]:
        """End without a word; the numbers that a member finds when it opens the directory again."""
        self.engine.close()
        await opened(self.path).close()
        return [int(key) for key in sorted(rows_of(self.path))]


async def test_what_comes_while_a_write_is_under_way_is_written_together_after_it(tmp_path: Path) -> None:
    slow = Slow(tmp_path)
    for number in range(5):
        slow.put(number)
    assert (slow.done, slow.file.writes) == ([], 1)
    await slow.let_through()
    assert (slow.done, slow.file.writes) == ([0], 2)
    await slow.let_through()
    assert (slow.done, slow.file.writes) == ([0, 1, 2, 3, 4], 2)
    assert not slow.file.is_under_way
    assert await slow.crash() == [0, 1, 2, 3, 4]


async def test_what_is_submitted_by_one_who_is_told_overtakes_nothing(tmp_path: Path) -> None:
    slow = Slow(tmp_path)
    batch = WriteBatch()
    batch.put("current", {b"key": b"first"})

    def last() -> None:
        put(slow.writer, {b"key": b"third"}, lambda: slow.done.append(3))

    slow.writer.submit(batch, last)
    put(slow.writer, {b"key": b"second"}, lambda: slow.done.append(2))
    await slow.let_through()
    await slow.let_through()
    assert slow.done == [2, 3]
    slow.engine.close()
    await opened(tmp_path).close()
    assert rows_of(tmp_path) == {b"key": b"third"}


async def test_who_is_told_may_submit_more_than_once(tmp_path: Path) -> None:
    slow = Slow(tmp_path)

    def more() -> None:
        for number in (1, 2, 3):
            slow.put(number)

    batch = WriteBatch()
    batch.put("current", {b"0000": b""})
    slow.writer.submit(batch, more)
    await slow.let_through()
    await slow.let_through()
    await slow.let_through()
    assert slow.done == [1, 2, 3]
    assert await slow.crash() == [0, 1, 2, 3]


async def test_an_error_of_who_is_told_ends_the_member(tmp_path: Path) -> None:
    slow = Slow(tmp_path)
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)

    def fail() -> None:
        raise ValueError("broken")

    put(slow.writer, {b"key": b""}, fail)
    slow.put(1)
    slow.file.let_through()
    await until(lambda: bool(slow.failures))
    assert "what was to follow a write failed: ValueError('broken')" in str(slow.failures[0])


async def test_a_call_that_takes_long_to_begin_a_write_sends_what_follows_elsewhere_for_a_while(tmp_path: Path) -> None:
    slow = Slow(tmp_path)
    slow.file.quick = True
    slow.file.on_begin = lambda: setattr(slow, "now", slow.now + 0.1)
    slow.put(0)
    slow.put(1)
    assert (slow.done, slow.file.writes) == ([0], 1)
    slow.execute()
    assert slow.done == [0, 1]
    slow.now += 2.1
    slow.put(2)
    assert (slow.done, slow.file.writes) == ([0, 1, 2], 2)


async def test_a_file_that_only_promises_asynchronous_writes_is_written_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(HeldFile):
        def begin(self, pieces: Sequence[bytes], offset: int) -> None:
            raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(journal, "open_asynchronous", lambda path, size: Broken(path))
    written = journal.prepare(tmp_path, SMALL)
    assert isinstance(written._file, BlockingFile)
    start = written.mark
    written.append(b"payload")
    assert [record.payload for record in journal.records(tmp_path, start)] == [b"payload"]


@pytest.mark.parametrize("early", [False, True])
async def test_a_crash_during_a_write_loses_nothing_that_was_told(tmp_path: Path, early: bool) -> None:
    slow = Slow(tmp_path)
    slow.file.quick = True
    slow.put(0)
    slow.file.quick = False
    slow.file.early = early
    slow.put(1)
    slow.put(2)
    assert slow.done == [0]
    assert await slow.crash() == ([0, 1] if early else [0])


async def test_a_move_during_a_write_does_not_lose_what_is_being_written(tmp_path: Path) -> None:
    slow = Slow(tmp_path)
    slow.file.quick = True
    slow.put(0)
    slow.file.quick = False
    slow.put(1)
    slow.writer.run("nothing", None)
    slow.execute()
    await slow.let_through()
    assert slow.done == [0, 1]
    slow.file.quick = True
    slow.put(2)
    assert await slow.crash() == [0, 1, 2]


async def test_nothing_is_waited_for_after_a_slow_write_for_twenty_times_as_long(tmp_path: Path) -> None:
    slow = Slow(tmp_path)
    slow.put(0)
    waited = slow.now
    assert 0.001 <= waited <= 0.005
    await slow.let_through()
    slow.file.patience.clear()
    slow.now = 20.5 * waited
    slow.put(1)
    assert slow.file.patience == [0.0]
    await slow.let_through()
    slow.now = 21.5 * waited
    slow.file.patience.clear()
    slow.put(2)
    assert slow.file.patience == [waited]


async def test_a_write_that_fails_beside_the_loop_ends_the_member(tmp_path: Path) -> None:
    slow = Slow(tmp_path)
    slow.put(0)
    slow.put(1)
    slow.file.end(-errno.EIO)
    await until(lambda: bool(slow.failures))
    assert [type(error) for error in slow.failures] == [WriterFailed]
    slow.put(2)
    slow.execute()
    assert slow.done == []
    assert not slow.file.is_under_way


async def test_a_short_write_ends_the_member(tmp_path: Path) -> None:
    slow = Slow(tmp_path)
    slow.put(0)
    slow.file.end(512)
    await until(lambda: bool(slow.failures))
    assert "only 512 of 4096 bytes were written" in str(slow.failures[0])


async def test_without_room_all_goes_to_the_environment_in_its_order(tmp_path: Path) -> None:
    slow = Slow(tmp_path)
    slow.put(0)
    slow.put(1)
    slow.file.end(-errno.ENOSPC)
    await until(lambda: bool(slow.behind))
    slow.put(2)
    slow.execute()
    assert (slow.done, slow.failures) == ([0, 1, 2], [])
    assert await slow.crash() == [0, 1, 2]


async def test_a_batch_too_large_waits_for_the_write_under_way(tmp_path: Path) -> None:
    slow = Slow(tmp_path)
    slow.put(0)
    slow.put(1, size=2 * SMALL)
    assert slow.behind == []
    await slow.let_through()
    assert slow.done == [0]
    slow.execute()
    assert slow.done == [0, 1]
    assert await slow.crash() == [0, 1]


async def test_a_deferred_batch_keeps_its_place_behind_a_write_under_way(tmp_path: Path) -> None:
    slow = Slow(tmp_path)
    slow.put(1)
    gone = WriteBatch()
    gone.delete_range("current", b"", None)
    slow.writer.defer(gone, lambda: slow.done.append(-1))
    slow.put(2)
    await slow.let_through()
    await slow.let_through()
    assert slow.done == [1, 2]
    slow.writer.run("nothing", None)
    slow.execute()
    assert slow.done == [1, 2, -1]
    assert await slow.crash() == [2]


async def test_closing_finishes_what_is_under_way_and_what_waits(tmp_path: Path) -> None:
    slow = Slow(tmp_path)
    slow.put(0)
    slow.put(1)

    def wait(seconds: float) -> None:
        slow.file.let_through()

    slow.file.waited = wait
    closing = asyncio.ensure_future(slow.writer.close())
    await until(lambda: bool(slow.behind) or closing.done())
    slow.execute()
    async with asyncio.timeout(SECONDS):
        await closing
    assert slow.done == [0, 1]
    await opened(tmp_path).close()
    assert sorted(rows_of(tmp_path)) == [b"0000", b"0001"]


# The real thing, with faults below it: the fault layer knows such writes, too.

PROGRAM = """
import time
from pathlib import Path
from kvstore.storage.durable import open_asynchronous
open("file", "wb").write(bytes(8192))
file = open_asynchronous(Path("file"), 8192)
print(file is not None)
if file is not None:
    began = time.monotonic()
    file.begin((b"x" * 4096,), 4096)
    print(time.monotonic() - began)
    while True:
        try: written = file.finish(0.05)
        except OSError as error: written = -error.errno
        if written is not None: break
    print(time.monotonic() - began, written)
"""


@pytest.fixture
def faults(tmp_path: Path) -> Iterator[FaultFs]:
    try:
        layer = FaultFs(tmp_path / "root", tmp_path / "state", trace=True)
    except NoCompiler as reason:
        pytest.skip(str(reason))
    with layer:
        yield layer


def run_program(faults: FaultFs) -> tuple[float, float, int]:
    """Seconds until the write was begun and until it was done, and what it came to."""
    environment = {**os.environ, **faults.environment, "PYTHONPATH": os.pathsep.join(sys.path)}
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=faults.root, env=environment, capture_output=True, text=True, timeout=60
    )
    assert ran.returncode == 0, ran.stderr
    if ran.stdout == "False\n":
        pytest.skip("the system has no asynchronous writes here")
    _, begun, done, result = ran.stdout.split()
    return float(begun), float(done), int(result)


def test_a_slow_disk_does_not_hold_up_who_begins_a_write(faults: FaultFs) -> None:
    faults.delay_syncs(1.0)
    begun, done, result = run_program(faults)
    assert result == BLOCK
    assert done >= 1.0
    assert begun < 0.9
    assert (faults.root / "file").read_bytes() == bytes(BLOCK) + b"x" * BLOCK
    assert faults.trace is not None
    seen = [(trace.NAMES[record.kind], record.offset) for record in trace.read(faults.trace)]
    assert seen[-2:] == [("write", BLOCK), ("synced", BLOCK)]


def test_a_failing_disk_fails_the_write(faults: FaultFs) -> None:
    faults.fail_syncs(errno.EIO, FOR_EVER)
    assert run_program(faults)[2] == -errno.EIO
