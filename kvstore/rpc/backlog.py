"""How many bytes a server holds for its clients, and what happens when they are too many: answers, pieces of requests.

Answers wait for clients to read them. Each connection says how much it holds whenever that changes. Within the limit
nothing happens. Beyond it, long answers that are still to be made wait for room, and those that read nothing for
longest are closed, one after the other. Requests that come in pieces wait for their last one; beyond a limit those that
began longest ago are refused. Knows no sockets and no HTTP/2.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final, Protocol

from kvstore.rpc.status import RpcError, StatusCode

logger = logging.getLogger(__name__)

PATIENCE_SECONDS: Final = 1.0
"""A client that has read something so recently is spared, up to the most that may wait."""

SECONDS_BETWEEN_WARNINGS: Final = 10.0

MUCH: Final = 8
"""More than this part of the limit is much; less than this part of what there was is little."""

RELIEF: Final = 0.75
"""There is room again when no more than this share of the limit waits: below it, lest it come and go with each byte."""


class Holder(Protocol):
    """A connection with answers that its client has not read."""

    unread: int
    """Bytes, as last noted. Kept by the Backlog."""

    def measure(self) -> int:
        """How many there are now: what a transport holds may have gone without a word."""

    def expel(self) -> None:
        """Close it now; nothing of what it holds is sent."""

    def relieve(self) -> None:
        """There is room again for what it held back."""

    def admit(self) -> bool:
        """Make one of the answers that wait for room, if one still does; whether more do."""


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

    limit: bytes that may. most: bytes beyond which connections are closed however recently their clients have read.
    freed: called when much has waited and most of it is gone. needs_turns: called when turn() has to be called from
    time to time, until it says that it need not.
    """

    def __init__(
        self,
        limit: int,
        most: int,
        now: Callable[[], float],
        *,
        freed: Callable[[], None] = lambda: None,
        needs_turns: Callable[[], None] = lambda: None,
    ) -> None:
        self._limit = limit
        self._most = most
        self._now = now
        self._freed = freed
        self._needs_turns = needs_turns
        # The most that has waited since most of it was gone.
        self._peak = 0
        # Since when each has taken nothing; the longest first.
        self._since: dict[Holder, float] = {}
        # Who has answers that wait for room, in the order of their turns.
        self._outside: dict[Holder, None] = {}
        self._warnings = Warnings(now)
        self.pressed = False
        """Whether so much waits that nothing long should be added, and nothing to what somebody leaves unread."""
        self.total = 0
        self.expelled = 0

    def note(self, holder: Holder, size: int) -> None:
        """A connection holds so many bytes now."""
        self._update(holder, size)
        if self.total > self._limit:
            if not self.pressed:
                self.pressed = True
                self._needs_turns()
            self._make_room()
        if self.total > self._peak:
            self._peak = self.total
        elif self._peak > self._limit // MUCH and self.total < self._peak // MUCH:
            self._peak = 0
            self._freed()
        if self.pressed and self.total <= RELIEF * self._limit:
            self.pressed = False
            for each in self._since:
                each.relieve()

    def _update(self, holder: Holder, size: int) -> None:
        before = holder.unread
        holder.unread = size
        self.total += size - before
        if not size:
            self._since.pop(holder, None)
        elif size < before or holder not in self._since:
            self._since.pop(holder, None)
            self._since[holder] = self._now()

    def _make_room(self) -> None:
        now = self._now()
        while self.total > self._limit and self._since:
            holder, since = next(iter(self._since.items()))
            if now - since < PATIENCE_SECONDS and self.total <= self._most:
                return
            before, size = holder.unread, holder.measure()
            if size < before:
                self._update(holder, size)
                continue
            total = self.total
            self._forget(holder)
            self.expelled += 1
            self._warnings.warn(
                f"closed a connection: its client left {size} bytes of answers unread for {now - since:.1f} s, "
                f"while {total} bytes wait for all clients together"
            )
            holder.expel()

    def _forget(self, holder: Holder) -> None:
        self._since.pop(holder, None)
        self._outside.pop(holder, None)
        self.total -= holder.unread
        holder.unread = 0

    def leave(self, holder: Holder) -> None:
        """A connection is gone."""
        self._outside.pop(holder, None)
        self.note(holder, 0)

    def queue(self, holder: Holder) -> None:
        """A connection has an answer that waits for room. They take turns: nobody waits for all of another's."""
        if holder not in self._outside:
            self._outside[holder] = None
            self._needs_turns()

    def turn(self) -> bool:
        """Close who has to be closed by now, and let one answer in that waits for room, whether there is some or not.

        Whether to call again: soon if not pressed, else later, so that what is let in beyond the limit stays little.
        """
        if self.total > self._limit:
            self._make_room()
        holder = next(iter(self._outside), None)
        if holder is not None:
            del self._outside[holder]
            if holder.admit():
                self._outside[holder] = None
        return self.pressed or bool(self._outside)


class Sender(Protocol):
    """A call whose request has arrived in part."""

    def refuse(self, error: RpcError) -> None:
        """End it with an error, and let go of what has arrived."""


class Unfinished:
    """What has arrived of requests that are not whole yet, on all connections of a server.

    limit: bytes that may. Beyond it the request that began longest ago is refused: a client that means to send one
    does so in moments, and whoever keeps many begun keeps out nobody but itself.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        # What each holds, the one that began first at the beginning.
        self._held: dict[Sender, int] = {}
        self.total = 0
        self.refused = 0

    def note(self, sender: Sender, size: int) -> None:
        """A call holds so many bytes now; 0 when its message is whole, or it has ended.

        Raises RpcError (RESOURCE_EXHAUSTED) if it is this one that must go.
        """
        self.total += size - self._held.get(sender, 0)
        if not size:
            self._held.pop(sender, None)
            return
        self._held[sender] = size
        while self.total > self._limit:
            oldest = next(iter(self._held))
            self.total -= self._held.pop(oldest)
            self.refused += 1
            error = RpcError(StatusCode.RESOURCE_EXHAUSTED, "grpc: too many incomplete messages on this server")
            if oldest is sender:
                raise error
            oldest.refuse(error)
