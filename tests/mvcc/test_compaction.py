"""Physical compaction between writes that are flushed and writes that are not: each order of events."""

from __future__ import annotations

import pytest

from kvstore.errors import Compacted, FutureRev
from kvstore.mvcc.puts import of_message
from kvstore.pb import rpc_pb2
from tests.mvcc.harness import Harness, Sink, finish


def put(harness: Harness, key: bytes, value: bytes) -> int:
    harness.store.put(of_message(rpc_pb2.PutRequest(key=key, value=value)))
    return harness.store.revision


def value(harness: Harness, key: bytes, revision: int = 0) -> bytes | None:
    response = rpc_pb2.RangeResponse.FromString(harness.store.range(rpc_pb2.RangeRequest(key=key, revision=revision)))
    return response.kvs[0].value if response.kvs else None


def history_revisions(harness: Harness) -> list[int]:
    return [int.from_bytes(key[:8], "big") for key, _ in harness.backend.table("history").scan(b"", None)]


def test_a_version_replaced_after_its_row_was_removed_can_still_be_read(harness: Harness) -> None:
    put(harness, b"a", b"old")
    first = put(harness, b"b", b"")
    harness.store.compact(first)
    harness.settle()
    assert history_revisions(harness) == [first]
    put(harness, b"a", b"new")
    assert value(harness, b"a", first) == b"old"
    harness.backend.flush()
    assert value(harness, b"a", first) == b"old"


def test_a_version_replaced_before_the_step_by_an_unflushed_write_can_still_be_read(harness: Harness) -> None:
    put(harness, b"a", b"old")
    first = put(harness, b"b", b"")
    harness.backend.flush()
    harness.store.compact(first)
    put(harness, b"a", b"new")
    harness.settle()
    assert value(harness, b"a", first) == b"old"
    harness.crash()
    assert value(harness, b"a", first) == b"old"
    assert value(harness, b"a") == b"new"


def test_a_write_before_the_compaction_that_is_not_committed_yet_is_waited_for(harness: Harness) -> None:
    put(harness, b"a", b"old")
    first = put(harness, b"b", b"")
    harness.hold_answers = True
    harness.backend.flush()
    # The flush above is still under way for the backend, so this write cannot be flushed before the first step.
    put(harness, b"a", b"new")
    harness.store.compact(first)
    harness.work()
    harness.settle()
    assert harness.store.compactor.finished == first
    assert value(harness, b"a", first) == b"old"
    assert value(harness, b"a") == b"new"


def test_a_deletion_is_removed_with_everything_before_it(harness: Harness) -> None:
    put(harness, b"a", b"1")
    put(harness, b"a", b"2")
    harness.store.delete_range(rpc_pb2.DeleteRangeRequest(key=b"a"))
    last = put(harness, b"b", b"")
    harness.store.compact(last)
    harness.settle()
    assert history_revisions(harness) == [last]
    assert list(harness.backend.dup_table("past").keys(b"", None)) == []
    assert value(harness, b"a") is None


def test_the_compacted_revision_itself_is_still_watched(harness: Harness) -> None:
    put(harness, b"a", b"1")
    harness.store.delete_range(rpc_pb2.DeleteRangeRequest(key=b"a"))
    revision = harness.store.revision
    put(harness, b"b", b"")
    harness.store.compact(revision)
    harness.settle()
    sink = Sink()
    stream = harness.store.watches.open(sink)
    stream.create(rpc_pb2.WatchCreateRequest(key=b"a", range_end=b"z", start_revision=revision))
    while harness.store.watches.sync():
        pass
    assert [event.kv.mod_revision for answer in sink.received for event in answer.events] == [revision, revision + 1]


def test_a_read_that_has_begun_is_not_disturbed(harness: Harness) -> None:
    rows = 5000
    for number in range(rows):
        put(harness, b"key%05d" % number, b"old")
    revision = harness.store.revision
    steps = harness.store.range_steps(rpc_pb2.RangeRequest(key=b"key", range_end=b"kez"))
    next(steps)
    for number in range(rows):
        put(harness, b"key%05d" % number, b"new")
    harness.store.compact(harness.store.revision)
    finished: list[bool] = []
    harness.store.compactor.when_finished(harness.store.revision, lambda: finished.append(True))
    harness.settle()
    assert not finished
    response, _ = finish(steps)
    assert response.count == rows
    assert {kv.value for kv in response.kvs} == {b"old"}
    assert max(kv.mod_revision for kv in response.kvs) == revision
    harness.settle()
    assert finished
    assert harness.store.compactor.removed == 2 * rows - 1


def test_an_abandoned_read_holds_nothing(harness: Harness) -> None:
    for number in range(3000):
        put(harness, b"key%05d" % number, b"")
    steps = harness.store.range_steps(rpc_pb2.RangeRequest(key=b"key", range_end=b"kez"))
    next(steps)
    harness.store.put(of_message(rpc_pb2.PutRequest(key=b"other")))
    harness.store.compact(harness.store.revision)
    harness.settle()
    assert harness.store.compactor.finished < harness.store.revision
    steps.close()
    harness.settle()
    assert harness.store.compactor.finished == harness.store.revision


def test_compaction_goes_on_after_a_restart(harness: Harness) -> None:
    for _ in range(10):
        put(harness, b"a", b"")
    harness.store.compact(harness.store.revision)
    harness.backend.flush()
    harness.crash()
    assert harness.store.compact_revision == harness.store.revision
    harness.settle()
    assert history_revisions(harness) == [harness.store.revision]


def test_compaction_goes_forward_only(harness: Harness) -> None:
    revision = put(harness, b"a", b"")
    with pytest.raises(FutureRev):
        harness.store.compact(revision + 1)
    harness.store.compact(revision)
    with pytest.raises(Compacted):
        harness.store.compact(revision)
    with pytest.raises(Compacted):
        harness.store.range(rpc_pb2.RangeRequest(key=b"a", revision=revision - 1))
    assert value(harness, b"a", revision) == b""


async def test_members_hash_the_same_whatever_they_have_removed(harness: Harness) -> None:
    other = Harness()
    try:
        for each in (harness, other):
            for number in range(20):
                put(each, b"key%d" % (number % 5), b"%d" % number)
            each.store.delete_range(rpc_pb2.DeleteRangeRequest(key=b"key1"))
            each.store.compact(15)
            put(each, b"key3", b"last")
        harness.settle()
        assert harness.store.compactor.removed > other.store.compactor.removed
        for revision in (0, 15, 17, harness.store.revision):
            one, two = await harness.store.hash_kv(revision), await other.store.hash_kv(revision)
            assert one == two
            assert one.compact_revision == 15
            assert one.hash_revision == (revision or harness.store.revision)
        assert await harness.store.hash() == await other.store.hash()
        before = await harness.store.hash_kv(0)
        put(harness, b"key3", b"more")
        assert (await harness.store.hash_kv(0)).hash != before.hash
        with pytest.raises(Compacted):
            await harness.store.hash_kv(14)
        with pytest.raises(Compacted):
            await harness.store.hash_kv(-5)
        with pytest.raises(FutureRev):
            await harness.store.hash_kv(1000)
    finally:
        await other.backend.close()
