"""The log as raft's storage: what it shows when, and what is left of it after opening it again."""

from __future__ import annotations

import asyncio
import random
import struct
from collections import deque
from collections.abc import Callable
from pathlib import Path
from zlib import crc32

import lmdb
import pytest

from kvstore.storage import wal as wals
from kvstore.storage.errors import CorruptStore
from kvstore.storage.meta import Identity, Position
from kvstore.storage.wal import Wal, WalOptions
from raft.errors import Compacted, InvariantViolation, SnapshotTemporarilyUnavailable, Unavailable
from raft.messages import NO_LIMIT, ConfState, Entry, EntryType, HardState, SnapshotMetadata
from raft.storage import MemoryStorage
from tests.storage.harness import SECONDS


def entries(first: int, last: int, term: int = 1, size: int = 20) -> list[Entry]:
    return [Entry(term, index, EntryType.NORMAL, b"%d" % index + bytes(size)) for index in range(first, last + 1)]


async def append(wal: Wal, new: list[Entry], hard_state: HardState | None = None) -> None:
    done = asyncio.get_running_loop().create_future()
    wal.append(hard_state, new, None, lambda: done.set_result(None))
    async with asyncio.timeout(SECONDS):
        await done


def nothing() -> None:
    pass


@pytest.mark.parametrize("kind", ["inline", "process"])
async def test_everything_appended_is_there_after_opening_again(tmp_path: Path, kind: str) -> None:
    def open_wal() -> Wal:
        return wals.open_inline(tmp_path) if kind == "inline" else wals.open_with_process(tmp_path)

    wal = open_wal()
    assert wal.initial_state() == (HardState(), ConfState())
    assert (wal.first_index(), wal.last_index(), wal.identity) == (1, 0, None)
    await wal.record(Identity(11, 22))
    written = entries(1, 100)
    written[5] = Entry(1, 6, EntryType.CONF_CHANGE_V2, b"")
    await append(wal, written, HardState(3, 2, 1))
    await append(wal, [], HardState(3, 2, 90))
    await wal.close()

    wal = open_wal()
    assert wal.identity == Identity(11, 22)
    assert wal.hard_state == HardState(3, 2, 90)
    assert (wal.first_index(), wal.last_index()) == (1, 100)
    assert list(wal.entries(1, 101)) == written
    assert wal.term(100) == 1
    await wal.close()


def test_entries_show_only_when_they_are_durable(tmp_path: Path) -> None:
    acknowledgements: deque[Callable[[], None]] = deque()
    wal = wals.open_inline(tmp_path, schedule=acknowledgements.append)
    seen: list[int] = []
    wal.append(HardState(1, 1, 0), entries(1, 3), None, lambda: seen.append(wal.last_index()))
    wal.append(HardState(2, 1, 0), entries(3, 4, term=2), None, lambda: seen.append(wal.last_index()))
    assert (wal.last_index(), wal.hard_state.term) == (0, 0)
    with pytest.raises(Unavailable):
        wal.entries(1, 1)
    acknowledgements.popleft()()
    assert (wal.last_index(), wal.term(3), wal.hard_state.term) == (3, 1, 1)
    acknowledgements.popleft()()
    assert (wal.last_index(), wal.term(3), wal.term(4), wal.hard_state.term) == (4, 2, 2, 2)
    assert seen == [3, 4]


async def test_a_conflicting_suffix_is_gone_with_the_entries_that_replace_it(tmp_path: Path) -> None:
    wal = wals.open_inline(tmp_path)
    await append(wal, entries(1, 50))
    await append(wal, entries(20, 25, term=2))
    for _ in range(2):
        assert (wal.last_index(), wal.term(19), wal.term(20)) == (25, 1, 2)
        assert [entry.term for entry in wal.entries(19, 26)] == [1, 2, 2, 2, 2, 2, 2]
        with pytest.raises(Unavailable):
            wal.term(26)
        await wal.close()
        wal = wals.open_inline(tmp_path)
    await wal.close()


async def test_older_entries_are_read_from_the_disk_within_the_size_asked_for(tmp_path: Path) -> None:
    options = WalOptions(cache_bytes=10_000)
    wal = wals.open_inline(tmp_path, options)
    written = entries(1, 300, size=100)
    for entry in written:
        await append(wal, [entry])
    assert len(wal._cache) < 100
    memory = MemoryStorage()
    memory.append(written)
    for lo, hi in [(1, 2), (1, 301), (150, 250), (250, 301), (200, 290), (300, 301)]:
        for size in (0, 1, 500, 5_000, 20_000, NO_LIMIT):
            assert list(wal.entries(lo, hi, size)) == list(memory.entries(lo, hi, size))
    assert [wal.term(index) for index in (1, 150, 300)] == [1, 1, 1]
    await wal.close()


