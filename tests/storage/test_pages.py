"""What a data file says of itself, compared with what LMDB says."""

from __future__ import annotations

import os
from pathlib import Path

import lmdb
import pytest

from kvstore.storage.errors import CorruptStore, FormatTooNew
from kvstore.storage.pages import BIG_DATA, DATA_FILE, check_file, count_free_pages, never_committed, read_meta


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file with many free pages, the last ones among them."""
    with lmdb.open(str(tmp_path), map_size=1 << 28, max_dbs=4) as env:
        table = env.open_db(b"rows")
        for number in range(40):
            with env.begin(write=True, db=table) as txn:
                for key in range(200):
                    txn.put(b"%03d/%03d" % (number, key), os.urandom(500 if key % 10 else 9000))
        for number in range(39, 5, -1):
            with env.begin(write=True, db=table) as txn:
                for key in range(200):
                    txn.delete(b"%03d/%03d" % (number, key))
        # Pages are free for good once later transactions have moved on.
        for number in range(3):
            with env.begin(write=True, db=table) as txn:
                txn.put(b"last", b"%d" % number)
    return tmp_path / DATA_FILE


def used_pages(path: Path) -> int:
    """Pages of the main and the free table and their sub-tables, counted by LMDB."""
    with lmdb.open(str(path), max_dbs=4, readonly=True, lock=False) as env:
        table = env.open_db(b"rows", create=False)
        with env.begin() as txn:
            stats = [env.stat(), txn.stat(table)]
    return sum(stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"] for stat in stats)


def test_free_and_used_pages_are_all_pages(file: Path) -> None:
    meta = check_file(file)
    fd = os.open(file, os.O_RDONLY)
    free = count_free_pages(fd, read_meta(fd, file), file)
    os.close(fd)
    assert free > meta.last_page / 2
    assert 2 + used_pages(file.parent) + meta.free.pages + free == meta.last_page + 1


def test_a_file_may_be_shorter_by_free_pages_only(file: Path) -> None:
    meta = check_file(file)
    size = file.stat().st_size
    shorter = size
    reason = ""
    while shorter > 0:
        os.truncate(file, shorter - meta.page_size)
        try:
            check_file(file)
        except CorruptStore as error:
            reason = str(error)
            break
        shorter -= meta.page_size
    assert 0 < shorter < size
    assert "cut off hold data" in reason or "list of free pages" in reason


def test_another_format_of_lmdb_is_refused(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[20:24] = (3).to_bytes(4, "little")
    file.write_bytes(data)
    with pytest.raises(FormatTooNew, match="LMDB data format 3"):
        check_file(file)


def test_a_file_whose_header_never_reached_the_disk_was_never_committed(tmp_path: Path) -> None:
    data = tmp_path / DATA_FILE
    with lmdb.open(os.fspath(tmp_path), map_size=1 << 20) as env, env.begin(write=True) as txn:
        txn.put(b"key", b"value")
    whole = data.read_bytes()
    assert not never_committed(data)
    for lost in (0, 4096):
        data.write_bytes(whole[:lost] + bytes(512) + whole[lost + 512 :])
        assert never_committed(data)
    data.write_bytes(b"")
    assert never_committed(data)


def test_zeros_in_the_header_of_a_file_with_data_are_damage(tmp_path: Path) -> None:
    data = tmp_path / DATA_FILE
    with lmdb.open(os.fspath(tmp_path), map_size=1 << 20) as env, env.begin(write=True) as txn:
        txn.put(b"key", bytes(100_000))
    data.write_bytes(bytes(4096) + data.read_bytes()[4096:])
    assert not never_committed(data)


def test_a_list_of_free_pages_that_leads_beyond_the_file_is_damaged(tmp_path: Path) -> None:
    with lmdb.open(str(tmp_path), map_size=1 << 28, max_dbs=4) as env:
        table = env.open_db(b"rows")
        for change in (bytes(10_000_000), None):
            with env.begin(write=True, db=table) as txn:
                txn.put(b"large", change) if change else txn.delete(b"large")
    data = tmp_path / DATA_FILE
    whole = data.read_bytes()
    meta = check_file(data)
    root = meta.free.root * meta.page_size
    nodes = [int.from_bytes(whole[root + 16 + 2 * number :][:2], "little") for number in range(meta.free.entries)]
    # Its data is the number of a page: flags, the size of the key, the key.
    at = next(root + node + 16 for node in nodes if whole[root + node + 4] == BIG_DATA)
    assert count_free(data) > 2000
    for wrong in (0, 1, meta.last_page + 1, 1 << 51, 1 << 52, (1 << 64) - 1):
        data.write_bytes(whole[:at] + wrong.to_bytes(8, "little") + whole[at + 8 :])
        with pytest.raises(CorruptStore, match=f"page {wrong} of the list of free pages is missing"):
            count_free(data)
    # The file ends within the record.
    begin = int.from_bytes(whole[at : at + 8], "little") * meta.page_size
    data.write_bytes(whole)
    for size in (begin + 3, begin + 21, begin + 4097):
        os.truncate(data, size)
        with pytest.raises(CorruptStore, match="list of free pages reaches beyond the end of the file"):
            check_file(data)
        data.write_bytes(whole)


def count_free(data: Path) -> int:
    with data.open("rb") as file:
        return count_free_pages(file.fileno(), read_meta(file.fileno(), data), data)
