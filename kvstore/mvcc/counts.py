"""A sparse summary of how many live keys there are where: the key space in buckets of about 512 keys.

A million keys are about two thousand buckets, two lists in memory, so that counting a range sums bucket counts and
walks the two buckets at its edges only. Knows counts and boundaries; walking keys is done by who asks.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable

from kvstore.storage.table import Table

MERGE_BELOW = 256
"""Two neighbours that hold fewer keys than this together become one bucket."""
SPLIT_ABOVE = 1024


def separator(left: bytes, right: bytes) -> bytes:
    """The shortest prefix of `right` that is above `left`; left < right."""
    length = min(len(left), len(right))
    # Doubling first keeps long keys with long common prefixes cheap.
    low, step = 0, 16
    while low + step <= length and left[low : low + step] == right[low : low + step]:
        low += step
        step *= 2
    while low < length and left[low] == right[low]:
        low += 1
    return right[: low + 1]


class BucketCounts:
    """Counts by bucket: bucket i holds the keys in [bounds[i], bounds[i + 1])."""

    __slots__ = ("bounds", "counts")

    def __init__(self, bounds: list[bytes], counts: list[int]) -> None:
        assert bounds[0] == b""
        assert len(bounds) == len(counts)
        self.bounds = bounds
        self.counts = counts

    def copy(self) -> "BucketCounts":
        return BucketCounts(self.bounds.copy(), self.counts.copy())

    def shift(self, key: bytes, by: int) -> None:
        """Count a key in (+1) or out (-1) without a change of buckets."""
        self.counts[bisect_right(self.bounds, key) - 1] += by

    def bound_below(self, key: bytes) -> bytes:
        """Where the bucket of a key begins."""
        return self.bounds[bisect_right(self.bounds, key) - 1]

    def count(self, start: bytes, end: bytes | None, walk: Callable[[bytes, bytes | None], int]) -> int:
        """Number of keys in [start, end); end None is "to the last".

        walk: counts the keys of a range by visiting them; called for at most two ranges, each within one bucket.
        """
        if end is not None and start >= end:
            return 0
        bounds, counts = self.bounds, self.counts
        first = bisect_right(bounds, start) - 1
        if end is None:
            last, tail = len(bounds), 0
        else:
            last = bisect_right(bounds, end) - 1
            if last == first:
                return walk(start, end) if counts[first] else 0
            tail = walk(bounds[last], end) if counts[last] and bounds[last] != end else 0
        if bounds[first] == start:
            return sum(counts[first:last]) + tail
        if counts[first]:
            tail += walk(start, bounds[first + 1] if first + 1 < len(bounds) else None)
        return sum(counts[first + 1 : last]) + tail


class KeyCounts(BucketCounts):
    """The counts of the present state: buckets split and merge, and every change is stored at once.

    table: keeps them; a row is written for each change, which an overlay makes one row a flush.
    middle: gives two neighbouring keys in the middle of a bucket [start, end) of so many keys, or None.
    """

    __slots__ = ("_middle", "_table", "number")

    def __init__(
        self,
        bounds: list[bytes],
        counts: list[int],
        table: Table,
        middle: Callable[[bytes, bytes | None, int], tuple[bytes, bytes] | None],
    ) -> None:
        super().__init__(bounds, counts)
        self._table = table
        self._middle = middle
        self.number = sum(counts)

    def add(self, key: bytes) -> None:
        """Count a new key, which is in the store already. About 0.5 us."""
        at = bisect_right(self.bounds, key) - 1
        self.number += 1
        count = self.counts[at] = self.counts[at] + 1
        self._table.active[b"\0" + self.bounds[at]] = count.to_bytes(8, "big")
        if count > SPLIT_ABOVE:
            self._split(at)

    def remove(self, keys: list[bytes]) -> None:
        """Count out keys, ascending, that are no longer in the store. Once a bucket: next to nothing a key."""
        self.number -= len(keys)
        done = 0
        while done < len(keys):
            at = bisect_right(self.bounds, keys[done]) - 1
            end = self.bounds[at + 1] if at + 1 < len(self.bounds) else None
            following = len(keys) if end is None else bisect_left(keys, end, done)
            count = self.counts[at] = self.counts[at] - (following - done)
            assert count >= 0, "a bucket has lost more keys than it held"
            done = following
            self._save(at)
            if count < MERGE_BELOW // 2 and len(self.bounds) > 1:
                self._merge(at)

    def _save(self, at: int) -> None:
        self._table.put(b"\0" + self.bounds[at], self.counts[at].to_bytes(8, "big"))

    def _split(self, at: int) -> None:
        bounds, counts = self.bounds, self.counts
        end = bounds[at + 1] if at + 1 < len(bounds) else None
        found = self._middle(bounds[at], end, counts[at])
        assert found is not None, "a bucket holds as many keys as it counts"
        bound = separator(*found)
        assert bounds[at] < bound
        below = counts[at] // 2
        bounds.insert(at + 1, bound)
        counts.insert(at + 1, counts[at] - below)
        counts[at] = below
        self._save(at)
        self._save(at + 1)

    def _merge(self, at: int) -> None:
        counts = self.counts
        if at + 1 < len(counts) and counts[at] + counts[at + 1] < MERGE_BELOW:
            right = at + 1
        elif at and counts[at - 1] + counts[at] < MERGE_BELOW:
            right = at
        else:
            return
        self._table.delete(b"\0" + self.bounds.pop(right))
        counts[right - 1] += counts.pop(right)
        self._save(right - 1)


def load(table: Table, middle: Callable[[bytes, bytes | None, int], tuple[bytes, bytes] | None]) -> KeyCounts:
    """The counts as they are stored."""
    rows = table.items(b"", None)
    bounds = [row_key[1:] for row_key, _ in rows] or [b""]
    counts = [int.from_bytes(row, "big") for _, row in rows] or [0]
    return KeyCounts(bounds, counts, table, middle)
