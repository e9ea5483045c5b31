"""An environment without room behind a journal that has some: what waits there goes into the journal after all."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

import pytest

from kvstore.storage import environment, journal
from kvstore.storage.batch import Operation, WriteBatch, WriteStats
from kvstore.storage.engine import Engine, EngineOptions
from kvstore.storage.errors import DiskFull
from kvstore.storage.journaled import JournaledWriter
from kvstore.storage.meta import JOURNAL_KEY
from kvstore.storage.writer import InlineWriter, WriterEvents
from tests.storage.harness import TABLES, put, rows_of, until

BLOCK = 4096
SIZE = 16 * BLOCK


class SmallEngine(Engine):
    """An engine that has room for so many commits."""

    room = 1 << 30

    def commit(self, batches: Sequence[Sequence[Operation]]) -> WriteStats:
        if not self.room:
            raise DiskFull("no room for the test")
        self.room -= 1
        return super().commit(batches)


class Beside:
    """A file that is written beside the loop: what was begun is done when the test says so."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR)
        self._readable, self._writable = os.pipe()
        self._begun: tuple[bytes, int] | None = None
        self._written: int | None = None
        self.begins = 0

    def begin(self, pieces: Sequence[bytes], offset: int) -> None:
        assert self._begun is None
        self._begun = b"".join(pieces), offset
        self.begins += 1

    def reach_disk(self, sectors: int | None = None) -> None:
        """Write so many sectors of what was begun, all of them by default, without a word."""
        assert self._begun is not None
        data, offset = self._begun
        os.pwrite(self._fd, data if sectors is None else data[: 512 * sectors], offset)

    def let_through(self) -> None:
        """Write what was begun, and say so."""
        self.reach_disk()
        assert self._begun is not None
        self._written = len(self._begun[0])
        os.write(self._writable, b".")

    def finish(self, patience: float) -> int | None:
        written, self._written = self._written, None
        if written is not None:
            self._begun = None
            os.read(self._readable, 1)
        return written

    def fileno(self) -> int:
        return self._readable

    def close(self) -> None:
        for descriptor in (self._fd, self._readable, self._writable):
            os.close(descriptor)


class Full:
    """A journaled writer before an environment in this process that finds no room when the test says so.

    What is sent past the journal is what comes within a hundred seconds of a slow write, by the test's clock.
    """

    def __init__(self, path: Path, size: int = SIZE) -> None:
        self.path = path
        self.engine = SmallEngine(path, TABLES, EngineOptions(map_size=1 << 22, unsafe_no_fsync=True))
        self.answers: deque[Callable[[], None]] = deque()
        self.behind = InlineWriter(self.engine, schedule=self.answers.append)
        self.journal = journal.prepare(path, size, durable=False)
        self.engine.commit([[(1, "meta", [(JOURNAL_KEY, self.journal.mark.encode())])]])
        self.now = 0.0
        self.slow = 0.0
        self.told: list[str] = []
        self.writer = JournaledWriter(
            self.behind, self.journal, path, loop=asyncio.get_running_loop(), clock=self._clock
        )
        self.writer.events = WriterEvents(
            full=lambda _: self.told.append("full"),
            recovered=lambda: self.told.append("recovered"),
            failed=lambda error: self.told.append(str(error)),
        )

    def _clock(self) -> float:
        self.now += self.slow
        return self.now

    def beside(self) -> Beside:
        """Write beside the loop from now on."""
        file = Beside(self.path / journal.FILE)
        self.journal._file = file
        return file

    def put(self, number: int, size: int = 10) -> list[int]:
        """Put a row; the list gets its number when it is durable."""
        done: list[int] = []
        put(self.writer, {b"%04d" % number: bytes(size)}, lambda: done.append(number))
        return done

    def become_slow(self, number: int = 0) -> None:
        """Put a row so slowly that what follows goes past the journal."""
        self.slow = 5.0
        assert self.put(number) == [number]
        self.slow = 0.0

    def become_quick(self) -> None:
        """What follows goes into the journal, as far as it is for the disk to say."""
        self.now += 1000.0

    def let_through(self, most: int = 1 << 30) -> None:
        """Tell the writer what its environment has done."""
        while self.answers and most:
            self.answers.popleft()()
            most -= 1

    def find_room(self, commits: int = 1 << 30) -> None:
        self.engine.room = commits
        self.writer.retry()

    def crash(self) -> dict[bytes, bytes]:
        """End without a word: the rows that the next start finds."""
        self.engine.close()
        self.journal.close()
        return started(self.path)


