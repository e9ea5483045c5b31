"""The simulated file of a journal, and members whose machines die while they write it."""

import random
from dataclasses import replace
from pathlib import Path

import pytest

from tests.member_simulation.durable import SECTOR, BlockingFile, DiskHabits, LaterFile, WorkClock
from tests.member_simulation.timeline import ProcessLoop, Timeline, Trace
from tests.member_simulation.world import World

SECONDS = 20.0

OLD, NEW = b"o" * 8 * SECTOR, b"n" * 8 * SECTOR


@pytest.fixture
def timeline() -> Timeline:
    return Timeline(random.Random(1), Trace())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "journal"
    path.write_bytes(OLD)
    return path


def later_file(path: Path, timeline: Timeline, habits: DiskHabits) -> tuple[LaterFile, ProcessLoop]:
    loop = ProcessLoop(timeline, "m1")
    return LaterFile(path, timeline, loop, WorkClock(timeline, loop), habits), loop


def test_a_write_is_waited_for_as_long_as_patience_lasts(path: Path, timeline: Timeline) -> None:
    file, loop = later_file(path, timeline, DiskHabits(seconds=0.001))
    turns: list[float] = []
    file.begin([NEW[:SECTOR], NEW[SECTOR:]], 0)
    assert path.read_bytes() == OLD
    assert file.finish(100.0) == len(NEW)
    assert path.read_bytes() == NEW
    loop.call_soon(lambda: turns.append(timeline.now))
    timeline.run(1.0)
    assert 0.0 < turns[0] < 0.1


def test_a_slow_write_goes_on_beside_the_loop_and_says_when_it_is_done(path: Path, timeline: Timeline) -> None:
    file, loop = later_file(path, timeline, DiskHabits(seconds=1.0))
    results: list[int | None] = []

    def look() -> None:
        results.append(file.finish(0.0))
        assert path.read_bytes() == (OLD if results[-1] is None else NEW)
        if results[-1] is not None:
            loop.remove_reader(file.fileno())

    file.begin([NEW], 0)
    assert file.finish(0.002) is None
    loop.add_reader(file.fileno(), look)
    timeline.run(0.002)
    assert path.read_bytes() == OLD
    timeline.run(100.0)
    assert results[-1] == len(NEW)


def test_a_loop_that_waits_for_a_write_has_no_turn_meanwhile(path: Path, timeline: Timeline) -> None:
    loop = ProcessLoop(timeline, "m1")
    turns: list[float] = []
    file = BlockingFile(path, timeline, WorkClock(timeline, loop), DiskHabits(seconds=10.0))

    def write() -> None:
        file.begin([NEW], 0)
        loop.call_soon(lambda: turns.append(timeline.now))

    loop.call_soon(write)
    timeline.run(1000.0)
    assert file.finish(0.0) == len(NEW)
    assert turns[0] > 1.0


def test_a_write_that_is_cut_off_leaves_any_of_its_sectors_and_nothing_else(tmp_path: Path) -> None:
    left = set()
    for seed in range(100):
        path = tmp_path / f"{seed}"
        path.write_bytes(OLD)
        file, _ = later_file(path, Timeline(random.Random(seed), Trace()), DiskHabits())
        file.begin([NEW], 0)
        file.lose()
        data = path.read_bytes()
        sectors = [data[start : start + SECTOR] for start in range(0, len(data), SECTOR)]
        assert set(sectors) <= {OLD[:SECTOR], NEW[:SECTOR]}
        left.add("".join(chr(sector[0]) for sector in sectors))
    assert {"o" * 8, "n" * 8} < left
    assert any("on" in what for what in left)
    assert any("no" in what for what in left)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", range(4))
def test_members_whose_machines_die_in_the_middle_of_writes_have_what_they_acknowledged(seed: int) -> None:
    told: list[str] = []
    with World(seed, 3, Trace(told.append)) as world:
        world.temper = replace(world.temper, every=0.0)
        for host in world.hosts:
            host.disk.seconds = 0.005

        def strike() -> None:
            host = world.chance.choice(world.hosts)
            host.disk.strike = host.crash
            world.timeline.after(1.0, host.start)
            if world.timeline.now < SECONDS:
                world.timeline.after(world.chance.uniform(0.0, 1.0), strike)

        world.timeline.after(3.0, strike)
        world.run(SECONDS)
    assert sum("is cut off" in line for line in told) > 3
