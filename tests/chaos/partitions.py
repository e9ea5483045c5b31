"""Ways to divide members, as the links that no longer work. Knows only names."""

import random
from collections.abc import Iterable, Sequence

Pairs = frozenset[tuple[str, str]]


def between(left: Iterable[str], right: Iterable[str]) -> Pairs:
    """Both directions between every member here and every member there."""
    others = list(right)
    return frozenset(pair for a in left for b in others if a != b for pair in ((a, b), (b, a)))


def halves(names: Sequence[str], chance: random.Random) -> Pairs:
    """A majority here, all others there."""
    shuffled = chance.sample(names, len(names))
    majority = len(names) // 2 + 1
    return between(shuffled[:majority], shuffled[majority:])


def isolated(names: Sequence[str], alone: str) -> Pairs:
    """One member that neither reaches nor is reached."""
    return between([alone], names)


def one_way(names: Sequence[str], member: str, *, mute: bool) -> Pairs:
    """One member that the others no longer hear (mute), or that no longer hears them (not mute)."""
    others = [name for name in names if name != member]
    return frozenset((member, other) if mute else (other, member) for other in others)


def bridge(names: Sequence[str], middle: str, chance: random.Random) -> Pairs:
    """Two sides that reach each other through one member in the middle alone, which reaches all."""
    sides = [name for name in chance.sample(names, len(names)) if name != middle]
    half = len(sides) // 2
    return between(sides[:half], sides[half:])


def ring(names: Sequence[str], chance: random.Random) -> Pairs:
    """Every member reaches its two neighbours only: all see a majority of five, and no two the same one."""
    order = chance.sample(names, len(names))
    count = len(order)
    return frozenset(
        (order[a], order[b]) for a in range(count) for b in range(count) if (a - b) % count not in (0, 1, count - 1)
    )
