"""When a store is compacted by itself."""

import itertools

from kvstore.server.compactor import Compactor, PeriodicCompactor, RevisionCompactor


def drive(compactor: Compactor, seconds: float, revisions_per_second: float, leading: bool = True) -> list[int]:
    """Revisions compacted at while the clock runs and the revision grows."""
    due = []
    now = 0.0
    while now <= seconds:
        revision = compactor.due(now, int(now * revisions_per_second), leading)
        if revision is not None:
            due.append(revision)
        now += compactor.interval
    return due


def test_by_revision_the_newest_ones_are_kept() -> None:
    assert drive(RevisionCompactor(1000), 900, 10) == [2000, 5000, 8000]


def test_by_revision_nothing_is_done_twice() -> None:
    compactor = RevisionCompactor(10)
    assert [compactor.due(0, 100, True), compactor.due(300, 100, True), compactor.due(600, 101, True)] == [90, None, 91]


def test_by_time_a_period_is_kept() -> None:
    # At 600 s the revision of a period ago is 0, of which there is nothing to forget.
    assert drive(PeriodicCompactor(600), 3600, 1) == [600, 1200, 1800, 2400, 3000]


def test_by_time_long_periods_compact_every_hour() -> None:
    due = drive(PeriodicCompactor(6 * 3600), 9 * 3600, 1)
    assert len(due) in (3, 4)
    assert all(later - earlier == 3600 for earlier, later in itertools.pairwise(due))


def test_a_follower_compacts_nothing() -> None:
    assert drive(RevisionCompactor(10), 900, 10, leading=False) == []
    assert drive(PeriodicCompactor(60), 900, 10, leading=False) == []
