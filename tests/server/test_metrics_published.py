"""The text of all metrics, for many who ask."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Callable

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from kvstore.server.metrics.published import REST_FACTOR, Published

OPEN_METRICS = "application/openmetrics-text; version=1.0.0"
SECONDS = 0.5


class Collected(Collector):
    """Metrics that take half a second to collect, on a clock that only they move; and the timer."""

    def __init__(self) -> None:
        self.times = 0
        self.time = 0.0
        self.broken = False
        self.timers: list[tuple[float, Callable[[], None]]] = []
        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        self.published = Published(
            registry, clock=lambda: self.time, call_later=lambda delay, call: self.timers.append((delay, call))
        )

    def collect(self) -> list[Metric]:
        if self.broken:
            raise ValueError("broken")
        self.times += 1
        self.time += SECONDS
        return [GaugeMetricFamily("times", "How often it was collected.", float(self.times))]

    async def ask(self, accept: str = "", *, compressed: bool = False) -> str:
        text = await self.published.text(accept, compressed=compressed)
        return (gzip.decompress(text.content) if text.coding == "gzip" else text.content).decode()

    def rest(self) -> float:
        (delay, call), *self.timers = self.timers
        call()
        return delay


async def test_who_asks_now_and_then_gets_a_text_of_his_own_at_once() -> None:
    collected = Collected()
    for times in (1, 2, 3):
        assert f"times {times}.0" in await collected.ask()
        assert collected.rest() == REST_FACTOR * SECONDS


async def test_who_asks_too_soon_waits_and_shares_what_is_made_after_he_asked() -> None:
    collected = Collected()
    await collected.ask()
    asking = [asyncio.ensure_future(collected.ask()) for _ in range(100)]
    await asyncio.sleep(0)
    asking[0].cancel()
    assert collected.times == 1
    collected.rest()
    assert set(await asyncio.gather(*asking[1:])) == {await asking[1]}
    assert "times 2.0" in await asking[1]
    assert collected.times == 2


async def test_each_kind_of_text_has_its_turn() -> None:
    collected = Collected()
    await collected.ask()
    asking = [
        asyncio.ensure_future(collected.ask(accept, compressed=compressed))
        for accept in ("", OPEN_METRICS, "text/plain")
        for compressed in (False, True)
    ]
    await asyncio.sleep(0)
    while collected.timers:
        collected.rest()
    plain, plain_compressed, other, other_compressed, *_ = await asyncio.gather(*asking)
    assert other.endswith("# EOF\n")
    assert [text.count("times 2.0") for text in (plain, plain_compressed)] == [1, 0]
    assert other != other_compressed
    # One for whoever came first, and one for each of the four kinds.
    assert collected.times == 5


async def test_a_text_that_cannot_be_made_is_an_error_for_who_waits_and_no_end() -> None:
    collected = Collected()
    await collected.ask()
    waiting = asyncio.ensure_future(collected.ask())
    await asyncio.sleep(0)
    collected.broken = True
    collected.rest()
    await asyncio.wait([waiting])
    assert isinstance(waiting.exception(), ValueError)
    collected.broken = False
    collected.rest()
    assert "times 2.0" in await collected.ask()
