"""Pages that hang together are told from those that do not, whatever their writer did with them."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path
from struct import Struct

import pytest

from kvstore.storage import structure
from kvstore.storage.batch import APPEND, DUP, ROOM, TableSpec, WriteBatch
from kvstore.storage.engine import Engine, EngineOptions
from kvstore.storage.errors import CorruptStore
from kvstore.storage.pages import BRANCH, DATA_FILE, LEAF, OVERFLOW
from kvstore.storage.transaction import ReadTransaction
from kvstore.storage.walk import Walk

TABLES = (TableSpec("plain"), TableSpec("room", seal=ROOM), TableSpec("log", APPEND), TableSpec("dups", DUP))

_HEADER = Struct("=QHHHH")


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    made = Engine(tmp_path, TABLES, EngineOptions(map_size=1 << 26, unsafe_no_fsync=True))
    yield made
    made.close()


def commit_by_chance(engine: Engine, chance: random.Random, round_: int) -> None:
    """Puts of all sizes, replaced and deleted, keys that LMDB does not take, values in lists short and long."""
    keys = [b"%05d" % chance.randrange(3000) for _ in range(300)]
    batch = WriteBatch()
    batch.put("plain", {key: os.urandom(chance.choice((3, 40, 700, 9000))) for key in keys[:100]})
    batch.put("plain", {b"l" * 479 + key: b"long" * chance.randrange(9) for key in keys[:20]})
    batch.put("room", {key * chance.randrange(1, 9): os.urandom(60) + bytes(4) for key in keys[100:200]})
    batch.put("room", dict.fromkeys(chance.choices(keys, k=50)))
    batch.put("log", {b"%08d" % (300 * round_ + number): b"entry" * 9 for number in range(300)})
    batch.delete_range("log", b"", b"%08d" % (100 * round_))
    added = {key: [b"%07d" % chance.randrange(10**7) for _ in range(5)] for key in keys[200:]}
    batch.change_dups("dups", {**added, b"often": [b"%09d" % (round_ * 999 + n) for n in range(400)]}, {})
    batch.delete("dups", keys[:50])
    engine.commit([batch.operations])


def reachable(engine: Engine, kind: int = BRANCH | LEAF) -> list[int]:
    """The pages of what is committed, but not those of long values; or the first page of each of these (OVERFLOW)."""
    found = []
    page, overflow = Walk._page, Walk._overflow

    def note(walk: Walk, number: int, expected: int) -> bytes:
        if expected & kind:
            found.append(number)
        return page(walk, number, expected)

    def note_value(walk: Walk, number: int, size: int) -> bytes:
        if kind == OVERFLOW:
            found.append(number)
        return overflow(walk, number, size)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Walk, "_page", note)
        patch.setattr(Walk, "_overflow", note_value)
        structure.check(engine.env, TABLES)
    return found


def rewrite(engine: Engine, number: int, page: bytes) -> None:
    with (engine.path / DATA_FILE).open("r+b") as file:
        file.seek(number * 4096)
        file.write(page)


def page_of(engine: Engine, number: int) -> bytes:
    with (engine.path / DATA_FILE).open("rb") as file:
        file.seek(number * 4096)
        return file.read(4096)


@pytest.mark.parametrize("seed", range(3))
def test_whatever_is_written_looks_right(engine: Engine, seed: int) -> None:
    chance = random.Random(seed)
    for round_ in range(12):
        commit_by_chance(engine, chance, round_)
        structure.check(engine.env, TABLES)
    engine.compact()
    structure.check(engine.env, TABLES)
    with engine.env.begin() as txn:
        ReadTransaction(txn, engine.handles).check_complete()


def test_steps_come_by_everything_though_it_changes_meanwhile(engine: Engine) -> None:
    chance = random.Random(9)
    for round_ in range(10):
        commit_by_chance(engine, chance, round_)
    leaves = len(reachable(engine))
    steps = 0
    place: structure.Place | None = structure.Place()
    while place is not None:
        with (engine.path / DATA_FILE).open("rb") as file:
            place = structure.check_some(engine.env, file.fileno(), TABLES, place, 7)
        steps += 1
        if steps % 20 == 0:
            commit_by_chance(engine, chance, 10 + steps)
    assert steps > leaves / 20


@pytest.mark.parametrize("kind", [LEAF, BRANCH])
def test_every_bit_of_a_header_and_a_table_of_nodes_counts(engine: Engine, kind: int) -> None:
    chance = random.Random(4)
    for round_ in range(8):
        commit_by_chance(engine, chance, round_)
    pages = [number for number in reachable(engine) if _HEADER.unpack_from(page_of(engine, number))[2] == kind]
    # Two bytes that LMDB leaves as they are.
    unused = range(8, 10)
    for number in chance.sample(pages, 2):
        page = page_of(engine, number)
        lower = _HEADER.unpack_from(page)[3]
        for at in [at for at in range(lower) if at not in unused]:
            bit = chance.randrange(8)
            rewrite(engine, number, page[:at] + bytes([page[at] ^ 1 << bit]) + page[at + 1 :])
            with pytest.raises(CorruptStore, match=r"data\.mdb: .* remove this member"):
                structure.check(engine.env, TABLES)
        rewrite(engine, number, page)
    structure.check(engine.env, TABLES)


def test_a_leaf_that_hides_its_last_rows_is_found_and_its_rows_are_counted(engine: Engine) -> None:
    batch = WriteBatch()
    batch.put("plain", {b"%05d" % number: b"value" * 5 for number in range(5000)})
    engine.commit([batch.operations])
    number = next(each for each in reachable(engine) if page_of(engine, each)[4000:].count(b"value") > 1)
    page = page_of(engine, number)
    found, pad, flags, lower, upper = _HEADER.unpack_from(page)
    rewrite(engine, number, _HEADER.pack(found, pad, flags, lower - 8, upper) + page[_HEADER.size :])
    with pytest.raises(CorruptStore, match=f"page {number} is not filled by its nodes"):
        structure.check(engine.env, TABLES)
    with engine.env.begin() as txn:
        reading = ReadTransaction(txn, engine.handles)
        assert sum(1 for _ in reading.items("plain")) == 4996
        with pytest.raises(CorruptStore, match="4996 rows are there, not 5000"):
            reading.check_complete()


def test_a_branch_that_leads_to_another_leaf_of_the_same_table_is_found(engine: Engine) -> None:
    batch = WriteBatch()
    batch.put("plain", {b"%05d" % number: b"value" * 5 for number in range(5000)})
    engine.commit([batch.operations])
    pages = {each: page_of(engine, each) for each in reachable(engine)}
    branch = next(each for each, page in pages.items() if _HEADER.unpack_from(page)[2] == BRANCH)
    page = pages[branch]
    first, second = (int.from_bytes(page[at : at + 2], "little") for at in (16, 18))
    rewrite(engine, branch, page[:first] + page[second : second + 4] + page[first + 4 :])
    with pytest.raises(CorruptStore, match="has keys of another"):
        structure.check(engine.env, TABLES)


def test_a_row_that_nobody_reads_is_found_by_its_seal(engine: Engine) -> None:
    batch = WriteBatch()
    batch.put("plain", {b"%05d" % number: b"value" * (600 if number == 7 else 5) for number in range(50)})
    engine.commit([batch.operations])
    file = engine.path / DATA_FILE
    data = file.read_bytes()
    at = data.index(b"value" * 600) + 1234
    with file.open("r+b") as stream:
        stream.seek(at)
        stream.write(bytes([data[at] ^ 1]))
    with pytest.raises(CorruptStore, match="the row of b'00007' in table plain is damaged"):
        structure.check(engine.env, TABLES)


def test_tables_of_another_name_or_kind_are_found(tmp_path: Path) -> None:
    engine = Engine(tmp_path, (*TABLES, TableSpec("none")), EngineOptions(map_size=1 << 26, unsafe_no_fsync=True))
    with pytest.raises(CorruptStore, match="the list of tables: b'none' is none that belongs there; remove this"):
        structure.check(engine.env, TABLES)
    with pytest.raises(CorruptStore, match="the list of tables: plain is stored as another kind of table; remove this"):
        structure.check(engine.env, (TableSpec("plain", DUP), *TABLES[1:], TableSpec("none")))
    engine.close()


def test_a_table_that_is_lost_is_not_made_anew(engine: Engine) -> None:
    engine.close()
    whole = (engine.path / DATA_FILE).read_bytes()
    with pytest.raises(CorruptStore, match="table lost is not there; remove this member"):
        Engine(engine.path, (*TABLES, TableSpec("lost")))
    assert (engine.path / DATA_FILE).read_bytes() == whole
    Engine(engine.path, TABLES).close()
