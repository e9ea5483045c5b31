"""Counting keys without walking them."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from kvstore.mvcc.counts import MERGE_BELOW, SPLIT_ABOVE, separator
from kvstore.mvcc.puts import of_message
from kvstore.pb import rpc_pb2
from tests.mvcc.harness import Harness


@given(st.binary(max_size=40), st.binary(max_size=40), st.sampled_from([0, 1, 15, 16, 17, 500]))
def test_a_separator_is_between(left: bytes, right: bytes, common: int) -> None:
    left, right = sorted((b"k" * common + left, b"k" * common + right))
    if left == right:
        return
    bound = separator(left, right)
    assert left < bound <= right
    assert right.startswith(bound)


def count(harness: Harness, start: bytes, end: bytes, revision: int = 0) -> int:
    request = rpc_pb2.RangeRequest(key=start, range_end=end, count_only=True, revision=revision)
    return rpc_pb2.RangeResponse.FromString(harness.store.range(request)).count


def check(harness: Harness, keys: list[bytes]) -> None:
    keys.sort()
    for start in range(0, len(keys) + 1, max(1, len(keys) // 7)):
        for stop in range(start, len(keys) + 1, max(1, len(keys) // 5)):
            first = keys[start] if start < len(keys) else b"\xff"
            last = keys[stop] if stop < len(keys) else b"\xff\xff"
            assert count(harness, first, last) == sum(first <= key < last for key in keys)
    assert harness.store.keys == len(keys)
    assert count(harness, b"\0", b"\0") == len(keys)


def test_counts_hold_while_buckets_split_and_merge_and_over_a_restart(harness: Harness) -> None:
    keys = [b"prefix/%08d" % number for number in range(4 * SPLIT_ABOVE)]
    keys += [b"l" * 600 + b"%08d" % number for number in range(SPLIT_ABOVE + 1)]
    random.Random(1).shuffle(keys)
    for key in keys:
        harness.store.put(of_message(rpc_pb2.PutRequest(key=key)))
    counts = harness.store._counts
    assert 5 <= len(counts.bounds) <= 5 * SPLIT_ABOVE // MERGE_BELOW
    assert max(counts.counts) <= SPLIT_ABOVE
    check(harness, list(keys))
    bounds = counts.bounds
    harness.close()
    harness.open()
    assert harness.store._counts.bounds == bounds
    check(harness, list(keys))
    kept = keys[::40]
    for key in set(keys) - set(kept):
        harness.store.delete_range(rpc_pb2.DeleteRangeRequest(key=key))
    assert len(harness.store._counts.bounds) <= 1 + 2 * len(kept) // MERGE_BELOW
    check(harness, list(kept))
    harness.crash()
    check(harness, list(keys))


def test_a_listing_at_an_old_revision_counts_every_page_the_same(harness: Harness) -> None:
    store = harness.store
    for number in range(6000):
        store.put(of_message(rpc_pb2.PutRequest(key=b"key%06d" % number)))
    revision = store.revision
    key, total, pages = b"key", 0, 0
    while True:
        page = rpc_pb2.RangeResponse.FromString(
            store.range(rpc_pb2.RangeRequest(key=key, range_end=b"kez", limit=700, revision=revision))
        )
        assert page.count == 6000 - total
        total += len(page.kvs)
        pages += 1
        if not page.more:
            break
        key = page.kvs[-1].key + b"\0"
        for number in range(200):
            store.put(of_message(rpc_pb2.PutRequest(key=b"key%06d" % (number * 30), value=b"changed")))
            store.delete_range(rpc_pb2.DeleteRangeRequest(key=b"key%06d" % (pages * 200 + number)))
            store.put(of_message(rpc_pb2.PutRequest(key=b"kex%06d" % (pages * 200 + number))))
            store.put(of_message(rpc_pb2.PutRequest(key=b"key%06dnew" % (pages * 200 + number))))
    assert (total, pages) == (6000, 9)
