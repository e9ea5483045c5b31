"""What can be done to a cluster, from beginning to end. Each raises AssertionError when something does not hold."""

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median

from tests.chaos.catalog import CATALOG
from tests.chaos.full_disk import disk_full
from tests.chaos.nemesis import Nemesis
from tests.chaos.replacement import minority_lost
from tests.chaos.schedule import Strike, strikes

LEADER_FAULTS = ("kill-leader", "isolate-leader", "pause-leader")
LEADER_TIMES = 20
SERVED_WITHIN = 3.0
"""Seconds until writes are answered again after a leader is gone, with the default timeouts."""

ALL_KILLED_TIMES = 50


@dataclass(frozen=True, slots=True)
class Plan:
    """seconds, faults: of `mixed`. times: how often a fault strikes elsewhere; None is the scenario's own number.

    served_within: seconds without an answered write that are allowed when members are gone.
    """

    seconds: float
    seed: int
    faults: tuple[str, ...]
    times: int | None = None
    served_within: float = SERVED_WITHIN


def mixed(nemesis: Nemesis, plan: Plan) -> None:
    """Faults of all kinds, alone and together."""
    faults = [name for name in plan.faults if CATALOG[name].least_members <= nemesis.size]
    until = time.monotonic() + plan.seconds
    for strike in strikes(plan.seed, faults):
        if time.monotonic() >= until:
            return
        nemesis.strike(strike)


def leader_failures(nemesis: Nemesis, plan: Plan) -> None:
    """The leader killed, cut off and paused: writes must be answered again in time, every time.

    That a leader that wakes up, or is heard again, answers no stale read is seen in the history.
    """
    chance = random.Random(f"leader failures {plan.seed}")
    late: list[str] = []
    for fault in LEADER_FAULTS:
        silences = []
        for _ in range(plan.times or LEADER_TIMES):
            # Long enough for what must happen in time, and for the old leader to be well out of date.
            strike = Strike((fault,), (chance.getrandbits(32),), 0.0, SERVED_WITHIN + 1.0, chance.uniform(0.5, 1.5))
            silences.append(nemesis.strike(strike).silent)
        told = f"{fault}: writes answered again after {median(silences):.2f} s (median), {max(silences):.2f} s (worst)"
        nemesis.say(f"{told}, {sum(silence < plan.served_within for silence in silences)} of {len(silences)} in time")
        if max(silences) >= plan.served_within:
            late.append(told)
    assert not late, "; ".join(late)


def all_killed(nemesis: Nemesis, plan: Plan) -> None:
    """Every member killed at once, again and again: the cluster comes back by itself."""
    chance = random.Random(f"all killed {plan.seed}")
    recoveries = []
    for _ in range(plan.times or ALL_KILLED_TIMES):
        strike = Strike(("kill-all",), (chance.getrandbits(32),), 0.0, 0.0, chance.uniform(0.3, 2.0))
        recoveries.append(nemesis.strike(strike).recovered)
    nemesis.say(f"all serve again after {median(recoveries):.2f} s (median), {max(recoveries):.2f} s (worst)")


SCENARIOS: Mapping[str, Callable[[Nemesis, Plan], None]] = {
    "mixed": mixed,
    "leader-failures": leader_failures,
    "minority-lost": lambda nemesis, plan: minority_lost(nemesis, plan.served_within),
    "all-killed": all_killed,
    "disk-full": lambda nemesis, _: disk_full(nemesis),
}
