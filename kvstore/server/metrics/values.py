"""What the server counts with: plain numbers on slotted objects.

Made for hot paths: incrementing a Counter is one attribute, observing a Histogram one bisection, and neither takes a
lock, for everything that counts runs on one loop. Knows nothing of Prometheus; what is published is registry.py's
business, and as what text export.py's.
"""

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from typing import Generic, TypeVar


def exponential_buckets(start: float, factor: float, count: int) -> tuple[float, ...]:
    """`count` upper bounds, the first `start`, each `factor` times the one before."""
    bounds = [start]
    while len(bounds) < count:
        bounds.append(bounds[-1] * factor)
    return tuple(bounds)


class Counter:
    """A number that only grows. Whoever owns it writes `counter.value += n`."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: float = 0


class Gauge:
    """A number that goes up and down. Whoever owns it assigns to `gauge.value`."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: float = 0


class Histogram:
    """How often a value fell at or below each bound, and the sum of all of them.

    counts has one number for each bound, not cumulated, and one more for what is above the last bound.
    """

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Record one value, in the unit that the metric's name ends with."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def observe_each(self, value: float, times: int) -> None:
        """Record that `times` things of a batch took `value` each."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.sum += value * times


V = TypeVar("V", Counter, Gauge, Histogram)


class Family(Generic[V]):
    """The members of a metric with labels, made when they are first asked for.

    A caller on a hot path asks once for the label values that it needs and keeps the member.
    """

    __slots__ = ("_make", "label_names", "members")

    def __init__(self, label_names: tuple[str, ...], make: Callable[[], V]) -> None:
        self.label_names = label_names
        self.members: dict[tuple[str, ...], V] = {}
        self._make: Callable[[], V] = make

    def at(self, *label_values: str) -> V:
        """The member with these label values, in the order of label_names."""
        member = self.members.get(label_values)
        if member is None:
            if len(label_values) != len(self.label_names):
                raise ValueError(f"labels are {', '.join(self.label_names)}; given {label_values!r}")
            member = self.members[label_values] = self._make()
        return member

    def forget(self, *label_values: str) -> None:
        """Publish that member no more, such as one of a peer that has left. No error if there is none."""
        self.members.pop(label_values, None)


Source = Callable[[], float]
"""Reads a current value; called when metrics are scraped, on the loop, so it must be cheap."""

FamilySource = Callable[[], Mapping[tuple[str, ...], float]]
"""Reads current values by label values."""
