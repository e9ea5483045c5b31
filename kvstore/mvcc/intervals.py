"""Ranges of keys: how requests name them, sets of them, and which of many hold a key.

A range is [start, end) with end None for "from start on". Knows keys only.
"""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


def end_of(key: bytes, range_end: bytes) -> bytes | None:
    """The exclusive end of what a request's (key, range_end) names; None for "from key on"."""
    if not range_end:
        return key + b"\0"
    return None if range_end == b"\0" else range_end


class IntervalSet:
    """A union of ranges, kept as disjoint ones in order."""

    def __init__(self) -> None:
        self._starts: list[bytes] = []
        self._ends: list[bytes] = []

    def add(self, key: bytes, range_end: bytes) -> None:
        """Add what a request's (key, range_end) names.

        A range_end of one zero byte adds nothing: the checks of a transaction know no open-ended ranges.
        """
        self._add(key, range_end or key + b"\0")

    def _add(self, start: bytes, end: bytes) -> None:
        if start >= end:
            return
        first = bisect_left(self._ends, start)
        last = bisect_right(self._starts, end)
        if first < last:
            start = min(start, self._starts[first])
            end = max(end, self._ends[last - 1])
        self._starts[first:last] = [start]
        self._ends[first:last] = [end]

    def update(self, other: "IntervalSet") -> None:
        """Add all ranges of another set."""
        for start, end in zip(other._starts, other._ends, strict=True):
            self._add(start, end)

    def contains(self, key: bytes) -> bool:
        """Whether a range holds the key."""
        at = bisect_right(self._starts, key) - 1
        return at >= 0 and key < self._ends[at]


class IntervalIndex(Generic[T]):
    """Which of many ranges hold a key.

    Ranges lie in an array sorted by start that is read as a balanced binary tree; each node knows the greatest end
    below it, so a search costs O(log n + hits). New ranges wait in a short list that every search walks, removed ones
    stay as gaps: the array is rebuilt when these are too many. Between two neighbouring boundaries the answer is the
    same for every key, so answers are remembered until a range comes or goes: 0.5 us then.
    """

    _SLACK = 32
    _REMEMBERED_HITS = 200_000

    def __init__(self) -> None:
        self._items: dict[tuple[bytes, bytes | None], T] = {}
        self._recent: dict[tuple[bytes, bytes | None], T] = {}
        self._gaps = 0
        self._starts: list[bytes] = []
        self._ends: list[bytes | None] = []
        self._values: list[T | None] = []
        self._reach: list[bytes | None] = []
        self._places: dict[tuple[bytes, bytes | None], int] = {}
        self._boundaries: list[bytes] = []
        self._answers: dict[int, list[T]] = {}
        self._remembered = 0

    def __len__(self) -> int:
        return len(self._items)

    def get(self, start: bytes, end: bytes | None) -> T | None:
        """The value of exactly this range."""
        return self._items.get((start, end))

    def values(self) -> Iterator[T]:
        return iter(self._items.values())

    def add(self, start: bytes, end: bytes | None, value: T) -> None:
        """Add a range that is not in the index."""
        self._items[start, end] = value
        self._recent[start, end] = value
        insort(self._boundaries, start)
        if end is not None:
            insort(self._boundaries, end)
        self._forget()
        if len(self._recent) > self._SLACK + len(self._items) // 8:
            self._rebuild()

    def remove(self, start: bytes, end: bytes | None) -> None:
        """Remove a range that is in the index."""
        del self._items[start, end]
        self._forget()
        if self._recent.pop((start, end), None) is None:
            self._values[self._places.pop((start, end))] = None
            self._gaps += 1
            if self._gaps > self._SLACK + len(self._items) // 2:
                self._rebuild()

    def _forget(self) -> None:
        if self._remembered:
            self._answers.clear()
            self._remembered = 0

    def _rebuild(self) -> None:
        ranges = sorted(self._items.items(), key=lambda item: item[0][0])
        self._starts = [start for (start, _), _ in ranges]
        self._ends = [end for (_, end), _ in ranges]
        self._values = [value for _, value in ranges]
        self._reach = list(self._ends)
        self._places = {key: place for place, (key, _) in enumerate(ranges)}
        self._boundaries = sorted({*self._starts, *(end for end in self._ends if end is not None)})
        self._recent.clear()
        self._gaps = 0
        self._forget()
        self._raise_reach(0, len(ranges))

    def _raise_reach(self, low: int, high: int) -> bytes | None:
        """Set the greatest end of each subtree; the node of [low, high) is its middle."""
        if low >= high:
            return b""
        middle = (low + high) // 2
        reach = self._ends[middle]
        for below in (self._raise_reach(low, middle), self._raise_reach(middle + 1, high)):
            if reach is not None and (below is None or below > reach):
                reach = below
        self._reach[middle] = reach
        return reach

    def stab(self, key: bytes) -> list[T]:
        """The values of all ranges that hold the key, in no order. The list belongs to the index."""
        segment = bisect_right(self._boundaries, key)
        found = self._answers.get(segment)
        if found is None:
            found = self._search(key)
            self._remembered += 1 + len(found)
            if self._remembered > self._REMEMBERED_HITS:
                self._forget()
                self._remembered = 1 + len(found)
            self._answers[segment] = found
        return found

    def _search(self, key: bytes) -> list[T]:
        found: list[T] = []
        for (start, end), value in self._recent.items():
            if start <= key and (end is None or key < end):
                found.append(value)
        ends, values, reaches = self._ends, self._values, self._reach
        # Nothing that starts behind the key can hold it, so the tree is only searched up to there.
        limit = bisect_right(self._starts, key)
        stack = [(0, len(ends))]
        while stack:
            low, high = stack.pop()
            if low >= high or low >= limit:
                continue
            middle = (low + high) // 2
            reach = reaches[middle]
            if reach is not None and reach <= key:
                continue
            if middle < limit:
                end = ends[middle]
                held = values[middle]
                if held is not None and (end is None or key < end):
                    found.append(held)
                stack.append((middle + 1, high))
            stack.append((low, middle))
        return found
