"""How many bytes of a server's answers wait for clients to read them, and whose connection ends when they are too many.

Each connection says how much it holds whenever that changes. Within the limit nothing happens. Beyond it, those that
read nothing for longest are closed, one after the other, until there is room. Knows no sockets and no HTTP/2.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final, Protocol

logger = logging.getLogger(__name__)

PATIENCE_SECONDS: Final = 1.0
"""A client that has read something so recently is spared, up to twice the limit."""

SECONDS_BETWEEN_WARNINGS: Final = 10.0

MUCH: Final = 8
"""More than this part of the limit is much; less than this part of what there was is little."""


class Holder(Protocol):
    """A connection with answers that its client has not read."""

    unread: int
    """Bytes, as last noted. Kept by the Backlog."""

    def expel(self) -> None:
        """Close it now; nothing of what it holds is sent."""


class Warnings:
    """Says what happens again and again once in a while, and how often it did. Reads a clock that it is given."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._quiet_until = float("-inf")
        self.count = 0

    def warn(self, text: str) -> None:
        """Log a text, unless that was done a moment ago."""
        self.count += 1
        now = self._now()
        if now >= self._quiet_until:
            logger.warning("%s (%d since the last such line)", text, self.count)
            self._quiet_until = now + SECONDS_BETWEEN_WARNINGS
            self.count = 0


class Backlog:
    """What waits on all connections of a server.

    limit: bytes that may. relieved: called when much has waited and most of it is gone.
    """

    def __init__(self, limit: int, now: Callable[[], float], relieved: Callable[[], None] = lambda: None) -> None:
        self._limit = limit
        self._now = now
        self._relieved = relieved
        # The most that has waited since it was last relieved.
        self._peak = 0
        # Since when each has taken nothing; the longest first.
        self._since: dict[Holder, float] = {}
        self._warnings = Warnings(now)
        self.total = 0
        self.expelled = 0

    @property
    def pressed(self) -> bool:
        """Whether so much waits that nobody should be given more who has not read what there is."""
        return self.total > self._limit

    def note(self, holder: Holder, size: int) -> None:
        """A connection holds so many bytes now."""
        before = holder.unread
        holder.unread = size
        self.total += size - before
        if not size:
            self._since.pop(holder, None)
        elif size < before or holder not in self._since:
            self._since.pop(holder, None)
            self._since[holder] = self._now()
        if self.total > self._limit:
            self._make_room()
        if self.total > self._peak:
            self._peak = self.total
        elif self._peak > self._limit // MUCH and self.total < self._peak // MUCH:
            self._peak = 0
            self._relieved()

    def _make_room(self) -> None:
        now = self._now()
        while self.total > self._limit and self._since:
            holder, since = next(iter(self._since.items()))
            if now - since < PATIENCE_SECONDS and self.total <= 2 * self._limit:
                return
            size, total = holder.unread, self.total
            del self._since[holder]
            holder.unread = 0
            self.total -= size
            self.expelled += 1
            self._warnings.warn(
                f"closed a connection: its client left {size} bytes of answers unread for {now - since:.1f} s, "
                f"while {total} bytes wait for all clients together"
            )
            holder.expel()