@pytest.mark.parametrize("kind", ["inline", "process"])
async def test_compaction_forgets_at_once_and_removes_in_the_background(tmp_path: Path, kind: str) -> None:
    wal = wals.open_inline(tmp_path) if kind == "inline" else wals.open_with_process(tmp_path)
    await append(wal, entries(1, 3000, term=7))
    wal.compact(1000)
    wal.compact(2500)
    assert (wal.first_index(), wal.last_index(), wal.term(2500)) == (2501, 3000, 7)
    with pytest.raises(Compacted):
        wal.term(2499)
    with pytest.raises(Compacted):
        wal.entries(2500, 2502)
    with pytest.raises(Compacted):
        wal.compact(2500)
    with pytest.raises(InvariantViolation):
        wal.compact(3001)
    await append(wal, entries(3001, 3001, term=7))
    await wal.close()
    wal = wals.open_inline(tmp_path)
    assert (wal.first_index(), wal.last_index(), wal.cut) == (2501, 3001, Position(2500, 7))
    raw, handles = wal._env.reading.begin()
    assert raw.stat(handles["entries"].main)["entries"] == 501
    raw.abort()
    wal.compact(3001)
    await wal.close()
    wal = wals.open_inline(tmp_path)
    assert (wal.first_index(), wal.last_index(), wal.term(3001)) == (3002, 3001, 7)
    await append(wal, entries(3002, 3003, term=8))
    assert [entry.index for entry in wal.entries(3002, 3004)] == [3002, 3003]
    await wal.close()


async def test_a_snapshot_replaces_the_log(tmp_path: Path) -> None:
    wal = wals.open_inline(tmp_path)
    await append(wal, entries(1, 10), HardState(1, 1, 5))
    wal.append(HardState(4, 0, 100), entries(101, 102, term=4), SnapshotMetadata(index=100, term=3), nothing)
    for _ in range(2):
        assert (wal.first_index(), wal.last_index(), wal.term(100), wal.term(101)) == (101, 102, 3, 4)
        assert wal.hard_state == HardState(4, 0, 100)
        await wal.close()
        wal = wals.open_inline(tmp_path)
    await wal.close()


async def test_a_state_ahead_of_the_log_starts_the_log_over(tmp_path: Path) -> None:
    wal = wals.open_inline(tmp_path)
    await append(wal, entries(1, 10), HardState(2, 5, 7))
    wal.reconcile(Position(50, 4), nothing)
    assert (wal.first_index(), wal.last_index(), wal.term(50)) == (51, 50, 4)
    assert wal.hard_state == HardState(4, 0, 50)
    await wal.close()


async def test_a_state_of_another_history_starts_the_log_over(tmp_path: Path) -> None:
    wal = wals.open_inline(tmp_path)
    await append(wal, entries(1, 10, term=5), HardState(6, 3, 7))
    wal.reconcile(Position(8, 4), nothing)
    assert (wal.first_index(), wal.last_index(), wal.term(8)) == (9, 8, 4)
    assert wal.hard_state == HardState(6, 3, 8)
    await wal.close()


async def test_a_state_within_the_log_raises_the_commit_index_at_most(tmp_path: Path) -> None:
    wal = wals.open_inline(tmp_path)
    await append(wal, entries(1, 10), HardState(1, 1, 3))
    wal.reconcile(Position(7, 1), nothing)
    assert (wal.last_index(), wal.hard_state) == (10, HardState(1, 1, 7))
    wal.reconcile(Position(2, 1), nothing)
    assert (wal.last_index(), wal.hard_state) == (10, HardState(1, 1, 7))
    wal.compact(5)
    with pytest.raises(CorruptStore, match="begins after 5 but the state ends at 4"):
        wal.reconcile(Position(4, 1), nothing)
    await wal.close()


async def test_a_damaged_entry_is_refused(tmp_path: Path) -> None:
    wal = wals.open_inline(tmp_path, WalOptions(cache_entries=1))
    await append(wal, entries(1, 5))
    await append(wal, entries(6, 6))
    await wal.close()
    with lmdb.open(str(tmp_path), max_dbs=8) as env:
        table = env.open_db(b"entries")
        with env.begin(write=True, db=table) as txn:
            key = (3).to_bytes(8, "big")
            txn.put(key, txn.get(key, b"")[:-1] + b"x")
    wal = wals.open_inline(tmp_path)
    assert len(wal.entries(1, 3)) == 2
    with pytest.raises(CorruptStore, match="entry 3 of the log is damaged"):
        wal.entries(1, 5)
    with pytest.raises(CorruptStore, match="entry 3"):
        wal.term(3)
    await wal.close()


