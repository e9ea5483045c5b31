"""The log over its two halves, the stable and the unstable one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raft import NO_LIMIT, Compacted, Entry, InvariantViolation, MemoryStorage, SilentLogger, Unavailable
from raft.log import RaftLog
from raft.sizes import entries_size
from tests.raft.harness import log_of, snapshot_at


def log_with(stable: list[int], unstable: list[int], *, max_applying_size: int = NO_LIMIT) -> RaftLog:
    """A log with these terms, the first of them stored."""
    storage = MemoryStorage()
    entries = log_of(*stable, *unstable)
    storage.append(entries[: len(stable)])
    log = RaftLog(storage, SilentLogger(), max_applying_size)
    log.append(entries[len(stable) :])
    return log


def terms(log: RaftLog) -> list[int]:
    return [log.term(index) for index in range(log.first_index(), log.last_index() + 1)]


class TestReading:
    @pytest.mark.parametrize("split", range(5))
    def test_entries_come_from_both_halves(self, split: int) -> None:
        log = log_with([1, 2, 3, 4][:split], [1, 2, 3, 4][split:])
        assert [entry.term for entry in log.entries(2, NO_LIMIT)] == [2, 3, 4]
        assert log.entries(5, NO_LIMIT) == ()

    @given(st.integers(0, 6), st.integers(0, 100), st.integers(1, 6))
    def test_entries_are_cut_as_if_there_were_one_half(self, split: int, limit: int, lo: int) -> None:
        log = log_with([1] * split, [1] * (6 - split))
        whole = log_of(*[1] * 6)[lo - 1 :]
        got = list(log.entries(lo, limit))
        assert got == whole[: len(got)]
        assert len(got) == 1 or entries_size(got) <= limit
        assert len(got) == len(whole) or entries_size(whole[: len(got) + 1]) > limit

    def test_compacted_entries_are_told_apart_from_those_to_come(self) -> None:
        storage = MemoryStorage(snapshot_at(5, 2))
        log = RaftLog(storage, SilentLogger())
        log.append([Entry(3, 6)])
        assert (log.term(5), log.term(6)) == (2, 3)
        with pytest.raises(Compacted):
            log.term(4)
        with pytest.raises(Unavailable):
            log.term(7)
        with pytest.raises(Compacted):
            log.slice(5, 7, NO_LIMIT)
        assert log.term_or_zero(4) == 0
        assert not log.match_term(7, 3)

    def test_what_storage_holds_before_an_unstored_snapshot_is_void(self) -> None:
        log = log_with([1, 1, 1], [])
        log.restore(snapshot_at(9, 2))
        assert (log.first_index(), log.last_index(), log.last_term()) == (10, 9, 2)
        with pytest.raises(Compacted):
            log.term(2)

    def test_what_storage_holds_behind_a_truncation_is_void(self) -> None:
        log = log_with([1, 1, 1], [])
        log.append([Entry(2, 2)])
        assert log.last_index() == 2
        with pytest.raises(Unavailable):
            log.term(3)

    @pytest.mark.parametrize(("lo", "hi"), [(3, 2), (1, 9)])
    def test_a_slice_out_of_bounds_is_a_bug(self, lo: int, hi: int) -> None:
        with pytest.raises(InvariantViolation):
            log_with([1], [1]).slice(lo, hi, NO_LIMIT)

    def test_scan_goes_page_by_page(self) -> None:
        log = log_with([1, 1], [1, 1])
        pages = list(log.scan(1, 5, 1))
        assert [[entry.index for entry in page] for page in pages] == [[1], [2], [3], [4]]
        assert [len(page) for page in log.scan(1, 5, NO_LIMIT)] == [4]

    def test_scanning_what_is_compacted_is_a_bug(self) -> None:
        log = RaftLog(MemoryStorage(snapshot_at(5, 2)), SilentLogger())
        log.append([Entry(3, 6)])
        with pytest.raises(InvariantViolation, match="scanning"):
            list(log.scan(4, 6, NO_LIMIT))

    @pytest.mark.parametrize(
        ("index", "term", "expected"),
        [(2, 3, True), (3, 3, True), (4, 3, True), (2, 4, True), (4, 2, False), (1, 3, False)],
    )
    def test_up_to_date_is_by_term_then_by_index(self, index: int, term: int, expected: bool) -> None:
        assert log_with([1], [3]).is_up_to_date(index, term) is expected


class TestAppending:
    @pytest.mark.parametrize(
        ("previous", "entries", "commit", "last", "committed", "after"),
        [
            ((3, 2), [], 3, None, 1, [1, 2, 3]),
            ((4, 3), [4], 3, None, 1, [1, 2, 3]),
            ((3, 3), [], 3, 3, 3, [1, 2, 3]),
            ((3, 3), [], 4, 3, 3, [1, 2, 3]),
            ((3, 3), [], 2, 3, 2, [1, 2, 3]),
            ((0, 0), [], 3, 0, 1, [1, 2, 3]),
            ((3, 3), [4], 3, 4, 3, [1, 2, 3, 4]),
            ((3, 3), [4, 4], 4, 5, 4, [1, 2, 3, 4, 4]),
            ((2, 2), [4], 3, 3, 3, [1, 2, 4]),
            ((1, 1), [4, 4], 3, 3, 3, [1, 4, 4]),
            ((1, 1), [2], 3, 2, 2, [1, 2, 3]),
            ((1, 1), [2, 3, 4], 3, 4, 3, [1, 2, 3, 4]),
        ],
    )
    def test_a_leaders_entries_are_taken_over_if_the_previous_one_matches(
        self,
        previous: tuple[int, int],
        entries: list[int],
        commit: int,
        last: int | None,
        committed: int,
        after: list[int],
    ) -> None:
        log = log_with([1], [2, 3])
        log.commit_to(1)
        new = [Entry(term, previous[0] + offset) for offset, term in enumerate(entries, 1)]
        assert log.maybe_append(*previous, commit, new) == last
        assert log.committed == committed
        assert terms(log) == after

    def test_a_conflict_with_what_is_committed_is_a_bug(self) -> None:
        log = log_with([1], [2, 3])
        log.commit_to(2)
        with pytest.raises(InvariantViolation, match="conflict with committed"):
            log.maybe_append(0, 0, 0, [Entry(9, 1)])
        with pytest.raises(InvariantViolation, match="committed"):
            log.append([Entry(9, 2)])

    @given(st.lists(st.integers(0, 2), min_size=1, max_size=12), st.integers(0, 14), st.integers(0, 30))
    def test_the_guess_where_logs_part_skips_every_higher_term(self, steps: list[int], index: int, term: int) -> None:
        held = [1 + sum(steps[: i + 1]) for i in range(len(steps))]
        log = log_with(held, [])
        index = min(index, len(held))
        guess, guessed_term = log.find_conflict_by_term(index, term)
        assert guess <= index
        assert all(held[i - 1] > term for i in range(guess + 1, index + 1))
        if guess:
            assert guessed_term == held[guess - 1] <= term

    def test_the_guess_stops_where_the_log_is_compacted(self) -> None:
        log = RaftLog(MemoryStorage(snapshot_at(5, 2)), SilentLogger())
        assert log.find_conflict_by_term(4, 1) == (4, 0)
        assert log.find_conflict_by_term(5, 1) == (4, 0)


class TestCommittingAndApplying:
    def test_the_commit_index_never_falls(self) -> None:
        log = log_with([1, 1, 1], [])
        log.commit_to(2)
        log.commit_to(1)
        assert log.committed == 2

    def test_committing_what_is_not_there_is_a_bug(self) -> None:
        with pytest.raises(InvariantViolation, match="out of range"):
            log_with([1], []).commit_to(2)

    def test_only_an_entry_of_the_given_term_commits(self) -> None:
        log = log_with([1, 2], [])
        assert not log.maybe_commit(1, 2)
        assert not log.maybe_commit(2, 0)
        assert log.maybe_commit(2, 2)
        assert not log.maybe_commit(2, 2)

    @pytest.mark.parametrize(("allow_unstable", "expected"), [(True, [1, 2, 3]), (False, [1])])
    def test_unstable_entries_are_applied_only_where_allowed(self, allow_unstable: bool, expected: list[int]) -> None:
        log = log_with([1], [1, 1])
        log.commit_to(3)
        assert [entry.index for entry in log.next_committed(allow_unstable)] == expected

    def test_what_was_handed_out_is_not_handed_out_again(self) -> None:
        log = log_with([1, 1, 1], [])
        log.commit_to(2)
        entries = log.next_committed(True)
        log.accept_applying(entries, True)
        assert log.next_committed(True) == ()
        log.commit_to(3)
        assert [entry.index for entry in log.next_committed(True)] == [3]
        log.applied_to(2, entries)
        assert (log.applied, log.applying) == (2, 2)

    def test_handing_out_pauses_at_the_limit_until_enough_is_applied(self) -> None:
        log = log_with([1] * 5, [])
        size = entries_size(log.entries(1, NO_LIMIT)[:1])
        log = log_with([1] * 5, [], max_applying_size=2 * size)
        log.commit_to(5)
        first = log.next_committed(True)
        assert [entry.index for entry in first] == [1, 2]
        log.accept_applying(first, True)
        assert not log.has_next_committed(True)
        log.applied_to(1, first[:1])
        second = log.next_committed(True)
        assert [entry.index for entry in second] == [3]
        log.accept_applying(second, True)
        assert not log.has_next_committed(True)
        log.applied_to(3, [*first[1:], *second])
        assert [entry.index for entry in log.next_committed(True)] == [4, 5]

    def test_an_entry_larger_than_the_limit_is_handed_out_alone(self) -> None:
        log = log_with([1] * 3, [], max_applying_size=1)
        log.commit_to(3)
        assert [entry.index for entry in log.next_committed(True)] == [1]

    def test_nothing_is_applied_before_a_snapshot_that_waits(self) -> None:
        log = log_with([1], [])
        log.restore(snapshot_at(5, 2))
        log.append([Entry(3, 6)])
        log.commit_to(6)
        assert not log.has_next_committed(True)
        log.unstable.stable_snapshot_to(5)
        log.applied_to(5)
        assert [entry.index for entry in log.next_committed(True)] == [6]

    @pytest.mark.parametrize("index", [1, 5])
    def test_applying_backwards_or_beyond_the_commit_index_is_a_bug(self, index: int) -> None:
        log = log_with([1] * 5, [])
        log.commit_to(3)
        log.applied_to(2)
        with pytest.raises(InvariantViolation):
            log.applied_to(index)
