"""Answers in steps, and streamed answers."""

from __future__ import annotations

import tracemalloc

import pytest

from kvstore.errors import Compacted
from kvstore.mvcc.puts import of_message
from kvstore.mvcc.ranges import STEP_ROWS, STREAM_BYTES
from kvstore.mvcc.store import Store
from kvstore.pb import rpc_pb2
from tests.mvcc.harness import Harness, finish


def fill(store: Store, number: int, value: bytes = b"v") -> None:
    for index in range(number):
        store.put(of_message(rpc_pb2.PutRequest(key=b"key%06d" % index, value=value)))


def everything(**options: int) -> rpc_pb2.RangeRequest:
    return rpc_pb2.RangeRequest(key=b"key", range_end=b"kez", **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"limit": 2 * STEP_ROWS},
        {"keys_only": True},
        {"sort_target": rpc_pb2.RangeRequest.MOD, "sort_order": rpc_pb2.RangeRequest.DESCEND},
        {"sort_order": rpc_pb2.RangeRequest.DESCEND, "limit": 3},
        {"sort_order": rpc_pb2.RangeRequest.DESCEND, "limit": STEP_ROWS + 1},
        {"min_mod_revision": 100, "limit": 10},
        {"count_only": True},
    ],
)
def test_all_steps_read_the_revision_of_the_first(store: Store, options: dict[str, int]) -> None:
    fill(store, 3 * STEP_ROWS)
    expected, _ = finish(store.range_steps(everything(**options)))

    def change(number: int) -> None:
        store.delete_range(rpc_pb2.DeleteRangeRequest(key=b"key%06d" % (3 * STEP_ROWS - number)))
        store.put(of_message(rpc_pb2.PutRequest(key=b"key%06dnew" % (STEP_ROWS + number))))
        store.put(of_message(rpc_pb2.PutRequest(key=b"key%06d" % (STEP_ROWS + number), value=b"changed")))

    answer, _ = finish(store.range_steps(everything(**options)), change)
    assert answer == expected
    assert expected.count == 3 * STEP_ROWS


def test_a_large_answer_takes_several_steps_and_a_small_one_takes_none(store: Store) -> None:
    fill(store, 3 * STEP_ROWS)
    assert finish(store.range_steps(everything()))[1] >= 2
    assert finish(store.range_steps(everything(limit=100)))[1] == 0
    assert finish(store.range_steps(rpc_pb2.RangeRequest(key=b"key000001")))[1] == 0


def test_a_read_whose_revision_is_compacted_before_it_begins_says_so(store: Store) -> None:
    fill(store, 10)
    steps = store.range_steps(everything(revision=5))
    store.compact(8)
    with pytest.raises(Compacted):
        next(steps)


def test_of_a_stream_that_waits_for_its_client_little_is_kept(store: Store) -> None:
    fill(store, STEP_ROWS, b"x" * 2000)
    tracemalloc.start()
    try:
        parts = store.range_stream(everything())
        size = len(next(part for part in parts if part is not None).body)
        assert tracemalloc.get_traced_memory()[0] < size // 4
        parts.close()
    finally:
        tracemalloc.stop()


def test_a_stream_joins_to_the_answer(store: Store) -> None:
    fill(store, STEP_ROWS + 10, b"x" * 2000)
    for options in ({}, {"limit": STEP_ROWS}, {"count_only": True}, {"limit": 5}, {"sort_order": 2}):
        parts = [part for part in store.range_stream(everything(**options)) if part is not None]
        assert [part.last for part in parts] == [False] * (len(parts) - 1) + [True]
        joined = b"".join(part.body for part in parts)
        assert joined == store.range(everything(**options))
        messages = [rpc_pb2.RangeResponse.FromString(part.body) for part in parts]
        assert all(message.count == 0 and not message.more for message in messages[:-1])
        if options in ({}, {"limit": STEP_ROWS}):
            assert len(parts) > 1
            assert all(len(part.body) <= STREAM_BYTES for part in parts)


def test_an_empty_range_is_empty(store: Store) -> None:
    fill(store, 3)
    for request in (
        rpc_pb2.RangeRequest(key=b"b", range_end=b"a"),
        rpc_pb2.RangeRequest(key=b"key", range_end=b"key"),
        rpc_pb2.RangeRequest(key=b"missing"),
        rpc_pb2.RangeRequest(key=b"z", range_end=b"a", limit=1, sort_order=rpc_pb2.RangeRequest.DESCEND),
        rpc_pb2.RangeRequest(key=b"z", range_end=b"a", count_only=True, revision=2),
    ):
        assert store.range(request) == b""
        assert [part for part in store.range_stream(request) if part is not None][-1].body == b""


@pytest.mark.parametrize("flushed", [False, True])
def test_a_count_is_right_wherever_a_range_begins_and_ends(harness: Harness, flushed: bool) -> None:
    store = harness.store
    fill(store, 3000)
    if flushed:
        harness.backend.flush()
    bounds = [b"a", b"key", b"key000000", b"key0007", b"key000999", b"key0010", b"key002999", b"key9", b"kez"]
    for start in bounds:
        for end in bounds:
            low, high = (
                min(3000, int(edge[3:].ljust(6, b"0") or b"0")) if edge[:3] == b"key" else 0 if edge < b"key" else 3000
                for edge in (start, end)
            )
            request = rpc_pb2.RangeRequest(key=start, range_end=end, count_only=True)
            assert rpc_pb2.RangeResponse.FromString(store.range(request)).count == max(0, high - low), (start, end)
