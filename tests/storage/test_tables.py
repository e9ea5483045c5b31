"""Tables against plain dicts, with flushes, freezes and long keys at random points."""

from __future__ import annotations

import itertools
import random
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from kvstore.storage import backend as backends
from kvstore.storage.batch import APPEND, DUP, ROOM, SEALED, TableSpec, WriteBatch
from kvstore.storage.engine import EngineOptions
from kvstore.storage.errors import CorruptStore
from kvstore.storage.overlay import Remains, SortedKeys
from kvstore.storage.table import Table

A, B = b"a" * 480, b"b" * 480

# Few different keys, so that they meet: short ones, some around the length of a chunk, some several layers deep.
_tails = st.binary(min_size=0, max_size=3).map(lambda tail: bytes(b"abcyz\xff"[byte % 6] for byte in tail))
_heads = st.sampled_from([b"", A[:479], A, A + b"\0", A + A, A + A[:479], A + B, A + A + A, B + A])
keys = st.builds(bytes.__add__, _heads, _tails).filter(bool)
values = st.binary(max_size=8)
dup_values = st.integers(0, 40).map(lambda number: number.to_bytes(2, "big"))
ends = st.none() | keys | st.integers(0, 600).map(lambda number: number.to_bytes(2, "big"))

starts = keys | st.just(b"") | st.integers(0, 600).map(lambda number: number.to_bytes(2, "big"))


