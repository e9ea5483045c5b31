"""What nobody has open is looked at before it is read, and what LMDB left passes whatever was done with it."""

from __future__ import annotations

import mmap
import os
import random
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from struct import Struct

import pytest

from kvstore.storage import helper
from kvstore.storage.at_rest import (
    Unseen,
    UnseenTable,
    check_environment,
    check_part,
    check_tables_of,
    check_whole,
)
from kvstore.storage.batch import DUP, TableSpec, WriteBatch
from kvstore.storage.engine import Engine, EngineOptions
from kvstore.storage.errors import CorruptStore
from kvstore.storage.helper import LookAtRest
from kvstore.storage.pages import (
    BIG_DATA,
    BRANCH,
    DATA_FILE,
    LEAF,
    NODE,
    OVERFLOW,
    Meta,
    free_records,
    read_meta,
)
from kvstore.storage.walk import USED
from tests.storage.test_structure import TABLES, commit_by_chance, page_of, reachable, rewrite

_HEADER = Struct("=QHHHH")
_FREE_LIST = "the list of free pages: .*; remove this member"


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    made = Engine(tmp_path, TABLES, EngineOptions(map_size=1 << 26, unsafe_no_fsync=True))
    yield made
    made.close()


def fill(engine: Engine, rows: int = 5000) -> None:
    batch = WriteBatch()
    batch.put("plain", {b"%05d" % number: b"value" * 5 for number in range(rows)})
    batch.put("room", {b"%05d" % number: b"value" * 4 + bytes(4) for number in range(rows)})
    engine.commit([batch.operations])


def content(page: bytes) -> bytes:
    """What a page holds, wherever it is."""
    _, _, _, lower, upper = _HEADER.unpack_from(page)
    return page[_HEADER.size : lower] + page[upper:]


def nobody(_: int) -> None:
    pass


def unseen(engine: Engine) -> Unseen:
    """The tables that are not tiny."""
    left = check_environment(engine.path, 10)
    assert left is not None
    return left


def refused(engine: Engine, number: int, at: int, change: int) -> str:
    """What a look says to a page with a byte changed, which it puts back; nothing if it says nothing."""
    page = page_of(engine, number)
    rewrite(engine, number, page[:at] + bytes([page[at] ^ change]) + page[at + 1 :])
    try:
        check_environment(engine.path)
    except CorruptStore as error:
        return str(error)
    finally:
        rewrite(engine, number, page)
    return ""


def nodes_of(page: bytes) -> list[tuple[int, int, int, int]]:
    """Of each node where it begins, its size, flags, and how long its key is. Of sub-pages, too."""
    lower = _HEADER.unpack_from(page)[3]
    nodes = []
    for slot in range(_HEADER.size, lower, 2):
        at = int.from_bytes(page[slot : slot + 2], "little")
        low, high, flags, key_size = NODE.unpack_from(page, at)
        nodes.append((at, low | high << 16, flags, key_size))
    return nodes


@pytest.mark.parametrize("seed", range(3))
def test_whatever_is_written_is_sound_at_once_and_in_parts(engine: Engine, seed: int) -> None:
    chance = random.Random(seed)
    for round_ in range(12):
        commit_by_chance(engine, chance, round_)
        assert check_environment(engine.path) is None
    engine.compact()
    left = unseen(engine)
    names = [table.name for table in left.tables]
    assert {*names} >= {"plain", "room", "dups"}
    parts = [check_part(engine.path, names, nobody, part, 3) for part in range(3)]
    check_whole(engine.path, left, parts)
    # Nothing is looked at twice, and nothing left out.
    whole = check_part(engine.path, names, nobody)
    assert sum(used.count(USED) for _, used in parts) == whole[1].count(USED)


@pytest.mark.parametrize("kind", [LEAF, BRANCH])
def test_every_bit_of_a_header_and_a_table_of_nodes_counts(engine: Engine, kind: int) -> None:
    chance = random.Random(4)
    for round_ in range(8):
        commit_by_chance(engine, chance, round_)
    pages = [number for number in reachable(engine) if _HEADER.unpack_from(page_of(engine, number))[2] == kind]
    # Two bytes that LMDB leaves as they are.
    unused = range(8, 10)
    for number in chance.sample(pages, min(5, len(pages))):
        page = page_of(engine, number)
        lower = _HEADER.unpack_from(page)[3]
        for at in [at for at in range(lower) if at not in unused]:
            bit = chance.randrange(8)
            rewrite(engine, number, page[:at] + bytes([page[at] ^ 1 << bit]) + page[at + 1 :])
            with pytest.raises(CorruptStore, match=r"data\.mdb: .* remove this member"):
                check_environment(engine.path)
        rewrite(engine, number, page)
    assert check_environment(engine.path) is None


