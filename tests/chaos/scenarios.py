"""What can be done to a cluster, from beginning to end."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tests.chaos.catalog import CATALOG
from tests.chaos.nemesis import Nemesis
from tests.chaos.schedule import strikes


@dataclass(frozen=True, slots=True)
class Plan:
    """seconds, faults: of `mixed`. times: how often a fault strikes elsewhere; None is the scenario's own number."""

    seconds: float
    seed: int
    faults: tuple[str, ...]
    times: int | None = None


def mixed(nemesis: Nemesis, plan: Plan) -> None:
    """Faults of all kinds, alone and together."""
    until = time.monotonic() + plan.seconds
    faults = [name for name in plan.faults if CATALOG[name].least_members <= nemesis.size]
    for strike in strikes(plan.seed, faults):
        if time.monotonic() >= until:
            return
        nemesis.strike(strike)


SCENARIOS: Mapping[str, Callable[[Nemesis, Plan], None]] = {
    "mixed": mixed,
}
