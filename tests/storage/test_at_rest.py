"""What nobody has open is looked at before it is read, and what LMDB left passes whatever was done with it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from struct import Struct

import pytest

from kvstore.storage import helper
from kvstore.storage.at_rest import Unseen, check_environment, check_part
from kvstore.storage.batch import WriteBatch
from kvstore.storage.engine import Engine, EngineOptions
from kvstore.storage.errors import CorruptStore
from kvstore.storage.helper import LookAtRest
from kvstore.storage.pages import BRANCH, DATA_FILE, LEAF, free_records, read_meta
from tests.storage.test_structure import TABLES, commit_by_chance, page_of, reachable, rewrite

_HEADER = Struct("=QHHHH")


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


@pytest.mark.parametrize("seed", range(3))
def test_whatever_is_written_is_sound_at_once_and_in_parts(engine: Engine, seed: int) -> None:
    chance = random.Random(seed)
    for round_ in range(12):
        commit_by_chance(engine, chance, round_)
        assert check_environment(engine.path) == []
    engine.compact()
    left = check_environment(engine.path, 10)
    assert {table.name for table in left} >= {"plain", "room", "dups"}
    parts = [check_part(engine.path, [table.name for table in left], nobody, part, 3) for part in range(3)]
    for table in left:
        assert sum(part[table.name] for part in parts) == table.rows


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
    assert check_environment(engine.path) == []


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
    left = check_environment(engine.path, 10)
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
    (table, *_) = check_environment(engine.path, 10)
    look = LookAtRest(engine.path, [Unseen(table.name, table.pages, table.rows + 1)], nobody)
    with pytest.raises(CorruptStore, match=f"table {table.name}: there are 5000 rows, not 5001; remove this member"):
        await look.wait()
    look.close()


async def test_it_is_told_how_far_the_look_has_come(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(helper, "_SECONDS_BETWEEN_NEWS", 0.0)
    fill(engine)
    told: list[int] = []
    look = LookAtRest(engine.path, check_environment(engine.path, 10), told.append)
    await look.wait()
    look.close()
    assert told
    assert told == sorted(told)
    assert 50 < told[-1] <= 99
