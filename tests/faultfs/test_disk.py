"""The model of a disk: what is certain after a power cut, and what is not."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.faultfs import trace as t
from tests.faultfs.disk import SECTOR, AllOrNothing, Chance, Disk, write_tree
from tests.faultfs.trace import Record

NOTHING, ALL = AllOrNothing(names=False, data=False), AllOrNothing(names=True, data=True)
ROOT, FILE, OTHER, INNER = 1, 2, 3, 4


def record(
    kind: int, inode: int, path: str = "", *, to: str = "", data: bytes = b"", at: int = 0, op: int = 0
) -> Record:
    return Record(kind, 1, inode, at, len(data), op, path, to, data)


def resized(size: int) -> Record:
    return Record(t.TRUNCATE, 1, FILE, 0, size, 0, "file", "", b"")


@pytest.fixture
def disk() -> Disk:
    """With an empty file whose name is certain."""
    disk = Disk(ROOT)
    disk.apply(record(t.CREATE, FILE, "file"))
    disk.apply(record(t.DIRECTORY_SYNCED, ROOT))
    return disk


def happen(disk: Disk, *records: Record) -> None:
    for each in records:
        disk.apply(each)


def synced(inode: int) -> tuple[Record, Record]:
    return record(t.SYNC_BEGIN, inode), record(t.SYNC_END, inode)


def test_a_write_is_certain_once_it_is_synced(disk: Disk) -> None:
    happen(disk, record(t.WRITE, FILE, data=b"one"))
    assert disk.after_power_cut(NOTHING) == {"file": b""}
    assert disk.after_power_cut(ALL) == {"file": b"one"}
    happen(disk, *synced(FILE))
    assert disk.after_power_cut(NOTHING) == {"file": b"one"}


def test_a_sync_covers_what_was_written_before_it_began(disk: Disk) -> None:
    begin, end = synced(FILE)
    happen(disk, record(t.WRITE, FILE, data=b"one"), begin, record(t.WRITE, FILE, data=b"two", at=3), end)
    assert disk.after_power_cut(NOTHING) == {"file": b"one"}
    assert disk.after_power_cut(ALL) == {"file": b"onetwo"}


def test_a_synchronous_write_says_nothing_of_those_before_it(disk: Disk) -> None:
    happen(disk, record(t.WRITE, FILE, data=b"one", op=1), record(t.WRITE, FILE, data=b"two", at=3, op=2))
    happen(disk, record(t.SYNC_END, FILE, data=b"two", at=3, op=2))
    assert disk.after_power_cut(NOTHING) == {"file": b"\0\0\0two"}


def test_a_later_write_may_be_there_without_an_earlier_one_to_the_same_place(disk: Disk) -> None:
    class OnlyTheSecond(AllOrNothing):
        asked = 0

        def write(self, sectors: int) -> Iterable[int]:
            self.asked += 1
            return range(sectors if self.asked == 2 else 0)

    happen(disk, record(t.WRITE, FILE, data=b"one!"), record(t.WRITE, FILE, data=b"two"))
    assert disk.after_power_cut(OnlyTheSecond(True, True)) == {"file": b"two"}


def test_a_write_is_torn_at_sectors_of_the_disk(disk: Disk) -> None:
    class FirstAndThird(AllOrNothing):
        def write(self, sectors: int) -> Iterable[int]:
            assert sectors == 3
            return [0, 2]

    happen(disk, record(t.WRITE, FILE, data=b"x" * 2 * SECTOR, at=100))
    found = disk.after_power_cut(FirstAndThird(True, True))["file"]
    assert found == bytes(100) + b"x" * (SECTOR - 100) + bytes(SECTOR) + b"x" * 100


def test_a_size_is_as_uncertain_as_what_is_written(disk: Disk) -> None:
    happen(disk, record(t.WRITE, FILE, data=b"one"), *synced(FILE), resized(1))
    assert disk.after_power_cut(NOTHING) == {"file": b"one"}
    assert disk.after_power_cut(ALL) == {"file": b"o"}
    happen(disk, *synced(FILE), resized(3))
    assert disk.after_power_cut(ALL) == {"file": b"o\0\0"}


def test_a_synced_file_is_gone_without_its_name(disk: Disk) -> None:
    happen(disk, record(t.CREATE, OTHER, "other"), record(t.WRITE, OTHER, data=b"one"), *synced(OTHER))
    assert disk.after_power_cut(NOTHING) == {"file": b""}
    happen(disk, record(t.DIRECTORY_SYNCED, ROOT))
    assert disk.after_power_cut(NOTHING) == {"file": b"", "other": b"one"}


def test_what_is_in_a_directory_is_gone_without_the_name_of_the_directory(disk: Disk) -> None:
    happen(disk, record(t.MKDIR, INNER, "inner"), record(t.CREATE, OTHER, "inner/other"))
    happen(disk, record(t.DIRECTORY_SYNCED, INNER))
    assert disk.after_power_cut(NOTHING) == {"file": b""}
    happen(disk, record(t.DIRECTORY_SYNCED, ROOT))
    assert disk.after_power_cut(NOTHING) == {"file": b"", "inner": None, "inner/other": b""}


def test_a_rename_is_done_or_not_done(disk: Disk) -> None:
    happen(disk, record(t.CREATE, OTHER, "other"), record(t.WRITE, OTHER, data=b"new"), *synced(OTHER))
    happen(disk, record(t.DIRECTORY_SYNCED, ROOT), record(t.RENAME, OTHER, "other", to="file"))
    assert disk.after_power_cut(NOTHING) == {"file": b"", "other": b"new"}
    assert disk.after_power_cut(ALL) == {"file": b"new"}
    happen(disk, record(t.DIRECTORY_SYNCED, ROOT))
    assert disk.after_power_cut(NOTHING) == {"file": b"new"}


def test_a_rename_of_a_file_that_was_not_synced_may_leave_it_empty(disk: Disk) -> None:
    happen(disk, record(t.CREATE, OTHER, "other"), record(t.WRITE, OTHER, data=b"new"))
    happen(disk, record(t.RENAME, OTHER, "other", to="file"))
    assert disk.after_power_cut(AllOrNothing(names=True, data=False)) == {"file": b""}


def test_a_removed_file_may_come_back(disk: Disk) -> None:
    happen(disk, record(t.UNLINK, FILE, "file"))
    assert disk.after_power_cut(NOTHING) == {"file": b""}
    assert disk.after_power_cut(ALL) == {}


def test_chance_is_the_same_for_the_same_seed_and_tears_writes(disk: Disk) -> None:
    happen(disk, *(record(t.WRITE, FILE, data=bytes([number]) * 4096, at=4096 * number) for number in range(1, 30)))
    found = [disk.after_power_cut(Chance(seed))["file"] for seed in (1, 2, 1)]
    assert found[0] == found[2]
    assert found[0] != found[1]
    pages = [disk.after_power_cut(Chance(seed))["file"] or b"" for seed in range(20)]
    assert any(0 < len(set(page[at : at + 4096])) > 1 for page in pages for at in range(0, len(page), 4096))


def test_the_files_are_written_as_they_are(disk: Disk, tmp_path: Path) -> None:
    happen(
        disk, record(t.WRITE, FILE, data=b"one"), record(t.MKDIR, INNER, "inner"), record(t.CREATE, OTHER, "inner/o")
    )
    write_tree(disk.after_power_cut(ALL), tmp_path / "cut")
    assert (tmp_path / "cut" / "file").read_bytes() == b"one"
    assert (tmp_path / "cut" / "inner" / "o").read_bytes() == b""
