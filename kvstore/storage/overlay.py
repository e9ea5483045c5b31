"""Changes that are not in the environment yet, and putting them in order with what is.

An overlay is a plain dict, so that a change costs a dict assignment. Its keys are sorted only when a scan asks for
them, and only those that are new since the last scan. Knows dicts and sorted lists; whether None means deleted is
decided here and in table.py together.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator
from itertools import islice
from typing import Any, Final, Protocol

Row = tuple[bytes, bytes]

# Up to so many new keys are put into place one by one; more are sorted together with the old ones.
_FEW: Final = 24
# How many keys of an overlay are merged at a time at most: a short scan of a large overlay stays short.
_LAST_STEP: Final = 1024


class Changes(Protocol):
    """Looks up what became of a key: its new value, or None if it is deleted."""

    def __getitem__(self, key: bytes, /) -> bytes | None:
        """The change of a key of the overlay."""


class SortedKeys:
    """The keys of a dict that only ever grows, in order."""

    __slots__ = ("_keys", "_source")

    def __init__(self, source: dict[bytes, Any]) -> None:
        """Follow `source`, from which no key is ever removed."""
        self._source = source
        self._keys: list[bytes] = []

    def get(self) -> list[bytes]:
        """All keys, ascending. The list changes with the next call; it must not be changed by the caller."""
        keys = self._keys
        new = len(self._source) - len(keys)
        if not new:
            return keys
        # A dict keeps the order of insertion: the newest keys are the last.
        added = sorted(islice(reversed(self._source), new))
        if not keys or keys[-1] < added[0]:
            keys += added
        elif new <= _FEW:
            for key in added:
                insort(keys, key)
        else:
            keys += added
            keys.sort()
        return keys

    def release(self) -> list[bytes]:
        """The keys that were put in order so far, to be let go of. This is of no use afterwards."""
        keys, self._keys = self._keys, []
        return keys


class Remains:
    """Changes that nobody needs any more, let go of a few at a time: at once, 300,000 would be a stall of 25 ms.

    A dict is turned into lists first, which takes a third of that: what is at the end of a list is removed for nothing,
    but each key of a dict by looking it up.
    """

    __slots__ = ("_dicts", "_lists")

    def __init__(self) -> None:
        """None."""
        self._dicts: list[dict[bytes, Any]] = []
        self._lists: list[list[Any]] = []

    def add(self, changes: dict[bytes, Any], keys: SortedKeys) -> None:
        """Take over what nobody else holds any more."""
        if changes:
            self._dicts.append(changes)
            self._lists.append(keys.release())

    def let_go(self, count: int) -> None:
        """Free so many objects, or prepare to free those of one dict."""
        while self._lists and count > 0:
            last = self._lists[-1]
            stop = max(0, len(last) - count)
            count -= len(last) - stop
            del last[stop:]
            if not last:
                self._lists.pop()
        if count > 0 and self._dicts:
            changes = self._dicts.pop()
            self._lists += (list(changes), list(changes.values()))
            changes.clear()

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._dicts or self._lists)


class Span:
    """The part start <= key < end of an overlay of some generations, taken piece by piece in one direction."""

    __slots__ = ("_generations", "_step")

    def __init__(
        self, generations: list[tuple[Changes, list[bytes]]], start: bytes, end: bytes | None, step: int
    ) -> None:
        """generations: changes and their sorted keys, the older generation first. step: keys to take at first."""
        self._step = step
        self._generations: list[tuple[Changes, list[bytes], int, int]] = []
        for changes, keys in generations:
            low = bisect_left(keys, start) if start else 0
            high = len(keys) if end is None else bisect_left(keys, end)
            if low < high:
                self._generations.append((changes, keys, low, high))

    def __bool__(self) -> bool:
        """Whether anything is left."""
        return bool(self._generations)

    def take(self, bound: bytes | None) -> tuple[dict[bytes, bytes | None], bytes | None]:
        """Take the next changes in ascending order, none beyond `bound` (None: no bound).

        Returns them, a later generation's in place of an earlier one's, and the key up to which they are complete:
        None if no more than what was taken is left.
        """
        step = self._next_step()
        limit = bound
        for _, keys, low, high in self._generations:
            if low + step < high and (limit is None or keys[low + step - 1] < limit):
                limit = keys[low + step - 1]
        taken: dict[bytes, bytes | None] = {}
        rest = []
        for changes, keys, low, high in self._generations:
            stop = high if limit is None else bisect_right(keys, limit, low, high)
            for key in keys[low:stop]:
                taken[key] = changes[key]
            if stop < high:
                rest.append((changes, keys, stop, high))
        self._generations = rest
        return taken, limit

    def take_back(self, bound: bytes | None) -> tuple[dict[bytes, bytes | None], bytes | None]:
        """As take(), in descending order: none below `bound`."""
        step = self._next_step()
        limit = bound
        for _, keys, low, high in self._generations:
            if low + step < high and (limit is None or keys[high - step] > limit):
                limit = keys[high - step]
        taken: dict[bytes, bytes | None] = {}
        rest = []
        for changes, keys, low, high in self._generations:
            stop = low if limit is None else bisect_left(keys, limit, low, high)
            for key in keys[stop:high]:
                taken[key] = changes[key]
            if low < stop:
                rest.append((changes, keys, low, stop))
        self._generations = rest
        return taken, limit

    def _next_step(self) -> int:
        step = self._step
        self._step = min(2 * step, _LAST_STEP)
        return step


def merge(base: Iterator[list[Row]], span: Span) -> Iterator[list[Row]]:
    """Rows in ascending order, in lists that are not empty: those of `base` with the changes of `span` made to them."""
    rows: list[Row] = []
    exhausted = False
    while span:
        if not rows and not exhausted:
            rows = next(base, [])
            exhausted = not rows
        changes, limit = span.take(rows[-1][0] if rows else None)
        # A tuple of the key alone sorts before every row of that key.
        stop = len(rows) if limit is None else bisect_left(rows, (limit + b"\0",))
        if changes:
            merged: dict[bytes, bytes | None] = dict(rows[:stop])
            merged.update(changes)
            part = [(key, value) for key, value in sorted(merged.items()) if value is not None]
        else:
            part = rows[:stop]
        rows = rows[stop:]
        if part:
            yield part
    if rows:
        yield rows
    yield from base


def merge_back(base: Iterator[list[Row]], span: Span) -> Iterator[list[Row]]:
    """As merge(), in descending order; the lists of `base` descend too."""
    rows: list[Row] = []
    exhausted = False
    while span:
        if not rows and not exhausted:
            rows = next(base, [])
            exhausted = not rows
        changes, limit = span.take_back(rows[-1][0] if rows else None)
        stop = len(rows)
        if limit is not None:
            stop -= bisect_left(rows[::-1], (limit,))
        if changes:
            merged: dict[bytes, bytes | None] = dict(rows[:stop])
            merged.update(changes)
            part = [(key, value) for key, value in sorted(merged.items(), reverse=True) if value is not None]
        else:
            part = rows[:stop]
        rows = rows[stop:]
        if part:
            yield part
    if rows:
        yield rows
    yield from base
