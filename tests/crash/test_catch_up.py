"""A member that is killed while a snapshot puts it level with the others ends up level with them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.crash.catch_up import Straggler
from tests.faultfs import NoCompiler

POINTS = 2


@pytest.mark.timeout(600)
def test_a_member_killed_while_it_catches_up_or_joins_ends_up_level_with_the_others(place: Path) -> None:
    try:
        straggler = Straggler(place)
    except NoCompiler as reason:
        pytest.skip(str(reason))
    with straggler:
        for prepare in (straggler.fall_behind, straggler.begin_anew):
            operations = straggler.operations_to_catch_up(prepare)
            killed = 0
            for point in range(POINTS):
                operation = 1 + (2 * point + 1) * operations // (2 * POINTS)
                killed += straggler.killed_on_its_way(prepare, operation, after=point % 2 == 0, everyone=point == 0)
            assert killed
        assert "replaced the state by a snapshot" in straggler.member.log.read_text()
