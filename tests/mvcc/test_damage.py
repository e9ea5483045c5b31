"""Rows that are not what was written are found when they are read, whichever way they are read, and never served."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path

import pytest

from kvstore.lease.lessor import Lessor
from kvstore.mvcc.encoding import REVISION
from kvstore.mvcc.puts import of_message
from kvstore.mvcc.store import Store
from kvstore.pb import rpc_pb2 as pb
from kvstore.storage.backend import open_inline
from kvstore.storage.errors import CorruptStore
from kvstore.storage.pages import DATA_FILE
from tests.mvcc.harness import TABLES, Harness, Sink

KEYS = [b"key/%02d" % number for number in range(20)]
VICTIM = KEYS[7]
LONG = b"long/" + b"k" * 1200


@pytest.fixture
def harness() -> Iterator[Harness]:
    made = Harness()
    for generation in (b"first", b"second"):
        for key in [*KEYS, LONG]:
            made.store.put(of_message(pb.PutRequest(key=key, value=generation + b" of " + key)))
    made.backend.flush()
    made.settle()
    yield made
    made.destroy()


def damage(harness: Harness, table: str, key: bytes, change: Callable[[bytes, bytes], tuple[bytes, bytes]]) -> None:
    """Change a row on disk, or its key, behind the back of the store, and have the store read the disk again."""
    env = harness.backend._env.engine.env  # type: ignore[union-attr]
    db = env.open_db(table.encode(), dupsort=table == "past")
    with env.begin(write=True, db=db) as txn:
        stored = txn.get(key)
        assert stored is not None
        assert txn.delete(key, stored if table == "past" else b"")
        assert txn.put(*change(key, stored))
    harness.backend._rebase()


def damage_key(harness: Harness, key: bytes, other: bytes) -> None:
    """Change a key where it stands on its page, whatever order that makes."""
    file = harness.path / DATA_FILE
    with harness.backend._env.reading.begin()[0] as txn:
        stored = txn.get(key, db=harness.backend._env.reading.begin()[1]["current"].main)
    assert stored is not None
    data = file.read_bytes()
    assert key + stored in data
    with file.open("r+b") as stream:
        # In place: what is mapped is this file. Pages that are free may hold it, too.
        at = -1
        while (at := data.find(key + stored, at + 1)) >= 0:
            stream.seek(at)
            stream.write(other)
    harness.backend._rebase()


def hide(harness: Harness, table: str, key: bytes, rows: int) -> None:
    """Take the last rows of the leaf with a key out of the way, as a flipped bit in its header does."""
    file = harness.path / DATA_FILE
    with harness.backend._env.reading.begin()[0] as txn:
        stored = txn.get(key, db=harness.backend._env.reading.begin()[1][table].main)
    assert stored is not None
    data = file.read_bytes()
    with file.open("r+b") as stream:
        at = -1
        while (at := data.find(key + stored, at + 1)) >= 0:
            count = at // 4096 * 4096 + 12
            stream.seek(count)
            stream.write((int.from_bytes(data[count : count + 2], "little") - 2 * rows).to_bytes(2, "little"))
    harness.backend._rebase()


def flipped(bit: int) -> Callable[[bytes, bytes], tuple[bytes, bytes]]:
    def change(key: bytes, stored: bytes) -> tuple[bytes, bytes]:
        at = bit % (8 * len(stored))
        data = bytearray(stored)
        data[at // 8] ^= 1 << at % 8
        return key, bytes(data)

    return change


def get(harness: Harness, key: bytes, revision: int = 0) -> bytes:
    return harness.store.range(pb.RangeRequest(key=key, revision=revision))


EVERYTHING = pb.RangeRequest(key=b"\0", range_end=b"\0")

READS: list[pb.RangeRequest] = [
    pb.RangeRequest(key=VICTIM),
    pb.RangeRequest(key=VICTIM, keys_only=True),
    EVERYTHING,
    pb.RangeRequest(key=b"\0", range_end=b"\0", keys_only=True),
    pb.RangeRequest(key=b"\0", range_end=b"\0", limit=15, sort_order=pb.RangeRequest.DESCEND),
    pb.RangeRequest(key=b"\0", range_end=b"\0", sort_target=pb.RangeRequest.VALUE),
]


@pytest.mark.parametrize("where", [b"key/0w", b"key/\xb07", b"aey/07", b"zey/07"])
def test_a_key_that_has_become_another_is_not_said_to_be_missing(harness: Harness, where: bytes) -> None:
    damage_key(harness, VICTIM, where)
    for revision in (0, 40):
        with pytest.raises(CorruptStore):
            get(harness, VICTIM, revision)
    for key in KEYS:
        # Lookups of other keys may come by, and go astray.
        with contextlib.suppress(CorruptStore):
            assert b"second of " + key in get(harness, key)


def test_what_is_not_there_is_missing_whatever_is_beside_it(harness: Harness) -> None:
    store = harness.store
    store.put(of_message(pb.PutRequest(key=b"key/07/new", value=b"not on disk yet")))
    store.delete_range(pb.DeleteRangeRequest(key=KEYS[3]))
    for flushed in (False, True):
        for key in (
            b"a",
            b"key/0",
            b"key/03",
            b"key/04/",
            b"key/07/",
            b"l",
            b"long/" + b"k" * 475,
            b"zzz",
            LONG + b"-",
        ):
            assert get(harness, key) == b"", (key, flushed)
        assert b"second of key/03" in get(harness, KEYS[3], store.revision - 1)
        assert get(harness, b"key/07/new", store.revision - 2) == b""
        assert get(harness, KEYS[3], 2) == b""
        harness.backend.flush()


@pytest.mark.parametrize("bit", [0, 9, 100, 180, 250, 320, 400, 500, -1, -33])
def test_a_flipped_bit_in_a_newest_version_is_found_by_every_read(harness: Harness, bit: int) -> None:
    found: list[CorruptStore] = []
    harness.backend.on_damage = found.append
    damage(harness, "current", VICTIM, flipped(bit))
    for request in READS:
        with pytest.raises(CorruptStore, match=r"the row of b'key/07' in table current is damaged; remove this member"):
            harness.store.range(request)
    assert len(found) == len(READS)
    assert b"second of key/08" in get(harness, KEYS[8])


def test_a_flipped_bit_is_found_by_whoever_changes_the_key(harness: Harness) -> None:
    damage(harness, "current", VICTIM, flipped(200))
    before = harness.store.revision
    compare = pb.Compare(key=VICTIM, version=2, target=pb.Compare.VERSION)
    changes: list[Callable[[], bytes]] = [
        lambda: harness.store.put(of_message(pb.PutRequest(key=VICTIM, value=b"third"))),
        lambda: harness.store.delete_range(pb.DeleteRangeRequest(key=VICTIM)),
        lambda: harness.store.txn(pb.TxnRequest(compare=[compare])),
    ]
    for change in changes:
        with pytest.raises(CorruptStore):
            change()
    assert harness.store.revision == before


def test_a_row_under_another_key_is_not_served(harness: Harness) -> None:
    other = b"key/0w"
    damage(harness, "current", VICTIM, lambda _, stored: (other, stored))
    with pytest.raises(CorruptStore):
        get(harness, other)
    with pytest.raises(CorruptStore):
        harness.store.range(EVERYTHING)


def test_a_flipped_bit_in_a_long_key_s_row_is_found(harness: Harness) -> None:
    env = harness.backend._env.engine.env  # type: ignore[union-attr]
    db = env.open_db(b"current.layers")
    with env.begin(write=True, db=db) as txn, txn.cursor(db) as cursor:
        assert cursor.last()
        key, stored = cursor.item()
        txn.put(*flipped(80)(key, stored))
    harness.backend._rebase()
    with pytest.raises(CorruptStore, match="1205 bytes"):
        get(harness, LONG)
    with pytest.raises(CorruptStore):
        harness.store.range(EVERYTHING)


@pytest.mark.parametrize("overlaid", [False, True])
def test_rows_that_a_page_hides_are_missed_by_what_reads_all_of_their_bucket(harness: Harness, overlaid: bool) -> None:
    # Without the long key: rows are then counted where they are.
    harness.store.delete_range(pb.DeleteRangeRequest(key=LONG))
    harness.backend.flush()
    whole = harness.store.range(EVERYTHING)
    hide(harness, "current", KEYS[3], 4)
    if overlaid:
        harness.store.put(of_message(pb.PutRequest(key=KEYS[2])))
    for revision in (0, 40):
        with pytest.raises(CorruptStore, match=r"the way to some rows from b'' on \(16, not 20\) in table current"):
            harness.store.range(pb.RangeRequest(key=b"\0", range_end=b"\0", revision=revision))
    # A part of a bucket is not counted.
    assert harness.store.range(pb.RangeRequest(key=b"k", range_end=KEYS[9])) != whole


@pytest.mark.parametrize(("table", "key"), [("current", KEYS[3]), ("past", KEYS[3]), ("history", REVISION.pack(30, 0))])
def test_rows_that_a_page_hides_are_missed_by_whoever_walks_them_all(harness: Harness, table: str, key: bytes) -> None:
    found: list[CorruptStore] = []
    harness.backend.on_damage = found.append
    asyncio.run(harness.backend.look())
    hide(harness, table, key, 4)
    ways: list[Callable[[], Coroutine[object, object, object]]] = [
        lambda: harness.store.hash_kv(0),
        harness.store.hash,
        harness.backend.snapshot,
        harness.backend.look,
    ]
    for way in ways:
        with pytest.raises(CorruptStore, match=f"table {table}.*; remove this member"):
            asyncio.run(way())
    assert len(found) == len(ways)


@pytest.mark.parametrize("bit", [0, 30, 150, -1])
def test_a_flipped_bit_in_history_is_found(harness: Harness, bit: int) -> None:
    damage(harness, "history", REVISION.pack(2 + 7, 0), flipped(bit))
    with pytest.raises(CorruptStore, match="table history"):
        get(harness, VICTIM, 20)
    assert b"first of key/08" in get(harness, KEYS[8], 20)
    assert b"second" in get(harness, VICTIM)
    with pytest.raises(CorruptStore):
        asyncio.run(harness.store.hash_kv(0))


def test_a_row_missing_from_history_is_noticed(harness: Harness) -> None:
    damage(harness, "history", REVISION.pack(2 + 7, 0), lambda _, stored: (REVISION.pack(10**6, 0), stored))
    with pytest.raises(CorruptStore, match="what belongs to revision 9 in table history is damaged"):
        get(harness, VICTIM, 20)


@pytest.mark.parametrize("bit", [60, 90, 100, -1])
def test_a_flipped_bit_among_past_versions_is_found(harness: Harness, bit: int) -> None:
    damage(harness, "past", VICTIM, flipped(bit))
    with pytest.raises(CorruptStore, match="table past"):
        get(harness, VICTIM, 20)


def test_a_watch_that_would_be_told_something_damaged_is_ended(harness: Harness) -> None:
    damage(harness, "history", REVISION.pack(2 + 7, 0), flipped(100))
    sink = Sink()
    stream = harness.store.watches.open(sink)
    stream.create(pb.WatchCreateRequest(key=b"\0", range_end=b"\0", start_revision=1))
    while harness.store.watches.sync():
        pass
    created, canceled = sink.received
    assert created.created
    assert canceled.canceled
    assert canceled.cancel_reason == "etcdserver: corrupt cluster"
    assert not canceled.events


def test_compaction_leaves_damage_as_it_is_and_says_so(harness: Harness) -> None:
    found: list[CorruptStore] = []
    harness.backend.on_damage = found.append
    damage(harness, "history", REVISION.pack(2 + 7, 0), flipped(100))
    harness.store.compact(harness.store.revision)
    harness.settle()
    assert harness.store.compactor.failures == 1
    assert ["history" in str(error) for error in found] == [True]


@pytest.mark.parametrize("table", ["counts", "meta", "leases", "lease_keys"])
def test_a_flipped_bit_in_what_is_read_at_the_start_is_found_then(harness: Harness, table: str, tmp_path: Path) -> None:
    harness.lessor.grant(pb.LeaseGrantRequest(ID=5, TTL=100), 0)
    harness.store.put(of_message(pb.PutRequest(key=b"leased", lease=5)))
    harness.backend.flush()
    env = harness.backend._env.engine.env  # type: ignore[union-attr]
    db = env.open_db(table.encode())
    with env.begin(write=True, db=db) as txn, txn.cursor(db) as cursor:
        assert cursor.first()
        key, stored = cursor.item()
        txn.put(*flipped(3)(key, stored))
    copy = tmp_path / "copy"
    shutil.copytree(harness.path, copy)
    with pytest.raises(CorruptStore, match=f"table {table}"):
        read_at_start(copy)


def read_at_start(path: Path) -> None:
    backend = open_inline(path, TABLES)
    try:
        leases = Lessor(backend)
        Store(backend, leases)
        leases.keys(5)
    finally:
        asyncio.run(backend.close())
