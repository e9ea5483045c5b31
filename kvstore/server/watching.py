"""Keeps watches going beside the turns: catching up from history in small steps, and telling of progress."""

from __future__ import annotations

import asyncio

from kvstore.mvcc.watch import WatchHub


class WatchKeeper:
    """Runs one hub's steps on the loop.

    progress_interval: seconds between two notifications of progress to a watch that asked for them and is idle.
    """

    def __init__(self, hub: WatchHub, progress_interval: float) -> None:
        self._hub = hub
        self._interval = progress_interval
        self._loop = asyncio.get_running_loop()
        self._scheduled = False
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin."""
        self._hub.on_behind = self._schedule
        self._timer = self._loop.call_later(self._interval, self._report)
        self._schedule()

    def stop(self) -> None:
        """Leave watches as they are."""
        if self._timer is not None:
            self._timer.cancel()
        self._hub.on_behind = _nothing

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            # Later in the same moment, not at once: connections and the log go first.
            self._loop.call_soon(self._step)

    def _step(self) -> None:
        self._scheduled = False
        if self._hub.sync():
            self._schedule()

    def _report(self) -> None:
        self._timer = self._loop.call_later(self._interval, self._report)
        self._hub.report_progress()


def _nothing() -> None:
    pass
