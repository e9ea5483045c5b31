"""Metrics of the process and its event loop, beside the process_* of prometheus_client."""

import asyncio
import os
import resource
from typing import Final

from kvstore.server.metrics.registry import Metrics

SAMPLE_INTERVAL: Final = 0.02
"""Seconds between two samples of the loop's lag: often enough to meet a stall as long, for 0.1% of a processor."""

WORST_SECONDS: Final = 30.0
"""How long the longest lag is published at least: until a scrape has seen it."""


def publish_descriptors(metrics: Metrics) -> None:
    """Publish how many file descriptors the process has and may have."""
    metrics.read("os_fd_limit", _descriptor_limit)
    if os.path.isdir("/dev/fd"):
        metrics.read("os_fd_used", _descriptors_used)


def _descriptor_limit() -> float:
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def _descriptors_used() -> float:
    # The listing holds one of its own while it is made.
    return len(os.listdir("/dev/fd")) - 1


class LoopLag:
    """Measures how late a loop runs its timers: what every request waits for before anything looks at it.

    Publishes the lags of all samples, and the longest of the last half minute.
    """

    __slots__ = ("_due", "_handle", "_histogram", "_loop", "_until", "_worst", "_worst_before")

    def __init__(self, loop: asyncio.AbstractEventLoop, metrics: Metrics) -> None:
        self._loop = loop
        self._histogram = metrics.histogram("kvstore_loop_lag_distribution_seconds")
        metrics.read("kvstore_loop_lag_seconds", self.worst)
        self._due = 0.0
        self._handle: asyncio.TimerHandle | None = None
        # The longest lag since the present span began, which lasts until then, and that of the span before it.
        self._worst = self._worst_before = 0.0
        self._until = loop.time() + WORST_SECONDS

    def start(self) -> None:
        """Sample until stopped."""
        self._due = self._loop.time() + SAMPLE_INTERVAL
        self._handle = self._loop.call_at(self._due, self._sample)

    def stop(self) -> None:
        """Sample no more. No error if it has not been started."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def worst(self) -> float:
        """The longest lag of the last WORST_SECONDS, or of up to twice as long."""
        return max(self._worst, self._worst_before)

    def _sample(self) -> None:
        now = self._loop.time()
        # uvloop rounds timers to milliseconds and may so be early by one.
        lag = max(0.0, now - self._due)
        self._histogram.observe(lag)
        if now >= self._until:
            self._until = now + WORST_SECONDS
            self._worst_before, self._worst = self._worst, 0.0
        self._worst = max(self._worst, lag)
        self.start()