class TableMachine(RuleBasedStateMachine):
    """A plain, an append and a DUP table beside a dict each."""

    @initialize(use_long=st.booleans())
    def open(self, use_long: bool) -> None:
        self.directory = tempfile.TemporaryDirectory()
        self.acknowledgements: deque[Callable[[], None]] = deque()
        self.held = False
        self.backend = backends.open_inline(
            Path(self.directory.name),
            [TableSpec("plain"), TableSpec("append", APPEND), TableSpec("dup", DUP)],
            schedule=lambda done: self.acknowledgements.append(done) if self.held else done(),
        )
        engine = self.backend._env.engine
        assert engine is not None
        self.engine = engine
        self.tables = {name: self.backend.table(name) for name in ("plain", "append")}
        self.dups = self.backend.dup_table("dup")
        self.models: dict[str, dict[bytes, bytes]] = {"plain": {}, "append": {}}
        self.dup_model: dict[bytes, set[bytes]] = {}

    def teardown(self) -> None:
        if hasattr(self, "directory"):
            self.engine.close()
            self.directory.cleanup()

    @rule(name=st.sampled_from(["plain", "append"]), key=keys, value=values)
    def put(self, name: str, key: bytes, value: bytes) -> None:
        self.tables[name].put(key, value)
        self.models[name][key] = value

    @rule(
        name=st.sampled_from(["plain", "append"]),
        first=st.integers(0, 300),
        count=st.integers(1, 250),
        step=st.integers(1, 3),
        flush=st.booleans(),
    )
    def put_many(self, name: str, first: int, count: int, step: int, flush: bool) -> None:
        rows = {number.to_bytes(2, "big"): bytes([step]) for number in range(first, first + count * step, step)}
        for key, value in rows.items():
            self.tables[name].active[key] = value
        self.models[name].update(rows)
        if flush:
            self.flush()

    @rule(name=st.sampled_from(["plain", "append"]), keys=st.lists(keys, min_size=1, max_size=10), value=values)
    def put_some(self, name: str, keys: list[bytes], value: bytes) -> None:
        for key in keys:
            self.put(name, key, value)

    @rule(name=st.sampled_from(["plain", "append"]), first=st.integers(0, 300), count=st.integers(1, 100))
    def delete_many(self, name: str, first: int, count: int) -> None:
        for number in range(first, first + count):
            self.delete(name, number.to_bytes(2, "big"))

    @rule(name=st.sampled_from(["plain", "append"]), key=keys)
    def delete(self, name: str, key: bytes) -> None:
        self.tables[name].delete(key)
        self.models[name].pop(key, None)

    @rule(key=keys, value=dup_values)
    def add(self, key: bytes, value: bytes) -> None:
        self.dups.add(key, value)
        self.dup_model.setdefault(key, set()).add(value)

    @rule(key=keys, value=dup_values)
    def remove(self, key: bytes, value: bytes) -> None:
        self.dups.remove(key, value)
        self.dup_model.get(key, set()).discard(value)

    @rule(key=keys)
    def remove_all(self, key: bytes) -> None:
        self.dups.delete(key)
        self.dup_model.pop(key, None)

    @rule()
    def flush(self) -> None:
        self.held = False
        self.backend.flush()

    @rule()
    def freeze(self) -> None:
        """Begin a flush that is committed but not acknowledged."""
        self.held = True
        self.backend.flush()

    @rule()
    def acknowledge(self) -> None:
        self.held = False
        while self.acknowledgements:
            self.acknowledgements.popleft()()

    @rule(name=st.sampled_from(["plain", "append"]), start=starts, end=ends, limit=st.integers(0, 30))
    def scan(self, name: str, start: bytes, end: bytes | None, limit: int) -> None:
        model = self.models[name]
        expected = [row for row in sorted(model.items()) if row[0] >= start and (end is None or row[0] < end)]
        table = self.tables[name]
        assert list(table.scan(start, end)) == expected
        assert list(table.scan(start, end, reverse=True)) == expected[::-1]
        assert table.items(start, end, limit) == (expected[:limit] if limit else expected)
        assert table.items_back(start, end, limit) == (expected[::-1][:limit] if limit else expected[::-1])

    @rule(key=keys, bound=dup_values, start=starts, end=ends)
    def scan_dups(self, key: bytes, bound: bytes, start: bytes, end: bytes | None) -> None:
        model = {key: sorted(values) for key, values in sorted(self.dup_model.items()) if values}
        assert self.dups.values(key) == model.get(key, [])
        at_most = {key: [value for value in values if value <= bound] for key, values in model.items()}
        assert self.dups.last_at_most(key, bound) == max(at_most.get(key, []), default=None)
        inside = [key for key in model if key >= start and (end is None or key < end)]
        assert list(self.dups.keys(start, end)) == inside
        assert list(self.dups.items(start, end)) == [(key, model[key]) for key in inside]
        assert self.dups.items_at_most(start, end, bound) == [(key, at_most[key][-1]) for key in inside if at_most[key]]

    @rule(key=keys)
    def get(self, key: bytes) -> None:
        for name, table in self.tables.items():
            assert table.get(key) == self.models[name].get(key)

    @rule(several=st.lists(starts.filter(bool), unique=True, max_size=6))
    def rows(self, several: list[bytes]) -> None:
        for name, table in self.tables.items():
            model = self.models[name]
            assert table.rows(several) == [(key, model[key]) for key in several if key in model]

    @rule(start=keys, end=ends, limit=st.integers(0, 3))
    def delete_range_in_the_writer(self, start: bytes, end: bytes | None, limit: int) -> None:
        self.acknowledge()
        self.backend.flush()
        operations = [(3, name, (start, end, limit)) for name in ("plain", "append", "dup")]
        self.engine.commit([operations])
        self.backend._rebase()
        self.dup_model = {key: values for key, values in self.dup_model.items() if values}
        models: list[dict[bytes, Any]] = [*self.models.values(), self.dup_model]
        for model in models:
            inside = [key for key in sorted(model) if key >= start and (end is None or key < end)]
            for key in inside[:limit] if limit else inside:
                del model[key]

    @invariant()
    def everything_is_there(self) -> None:
        if not hasattr(self, "tables"):
            return
        for name, table in self.tables.items():
            assert table.items(b"", None) == sorted(self.models[name].items())

    @rule()
    def no_layer_is_left_empty(self) -> None:
        self.acknowledge()
        self.backend.flush()
        with self.engine.env.begin() as txn:
            for name in ("plain", "append", "dup"):
                model = self.dup_model if name == "dup" else self.models[name]
                if not any(len(key) > 480 and (name != "dup" or model[key]) for key in model):
                    handle = self.engine.handles[name]
                    assert txn.stat(handle.layers)["entries"] == 0
                    if name != "dup":
                        assert txn.stat(handle.main)["entries"] == len(model)


TestTables = TableMachine.TestCase
TestTables.settings = settings(max_examples=50, stateful_step_count=50, deadline=None)


def test_changes_that_are_on_disk_are_let_go_of_a_few_at_a_time() -> None:
    changes: dict[bytes, bytes | None] = {b"%04d" % number: b"value" for number in range(1000)}
    keys = SortedKeys(changes)
    in_order = keys.get()
    remains = Remains()
    remains.add(changes, keys)
    # First the keys that were put in order, then the dict, of which two lists are made.
    remains.let_go(600)
    assert (len(in_order), len(changes)) == (400, 1000)
    remains.let_go(400)
    assert (len(in_order), len(changes)) == (0, 1000)
    steps = 0
    while remains:
        remains.let_go(300)
        assert not changes
        steps += 1
    assert steps == 1 + 7


