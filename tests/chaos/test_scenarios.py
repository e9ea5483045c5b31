"""A short version of every scenario, and each fault of the catalog once, save those that test_chaos.py strikes."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.chaos import full_disk, test_chaos
from tests.chaos.catalog import CATALOG
from tests.chaos.judge import judge
from tests.chaos.nemesis import Nemesis
from tests.chaos.report import summary
from tests.chaos.scenarios import LEADER_FAULTS, SCENARIOS, Plan
from tests.chaos.schedule import Strike
from tests.chaos.verdict import Verdict
from tests.cluster.harness import from_environment
from tests.faultfs import NoCompiler
from tests.faultfs.control import FaultFs
from tests.history.model import Outcome

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

SEED = 21
RATE = 200.0
SERVED_WITHIN = 20.0
"""Seconds; generous, for machines that do much else. How fast it really is runs by hand measure."""

OF_FIVE = (
    ("ring", "slow"),
    ("halves", "transfer"),
    ("one-way", "clock"),
    ("disk-full", "pause"),
    ("fsync-fail", "kill", "defrag"),
    ("grow", "fsync-slow"),
)
ON_THE_MACHINE = {"clock", "disk-full", "fsync-slow", "fsync-fail"}
"""What needs the fault layer, and a C compiler for it."""

ATTEMPTS = 3
"""How often a fault may strike that finds nobody to strike: there may be no leader just then."""


def endured(directory: Path, size: int, work: Callable[[Nemesis], None]) -> Nemesis:
    """A cluster with clients goes through something, is judged, and found without a fault."""
    verdict = Verdict()
    lines: list[str] = []
    with Nemesis(from_environment(), directory, size, SEED, RATE, lines.append) as nemesis:
        work(nemesis)
        nemesis.finish(verdict)
    judge(nemesis.history, verdict, directory, lines.append)
    assert verdict.ok, "\n".join([*lines, summary(nemesis, verdict, 0, 0)])
    assert sum(call.outcome is Outcome.ANSWERED for call in nemesis.history.calls) > 500
    return nemesis


def strike(nemesis: Nemesis, faults: Sequence[str], chance: int) -> None:
    """Have faults strike together until each of them has found somebody to strike."""
    chances = tuple(range(chance, chance + len(faults)))
    for _ in range(ATTEMPTS):
        damage = nemesis.strike(Strike(tuple(faults), chances, stagger=0.2, hold=1.5, calm=0.3))
        assert damage.silent < SERVED_WITHIN
        if not any(f"no {fault} now" in damage.told for fault in faults):
            return
    pytest.fail(f"not all of {', '.join(faults)} struck: {damage.told}")


def at_hand(faults: Sequence[str], layered: bool) -> list[str]:
    """Those that this machine can do; the others are told."""
    left_out = [fault for fault in faults if fault in ON_THE_MACHINE and not layered]
    if left_out:
        print(f"without {', '.join(left_out)}: there is no fault layer on this machine", file=sys.stderr)
    return [fault for fault in faults if fault not in left_out]


def is_layered(directory: Path) -> bool:
    """Whether there can be a fault layer under a member."""
    (directory / "root").mkdir()
    try:
        FaultFs(directory / "root", directory / "layer").close()
    except NoCompiler:
        return False
    return True


def test_five_members_that_are_mistreated_in_every_other_way_keep_every_promise(tmp_path: Path) -> None:
    layered = is_layered(tmp_path)

    def work(nemesis: Nemesis) -> None:
        for number, faults in enumerate(OF_FIVE):
            if chosen := at_hand(faults, layered):
                # Chances with which one member's disk is full: others are to be left for other faults.
                strike(nemesis, chosen, 3 + number)

    nemesis = endured(tmp_path, 5, work)
    assert len(nemesis.damages) >= len(OF_FIVE) - 1


def test_leaders_that_fail_are_done_without(tmp_path: Path) -> None:
    plan = Plan(0.0, SEED, (), times=1, served_within=SERVED_WITHIN)
    nemesis = endured(tmp_path, 3, lambda nemesis: SCENARIOS["leader-failures"](nemesis, plan))
    assert [damage.faults for damage in nemesis.damages] == [(fault,) for fault in LEADER_FAULTS]


def test_all_members_killed_at_once_or_restarted_one_after_the_other_come_back(tmp_path: Path) -> None:
    def work(nemesis: Nemesis) -> None:
        SCENARIOS["all-killed"](nemesis, Plan(0.0, SEED, (), times=3))
        strike(nemesis, ("restart",), SEED)

    assert len(endured(tmp_path, 3, work).damages) >= 4


def test_a_minority_that_is_gone_for_good_is_replaced_as_documented(tmp_path: Path) -> None:
    plan = Plan(0.0, SEED, (), served_within=SERVED_WITHIN)
    nemesis = endured(tmp_path, 3, lambda nemesis: SCENARIOS["minority-lost"](nemesis, plan))
    assert "x1" in {member.name for member in nemesis.cluster.members}


def test_members_without_room_refuse_writes_answer_reads_and_recover_by_themselves(tmp_path: Path) -> None:
    if not is_layered(tmp_path):
        pytest.skip("there is no fault layer on this machine")

    def work(nemesis: Nemesis) -> None:
        full_disk.fill(nemesis, "every member's", list(nemesis.cluster.members))
        full_disk.fill(nemesis, "the leader's", [nemesis.cluster.leader()])

    endured(tmp_path, 3, work)


def test_every_fault_strikes_in_one_of_these_runs() -> None:
    of_three = {fault for faults in test_chaos.STRIKES for fault in faults}
    of_five = {fault for faults in OF_FIVE for fault in faults}
    assert of_three | of_five | {*LEADER_FAULTS, "kill-all", "restart"} == set(CATALOG)
    for faults in OF_FIVE:
        assert sorted(faults, key=lambda fault: CATALOG[fault].rank) == list(faults)
