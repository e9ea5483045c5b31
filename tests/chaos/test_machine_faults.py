"""Faults of the machine are made good again, whatever the member has made of them meanwhile."""

from collections.abc import Iterator
from contextlib import contextmanager
from random import Random
from typing import cast

import pytest

from tests.chaos import machine_faults
from tests.chaos.arena import Arena


class Ending:
    """A member that has met an error, and runs for some more looks."""

    name = "m1"

    def __init__(self, looks: int) -> None:
        self.looks = looks
        self.starts = 0

    @property
    def running(self) -> bool:
        self.looks -= 1
        return self.looks >= 0

    def start(self) -> None:
        self.starts += 1


class OneMember:
    """An arena with a fault layer that does nothing."""

    def __init__(self, member: Ending) -> None:
        self.member = member
        self.failing: list[tuple[int, int]] = []

    def any_member(self, _: Random) -> Ending:
        return self.member

    def layer(self, _: Ending) -> "OneMember":
        return self

    def fail_syncs(self, number: int, count: int) -> None:
        self.failing.append((number, count))

    def excuse(self, _: Ending) -> None:
        pass

    @contextmanager
    def taken(self, _: Ending) -> Iterator[None]:
        yield


@pytest.mark.parametrize("looks", [0, 1, 3])
def test_a_member_that_is_about_to_end_for_its_disk_is_started_again(looks: int) -> None:
    member = Ending(looks)
    arena = OneMember(member)
    with machine_faults.failing_syncs(cast(Arena, arena), Random(1)):
        assert arena.failing[-1] != (0, 0)
        assert member.starts == 0
    assert arena.failing[-1] == (0, 0)
    assert member.starts == 1


def test_one_that_goes_on_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_faults, "ENDING_SECONDS", 0.0)
    member = Ending(1_000)
    with machine_faults.failing_syncs(cast(Arena, OneMember(member)), Random(1)):
        pass
    assert member.starts == 0
