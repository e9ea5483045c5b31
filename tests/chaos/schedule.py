"""What is done when: a sequence of strikes that follows from a seed alone.

The times are those of the plan: how long a cluster takes to recover is not known beforehand, and the next strike waits
for it.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tests.chaos.catalog import CATALOG

HOLD_SECONDS = (1.0, 6.0)
CALM_SECONDS = (0.5, 3.0)
STAGGER_SECONDS = 1.0

TOGETHER = (1, 1, 1, 2, 2, 3)
"""How many faults strike together: alone as often as in company."""


@dataclass(frozen=True, slots=True)
class Strike:
    """Some faults at once. Seconds: stagger after each of them, hold after the last, calm after all is good again.

    chances: of each fault, the seed of what it chooses.
    """

    faults: tuple[str, ...]
    chances: tuple[int, ...]
    stagger: float
    hold: float
    calm: float


def strikes(seed: int, names: Sequence[str]) -> Iterator[Strike]:
    """Strikes without end, from these faults. All are dealt before any comes again, so that a short run sees most."""
    chance = random.Random(f"strikes {seed}")
    deck: list[str] = []
    while True:
        together = min(chance.choice(TOGETHER), len(names))
        while len(set(deck)) < together:
            deck = deck + chance.sample(list(names), len(names))
        chosen: list[str] = []
        while len(chosen) < together:
            name = next(each for each in deck if each not in chosen)
            deck.remove(name)
            chosen.append(name)
        # What others must not stand in the way of begins first and ends last.
        chosen.sort(key=lambda name: CATALOG[name].rank)
        yield Strike(
            faults=tuple(chosen),
            chances=tuple(chance.getrandbits(32) for _ in chosen),
            stagger=chance.uniform(0.0, STAGGER_SECONDS),
            hold=chance.uniform(*HOLD_SECONDS),
            calm=chance.uniform(*CALM_SECONDS),
        )
