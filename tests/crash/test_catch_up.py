"""A member that is killed while a snapshot puts it level with the others ends up level with them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.crash.catch_up import Straggler, difference_from_a_beginning
from tests.crash.power import Cut
from tests.crash.recovery import Recovered
from tests.faultfs import NoCompiler, trace
from tests.faultfs.disk import Disk, write_tree

MOMENTS = 8


@pytest.mark.timeout(600)
def test_a_member_killed_while_it_catches_up_or_joins_ends_up_level_with_the_others(place: Path) -> None:
    try:
        straggler = Straggler(place)
    except NoCompiler as reason:
        pytest.skip(str(reason))
    with straggler:
        for prepare, points in ((straggler.fall_behind, 3), (straggler.begin_anew, 2)):
            operations = straggler.operations_to_catch_up(prepare)
            killed = 0
            for point in range(points):
                operation = 1 + (2 * point + 1) * operations // (2 * points)
                killed += straggler.killed_on_its_way(prepare, operation, after=point % 2 == 0, everyone=point != 1)
            assert killed
        assert "replaced the state by a snapshot" in straggler.member.log.read_text()


@pytest.mark.timeout(600)
def test_a_member_that_loses_power_while_it_catches_up_has_been_where_it_comes_up(place: Path) -> None:
    try:
        straggler = Straggler(place / "members", trace=True)
    except NoCompiler as reason:
        pytest.skip(str(reason))
    with straggler:
        before = straggler.faults.operations
        straggler.fall_behind()
        straggler.come_back()
        assert straggler.faults.trace is not None
        records = list(trace.read(straggler.faults.trace))
        name, url, others = straggler.member.name, straggler.member.advertised_peer_url, straggler.peers()
        disk = Disk(straggler.faults.root.stat().st_ino)
    behind = [moment for moment, record in enumerate(records) if record.operation > before]
    moments = set(behind[:: max(1, len(behind) // MOMENTS)]) | {
        moment + late for moment in behind if records[moment].kind in (trace.RENAME, trace.UNLINK) for late in (0, 1)
    }
    for moment, record in enumerate(records):
        if moment in moments:
            for fate in ("nothing of it", "names without data", "data without names", "all of it", "chance"):
                cut = Cut(moment, fate)
                left = place / "left"
                write_tree(disk.after_power_cut(cut.decide()), left)
                with Recovered(left, name, url, others) as member:
                    found = difference_from_a_beginning(member)
                assert found is None, f"power cut {cut}: {found}"
                shutil.rmtree(left)
        disk.apply(record)