async def test_an_entry_of_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    wal = wals.open_inline(tmp_path, WalOptions(cache_entries=1))
    await append(wal, entries(1, 5))
    await append(wal, entries(6, 6))
    await wal.close()
    with lmdb.open(str(tmp_path), max_dbs=8) as env, env.begin(write=True, db=env.open_db(b"entries")) as txn:
        header = struct.pack(">QB", 1, 77)
        key = (3).to_bytes(8, "big")
        txn.put(key, struct.pack(">I", crc32(b"data", crc32(key + header))) + header + b"data")
    wal = wals.open_inline(tmp_path)
    with pytest.raises(CorruptStore, match="entry 3 of the log is of kind 77, which this version"):
        wal.entries(1, 5)
    await wal.close()


async def test_a_key_that_is_no_index_is_refused(tmp_path: Path) -> None:
    wal = wals.open_inline(tmp_path)
    await append(wal, entries(1, 5))
    await wal.close()
    with lmdb.open(str(tmp_path), max_dbs=8) as env, env.begin(write=True, db=env.open_db(b"entries")) as txn:
        txn.put(b"\xff", b"row")
    with pytest.raises(CorruptStore, match="an entry with a key of 1 bytes"):
        wals.open_inline(tmp_path)


async def test_a_gap_in_the_log_is_refused(tmp_path: Path) -> None:
    wal = wals.open_inline(tmp_path)
    await append(wal, entries(1, 5))
    await wal.close()
    with lmdb.open(str(tmp_path), max_dbs=8) as env, env.begin(write=True, db=env.open_db(b"entries")) as txn:
        txn.delete((3).to_bytes(8, "big"))
    with pytest.raises(CorruptStore, match="missing between 1 and 5"):
        wals.open_inline(tmp_path)


async def test_appending_with_a_gap_is_refused(tmp_path: Path) -> None:
    wal = wals.open_inline(tmp_path)
    await append(wal, entries(1, 5))
    with pytest.raises(InvariantViolation):
        wal.append(None, entries(7, 8), None, nothing)
    await wal.close()


async def test_a_snapshot_is_what_the_member_says(tmp_path: Path) -> None:
    wal = wals.open_inline(tmp_path)
    with pytest.raises(SnapshotTemporarilyUnavailable):
        wal.snapshot()
    wal.conf_state = lambda: ConfState(voters=[1, 2])
    assert wal.initial_state()[1].voters == [1, 2]
    await wal.close()


@pytest.mark.parametrize("seed", range(8))
async def test_any_course_of_events_shows_what_memory_storage_shows(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    options = WalOptions(cache_bytes=2_000, cache_entries=40)
    wal = wals.open_inline(tmp_path, options)
    memory = MemoryStorage()
    term = 1
    for _ in range(200):
        action = chance.randrange(10)
        first, last = memory.first_index(), memory.last_index()
        if action < 5:
            start = last + 1
            if chance.random() < 0.2 and last >= first:
                start = chance.randint(first, last)
                term += 1
            new = entries(start, start + chance.randrange(12), term, size=chance.randrange(100))
            await append(wal, new, HardState(term, 1, last))
            memory.append(new)
        elif action < 7 and last >= first:
            index = chance.randint(first, last)
            wal.compact(index)
            memory.compact(index)
        elif action == 7 and chance.random() < 0.3:
            term += 1
            position = Position(last + chance.randrange(1, 5), term)
            wal.reset(position, nothing)
            memory = MemoryStorage()
            memory._offset, memory._offset_term = position.index, position.term
        elif action == 8:
            await wal.close()
            wal = wals.open_inline(tmp_path, options)
        first, last = memory.first_index(), memory.last_index()
        assert (wal.first_index(), wal.last_index()) == (first, last)
        assert [wal.term(i) for i in range(first - 1, last + 1)] == [memory.term(i) for i in range(first - 1, last + 1)]
        if last >= first:
            lo = chance.randint(first, last)
            hi = chance.randint(lo + 1, last + 1)
            size = chance.choice([0, 300, NO_LIMIT])
            assert list(wal.entries(lo, hi, size)) == list(memory.entries(lo, hi, size))
    await wal.close()
