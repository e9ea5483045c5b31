"""The part of the log that is not known to be on stable storage."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from raft import Entry, InvariantViolation, SilentLogger
from raft.unstable import Unstable
from tests.raft.harness import snapshot_at


def unstable(offset: int, *terms: int) -> Unstable:
    held = Unstable(offset, SilentLogger())
    if terms:
        held.truncate_and_append([Entry(term, index) for index, term in enumerate(terms, offset)])
    return held


def terms(held: Unstable) -> list[int]:
    return [entry.term for entry in held.entries]


class TestAppending:
    def test_after_the_last_entry(self) -> None:
        held = unstable(5, 1)
        held.truncate_and_append([Entry(1, 6), Entry(1, 7)])
        assert (held.offset, terms(held), held.last_index()) == (5, [1, 1, 1], 7)

    def test_replacing_all(self) -> None:
        held = unstable(5, 1)
        held.accept_in_progress()
        held.truncate_and_append([Entry(2, 5), Entry(2, 6)])
        assert (held.offset, terms(held)) == (5, [2, 2])
        assert len(held.next_entries()) == 2

    def test_replacing_what_is_already_stable(self) -> None:
        held = unstable(5, 1)
        held.truncate_and_append([Entry(2, 4)])
        assert (held.offset, terms(held)) == (4, [2])

    def test_replacing_some_that_are_being_written(self) -> None:
        held = unstable(5, 1, 1, 1)
        held.accept_in_progress()
        held.truncate_and_append([Entry(2, 6)])
        assert terms(held) == [1, 2]
        assert [entry.index for entry in held.next_entries()] == [6]

    def test_leaving_a_gap_is_a_bug(self) -> None:
        with pytest.raises(InvariantViolation, match="gap"):
            unstable(5, 1).truncate_and_append([Entry(1, 7)])


class TestStability:
    def test_stable_entries_are_dropped(self) -> None:
        held = unstable(5, 1, 1, 1)
        held.accept_in_progress()
        held.stable_to(6, 1)
        assert (held.offset, terms(held)) == (7, [1])
        assert not held.has_next_entries()

    @pytest.mark.parametrize(("index", "term"), [(4, 1), (6, 1), (5, 2)], ids=["before", "after", "other term"])
    def test_a_report_about_other_entries_changes_nothing(self, index: int, term: int) -> None:
        held = unstable(5, 1)
        held.stable_to(index, term)
        assert (held.offset, terms(held)) == (5, [1])

    def test_a_report_about_the_snapshots_last_entry_changes_nothing(self) -> None:
        held = unstable(1)
        held.restore(snapshot_at(4, 1))
        held.truncate_and_append([Entry(1, 5)])
        held.stable_to(4, 1)
        assert (held.offset, terms(held)) == (5, [1])

    def test_entries_appended_after_the_handing_out_are_next(self) -> None:
        held = unstable(5, 1)
        held.accept_in_progress()
        held.truncate_and_append([Entry(1, 6)])
        assert [entry.index for entry in held.next_entries()] == [6]
        held.accept_in_progress()
        assert held.next_entries() == ()


class TestSnapshot:
    def test_a_snapshot_replaces_everything(self) -> None:
        held = unstable(5, 1, 1)
        held.restore(snapshot_at(9, 2))
        assert (held.offset, held.entries, held.last_index()) == (10, [], 9)
        assert held.term(9) == 2
        assert held.term(8) is None

    def test_a_snapshot_is_handed_out_once(self) -> None:
        held = unstable(5)
        held.restore(snapshot_at(9, 2))
        assert held.next_snapshot() is not None
        held.accept_in_progress()
        assert held.next_snapshot() is None
        assert held.snapshot is not None

    def test_only_the_report_about_this_snapshot_drops_it(self) -> None:
        held = unstable(5)
        held.restore(snapshot_at(9, 2))
        held.stable_snapshot_to(8)
        assert held.snapshot is not None
        held.stable_snapshot_to(9)
        assert held.snapshot is None

    def test_a_slice_out_of_bounds_is_a_bug(self) -> None:
        with pytest.raises(InvariantViolation, match="out of bound"):
            unstable(5, 1).slice(4, 6)


class UnstableMachine(RuleBasedStateMachine):
    """Against the whole log as a list of terms, of which a front part is stable."""

    def __init__(self) -> None:
        super().__init__()
        self.held = Unstable(1, SilentLogger())
        self.log: list[int] = []
        self.stable = 0
        self.handed_out = 0
        self.term = 1

    @rule(count=st.integers(1, 4))
    def append(self, count: int) -> None:
        first = len(self.log) + 1
        self.held.truncate_and_append([Entry(self.term, first + i) for i in range(count)])
        self.log += [self.term] * count

    @precondition(lambda self: self.log)
    @rule(data=st.data())
    def replace_a_suffix(self, data: st.DataObject) -> None:
        first = data.draw(st.integers(1, len(self.log)))
        self.term += 1
        self.held.truncate_and_append([Entry(self.term, first)])
        self.log[first - 1 :] = [self.term]
        self.stable = min(self.stable, first - 1)
        self.handed_out = min(self.handed_out, first - 1)

    @rule()
    def hand_out(self) -> None:
        self.held.accept_in_progress()
        self.handed_out = len(self.log)

    @precondition(lambda self: self.handed_out > self.stable)
    @rule(data=st.data())
    def report_stable(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(self.stable + 1, self.handed_out))
        self.held.stable_to(index, self.log[index - 1])
        self.stable = index

    @invariant()
    def holds_what_is_not_stable(self) -> None:
        assert self.held.offset == self.stable + 1
        assert terms(self.held) == self.log[self.stable :]
        assert self.held.last_index() == len(self.log)
        assert [entry.index for entry in self.held.next_entries()] == list(
            range(self.handed_out + 1, len(self.log) + 1)
        )


TestUnstableMachine = UnstableMachine.TestCase
