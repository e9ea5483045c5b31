"""Sizes are those of the protobuf encoding, and batches are cut by them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from raft import NO_LIMIT, Entry, EntryType
from raft.sizes import entries_size, entry_size, limit_size, limited_end, payloads_size, varint_size


def _varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def _encoded(entry: Entry) -> bytes:
    head = b"\x08" + _varint(entry.type) + b"\x10" + _varint(entry.term) + b"\x18" + _varint(entry.index)
    return head + (b"\x22" + _varint(len(entry.data)) + entry.data if entry.data else b"")


_ENTRIES = st.builds(
    lambda start, terms, sizes: [
        Entry(sum(terms[: i + 1]), start + i, EntryType.NORMAL, bytes(sizes[i]))
        for i in range(min(len(terms), len(sizes)))
    ],
    st.integers(1, 300),
    st.lists(st.integers(0, 60), max_size=40),
    st.lists(st.integers(0, 300), max_size=40),
)


@given(st.integers(0, (1 << 64) - 1))
def test_varint_size_is_the_length_of_the_varint(value: int) -> None:
    assert varint_size(value) == len(_varint(value))


@given(_ENTRIES)
def test_entry_size_is_the_length_of_the_encoding(entries: list[Entry]) -> None:
    assert [entry_size(entry) for entry in entries] == [len(_encoded(entry)) for entry in entries]


@given(_ENTRIES)
def test_entries_size_is_their_sum(entries: list[Entry]) -> None:
    assert entries_size(entries) == sum(map(entry_size, entries))
    assert payloads_size(entries) == sum(len(entry.data) for entry in entries)


@given(_ENTRIES, st.integers(0, 3000))
def test_limit_size_is_the_longest_prefix_that_fits_and_never_empty(entries: list[Entry], limit: int) -> None:
    prefix = limit_size(entries, limit)
    assert list(prefix) == entries[: len(prefix)]
    assert bool(prefix) == bool(entries)
    assert len(prefix) <= 1 or entries_size(prefix) <= limit
    assert len(prefix) == len(entries) or entries_size(entries[: len(prefix) + 1]) > limit


def test_limits_hold_across_the_chunks_that_are_measured_together() -> None:
    entries = [Entry(1, index, data=b"x") for index in range(1, 2000)]
    limit = entries_size(entries[:1500])
    assert limited_end(entries, 0, len(entries), limit) == 1500
    assert limited_end(entries, 0, len(entries), limit - 1) == 1499
    assert limited_end(entries, 100, len(entries), 0) == 101
    assert limited_end(entries, 100, 100, 0) == 100


def test_no_limit_gives_the_entries_themselves() -> None:
    entries = [Entry(1, 1), Entry(1, 2)]
    assert limit_size(entries, NO_LIMIT) is entries