def test_a_branch_that_leads_to_what_was_replaced_long_ago_is_found(engine: Engine) -> None:
    fill(engine)
    before = {content(page_of(engine, number)): number for number in reachable(engine)}
    fill(engine)
    now = {number: page_of(engine, number) for number in reachable(engine)}
    branch, old, new = next(
        (branch, before[content(page)], new)
        for branch in now
        if _HEADER.unpack_from(now[branch])[2] == BRANCH
        for new, page in now.items()
        if content(page) in before and new.to_bytes(6, "little") in now[branch]
    )
    assert old not in now
    page = page_of(engine, branch)
    rewrite(engine, branch, page.replace(new.to_bytes(6, "little"), old.to_bytes(6, "little")))
    with pytest.raises(CorruptStore, match="in use and on the list of free pages"):
        check_environment(engine.path)


def test_a_list_of_free_pages_with_a_page_that_is_in_use_is_refused(engine: Engine) -> None:
    fill(engine)
    fill(engine)
    used = reachable(engine)[-1]
    file = engine.path / DATA_FILE
    with file.open("r+b") as stream:
        _, position, _ = next(free_records(stream.fileno(), read_meta(stream.fileno(), file), file))
        stream.seek(position + 8)
        stream.write(used.to_bytes(8, "little"))
    with pytest.raises(CorruptStore, match=r"free pages.*remove this member"):
        check_environment(engine.path)


async def test_a_look_in_processes_of_its_own_finds_what_is_damaged(engine: Engine) -> None:
    fill(engine)
    left = unseen(engine)
    look = LookAtRest(engine.path, left, nobody)
    await look.wait()
    look.close()
    number = next(each for each in reachable(engine) if _HEADER.unpack_from(page_of(engine, each))[2] == LEAF)
    page = page_of(engine, number)
    found, pad, flags, lower, upper = _HEADER.unpack_from(page)
    rewrite(engine, number, _HEADER.pack(found, pad, flags, lower - 2, upper) + page[_HEADER.size :])
    look = LookAtRest(engine.path, left, nobody)
    with pytest.raises(CorruptStore, match=f"page {number} is not filled by its nodes; remove this member"):
        await look.wait()
    look.close()


async def test_rows_that_the_parts_do_not_have_are_missed(engine: Engine) -> None:
    fill(engine)
    table = unseen(engine).tables[0]
    more = UnseenTable(table.name, table.pages, table.rows + 1)
    look = LookAtRest(engine.path, Unseen((more,), b""), nobody)
    with pytest.raises(CorruptStore, match=f"table {table.name}: there are 5000 rows, not 5001; remove this member"):
        await look.wait()
    look.close()


