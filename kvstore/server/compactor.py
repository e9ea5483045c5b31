"""Automatic compaction of the store's history, by time or by number of revisions. Only the leader proposes it."""

from __future__ import annotations

from collections import deque
from typing import Protocol


class Compactor(Protocol):
    """Says from time to time which revision to compact at."""

    interval: float
    """Seconds between two calls of `due`."""

    def due(self, now: float, revision: int, leading: bool) -> int | None:
        """The revision to compact at now, if any. To be called every `interval` seconds, leader or not."""


class RevisionCompactor:
    """Keeps the newest `retention` revisions; looks every five minutes."""

    interval = 300.0

    def __init__(self, retention: int) -> None:
        self._retention = retention
        self._last = 0

    def due(self, now: float, revision: int, leading: bool) -> int | None:
        """The revision `retention` behind the current one, if it moved."""
        target = revision - self._retention
        if not leading or target <= 0 or target == self._last:
            return None
        self._last = target
        return target


class PeriodicCompactor:
    """Keeps the revisions of the last `retention` seconds.

    It notes the revision ten times in a retention period (at least every six minutes for long periods) and compacts at
    the one that is a period old; periods above an hour compact every hour, shorter ones once a period.
    """

    _NOTES = 10

    def __init__(self, retention: float) -> None:
        self._retention = retention
        self._every = min(retention, 3600.0)
        self.interval = self._every / self._NOTES
        self._notes: deque[tuple[float, int]] = deque()
        self._last = 0
        self._compacted_at: float | None = None

    def due(self, now: float, revision: int, leading: bool) -> int | None:
        """The newest revision noted at least a period ago, at most once every period (or hour)."""
        self._notes.append((now, revision))
        old = None
        while self._notes and self._notes[0][0] <= now - self._retention + self.interval / 2:
            old = self._notes.popleft()[1]
        if old is None:
            return None
        recently = self._compacted_at is not None and now - self._compacted_at < self._every - self.interval / 2
        if recently:
            # Kept for the time when it is due again.
            self._notes.appendleft((now - self._retention, old))
            return None
        self._compacted_at = now
        if not leading or old == self._last:
            return None
        self._last = old
        return old
