"""The journal: what it holds after a crash, what it refuses, and the writer that has one."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
from collections import deque
from collections.abc import Callable
from pathlib import Path
from struct import Struct
from zlib import crc32

import pytest

from kvstore.storage import environment, journal, sectors
from kvstore.storage.batch import WriteBatch, WriteStats
from kvstore.storage.engine import Engine, EngineOptions
from kvstore.storage.environment import Environment
from kvstore.storage.errors import CorruptStore, StorageError, WriterFailed
from kvstore.storage.journal import Journal, Mark
from kvstore.storage.journaled import JournaledWriter
from kvstore.storage.meta import JOURNAL_KEY
from kvstore.storage.transaction import ReadTransaction
from kvstore.storage.writer import InlineWriter, Writer, WriterEvents
from tests.storage.harness import SECONDS, TABLES, put, put_and_wait, rows_of, until
from tests.storage.older import unstamp

BLOCK = 4096
SMALL = 16 * BLOCK


def held(path: Path, mark: Mark) -> list[bytes]:
    return [record.payload for record in journal.records(path, mark)]


def test_what_was_appended_is_read_in_order_from_the_mark_on(tmp_path: Path) -> None:
    written = journal.prepare(tmp_path, SMALL)
    start = written.mark
    payloads = [b"first", b"", bytes(5000), b"last"]
    marks = []
    for payload in payloads:
        written.append(payload)
        marks.append(written.mark)
    written.close()
    assert held(tmp_path, start) == payloads
    assert held(tmp_path, marks[0]) == payloads[1:]
    assert held(tmp_path, marks[3]) == []


def test_the_ring_is_used_over_and_over_and_never_overwrites_what_is_needed(tmp_path: Path) -> None:
    rng = random.Random(5)
    written = journal.prepare(tmp_path, SMALL, durable=False)
    needed: deque[tuple[Mark, bytes]] = deque()
    refused = laps = 0
    for number in range(2000):
        payload = b"%d." % number + bytes(rng.choice((0, 10, 4000, 9000)))
        while not written.fits(len(payload)):
            refused += 1
            assert needed, "an empty journal has no room"
            needed.popleft()
            written.release(needed[0][0] if needed else written.mark)
        before = written.mark
        written.append(payload)
        laps += written.mark.offset < before.offset
        needed.append((before, payload))
        if number % 97 == 0:
            assert held(tmp_path, needed[0][0]) == [kept for _, kept in needed]
    assert refused > 100
    assert laps > 50


def test_a_payload_larger_than_the_journal_does_not_fit(tmp_path: Path) -> None:
    written = journal.prepare(tmp_path, SMALL)
    assert written.fits(15 * 8 * 504 - 28)
    assert not written.fits(15 * 8 * 504 - 27)
    assert not written.fits(SMALL)


def test_a_last_record_that_a_crash_cut_off_is_no_record(tmp_path: Path) -> None:
    written = journal.prepare(tmp_path, SMALL, durable=False)
    start = written.mark
    written.append(b"whole")
    last = written.mark.offset
    before = (tmp_path / journal.FILE).read_bytes()
    written.append(b"x" * 6000)
    whole = (tmp_path / journal.FILE).read_bytes()
    for sector in range(last, last + 2 * BLOCK, 512):
        for missing in ((sector, last + 2 * BLOCK), (sector, sector + 512), (last, sector + 512)):
            first, stop = missing
            (tmp_path / journal.FILE).write_bytes(whole[:first] + before[first:stop] + whole[stop:])
            assert held(tmp_path, start) == [b"whole"]


def test_a_record_that_went_on_at_the_beginning_and_was_cut_off_there_is_no_record(tmp_path: Path) -> None:
    written = journal.prepare(tmp_path, SMALL, durable=False)
    for payload in (bytes(9 * BLOCK), bytes(3 * BLOCK)):
        written.append(payload)
        written.release(written.mark)
    start = written.mark
    before = (tmp_path / journal.FILE).read_bytes()
    written.append(bytes(3 * BLOCK))
    assert written.mark.offset < start.offset
    whole = (tmp_path / journal.FILE).read_bytes()
    assert len(held(tmp_path, start)) == 1
    for sector in range(BLOCK, written.mark.offset, 512):
        (tmp_path / journal.FILE).write_bytes(whole[:sector] + before[sector:])
        assert held(tmp_path, start) == []
        flipped = bytearray(whole)
        flipped[sector + 511] ^= 1
        (tmp_path / journal.FILE).write_bytes(flipped)
        with pytest.raises(CorruptStore, match="record 3 of the journal is damaged"):
            held(tmp_path, start)


def test_damage_of_any_record_is_refused(tmp_path: Path) -> None:
    written = journal.prepare(tmp_path, SMALL, durable=False)
    start = written.mark
    for payload in (b"one", b"two", b"three"):
        written.append(payload)
    whole = (tmp_path / journal.FILE).read_bytes()
    # Of checksum, length, sequence, id, the head's checksum, payload, a stamp, and the zeros of the last sector.
    for record in range(3):
        for byte in (0, 5, 8, 20, 26, 29, 511, 4000, 4095):
            damaged = bytearray(whole)
            damaged[start.offset + record * BLOCK + byte] ^= 4
            (tmp_path / journal.FILE).write_bytes(damaged)
            with pytest.raises(CorruptStore, match=f"record {record + 1} of the journal is damaged; put it back"):
                held(tmp_path, start)


def test_a_record_that_is_missing_before_others_is_refused(tmp_path: Path) -> None:
    written = journal.prepare(tmp_path, SMALL, durable=False)
    start = written.mark
    before = (tmp_path / journal.FILE).read_bytes()
    for payload in (b"one", b"two", b"three"):
        written.append(payload)
    whole = (tmp_path / journal.FILE).read_bytes()
    for record in range(2):
        first = start.offset + record * BLOCK
        (tmp_path / journal.FILE).write_bytes(whole[:first] + before[first : first + BLOCK] + whole[first + BLOCK :])
        with pytest.raises(CorruptStore, match=f"record {record + 1} of the journal is damaged"):
            held(tmp_path, start)


def test_a_journal_of_which_nothing_is_in_use_is_not_overwritten_where_its_mark_is(tmp_path: Path) -> None:
    written = journal.prepare(tmp_path, SMALL, durable=False)
    written.append(bytes(9 * BLOCK))
    written.release(written.mark)
    mark = written.mark
    assert not written.fits(11 * BLOCK)
    written.append(bytes(7 * BLOCK))
    assert written.mark.offset < mark.offset
    # Said late: by a commit that was begun before the record was.
    written.release(mark)
    while written.fits(10):
        written.append(b"more")
    assert [len(payload) for payload in held(tmp_path, mark)] == [7 * BLOCK, 4]


def test_a_journal_that_is_missing_cut_off_or_another_one_is_refused(tmp_path: Path) -> None:
    written = journal.prepare(tmp_path, SMALL)
    start = written.mark
    file = tmp_path / journal.FILE
    whole = file.read_bytes()
    cases: list[tuple[bytes, str]] = [
        (b"", "the first 29 bytes of the journal are damaged"),
        (whole[:-BLOCK], "the journal has 61440 bytes where it says 65536"),
        (b"\x01" + whole[1:], "the first 29 bytes of the journal are damaged"),
    ]
    for content, message in cases:
        file.write_bytes(content)
        with pytest.raises(CorruptStore, match=message):
            held(tmp_path, start)
    file.write_bytes(whole)
    assert held(tmp_path, start) == []
    journal.prepare(tmp_path, SMALL).close()
    with pytest.raises(CorruptStore, match="is not the journal that this log was written with"):
        held(tmp_path, start)
    file.unlink()
    with pytest.raises(CorruptStore, match="the journal is missing"):
        held(tmp_path, start)
    stored = start.encode()
    for bit in range(8 * len(stored)):
        flipped = (int.from_bytes(stored, "big") ^ 1 << bit).to_bytes(len(stored), "big")
        with pytest.raises(CorruptStore, match="the mark of the journal is damaged"):
            journal.decode_mark(flipped, tmp_path)
    with pytest.raises(CorruptStore, match="the mark of the journal is damaged"):
        journal.decode_mark(stored[1:], tmp_path)


def test_what_an_earlier_use_has_left_is_never_taken_for_a_record(tmp_path: Path) -> None:
    first = journal.prepare(tmp_path, SMALL)
    for number in range(5):
        first.append(b"old %d" % number)
    first.close()
    second = journal.prepare(tmp_path, SMALL)
    start = second.mark
    second.append(b"new")
    assert held(tmp_path, start) == [b"new"]


# The writer.


class Journaled:
    """A journaled writer before an environment in this process, whose answers come when they are let through."""

    def __init__(self, path: Path, size: int = SMALL) -> None:
        self.path = path
        self.engine = Engine(path, TABLES)
        self.waiting: deque[Callable[[], None]] = deque()
        self.journal = journal.prepare(path, size, durable=False)
        self.engine.commit([[(1, "meta", [(JOURNAL_KEY, self.journal.mark.encode())])]])
        self.now = 0.0
        self.slow = 0.0
        self.commits: list[WriteStats] = []
        self.failures: list[StorageError] = []
        self.writer = JournaledWriter(
            InlineWriter(self.engine, schedule=self.waiting.append),
            self.journal,
            path,
            loop=asyncio.get_running_loop(),
            clock=self._clock,
        )
        self.writer.events = WriterEvents(committed=self.commits.append, failed=self.failures.append)

    def _clock(self) -> float:
        self.now += self.slow
        return self.now

    def put(self, number: int, size: int = 10) -> list[int]:
        """Put a row; the list gets its number when it is durable."""
        done: list[int] = []
        put(self.writer, {b"%04d" % number: bytes(size)}, lambda: done.append(number))
        return done

    def let_through(self) -> None:
        while self.waiting:
            self.waiting.popleft()()

    async def crash(self) -> dict[bytes, bytes]:
        """End without a word; what a member finds when it opens the directory again."""
        self.engine.close()
        self.journal.close()
        return await reopened(self.path)


async def reopened(path: Path) -> dict[bytes, bytes]:
    await opened(path).close()
    return rows_of(path)


def opened(path: Path) -> Environment:
    return environment.open_with_journal(path, TABLES, EngineOptions(map_size=1 << 22))


def numbers(rows: dict[bytes, bytes]) -> list[int]:
    return [int(key) for key in sorted(rows)]


async def test_a_batch_is_durable_when_the_call_returns_and_moved_a_little_later(tmp_path: Path) -> None:
    env = opened(tmp_path)
    done: list[bool] = []
    stored = asyncio.Event()
    batch = WriteBatch()
    batch.put("current", {b"k": b"v"})
    env.writer.submit(batch, lambda: done.append(True), stored.set)
    assert not stored.is_set()
    async with asyncio.timeout(SECONDS):
        await stored.wait()
    assert done == [True]
    raw, handles = env.reading.begin()
    assert ReadTransaction(raw, handles).get("current", b"k") == b"v"
    raw.abort()
    await env.close()
    assert rows_of(tmp_path) == {b"k": b"v"}


async def test_what_was_done_survives_a_crash_wherever_the_move_was(tmp_path: Path) -> None:
    for moved in range(4):
        path = tmp_path / str(moved)
        path.mkdir()
        journaled = Journaled(path)
        for number in range(6):
            assert journaled.put(number) == [number]
            if number == moved:
                journaled.writer.settle(lambda: None)
                journaled.let_through()
        assert numbers(await journaled.crash()) == list(range(6))
        assert numbers(await reopened(path)) == list(range(6))


async def test_replaced_rows_are_replayed_in_their_order(tmp_path: Path) -> None:
    journaled = Journaled(tmp_path)
    for value in (b"one", b"two", b"three"):
        put(journaled.writer, {b"k": value}, lambda: None)
    gone = WriteBatch()
    gone.put("current", {b"gone": b"v"})
    gone.delete_range("current", b"gone", b"gonf")
    journaled.writer.submit(gone, lambda: None)
    assert await journaled.crash() == {b"k": b"three"}


async def test_a_batch_too_large_goes_to_the_environment_and_nothing_overtakes_it(tmp_path: Path) -> None:
    journaled = Journaled(tmp_path)
    assert journaled.put(1) == [1]
    large = journaled.put(2, size=2 * SMALL)
    after = journaled.put(3)
    assert (large, after) == ([], [])
    journaled.let_through()
    assert (large, after) == ([2], [3])
    assert journaled.put(4) == [4]
    assert numbers(await journaled.crash()) == [1, 2, 3, 4]


async def test_a_full_journal_waits_for_the_environment(tmp_path: Path) -> None:
    journaled = Journaled(tmp_path)
    answers = [journaled.put(number, size=3000) for number in range(40)]
    journal_only = sum(bool(answer) for answer in answers)
    assert 10 <= journal_only < 40
    journaled.let_through()
    assert [number for answer in answers for number in answer] == list(range(40))
    assert journaled.put(40) == [40]
    assert numbers(await journaled.crash()) == list(range(41))


async def test_a_slow_disk_is_waited_for_elsewhere_for_a_while(tmp_path: Path) -> None:
    journaled = Journaled(tmp_path)
    for number, seconds in enumerate((0.05, 0.5, 0.007)):
        journaled.slow = seconds
        assert journaled.put(number) == [number]
        journaled.slow = 0.0
        rested = 0.0
        while not (answer := journaled.put(100 + number)):
            journaled.let_through()
            assert answer == [100 + number]
            journaled.now += seconds
            rested += seconds
        assert rested == pytest.approx(20 * seconds if seconds > 0.008 else 0, rel=0.1)
    assert numbers(await journaled.crash()) == [0, 1, 2, 100, 101, 102]


async def test_a_journal_that_cannot_be_written_ends_the_member(tmp_path: Path) -> None:
    journaled = Journaled(tmp_path)
    assert journaled.put(1) == [1]
    os.close(journaled.journal._head._fd)
    journaled.journal._head._fd = os.open(tmp_path / journal.FILE, os.O_RDONLY)
    assert journaled.put(2) == []
    assert journaled.put(3) == []
    journaled.let_through()
    assert [type(error) for error in journaled.failures] == [WriterFailed]
    assert "the journal cannot be written" in str(journaled.failures[0])
    assert numbers(await journaled.crash()) == [1]


async def test_without_room_for_a_record_everything_goes_to_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(fd: int, buffers: object, offset: int) -> int:
        raise OSError(28, "No space left on device")

    journaled = Journaled(tmp_path)
    assert journaled.put(1) == [1]
    monkeypatch.setattr(os, "pwritev", full)
    waiting = journaled.put(2)
    assert waiting == []
    journaled.let_through()
    assert waiting == [2]
    assert journaled.failures == []
    assert numbers(await journaled.crash()) == [1, 2]


async def test_commits_that_somebody_waited_for_are_told_of(tmp_path: Path) -> None:
    journaled = Journaled(tmp_path)
    journaled.slow = 0.001
    journaled.put(1)
    # It was asked for the time before, between beginning and waiting, and after.
    assert [stats.commit_seconds for stats in journaled.commits] == [pytest.approx(0.002)]
    journaled.put(2, size=2 * SMALL)
    assert len(journaled.commits) == 2


async def test_a_deferred_batch_keeps_its_place(tmp_path: Path) -> None:
    journaled = Journaled(tmp_path)
    done: list[bool] = []
    journaled.put(1)
    batch = WriteBatch()
    batch.delete_range("current", b"", None)
    journaled.writer.defer(batch, lambda: done.append(True))
    journaled.put(2)
    assert done == []
    journaled.writer.settle(lambda: None)
    journaled.let_through()
    assert done == [True]
    assert numbers(await journaled.crash()) == [2]


async def test_a_closed_environment_needs_no_journal(tmp_path: Path) -> None:
    env = opened(tmp_path)
    await put_and_wait(env.writer, {b"0001": b"v"})
    await env.close()
    (tmp_path / journal.FILE).unlink()
    assert numbers(await reopened(tmp_path)) == [1]


async def test_an_environment_that_was_not_closed_needs_its_journal(tmp_path: Path) -> None:
    journaled = Journaled(tmp_path)
    journaled.put(1)
    journaled.engine.close()
    (tmp_path / journal.FILE).unlink()
    with pytest.raises(CorruptStore, match="the journal is missing, and what it held was acknowledged"):
        opened(tmp_path)


async def test_a_log_that_does_not_know_of_its_journal_has_lost_something_and_is_refused(tmp_path: Path) -> None:
    never = tmp_path / "never"
    closed = tmp_path / "closed"
    for path in (never, closed):
        path.mkdir()
        if path is closed:
            await opened(path).close()
        before = (path / "data.mdb").read_bytes() if path is closed else None
        env = opened(path)
        await put_and_wait(env.writer, {b"0001": b"v"})
        await env.writer._behind.close()  # type: ignore[attr-defined]
        env.reading.close()
        if before is None:
            (path / "data.mdb").unlink()
        else:
            (path / "data.mdb").write_bytes(before)
        with pytest.raises(CorruptStore, match="the log knows nothing of its journal: its last commits are lost"):
            opened(path)
        with pytest.raises(CorruptStore, match="the log knows nothing of its journal"):
            environment.open_inline(path, TABLES, EngineOptions())


async def test_a_start_that_is_interrupted_is_begun_again(tmp_path: Path) -> None:
    await reopened(tmp_path)
    journal.prepare(tmp_path).close()
    assert numbers(await reopened(tmp_path)) == []
    journaled = Journaled(tmp_path)
    assert numbers(await journaled.crash()) == []


async def test_without_a_process_what_a_crash_left_in_the_journal_is_there_too(tmp_path: Path) -> None:
    journaled = Journaled(tmp_path)
    journaled.put(1)
    journaled.engine.close()
    journaled.journal.close()
    env = environment.open_inline(tmp_path, TABLES, EngineOptions())
    raw, handles = env.reading.begin()
    assert ReadTransaction(raw, handles).get("current", b"0001") is not None
    raw.abort()
    await env.close()


async def test_an_environment_is_never_opened_with_the_journal_of_another(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        journaled = Journaled(tmp_path / name)
        journaled.put(1)
        journaled.engine.close()
    shutil.copy(tmp_path / "a" / journal.FILE, tmp_path / "b" / journal.FILE)
    with pytest.raises(CorruptStore, match="is not the journal that this log was written with"):
        opened(tmp_path / "b")


async def test_a_journal_of_a_build_without_stamps_is_executed_and_replaced(tmp_path: Path) -> None:
    journaled = Journaled(tmp_path, journal.SIZE)
    start = journaled.journal.mark
    for number in range(5):
        journaled.put(number, size=3000 * number)
    journaled.engine.close()
    journaled.journal.close()
    unstamp(tmp_path / journal.FILE, start)
    assert numbers(await reopened(tmp_path)) == list(range(5))
    env = opened(tmp_path)
    await put_and_wait(env.writer, {b"0005": b"v"})
    await env.close()
    assert (tmp_path / journal.FILE).read_bytes()[-4096:] == sectors.blank(4096)
    assert numbers(await reopened(tmp_path)) == list(range(6))


async def test_a_record_without_stamps_that_was_cut_off_is_no_record_and_damaged_before_others_is_refused(
    tmp_path: Path,
) -> None:
    journaled = Journaled(tmp_path, journal.SIZE)
    start = journaled.journal.mark
    for number in range(3):
        journaled.put(number)
    journaled.engine.close()
    journaled.journal.close()
    unstamp(tmp_path / journal.FILE, start)
    whole = (tmp_path / journal.FILE).read_bytes()
    for record, flipped in ((1, 40), (0, 3)):
        damaged = bytearray(whole)
        damaged[start.offset + record * BLOCK + flipped] ^= 1
        (tmp_path / journal.FILE).write_bytes(damaged)
        with pytest.raises(CorruptStore, match=f"record {record + 1} of the journal is damaged"):
            opened(tmp_path)
    (tmp_path / journal.FILE).write_bytes(whole[: start.offset + 2 * BLOCK] + bytes(len(whole) - 4 * BLOCK))
    with pytest.raises(CorruptStore, match="the journal has"):
        opened(tmp_path)
    cut_off = start.offset + 2 * BLOCK
    (tmp_path / journal.FILE).write_bytes(whole[:cut_off] + bytes(len(whole) - cut_off))
    assert numbers(await reopened(tmp_path)) == [0, 1]


async def test_a_build_without_stamps_finds_that_a_closed_journal_holds_nothing_for_it(tmp_path: Path) -> None:
    env = opened(tmp_path)
    await put_and_wait(env.writer, {b"0001": b"v"})
    await env.close()
    # What such a build looks at, written out: the head, and the id in the environment's mark.
    head = (tmp_path / journal.FILE).read_bytes()[:29]
    _, identifier, size, live = Struct("<8s8sQB").unpack(head[:25])
    assert head[25:] == crc32(head[:25]).to_bytes(4, "little")
    stored_id, sequence, _, _ = Struct("<8sQQI").unpack(rows_of(tmp_path, "meta")[JOURNAL_KEY])
    assert (identifier, size, live, sequence) == (stored_id, journal.SIZE, 1, 0)


async def test_a_journal_of_a_later_build_is_refused(tmp_path: Path) -> None:
    journaled = Journaled(tmp_path)
    journaled.put(1)
    journaled.engine.close()
    journaled.journal.close()
    whole = (tmp_path / journal.FILE).read_bytes()
    head = b"kvjrnl03" + whole[8:25]
    (tmp_path / journal.FILE).write_bytes(head + crc32(head).to_bytes(4, "little") + whole[29:])
    with pytest.raises(CorruptStore, match="a journal that this version of kvstore does not read"):
        opened(tmp_path)


async def test_where_no_journal_can_be_made_the_environment_is_written_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(path: Path, size: int = 0, *, durable: bool = True) -> Journal:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(journal, "prepare", no_room)
    env = opened(tmp_path)
    await put_and_wait(env.writer, {b"0001": b"v"})
    raw, handles = env.reading.begin()
    assert ReadTransaction(raw, handles).get("current", b"0001") == b"v"
    raw.abort()
    await env.close()


async def test_the_writer_behind_may_die_and_nothing_durable_is_lost(tmp_path: Path) -> None:
    env = opened(tmp_path)
    failures: list[StorageError] = []
    env.writer.events = WriterEvents(failed=failures.append)
    behind: Writer = env.writer._behind  # type: ignore[attr-defined]
    done: list[int] = []
    for number in range(50):
        put(env.writer, {b"%04d" % number: bytes(100)}, lambda number=number: done.append(number))  # type: ignore[misc]
    os.kill(behind.pid, 9)  # type: ignore[attr-defined]
    await until(lambda: bool(failures))
    # At least the first: a disk that is slow just now may send the others to the writer that is killed.
    assert done[0] == 0
    env.reading.close()
    assert numbers(await reopened(tmp_path))[: len(done)] == done
