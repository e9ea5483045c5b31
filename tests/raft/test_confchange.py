"""How configurations follow one another."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raft import ConfChangeError, ConfChangeSingle, ConfChangeType, ConfState
from raft.confchange import Changer, restore
from raft.tracker import Tracker

_SINGLES = st.lists(
    st.builds(ConfChangeSingle, st.sampled_from(ConfChangeType), st.integers(1, 6)), min_size=1, max_size=6
)


def tracker_with(conf_state: ConfState) -> Tracker:
    tracker = Tracker(10)
    proposed = restore(tracker, 20, conf_state)
    tracker.switch_to(proposed.config, proposed.progress)
    return tracker


@st.composite
def conf_states(draw: st.DrawFn) -> ConfState:
    """Any configuration that changes can lead to."""
    voters = draw(st.sets(st.integers(1, 9), min_size=1, max_size=5))
    outgoing = draw(st.one_of(st.just(set()), st.sets(st.integers(1, 9), min_size=1, max_size=5)))
    learners = draw(st.sets(st.integers(1, 12), max_size=3)) - voters - outgoing
    learners_next = draw(st.sets(st.sampled_from(sorted(outgoing)))) - voters if outgoing else set()
    auto_leave = bool(outgoing) and draw(st.booleans())
    return ConfState(sorted(voters), sorted(learners), sorted(outgoing), sorted(learners_next), auto_leave)


@given(conf_states())
def test_restoring_leads_to_the_configuration_that_was_stored(conf_state: ConfState) -> None:
    proposed = restore(Tracker(10), 20, conf_state)
    assert proposed.config.conf_state() == conf_state
    members = {*conf_state.voters, *conf_state.learners, *conf_state.voters_outgoing}
    assert set(proposed.progress) == members
    assert {id for id, progress in proposed.progress.items() if progress.is_learner} == set(conf_state.learners)


@given(conf_states(), _SINGLES)
def test_simple_changes_lead_where_a_joint_configuration_does(
    conf_state: ConfState, changes: list[ConfChangeSingle]
) -> None:
    """Whatever may be done in one step may be done in two, with the same outcome."""
    conf_state = ConfState(conf_state.voters, conf_state.learners)
    tracker = tracker_with(conf_state)
    try:
        simple = Changer(tracker, 30).simple(changes)
    except ConfChangeError:
        return
    entered = Changer(tracker, 30).enter_joint(changes, auto_leave=False)
    tracker.switch_to(entered.config, entered.progress)
    left = Changer(tracker, 30).leave_joint()
    assert left.config.conf_state() == simple.config.conf_state()
    assert set(left.progress) == set(simple.progress)


@given(conf_states(), _SINGLES)
def test_a_change_leaves_the_present_configuration_alone(
    conf_state: ConfState, changes: list[ConfChangeSingle]
) -> None:
    tracker = tracker_with(conf_state)
    before = (tracker.config.conf_state(), {id: str(progress) for id, progress in tracker.progress.items()})

    with suppress(ConfChangeError):
        Changer(tracker, 30).simple(changes)
    with suppress(ConfChangeError):
        Changer(tracker, 30).enter_joint(changes, auto_leave=True)
    with suppress(ConfChangeError):
        Changer(tracker, 30).leave_joint()
    assert (tracker.config.conf_state(), {id: str(pr) for id, pr in tracker.progress.items()}) == before


def test_two_voters_cannot_change_in_one_step() -> None:
    tracker = tracker_with(ConfState([1]))
    changes = [ConfChangeSingle(ConfChangeType.ADD_NODE, id) for id in (2, 3)]
    with pytest.raises(ConfChangeError, match="more than one voter"):
        Changer(tracker, 1).simple(changes)


def test_the_last_voter_cannot_be_removed() -> None:
    tracker = tracker_with(ConfState([1]))
    with pytest.raises(ConfChangeError, match="removed all voters"):
        Changer(tracker, 1).simple([ConfChangeSingle(ConfChangeType.REMOVE_NODE, 1)])


def test_a_member_that_stays_keeps_what_is_under_way_to_it() -> None:
    tracker = tracker_with(ConfState([1, 2]))
    tracker.progress[2].become_replicate()
    tracker.progress[2].sent_entries(1, 1)
    proposed = Changer(tracker, 5).simple([ConfChangeSingle(ConfChangeType.ADD_NODE, 3)])
    assert len(proposed.progress[2].inflights) == 1


def test_a_configuration_that_no_change_leads_to_cannot_be_restored() -> None:
    with pytest.raises(ConfChangeError):
        restore(Tracker(10), 1, ConfState(voters=[], learners=[1]))
