"""A member that loses power at any moment holds everything that it has acknowledged."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import pytest

from tests.crash.history import Do, History, Put, everything
from tests.crash.power import Cut, Recording, check_all, cuts, moments, record
from tests.faultfs import NoCompiler, trace


def recorded(directory: Path, history: History, *, lie: bool = False) -> Recording:
    try:
        return record(directory, history, lie=lie)
    except NoCompiler as reason:
        pytest.skip(str(reason))


@pytest.mark.timeout(400)
def test_nothing_acknowledged_is_lost(place: Path) -> None:
    recording = recorded(place / "recorded", History.of(everything()))
    count, lost = check_all(recording, cuts(recording, count=48, seeds=1), place, print)
    assert not lost, "\n\n".join(lost)
    assert count >= 200


def test_a_disk_that_lies_about_syncs_loses_what_was_acknowledged(place: Path) -> None:
    recording = recorded(place / "recorded", History.of(iter([Put(((b"key", b"value"),)), Do("restart")])), lie=True)
    count, lost = check_all(recording, iter([Cut(len(recording.records), "nothing of it")]), place, print)
    assert (count, len(lost)) == (1, 1)


def test_a_cut_is_the_same_every_time() -> None:
    record = trace.Record(trace.WRITE, 1, 1, 0, 4, 1, "", "", b"data")
    recording = Recording(History.of(iter([])), [record] * 1000, 1, "m1", "http://127.0.0.1:1")
    assert moments(recording, 10) == moments(recording, 10)
    fates = [Cut(5, "chance", seed).decide() for seed in chain(range(3), range(3))]
    drawn = [[list(fate.write(64)) for _ in range(20)] for fate in fates]
    assert drawn[:3] == drawn[3:]
    assert drawn[0] != drawn[1]
