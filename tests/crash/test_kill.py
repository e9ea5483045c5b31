"""A member that is killed at any of its operations holds everything that it has acknowledged, and goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.crash.history import Contents, Do, History, Put, everything
from tests.crash.kill import Point, Undisturbed, kill_at, kill_at_each, spread, undisturbed
from tests.crash.observe import ClientView, Lost, difference
from tests.crash.victim import Victim
from tests.faultfs import NoCompiler, trace

JOBS = 3
"""Runs at a time: most of a run is waiting for processes to start."""


def reference(directory: Path, history: History) -> Undisturbed:
    try:
        return undisturbed(directory, history)
    except NoCompiler as reason:
        pytest.skip(str(reason))


@pytest.mark.timeout(600)
def test_nothing_acknowledged_is_lost_wherever_a_member_is_killed(place: Path) -> None:
    history = History.of(everything())
    run = reference(place / "undisturbed", history)
    points = spread(run, 12)
    killed, lost = kill_at_each(place, history, points, run, JOBS, print)
    assert not lost, "\n\n".join(lost)
    # Runs differ a little in what they write, so the last points may lie behind the end of one.
    assert killed >= len(points) - 2


def test_what_was_lost_is_noticed(place: Path) -> None:
    history = History.of(iter([Put(((b"key", b"value"),)), Do("restart")]))
    run = reference(place / "undisturbed", history)
    with pytest.raises(Lost, match="the hash of its history is"):
        kill_at(place / "again", history, Point(1, trace.CREATE), (run.hash[0] + 1, run.hash[1]))
    with Victim(place / "looked-at", history) as victim:
        victim.go_through()
        view = ClientView(victim.member.client)
        assert difference(view, history.contents[-1]) is None
        assert difference(view, Contents().after(Put(((b"key", b"other"),)))) is not None
        assert difference(view, history.contents[-1].after(Put(((b"key", b"again"),)))) is not None


def test_points_are_spread_over_the_run_and_over_what_is_rare() -> None:
    run = Undisturbed((0, 0), 400, {trace.CREATE: 8, trace.RENAME: 1, trace.WRITE: 300, trace.UNLINK: 0})
    points = spread(run, 100)
    assert len(points) == len(set(points)) == 100
    assert {(point.operation, point.kind) for point in points if point.kind} == {
        (1, trace.CREATE),
        (8, trace.CREATE),
        (1, trace.RENAME),
    }
    assert max(point.operation for point in points) > 390
    few = spread(run, 5)
    assert len(few) == 5
    assert [point.kind for point in few] == [trace.CREATE, trace.RENAME, 0, 0, 0]
    assert {(point.after, point.everyone) for point in points} == {(False, True), (True, True), (False, False)} | {
        (True, False)
    }
