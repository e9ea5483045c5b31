"""Metrics of the process and its event loop, beside the process_* of prometheus_client."""

import asyncio
import os
import resource

from kvstore.server.metrics.registry import Metrics
from kvstore.server.metrics.values import Histogram

SAMPLE_INTERVAL = 0.02
"""Seconds between two samples of the loop's lag: often enough to meet a stall as long, for 0.1% of a processor."""


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
    """Measures how late a loop runs its timers: what every request waits for before anything looks at it."""

    __slots__ = ("_due", "_handle", "_histogram", "_loop")

    def __init__(self, loop: asyncio.AbstractEventLoop, histogram: Histogram) -> None:
        self._loop = loop
        self._histogram = histogram
        self._due = 0.0
        self._handle: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Sample until stopped."""
        self._due = self._loop.time() + SAMPLE_INTERVAL
        self._handle = self._loop.call_at(self._due, self._sample)

    def stop(self) -> None:
        """Sample no more. No error if it has not been started."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _sample(self) -> None:
        # uvloop rounds timers to milliseconds and may so be early by one.
        self._histogram.observe(max(0.0, self._loop.time() - self._due))
        self.start()
