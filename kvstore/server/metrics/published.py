"""The text of all metrics for whoever asks, made within a share of the time, however many ask and how often.

To make it takes milliseconds in which the loop does nothing else. Who asks now and then has it made at once; who asks
sooner after the last time waits a little, and all who do meanwhile get the same. Nobody gets what was made before he
asked. Knows no HTTP.
"""

from __future__ import annotations

import asyncio
import gzip
import time
from collections.abc import Callable
from typing import Final, NamedTuple

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from kvstore.server.metrics.export import exposition

REST_FACTOR: Final = 4.0
"""Making texts rests for so many times what it took."""


class Text(NamedTuple):
    """Metrics in a format. coding: "gzip" or "identity"."""

    content: bytes
    content_type: str
    coding: str


class Published:
    """The metrics of a registry. clock: seconds, to measure with; call_later: as the loop's."""

    def __init__(
        self,
        registry: CollectorRegistry,
        *,
        clock: Callable[[], float] = time.perf_counter,
        call_later: Callable[[float, Callable[[], None]], object] | None = None,
    ) -> None:
        self._registry = registry
        self._clock = clock
        self._call_later = call_later
        self._resting = False
        # What is waited for, by content type and compression, with an Accept header that asks for it.
        self._wanted: dict[tuple[str, bool], tuple[str, asyncio.Future[Text]]] = {}

    async def text(self, accept: str, *, compressed: bool) -> Text:
        """All metrics in the format that an Accept header prefers."""
        if not self._resting:
            return self._make(accept, compressed)
        kind = choose_encoder(accept)[1], compressed
        wanted = self._wanted.get(kind)
        if wanted is None:
            wanted = self._wanted[kind] = accept, asyncio.get_running_loop().create_future()
        # One of those who wait may leave.
        return await asyncio.shield(wanted[1])

    def _make(self, accept: str, compressed: bool) -> Text:
        began = self._clock()
        content, content_type = exposition(self._registry, accept)
        coding = "gzip" if compressed else "identity"
        text = Text(gzip.compress(content) if compressed else content, content_type, coding)
        self._rest(self._clock() - began)
        return text

    def _rest(self, spent: float) -> None:
        self._resting = True
        call_later = self._call_later or asyncio.get_running_loop().call_later
        call_later(REST_FACTOR * spent, self._rested)

    def _rested(self) -> None:
        self._resting = False
        if not self._wanted:
            return
        # One kind at a time, and a rest after each.
        kind = next(iter(self._wanted))
        accept, waiting = self._wanted.pop(kind)
        try:
            waiting.set_result(self._make(accept, kind[1]))
        except Exception as error:
            waiting.set_exception(error)
            self._rest(0.0)
