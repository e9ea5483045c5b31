"""Deadlines of many calls, swept by one timer.

A wheel of ticks: every deadline falls into the bucket of the first tick not before it, and only the set of ticks is
ordered. A call adds and removes itself in constant time, whatever its timeout. Reads no clock and sets no timer.
"""

import logging
from heapq import heappop, heappush
from typing import Protocol

logger = logging.getLogger(__name__)

# Deadlines fire at most this much late; a call's own client gives up by its own clock anyway.
TICKS_PER_SECOND = 100


class Expiring(Protocol):
    def expire(self) -> None:
        """The deadline has passed."""


Bucket = dict[Expiring, None]


class DeadlineWheel:
    """Times at which something expires."""

    __slots__ = ("_buckets", "_ticks")

    def __init__(self) -> None:
        self._buckets: dict[int, Bucket] = {}
        self._ticks: list[int] = []

    def add(self, deadline: float, item: Expiring) -> Bucket:
        """Have item expire at deadline (seconds on the owner's clock). To withdraw it, pop it from the bucket."""
        tick = int(deadline * TICKS_PER_SECOND) + 1
        bucket = self._buckets.get(tick)
        if bucket is None:
            bucket = self._buckets[tick] = {}
            heappush(self._ticks, tick)
        bucket[item] = None
        return bucket

    def next(self) -> float | None:
        """When to call sweep next; None if nothing can expire. Ticks whose items were all withdrawn are dropped."""
        while self._ticks:
            tick = self._ticks[0]
            if self._buckets[tick]:
                return tick / TICKS_PER_SECOND
            heappop(self._ticks)
            del self._buckets[tick]
        return None

    def sweep(self, now: float) -> None:
        """Expire what is due at now."""
        while self._ticks and self._ticks[0] / TICKS_PER_SECOND <= now:
            bucket = self._buckets.pop(heappop(self._ticks))
            for item in list(bucket):
                try:
                    item.expire()
                except Exception:
                    # The others are due as well.
                    logger.exception("a deadline could not be acted upon")