def started(path: Path) -> dict[bytes, bytes]:
    """The rows after a start, which leaves nothing in the journal."""
    engine = Engine(path, TABLES, EngineOptions(unsafe_no_fsync=True))
    environment._execute_journal(engine, path)
    engine.close()
    return rows_of(path)


def numbers(rows: dict[bytes, bytes]) -> list[int]:
    return [int(key) for key in sorted(rows)]


async def turns() -> None:
    """Long enough for what is to be done at once."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_what_waits_for_room_is_written_into_the_journal_and_so_is_what_follows(tmp_path: Path) -> None:
    full = Full(tmp_path)
    full.become_slow()
    full.engine.room = 0
    answers = [full.put(1), full.put(2)]
    assert (answers, full.told) == ([[], []], ["full"])
    full.become_quick()
    await until(lambda: answers == [[1], [2]])
    assert full.put(3) == [3]
    assert full.put(4) == [4]
    assert numbers(full.crash()) == [0, 1, 2, 3, 4]


async def test_a_disk_that_was_slow_is_left_alone_before_what_waits_is_written(tmp_path: Path) -> None:
    full = Full(tmp_path)
    full.slow = 0.009
    assert full.put(0) == [0]
    full.slow = 0.0
    full.engine.room = 0
    waiting = full.put(1)
    await turns()
    assert waiting == []
    full.become_quick()
    await until(lambda: waiting == [1])
    assert numbers(full.crash()) == [0, 1]


async def test_what_was_written_twice_is_told_once_and_makes_room_in_the_journal(tmp_path: Path) -> None:
    full = Full(tmp_path)
    stored: list[str] = []
    full.become_slow()
    full.engine.room = 0
    done: list[str] = []
    for name in ("a", "b"):
        batch = WriteBatch()
        batch.put("current", {name.encode(): b"v"})
        full.writer.submit(batch, lambda name=name: done.append(name), lambda name=name: stored.append(name))  # type: ignore[misc]
    full.become_quick()
    await until(lambda: done == ["a", "b"])
    assert stored == []
    full.find_room()
    full.let_through()
    assert full.told == ["full", "recovered"]
    assert (done, stored) == (["a", "b"], ["a", "b"])
    assert full.journal.used > 0
    full.writer._move()
    full.let_through()
    assert full.journal.used == 0
    assert full.put(1) == [1]
    await full.writer.close()
    assert sorted(rows_of(tmp_path)) == [b"0000", b"0001", b"a", b"b"]


@pytest.mark.parametrize("commits", range(8))
async def test_what_is_executed_twice_leaves_what_it_left_the_first_time(tmp_path: Path, commits: int) -> None:
    """A crash behind any of the commits that follow."""
    full = Full(tmp_path)
    done: list[int] = []

    def submit(fill: Callable[[WriteBatch], None]) -> None:
        batch = WriteBatch()
        fill(batch)
        full.writer.submit(batch, lambda: done.append(1))

    full.become_slow()
    full.engine.room = 0
    submit(lambda batch: batch.put("current", {b"a": b"1", b"b": b"1"}))
    submit(lambda batch: batch.drop("current"))
    submit(lambda batch: batch.put("current", {b"c": b"2", b"d": b"2"}))
    submit(lambda batch: batch.delete_range("current", b"d", None))
    submit(lambda batch: batch.put("current", {b"a": b"4", b"c": None}))
    full.become_quick()
    await until(lambda: len(done) == 5)
    submit(lambda batch: batch.put("current", {b"b": b"5"}))
    full.find_room(commits)
    if commits % 2:
        full.let_through()
    assert len(done) == 6
    assert full.crash() == {b"a": b"4", b"b": b"5"}
    assert started(tmp_path) == {b"a": b"4", b"b": b"5"}


async def test_what_does_not_fit_waits_as_a_whole(tmp_path: Path) -> None:
    for commits in range(4):
        path = tmp_path / str(commits)
        path.mkdir()
        full = Full(path)
        full.become_slow()
        full.engine.room = 0
        answers = [full.put(1), full.put(2, size=2 * SIZE), full.put(3)]
        full.become_quick()
        await turns()
        answers.append(full.put(4))
        await turns()
        # Of these the first would fit, but executed again it would undo what follows it.
        assert answers == [[], [], [], []]
        full.find_room(commits)
        full.let_through()
        assert [answer for answer in answers if answer] == [[number + 1] for number in range(commits)]
        assert numbers(full.crash()) == list(range(commits + 1))


async def test_what_is_submitted_by_those_who_are_told_follows(tmp_path: Path) -> None:
    full = Full(tmp_path)
    order: list[int] = []

    def told(number: int) -> None:
        order.append(number)
        if number < 10:
            put(full.writer, {b"%04d" % (number + 10): b"v"}, lambda: told(number + 10))

    full.become_slow()
    full.engine.room = 0
    for number in (1, 2, 3):
        put(full.writer, {b"%04d" % number: b"v"}, lambda number=number: told(number))  # type: ignore[misc]
    full.become_quick()
    await until(lambda: len(order) == 6)
    assert order == [1, 2, 3, 11, 12, 13]
    assert numbers(full.crash()) == [0, 1, 2, 3, 11, 12, 13]


async def test_who_waits_for_readers_to_see_something_goes_on_waiting(tmp_path: Path) -> None:
    full = Full(tmp_path)
    full.become_slow()
    full.engine.room = 0
    seen: list[str] = []
    full.writer.settle(lambda: seen.append("settled"))
    waiting = full.put(1)
    full.become_quick()
    await until(lambda: waiting == [1])
    assert seen == []
    assert full.put(2) == [2]
    full.find_room()
    full.let_through()
    assert seen == ["settled"]
    assert numbers(full.crash()) == [0, 1, 2]


async def test_batches_around_a_job_wait_with_it(tmp_path: Path) -> None:
    """Executed again, those before the job would undo what it did."""
    full = Full(tmp_path)
    full.become_slow()
    full.engine.room = 0
    before = full.put(1)
    job = full.writer.run("tests.storage.harness:copy_row", (b"0001", b"0005"))
    after = full.put(2)
    full.become_quick()
    await turns()
    assert (before, after) == ([], [])
    full.find_room()
    full.let_through()
    assert job.done()
    assert (before, after) == ([1], [2])
    assert numbers(full.crash()) == [0, 1, 2, 5]


@pytest.mark.parametrize(("sectors", "commits"), [(0, 0), (3, 1), (3, 2), (None, 0), (None, 1), (None, 2)])
async def test_there_may_be_room_again_while_the_record_is_written(
    tmp_path: Path, sectors: int | None, commits: int
) -> None:
    """sectors: that reach the disk before a crash; None if it is written and acknowledged."""
    full = Full(tmp_path)
    full.become_slow()
    full.engine.room = 0
    answers = [full.put(1), full.put(2)]
    file = full.beside()
    full.become_quick()
    await until(lambda: file.begins == 1)
    # What comes now waits for the record.
    answers.append(full.put(3))
    full.find_room(commits)
    full.let_through()
    assert answers == [[number] if number <= commits else [] for number in (1, 2)] + [[]]
    if sectors is None:
        file.let_through()
        await until(lambda: file.begins == 2)
        assert answers == [[1], [2], []]
        file.let_through()
        await until(lambda: answers[2] == [3])
        assert numbers(full.crash()) == [0, 1, 2, 3]
    else:
        file.reach_disk(sectors)
        assert numbers(full.crash()) == list(range(commits + 1))


@pytest.mark.parametrize("seed", range(40))
async def test_after_a_crash_at_any_moment_there_is_what_some_of_the_batches_in_their_order_leave(
    tmp_path: Path, seed: int
) -> None:
    """And none of those is missing that were acknowledged."""
    chance = Random(seed)
    full = Full(tmp_path)
    keys = [b"%d" % number for number in range(6)]
    state: dict[bytes, bytes] = {}
    states = [state]
    done: list[int] = []
    for number in range(1, chance.randrange(5, 60)):
        step = chance.random()
        if step < 0.5:
            batch = WriteBatch()
            state = dict(state)
            if chance.random() < 0.3:
                start = chance.choice(keys)
                batch.delete_range("current", start, None)
                state = {key: value for key, value in state.items() if key < start}
            rows = {key: b"%d" % number + bytes(chance.choice((0, 0, 3000))) for key in chance.sample(keys, 2)}
            batch.put("current", rows)
            state |= rows
            states.append(state)
            count = len(states)
            full.writer.submit(batch, lambda count=count: done.append(count))  # type: ignore[misc]
        elif step < 0.6:
            full.engine.room = 0
        elif step < 0.7:
            full.find_room(chance.choice((1, 2, 100)))
        elif step < 0.8:
            full.slow = chance.choice((0.0, 0.0, 0.01))
        elif step < 0.9:
            full.become_quick()
            await turns()
        else:
            full.let_through(chance.randrange(1, 5))
    rows = full.crash()
    assert done == list(range(2, len(done) + 2)), "not told in their order"
    assert rows in states[len(done) :], f"{len(done)} of {len(states) - 1} batches were acknowledged"
