"""Which ranges hold a key."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from kvstore.mvcc.intervals import IntervalIndex, IntervalSet, end_of

KEYS = st.binary(max_size=3)


def test_the_end_of_a_request() -> None:
    assert end_of(b"a", b"") == b"a\0"
    assert end_of(b"a", b"\0") is None
    assert end_of(b"a", b"b") == b"b"


@given(st.lists(st.tuples(KEYS, KEYS)), KEYS)
def test_a_set_holds_what_one_of_its_ranges_holds(ranges: list[tuple[bytes, bytes]], key: bytes) -> None:
    ranges = [(start, end) for start, end in ranges if end]
    whole, part = IntervalSet(), IntervalSet()
    for index, (start, end) in enumerate(ranges):
        (whole if index % 2 else part).add(start, end)
    whole.update(part)
    assert whole.contains(key) == any(start <= key < end for start, end in ranges)


@given(st.data())
@settings(max_examples=50, deadline=None)
def test_an_index_finds_every_range_that_holds_a_key(data: st.DataObject) -> None:
    index: IntervalIndex[tuple[bytes, bytes | None]] = IntervalIndex()
    held: set[tuple[bytes, bytes | None]] = set()
    for _ in range(data.draw(st.integers(1, 300))):
        if held and data.draw(st.integers(0, 3)) == 0:
            gone = data.draw(st.sampled_from(sorted(held, key=str)))
            held.remove(gone)
            index.remove(*gone)
        else:
            item = (data.draw(KEYS), data.draw(st.one_of(st.none(), KEYS)))
            assert (index.get(*item) is not None) == (item in held)
            if item not in held:
                held.add(item)
                index.add(*item, item)
        key = data.draw(KEYS)
        found = index.stab(key)
        expected = {(start, end) for start, end in held if start <= key and (end is None or key < end)}
        assert len(found) == len(expected)
        assert set(found) == expected
        assert len(index) == len(held)
