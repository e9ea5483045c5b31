"""What a leader knows of a peer, and how much may be under way to it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from raft import Inflights, InvariantViolation, Progress, ProgressState


def progress(**fields: int) -> Progress:
    return Progress(Inflights(3), **fields)  # type: ignore[arg-type]


class TestInflights:
    def test_full_by_messages(self) -> None:
        inflights = Inflights(2)
        inflights.add(1, 100)
        assert not inflights.full()
        inflights.add(2, 100)
        assert inflights.full()

    def test_full_by_bytes_with_the_message_that_crosses_the_limit(self) -> None:
        inflights = Inflights(10, 150)
        inflights.add(1, 100)
        assert not inflights.full()
        inflights.add(2, 100)
        assert inflights.full()

    def test_adding_to_a_full_window_is_a_bug(self) -> None:
        inflights = Inflights(1)
        inflights.add(1, 0)
        with pytest.raises(InvariantViolation):
            inflights.add(2, 0)

    def test_indexes_never_fall(self) -> None:
        inflights = Inflights(3)
        inflights.add(5, 0)
        with pytest.raises(InvariantViolation):
            inflights.add(4, 0)

    def test_a_copy_goes_its_own_way(self) -> None:
        inflights = Inflights(3)
        inflights.add(1, 7)
        copied = inflights.copy()
        inflights.free_le(1)
        assert (len(copied), copied.bytes) == (1, 7)

    def test_reset_forgets_everything(self) -> None:
        inflights = Inflights(1)
        inflights.add(1, 7)
        inflights.reset()
        assert (len(inflights), inflights.bytes, inflights.full()) == (0, 0, False)


class InflightsMachine(RuleBasedStateMachine):
    """The window against a plain list."""

    def __init__(self) -> None:
        super().__init__()
        self.inflights = Inflights(5, 100)
        self.model: list[tuple[int, int]] = []
        self.next = 1

    @precondition(lambda self: not self.inflights.full())
    @rule(count=st.integers(0, 3), size=st.integers(0, 60))
    def add(self, count: int, size: int) -> None:
        self.next += count
        self.inflights.add(self.next, size)
        self.model.append((self.next, size))

    @rule(index=st.integers(0, 60))
    def free(self, index: int) -> None:
        self.inflights.free_le(index)
        self.model = [item for item in self.model if item[0] > index]

    @invariant()
    def agrees(self) -> None:
        assert len(self.inflights) == len(self.model)
        assert self.inflights.bytes == sum(size for _, size in self.model)
        assert self.inflights.full() == (len(self.model) >= 5 or self.inflights.bytes >= 100)


TestInflightsMachine = InflightsMachine.TestCase


class TestProgress:
    def test_probing_begins_after_what_is_acknowledged(self) -> None:
        peer = progress(match=3, next=9, sent_commit=8)
        peer.become_replicate()
        peer.become_probe()
        assert (peer.state, peer.next, peer.sent_commit) == (ProgressState.PROBE, 4, 3)

    @pytest.mark.parametrize(("pending", "expected"), [(10, 11), (2, 4)])
    def test_probing_begins_after_a_snapshot_that_was_sent(self, pending: int, expected: int) -> None:
        peer = progress(match=3, next=4)
        peer.become_snapshot(pending)
        assert peer.is_paused()
        peer.become_probe()
        assert (peer.next, peer.pending_snapshot) == (expected, 0)

    def test_entries_sent_while_replicating_are_in_flight(self) -> None:
        peer = progress(match=1, next=2)
        peer.become_replicate()
        peer.sent_entries(3, 30)
        assert (peer.next, len(peer.inflights), peer.is_paused()) == (5, 1, False)
        peer.sent_entries(1, 10)
        peer.sent_entries(1, 10)
        assert peer.is_paused()

    def test_one_append_at_a_time_while_probing(self) -> None:
        peer = progress()
        peer.sent_entries(0, 0)
        assert not peer.is_paused()
        peer.sent_entries(2, 20)
        assert (peer.next, peer.is_paused()) == (1, True)

    def test_sending_in_snapshot_state_is_a_bug(self) -> None:
        peer = progress()
        peer.become_snapshot(5)
        with pytest.raises(InvariantViolation):
            peer.sent_entries(1, 1)

    def test_an_acknowledgement_resumes(self) -> None:
        peer = progress(match=1, next=2)
        peer.sent_entries(1, 1)
        assert peer.maybe_update(2)
        assert not peer.is_paused()
        assert not peer.maybe_update(2)
        assert (peer.match, peer.next) == (2, 3)

    def test_a_late_acknowledgement_says_nothing(self) -> None:
        peer = progress(match=5, next=9)
        assert not peer.maybe_update(4)
        assert (peer.match, peer.next) == (5, 9)

    @pytest.mark.parametrize(
        ("state", "match", "next_", "rejected", "hint", "expected"),
        [
            (ProgressState.REPLICATE, 5, 10, 5, 5, None),
            (ProgressState.REPLICATE, 5, 10, 4, 4, None),
            (ProgressState.REPLICATE, 5, 10, 9, 9, 6),
            (ProgressState.PROBE, 0, 0, 0, 0, None),
            (ProgressState.PROBE, 0, 10, 5, 5, None),
            (ProgressState.PROBE, 0, 10, 9, 9, 9),
            (ProgressState.PROBE, 0, 2, 1, 1, 1),
            (ProgressState.PROBE, 0, 1, 0, 0, 1),
            (ProgressState.PROBE, 0, 10, 9, 2, 3),
            (ProgressState.PROBE, 0, 10, 9, 0, 1),
            (ProgressState.PROBE, 2, 10, 9, 0, 3),
        ],
    )
    def test_a_rejection_steps_back_unless_it_is_stale(
        self, state: ProgressState, match: int, next_: int, rejected: int, hint: int, expected: int | None
    ) -> None:
        peer = progress(match=match, next=next_)
        peer.state = state
        assert peer.maybe_decrease(rejected, hint) == (expected is not None)
        assert peer.next == (next_ if expected is None else expected)

    @given(st.integers(0, 50), st.integers(1, 50), st.integers(0, 100), st.integers(0, 100))
    def test_next_stays_above_match(self, match: int, ahead: int, rejected: int, hint: int) -> None:
        peer = progress(match=match, next=match + ahead)
        peer.maybe_decrease(rejected, hint)
        assert peer.next > peer.match

    def test_a_commit_index_is_worth_sending_once_and_not_beyond_what_was_sent(self) -> None:
        peer = progress(match=3, next=5, sent_commit=2)
        assert peer.can_bump_commit(3)
        peer.sent_commit = 4
        assert not peer.can_bump_commit(9)

    def test_is_written_with_what_is_out_of_the_ordinary(self) -> None:
        peer = progress(match=1, next=2)
        assert str(peer) == "StateProbe match=1 next=2 inactive"
        peer.recent_active = True
        peer.is_learner = True
        peer.become_replicate()
        peer.sent_entries(1, 1)
        assert str(peer) == "StateReplicate match=1 next=3 learner inflight=1"
        peer.sent_entries(1, 1)
        peer.sent_entries(1, 1)
        assert str(peer) == "StateReplicate match=1 next=5 learner paused inflight=3[full]"
        peer.become_snapshot(9)
        assert str(peer) == "StateSnapshot match=1 next=10 learner paused pendingSnap=9"
