"""Ways to divide a cluster: who still reaches whom."""

import random

import pytest

from tests.chaos import partitions
from tests.chaos.partitions import Pairs

THREE = ["m1", "m2", "m3"]
FIVE = [*THREE, "m4", "m5"]


def reached(names: list[str], cut: Pairs, name: str) -> set[str]:
    """Those that hear a member."""
    return {other for other in names if other != name and (name, other) not in cut}


@pytest.mark.parametrize("names", [THREE, FIVE])
@pytest.mark.parametrize("seed", range(5))
def test_halves_leave_a_majority_that_is_whole(names: list[str], seed: int) -> None:
    cut = partitions.halves(names, random.Random(seed))
    sides = {frozenset({name, *reached(names, cut, name)}) for name in names}
    assert sorted(len(side) for side in sides) == [len(names) // 2, len(names) // 2 + 1]


def test_an_isolated_member_neither_reaches_nor_is_reached() -> None:
    cut = partitions.isolated(FIVE, "m2")
    assert not reached(FIVE, cut, "m2")
    assert all("m2" not in reached(FIVE, cut, name) for name in FIVE)
    assert reached(FIVE, cut, "m1") == {"m3", "m4", "m5"}


def test_a_mute_member_still_hears_and_a_deaf_one_is_still_heard() -> None:
    mute = partitions.one_way(THREE, "m1", mute=True)
    assert not reached(THREE, mute, "m1")
    assert reached(THREE, mute, "m2") == {"m1", "m3"}
    deaf = partitions.one_way(THREE, "m1", mute=False)
    assert reached(THREE, deaf, "m1") == {"m2", "m3"}
    assert reached(THREE, deaf, "m2") == {"m3"}


@pytest.mark.parametrize("names", [THREE, FIVE])
def test_a_bridge_reaches_all_and_the_sides_reach_only_it(names: list[str]) -> None:
    cut = partitions.bridge(names, "m2", random.Random(1))
    assert reached(names, cut, "m2") == set(names) - {"m2"}
    for name in set(names) - {"m2"}:
        assert "m2" in reached(names, cut, name)
        assert len(reached(names, cut, name)) == len(names) // 2


def test_in_a_ring_everybody_reaches_two_and_all_see_different_majorities() -> None:
    cut = partitions.ring(FIVE, random.Random(2))
    seen = {frozenset({name, *reached(FIVE, cut, name)}) for name in FIVE}
    assert {len(group) for group in seen} == {3}
    assert len(seen) == 5
