"""The storage in memory, which other storages have to behave like."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from raft import (
    NO_LIMIT,
    Compacted,
    ConfState,
    Entry,
    InvariantViolation,
    MemoryStorage,
    SnapshotOutOfDate,
    Unavailable,
)
from raft.sizes import entries_size
from tests.raft.harness import log_of, snapshot_at


def storage_from(index: int, *terms: int) -> MemoryStorage:
    """Entries compacted up to `index`, which had the first of the terms, and the others after it."""
    storage = MemoryStorage(snapshot_at(index, terms[0]))
    storage.append([Entry(term, index + offset) for offset, term in enumerate(terms[1:], 1)])
    return storage


class TestReading:
    def test_an_empty_storage_begins_before_index_1(self) -> None:
        storage = MemoryStorage()
        assert (storage.first_index(), storage.last_index(), storage.term(0)) == (1, 0, 0)
        assert storage.snapshot().is_empty()

    @pytest.mark.parametrize(("index", "term"), [(3, 3), (4, 4), (5, 5)])
    def test_term_from_the_last_compacted_entry_on(self, index: int, term: int) -> None:
        assert storage_from(3, 3, 4, 5).term(index) == term

    def test_term_out_of_range(self) -> None:
        storage = storage_from(3, 3, 4, 5)
        with pytest.raises(Compacted):
            storage.term(2)
        with pytest.raises(Unavailable):
            storage.term(6)

    def test_entries_out_of_range(self) -> None:
        storage = storage_from(3, 3, 4, 5)
        with pytest.raises(Compacted):
            storage.entries(3, 5)
        with pytest.raises(InvariantViolation):
            storage.entries(4, 7)
        with pytest.raises(Unavailable):
            storage_from(3, 3).entries(4, 4)

    def test_entries_within_a_size_and_at_least_one(self) -> None:
        storage = storage_from(3, 3, 4, 5, 6)
        all_three = storage.entries(4, 7)
        assert [entry.term for entry in all_three] == [4, 5, 6]
        assert len(storage.entries(4, 7, 0)) == 1
        assert len(storage.entries(4, 7, entries_size(all_three[:2]))) == 2
        assert len(storage.entries(4, 7, entries_size(all_three) - 1)) == 2


class TestWriting:
    @pytest.mark.parametrize(
        ("first", "terms", "expected"),
        [
            (1, [3, 3, 3], [4, 5]),
            (3, [3, 4, 5], [4, 5]),
            (3, [3, 6, 6, 6], [6, 6, 6]),
            (2, [3, 3, 5], [5]),
            (4, [5], [5]),
            (6, [5], [4, 5, 5]),
        ],
    )
    def test_append_replaces_what_conflicts_and_skips_what_is_compacted(
        self, first: int, terms: list[int], expected: list[int]
    ) -> None:
        storage = storage_from(3, 3, 4, 5)
        storage.append([Entry(term, first + offset) for offset, term in enumerate(terms)])
        assert [entry.term for entry in storage.entries(4, storage.last_index() + 1)] == expected

    def test_append_with_a_gap_is_a_bug(self) -> None:
        with pytest.raises(InvariantViolation, match="missing log entry"):
            storage_from(3, 3, 4).append([Entry(5, 6)])

    def test_compact_keeps_the_term_of_the_last_compacted_entry(self) -> None:
        storage = storage_from(3, 3, 4, 5)
        storage.compact(4)
        assert (storage.first_index(), storage.last_index(), storage.term(4), storage.term(5)) == (5, 5, 4, 5)

    def test_compact_out_of_range(self) -> None:
        storage = storage_from(3, 3, 4, 5)
        with pytest.raises(Compacted):
            storage.compact(3)
        with pytest.raises(InvariantViolation):
            storage.compact(6)

    def test_create_snapshot_keeps_the_log(self) -> None:
        storage = storage_from(3, 3, 4, 5)
        snapshot = storage.create_snapshot(4, ConfState([1]), b"data")
        assert (snapshot.metadata.index, snapshot.metadata.term) == (4, 4)
        assert snapshot.metadata.conf_state == ConfState([1])
        assert storage.first_index() == 4
        assert storage.initial_state()[1] == ConfState([1])

    def test_create_snapshot_may_keep_the_configuration(self) -> None:
        storage = storage_from(3, 3, 4)
        assert storage.create_snapshot(4, None, b"").metadata.conf_state == ConfState([1, 2, 3])

    def test_create_snapshot_out_of_range(self) -> None:
        storage = storage_from(3, 3, 4)
        with pytest.raises(SnapshotOutOfDate):
            storage.create_snapshot(3, None, b"")
        with pytest.raises(InvariantViolation):
            storage.create_snapshot(5, None, b"")

    def test_apply_snapshot_replaces_the_log(self) -> None:
        storage = storage_from(3, 3, 4)
        storage.apply_snapshot(snapshot_at(9, 7))
        assert (storage.first_index(), storage.last_index(), storage.term(9)) == (10, 9, 7)

    def test_apply_an_older_snapshot_is_refused(self) -> None:
        storage = storage_from(3, 3, 4)
        with pytest.raises(SnapshotOutOfDate):
            storage.apply_snapshot(snapshot_at(3, 3))


def test_compaction_frees_payloads_at_once_and_moves_little() -> None:
    storage = MemoryStorage()
    storage.append(log_of(*[1] * 10_000))
    for index in range(1, 9_000):
        storage.compact(index)
        assert len(storage._entries) <= 2 * (10_000 - index) + 1
    assert storage.entries(9_000, 9_001)[0].data == b"1/9000"


class StorageMachine(RuleBasedStateMachine):
    """Against a dictionary of terms."""

    def __init__(self) -> None:
        super().__init__()
        self.storage = MemoryStorage()
        self.terms = {0: 0}
        self.term = 1

    def _bounds(self) -> tuple[int, int]:
        return min(self.terms), max(self.terms)

    @rule(data=st.data(), count=st.integers(1, 5))
    def append(self, data: st.DataObject, count: int) -> None:
        compacted, last = self._bounds()
        first = data.draw(st.integers(compacted + 1, last + 1))
        self.term += 1
        self.storage.append([Entry(self.term, first + i) for i in range(count)])
        for index in range(first, last + 1):
            del self.terms[index]
        self.terms |= {first + i: self.term for i in range(count)}

    @precondition(lambda self: len(self.terms) > 1)
    @rule(data=st.data())
    def compact(self, data: st.DataObject) -> None:
        compacted, last = self._bounds()
        index = data.draw(st.integers(compacted + 1, last))
        self.storage.compact(index)
        self.terms = {i: term for i, term in self.terms.items() if i >= index}

    @rule(ahead=st.integers(1, 5))
    def apply_snapshot(self, ahead: int) -> None:
        index = max(self.terms) + ahead
        self.storage.apply_snapshot(snapshot_at(index, self.term))
        self.terms = {index: self.term}

    @invariant()
    def agrees(self) -> None:
        compacted, last = self._bounds()
        assert (self.storage.first_index(), self.storage.last_index()) == (compacted + 1, last)
        assert {i: self.storage.term(i) for i in range(compacted, last + 1)} == self.terms
        if last > compacted:
            entries = self.storage.entries(compacted + 1, last + 1, NO_LIMIT)
            assert [entry.index for entry in entries] == list(range(compacted + 1, last + 1))


TestStorageMachine = StorageMachine.TestCase
