"""Latencies: what is counted, and what is said of it."""

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvbench.latency import QUANTILES, Latencies, summarize


def of(*microseconds: int) -> Latencies:
    latencies = Latencies()
    latencies.samples.extend(microseconds)
    return latencies


def test_quantiles_are_samples_by_nearest_rank() -> None:
    summary = of(*range(1_000, 1_001_000, 1_000)).summary()
    assert (summary.count, summary.minimum, summary.maximum) == (1_000, 1.0, 1_000.0)
    assert summary.quantiles == {0.5: 500.0, 0.9: 900.0, 0.99: 990.0, 0.999: 999.0}
    assert summary.mean == 500.5


def test_one_sample_is_every_quantile() -> None:
    summary = of(250).summary()
    assert set(summary.quantiles.values()) == {0.25}


@given(st.lists(st.integers(0, 10_000_000), min_size=1, max_size=300))
@settings(deadline=None)
def test_quantiles_match_a_sorted_list(samples: list[int]) -> None:
    summary = of(*samples).summary()
    ordered = sorted(samples)
    for quantile in QUANTILES:
        below = sum(sample / 1000 <= summary.quantiles[quantile] for sample in ordered)
        assert below >= quantile * len(ordered)
        strictly = sum(sample / 1000 < summary.quantiles[quantile] for sample in ordered)
        assert strictly < quantile * len(ordered) or strictly == 0


@given(st.lists(st.integers(0, 10_000_000), min_size=1, max_size=300))
@settings(deadline=None)
def test_the_histogram_holds_every_sample_once(samples: list[int]) -> None:
    buckets = of(*samples).summary().buckets
    assert sum(count for _, count in buckets) == len(samples)
    lower = 0.0
    for bound, count in buckets:
        first = bound == buckets[0][0]
        assert count == sum((first or lower <= sample / 1000) and sample / 1000 < bound for sample in samples)
        lower = bound


def test_folding_in_between_changes_nothing() -> None:
    generator = random.Random(1)
    samples = [generator.randrange(100_000) for _ in range(10_000)]
    folded, whole = Latencies(), of(*samples)
    append = folded.samples.append
    for number, sample in enumerate(samples):
        append(sample)
        if number % 700 == 0:
            folded.fold()
    assert folded.summary() == whole.summary()
    assert not folded.samples


def test_merging_is_as_if_all_had_been_counted_together() -> None:
    merged = of(1, 2, 3)
    merged.merge(of(2, 5_000))
    assert merged.summary() == of(1, 2, 2, 3, 5_000).summary()


def test_nothing_counted_has_no_summary() -> None:
    with pytest.raises(ValueError, match="no call was answered"):
        summarize(Counter())


def test_json_has_the_names_of_the_summary() -> None:
    report = of(1_000, 2_000).summary().to_json()
    assert list(report) == ["count", "min", "mean", "p50", "p90", "p99", "p99.9", "max", "histogram"]
