"""Reading versions of keys: at the present, at an earlier revision, in stretches, and counting them.

Rows come as `current` holds them, whichever table they are from. Knows nothing of requests.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Generator, Iterator
from itertools import islice
from typing import Final

from kvstore.mvcc.counts import BucketCounts, KeyCounts
from kvstore.mvcc.encoding import (
    CREATE,
    DELETE,
    MAX_SUB,
    MOD_AT,
    REVISION,
    REVISION_SIZE,
    VERSION_AT,
    current_row_of_history,
    key_of_history,
)
from kvstore.storage.seal import shown
from kvstore.storage.table import DupTable, Table

_ALL: Final = b"\xff"
_FROZEN_COUNTS: Final = 8
_HISTORY_STEP: Final = 4000
_WALK_STEP: Final = 4000

Row = tuple[bytes, bytes]


class Reader:
    """The versions of keys in `current`, `past` and `history`.

    head: the newest revision that rows in `current` may have; reads at it or later are served from there alone.
    """

    __slots__ = ("_frozen", "counts", "current", "head", "history", "past")

    counts: KeyCounts
    head: int

    def __init__(self, current: Table, past: DupTable, history: Table) -> None:
        """Of no use before `reset`."""
        self.current = current
        self.past = past
        self.history = history
        self._frozen: OrderedDict[int, BucketCounts] = OrderedDict()

    def reset(self, counts: KeyCounts, head: int) -> None:
        """Take the tables as they are now."""
        self.counts = counts
        self.head = head
        self._frozen.clear()

    # Rows.

    def row_at(self, key: bytes, revision: int) -> bytes | None:
        """A key's row at a revision that is not compacted."""
        row = self.current.get(key)
        if row is not None and (revision >= self.head or row[MOD_AT:VERSION_AT] <= revision.to_bytes(8, "big")):
            return row
        if row is None:
            self.current.check_absent(key)
        if revision >= self.head:
            return None
        return self._past_row(key, REVISION.pack(revision, MAX_SUB) + _ALL)

    def _past_row(self, key: bytes, bound: bytes) -> bytes | None:
        last = self.past.last_at_most(key, bound)
        if last is None:
            self.past.check_absent(key)
            return None
        if last[REVISION_SIZE]:
            return None
        event = self.history.get(last[:REVISION_SIZE])
        if event is None:
            raise self.history.damaged(f"what belongs to revision {int.from_bytes(last[:8], 'big')}")
        return current_row_of_history(event, int.from_bytes(last[8:REVISION_SIZE], "big"))

    def stretch(self, start: bytes, end: bytes | None, revision: int, limit: int) -> tuple[list[Row], bytes | None]:
        """Rows from `start` on at a revision, and where to go on; None if there is nothing more.

        Looks at no more than about `limit` keys and returns at most as many rows, perhaps none.
        """
        present = self.current.items(start, end, limit)
        following: bytes | None = present[-1][0] + b"\0" if len(present) >= limit else None
        stop = end if following is None else following
        self._check_number(present, start, stop)
        if revision >= self.head:
            return present, following
        newest = revision.to_bytes(8, "big")
        found = {key: row for key, row in present if row[MOD_AT:VERSION_AT] <= newest}
        bound = REVISION.pack(revision, MAX_SUB) + _ALL
        looked_up = 0
        in_order = True
        for key in self.past.keys(start, stop):
            if key in found:
                continue
            if looked_up >= limit:
                found = {other: row for other, row in found.items() if other < key}
                following = key
                break
            looked_up += 1
            row = self._past_row(key, bound)
            if row is not None:
                found[key] = row
                in_order = False
        rows = list(found.items()) if in_order else sorted(found.items())
        if len(rows) > limit:
            following = rows[limit][0]
            del rows[limit:]
        return rows, following

    def _check_number(self, rows: list[Row], start: bytes, stop: bytes | None) -> None:
        """See that all newest rows start <= key < stop are as many as are counted, where they are whole buckets.

        A damaged page may hide some. 2 us for 2,000 rows. Raises CorruptStore.
        """
        counts = self.counts
        bounds = counts.bounds
        # No key is below the second of the two.
        first = bisect_left(bounds, start) if start > b"\0" else 0
        last = len(bounds) if stop is None else bisect_right(bounds, stop) - 1
        if first >= last:
            return
        low = bisect_left(rows, (bounds[first],)) if first else 0
        high = bisect_left(rows, (bounds[last],), low) if last < len(bounds) else len(rows)
        counted = sum(counts.counts[first:last])
        if high - low != counted:
            missed = f"({high - low}, not {counted})"
            raise self.current.damaged(f"the way to some rows from {shown(bounds[first])} on {missed}")

    # Counts.

    def count_now(self, start: bytes, end: bytes | None) -> int:
        """Number of keys at the head: 0.2 ms at most, however many there are."""
        if end is not None and start >= end:
            return 0
        # With no key between its ends and the bounds of their buckets, all of the buckets counts and nothing is walked.
        bound = self.counts.bound_below(start)
        if not self.current.items(bound, start, 1):
            start = bound
        if end is not None and not self.current.items(end, None, 1):
            end = None
        return self.counts.count(start, end, self._walk_now)

    def _walk_now(self, start: bytes, end: bytes | None) -> int:
        return sum(map(len, self.current.pieces(start, end)))

    def count_steps(self, start: bytes, end: bytes | None, revision: int) -> Generator[None, None, int]:
        """Number of keys at a revision, in steps of a few milliseconds.

        What was counted for a revision is remembered in the form of bucket counts, so that the next page of a long
        listing costs no more than a count at the head.
        """
        if revision >= self.head:
            return self.count_now(start, end)
        frozen = self._frozen.get(revision)
        if frozen is None:
            if self.head - revision > self.counts.count(start, end, self._walk_now):
                # More has changed since than there is to walk.
                return (yield from self._walk_steps(start, end, revision))
            frozen = yield from self._freeze_steps(revision)
        else:
            self._frozen.move_to_end(revision)
        return frozen.count(start, end, lambda low, high: self._walk_at(low, high, revision))

    def _walk_steps(self, start: bytes, end: bytes | None, revision: int) -> Generator[None, None, int]:
        total = 0
        following: bytes | None = start
        while following is not None:
            rows, following = self.stretch(following, end, revision, _WALK_STEP)
            total += len(rows)
            if following is not None:
                yield
        return total

    def _walk_at(self, start: bytes, end: bytes | None, revision: int) -> int:
        total = 0
        following: bytes | None = start
        while following is not None:
            rows, following = self.stretch(following, end, revision, _WALK_STEP)
            total += len(rows)
        return total

    def _freeze_steps(self, revision: int) -> Generator[None, None, BucketCounts]:
        """The bucket counts as they were at a revision: those of later, with what happened in between undone."""
        later = min((known for known in self._frozen if known > revision), default=None)
        counts = (self.counts if later is None else self._frozen[later]).copy()
        end = REVISION.pack((self.head if later is None else later) + 1, 0)
        following = REVISION.pack(revision + 1, 0)
        while True:
            rows = self.history.items(following, end, _HISTORY_STEP)
            for _, row in rows:
                if row[0] == CREATE:
                    counts.shift(key_of_history(row), -1)
                elif row[0] == DELETE:
                    counts.shift(key_of_history(row), 1)
            if len(rows) < _HISTORY_STEP:
                break
            following = rows[-1][0] + b"\0"
            yield
        self._frozen[revision] = counts
        if len(self._frozen) > _FROZEN_COUNTS:
            self._frozen.popitem(last=False)
        return counts

    def middle(self, start: bytes, end: bytes | None, count: int) -> tuple[bytes, bytes] | None:
        """The two neighbouring keys in the middle of a range of `count` keys; None if it has fewer than two."""
        half = count // 2
        keys = [key for key, _ in islice(self.current.scan(start, end), half - 1, half + 1)]
        return (keys[0], keys[1]) if len(keys) == 2 else None

    # History.

    def events_from(self, first: int) -> Iterator[tuple[int, bytes]]:
        """History rows from a main revision on, with their main revision. Nothing may change meanwhile."""
        for piece in self.history.pieces(REVISION.pack(max(first, 0), 0), None):
            for key, row in piece:
                yield int.from_bytes(key[:8], "big"), row