def test_a_table_hands_on_what_it_forgets() -> None:
    table, remains = Table(TableSpec("current"), lambda _: None), Remains()
    table.put(b"a", b"1")
    table.freeze(WriteBatch())
    assert table.changes() == 1
    table.drop_frozen(remains)
    assert table.changes() == 0
    assert remains


@pytest.fixture(params=[SEALED, ROOM])
def backend(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[backends.Backend]:
    options = backends.BackendOptions(engine=EngineOptions(unsafe_no_fsync=True))
    made = backends.open_inline(tmp_path, [TableSpec("rows", seal=request.param)], options)
    yield made
    assert made._env.engine is not None
    made._env.engine.close()


# Small ones, of which many are checked together, among such as are checked one by one.
ROWS = {
    b"%03d" % number + b"k" * (number % 7): random.Random(number).randbytes(
        (5, 300, 40, 1000, 1020, 2000, 5, 310, 6000)[number % 9]
    )
    for number in range(100)
}


def rewrite(backend: backends.Backend, rows: list[tuple[bytes, bytes]]) -> None:
    """Store rows as they are, seals and all."""
    assert backend._env.engine is not None
    env = backend._env.engine.env
    with env.begin(write=True, db=env.open_db(b"rows")) as txn:
        for key, stored in rows:
            assert txn.put(key, stored)
    backend._rebase()


def stored_rows(backend: backends.Backend) -> list[tuple[bytes, bytes]]:
    """Flush ROWS; how they are stored then."""
    backend.table("rows").active.update(ROWS)
    backend.flush()
    assert backend._env.engine is not None
    env = backend._env.engine.env
    with env.begin(db=env.open_db(b"rows")) as txn:
        return list(txn.cursor())


def reads(table: Table) -> list[Callable[[], object]]:
    return [
        lambda: table.items(b"", None),
        lambda: table.items(b"", None, 1000),
        lambda: table.items_back(b"", None),
        lambda: table.rows(list(ROWS)),
    ]


def test_a_bit_that_has_flipped_is_found_in_whichever_row_of_a_list_it_is(backend: backends.Backend) -> None:
    table, chance = backend.table("rows"), random.Random(1)
    stored = stored_rows(backend)
    taken = [(key, value if table.spec.seal == SEALED else value[:-4]) for key, value in table.items(b"", None)]
    assert taken == [(key, value if table.spec.seal == SEALED else value[:-4]) for key, value in ROWS.items()]
    for key, intact in stored:
        # Its first byte, the last one of its seal, and any other.
        for at in (0, len(intact) - 1, chance.randrange(len(intact))):
            damaged = bytearray(intact)
            damaged[at] ^= 1 << chance.randrange(8)
            rewrite(backend, [(key, bytes(damaged))])
            for read in reads(table):
                with pytest.raises(CorruptStore, match=f"the row of {key!r} "):
                    read()
        rewrite(backend, [(key, intact)])
    assert len(table.items(b"", None)) == len(ROWS)


def test_rows_that_have_changed_places_are_found(backend: backends.Backend) -> None:
    table = backend.table("rows")
    stored = stored_rows(backend)
    for first, second in ((0, 1), (0, 2), (0, 6), (1, 7), (7, 8), (40, 94)):
        (key, value), (other_key, other_value) = stored[first], stored[second]
        rewrite(backend, [(key, other_value), (other_key, value)])
        for read in reads(table):
            with pytest.raises(CorruptStore, match="the row of "):
                read()
        rewrite(backend, [(key, value), (other_key, other_value)])
    assert len(table.items(b"", None)) == len(ROWS)


def test_the_same_bits_flipped_in_two_rows_do_not_make_up_for_each_other(backend: backends.Backend) -> None:
    table = backend.table("rows")
    stored = stored_rows(backend)
    small = [row for row in stored if len(row[1]) < 400][:20]
    for first, second in itertools.combinations(small, 2):
        flipped = [(key, value[:-1] + bytes([value[-1] ^ 0x10])) for key, value in (first, second)]
        rewrite(backend, flipped)
        with pytest.raises(CorruptStore, match=f"the row of {first[0]!r} "):
            table.items(b"", None)
        rewrite(backend, [first, second])
    assert len(table.items(b"", None)) == len(ROWS)
