"""Looking after a connection on which nothing is heard.

The same on a server and on a client. Knows a clock and what to do; not HTTP/2.
"""

from collections.abc import Callable
from typing import Protocol

from kvstore.rpc.deadlines import Bucket, Expiring


def _nothing() -> None:
    pass


class Timer(Protocol):
    def now(self) -> float:
        """Seconds on a clock that only goes forward."""

    def expire_at(self, deadline: float, item: Expiring) -> Bucket:
        """Have item expire; see DeadlineWheel.add."""


class Keepalive:
    """Pings a peer that is silent for `interval` seconds, and gives up one silent for `timeout` more.

    Whoever receives sets last_heard; that is all that it costs a busy connection.
    """

    __slots__ = ("_bucket", "_give_up", "_interval", "_ping", "_pinged_at", "_timeout", "_timer", "last_heard")

    def __init__(
        self,
        timer: Timer,
        *,
        interval: float,
        timeout: float,
        ping: Callable[[], None],
        give_up: Callable[[], None],
    ) -> None:
        self._timer = timer
        self._interval = interval
        self._timeout = timeout
        self._ping = ping
        self._give_up = give_up
        self._pinged_at: float | None = None
        self.last_heard = timer.now()
        self._bucket: Bucket | None = timer.expire_at(self.last_heard + interval, self)

    def stop(self) -> None:
        if self._bucket is not None:
            self._bucket.pop(self, None)
            self._bucket = None
        # These are methods of whoever holds this: without them its memory, and all that it had to send, is free at
        # once and need not wait for the collector.
        self._ping = self._give_up = _nothing

    def expire(self) -> None:
        """Ping, give up, or find that something was heard meanwhile."""
        if self._bucket is None:
            return
        now = self._timer.now()
        if self._pinged_at is not None and self.last_heard < self._pinged_at:
            self._bucket = None
            self._give_up()
            return
        self._pinged_at = None
        due = self.last_heard + self._interval
        if due <= now:
            self._pinged_at = now
            self._ping()
            due = now + self._timeout
        self._bucket = self._timer.expire_at(due, self)