async def test_it_is_told_how_far_the_look_has_come(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(helper, "_SECONDS_BETWEEN_NEWS", 0.0)
    fill(engine)
    told: list[int] = []
    look = LookAtRest(engine.path, unseen(engine), told.append)
    await look.wait()
    look.close()
    assert told
    assert told == sorted(told)
    assert 50 < told[-1] <= 99


def meta_of(engine: Engine) -> Meta:
    file = engine.path / DATA_FILE
    with file.open("rb") as stream:
        return read_meta(stream.fileno(), file)


def free_some(engine: Engine) -> None:
    """Leave a list of free pages of several records, one of which is too long for its page."""
    fill(engine, 50_000)
    batch = WriteBatch()
    batch.delete_range("plain", b"01000", b"49000")
    engine.commit([batch.operations])
    for number in range(4):
        batch = WriteBatch()
        batch.put("plain", {b"%05d" % (200 * number): b"other"})
        engine.commit([batch.operations])
    assert check_environment(engine.path) is None


def long_record(engine: Engine) -> int:
    """The page that the first record of free pages which has its own begins at."""
    file = engine.path / DATA_FILE
    with file.open("rb") as stream:
        records = free_records(stream.fileno(), read_meta(stream.fileno(), file), file)
        return next(position // 4096 for _, position, size in records if size > 2048)


def test_every_bit_of_the_free_lists_own_pages_counts(engine: Engine) -> None:
    free_some(engine)
    root = meta_of(engine).free.root
    page = page_of(engine, root)
    assert _HEADER.unpack_from(page)[2] == LEAF
    places = [(root, at) for at in range(_HEADER.unpack_from(page)[3]) if at not in (8, 9)]
    big = 0
    for at, _, flags, _ in nodes_of(page):
        places += [(root, at + byte) for byte in range(NODE.size)]
        if flags & BIG_DATA:
            big += 1
            number = int.from_bytes(page[at + 16 : at + 24], "little")
            places += [(root, at + 16 + byte) for byte in range(8)]
            places += [(number, byte) for byte in (*range(8), *range(10, 16))]
    assert big
    for number, at in places:
        for bit in range(8):
            assert refused(engine, number, at, 1 << bit), f"bit {bit} of byte {at} of page {number}"


@pytest.mark.parametrize("byte", range(7))
def test_free_pages_of_a_transaction_that_was_not_yet_are_refused(engine: Engine, byte: int) -> None:
    free_some(engine)
    root = meta_of(engine).free.root
    *_, (at, _, _, key_size) = nodes_of(page_of(engine, root))
    assert key_size == 8
    assert "no transaction" in refused(engine, root, at + NODE.size + byte, 0x80)


def test_free_pages_of_transactions_out_of_order_are_refused(engine: Engine) -> None:
    free_some(engine)
    root = meta_of(engine).free.root
    first, second, *_ = nodes_of(page_of(engine, root))
    keys = [page_of(engine, root)[at + NODE.size] for at, *_ in (first, second)]
    assert "keys out of order" in refused(engine, root, first[0] + NODE.size, keys[0] ^ keys[1])


def test_a_list_of_free_pages_that_lists_its_own_is_refused(engine: Engine) -> None:
    free_some(engine)
    file = engine.path / DATA_FILE
    with file.open("rb") as stream:
        _, position, _ = next(free_records(stream.fileno(), read_meta(stream.fileno(), file), file))
    whole = file.read_bytes()
    for own in (meta_of(engine).free.root, long_record(engine)):
        file.write_bytes(whole[: position + 8] + own.to_bytes(8, "little") + whole[position + 16 :])
        with pytest.raises(CorruptStore, match=_FREE_LIST):
            check_environment(engine.path)
    file.write_bytes(whole)


def test_a_file_that_ends_within_its_free_list_is_refused_wherever_it_ends(engine: Engine) -> None:
    free_some(engine)
    file = engine.path / DATA_FILE
    begin = long_record(engine) * 4096
    for size in (*range(begin, begin + 4096, 331), begin + 8, begin + 24):
        copy = engine.path / "cut"
        copy.mkdir(exist_ok=True)
        (copy / DATA_FILE).write_bytes(file.read_bytes()[:size])
        with pytest.raises(CorruptStore):
            check_environment(copy)


def test_a_value_that_says_to_have_more_pages_than_it_has_is_refused(engine: Engine) -> None:
    for round_ in range(3):
        batch = WriteBatch()
        batch.put("plain", {b"%d/%d" % (round_, number): os.urandom(9000) for number in range(20)})
        batch.put("room", {b"%d/%d" % (round_, number): bytes(500) for number in range(20)})
        engine.commit([batch.operations])
    assert check_environment(engine.path) is None
    pages = [number for number in reachable(engine, OVERFLOW) if page_of(engine, number)[12:16] == b"\x03\0\0\0"]
    assert len(pages) == 60
    for number in pages[::7]:
        for at, bits in ((12, range(2, 8)), (13, range(8)), (14, range(8)), (15, range(8))):
            for bit in bits:
                assert refused(engine, number, at, 1 << bit)


def test_a_value_in_more_pages_than_it_needs_has_replaced_a_longer_one(engine: Engine) -> None:
    long, short = WriteBatch(), WriteBatch()
    long.put("plain", {b"key": bytes(30_000)})
    short.put("plain", {b"key": bytes(5_000)})
    engine.commit([long.operations, short.operations])
    (number,) = reachable(engine, OVERFLOW)
    assert _HEADER.unpack_from(page_of(engine, number))[3] == 8
    assert check_environment(engine.path) is None
    engine.commit([[]])
    assert check_environment(engine.path) is None


async def test_a_page_that_two_parts_come_by_is_refused(engine: Engine) -> None:
    # So long that a branch leads to a few leaves of a few rows.
    values = {b"%0480d" % number: os.urandom(3000) for number in range(400)}
    batch = WriteBatch()
    batch.put("plain", values)
    engine.commit([batch.operations])
    left = unseen(engine)
    parts = [check_part(engine.path, ["plain"], nobody, part, 2) for part in range(2)]
    check_whole(engine.path, left, parts)
    one, other = (used for _, used in parts)
    number = next(
        number
        for number in reachable(engine, OVERFLOW)
        if (one[number] and other[number + 1]) or (other[number] and one[number + 1])
    )
    page = page_of(engine, number)
    rewrite(engine, number, page[:12] + b"\2" + page[13:])
    parts = [check_part(engine.path, ["plain"], nobody, part, 2) for part in range(2)]
    with pytest.raises(CorruptStore, match=f"page {number + 1}: it is in use twice; remove this member"):
        check_whole(engine.path, left, parts)
    look = LookAtRest(engine.path, left, nobody)
    with pytest.raises(CorruptStore, match="in use twice"):
        await look.wait()
    look.close()


def test_what_nodes_say_of_lists_of_values_counts(engine: Engine) -> None:
    batch = WriteBatch()
    few = {b"%02d" % number: [b"%05d" % value for value in range(5)] for number in range(5)}
    batch.change_dups("dups", {**few, b"often": [b"%05d" % value for value in range(900)]}, {})
    engine.commit([batch.operations])
    assert check_environment(engine.path) is None
    kinds = set()
    for number in reachable(engine):
        page = page_of(engine, number)
        if _HEADER.unpack_from(page)[2] != LEAF:
            continue
        for place, (at, size, flags, key_size) in enumerate(nodes_of(page)):
            begin = at + NODE.size + key_size
            if flags == 6:
                places = range(begin, begin + 6)
            elif flags == 4:
                places = range(0)
                for inner, *_ in nodes_of(page[begin : begin + size]):
                    assert refused(engine, number, begin + inner + 4, 1)
                    assert all(refused(engine, number, begin + inner + byte, 2) for byte in range(6))
            elif page[at + 8 : at + 13].isdigit() and not size and place % 60 == 0:
                flags, places = -1, range(at, at + 6)
            else:
                continue
            kinds.add(flags)
            assert all(refused(engine, number, place, 1 << bit) for place in places for bit in range(8))
    assert kinds == {6, 4, -1}


def test_tables_of_another_name_or_kind_are_refused(engine: Engine) -> None:
    check_tables_of(engine.path, TABLES)
    for tables, reason in (
        ((*TABLES, TableSpec("more")), "more is not there"),
        (TABLES[:-1], "b'dups' is none that belongs there"),
        ((TableSpec("plain", DUP), *TABLES[1:]), "plain is stored as another kind of table"),
    ):
        with pytest.raises(CorruptStore, match=rf"data\.mdb: the list of tables: {reason}; remove this member"):
            check_tables_of(engine.path, tables)


def test_tables_of_an_environment_without_any_are_none(tmp_path: Path) -> None:
    Engine(tmp_path, ()).close()
    check_tables_of(tmp_path, TABLES)


def test_an_environment_that_cannot_be_mapped_is_not_left_open(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no memory")

    monkeypatch.setattr(mmap, "mmap", refuse)
    before = os.listdir("/proc/self/fd")
    with pytest.raises(OSError, match="no memory"):
        check_environment(engine.path)
    assert os.listdir("/proc/self/fd") == before


def test_a_look_that_cannot_begin_leaves_nothing_behind(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(engine)
    left = unseen(engine)
    before = os.listdir("/proc/self/fd")

    def refuse(*_: object) -> None:
        raise OSError("not today")

    started = []
    spawn = helper.spawn

    def start(module: str, channel: int) -> subprocess.Popen[bytes]:
        started.append(spawn(module, channel))
        return started[-1]

    with monkeypatch.context() as patch:
        patch.setattr(helper, "spawn", refuse)
        with pytest.raises(OSError, match="not today") as kept:
            LookAtRest(engine.path, left, nobody)
        assert os.listdir("/proc/self/fd") == before, kept
    monkeypatch.setattr(helper, "spawn", start)
    monkeypatch.setattr(socket.socket, "sendall", refuse)
    with pytest.raises(OSError, match="not today") as kept:
        LookAtRest(engine.path, left, nobody)
    assert [each.returncode for each in started] == [-9], kept
    assert os.listdir("/proc/self/fd") == before
