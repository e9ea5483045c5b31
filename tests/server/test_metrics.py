"""What a member publishes has the names, types, labels and bounds that etcd's dashboards and alert rules know."""

import asyncio
import re
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest
from prometheus_client import parser
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.samples import Sample

from kvstore.rpc.status import StatusCode
from kvstore.server.metrics import CallMetrics, LoopLag, Metrics, publish_descriptors
from kvstore.server.metrics.catalog import CATALOG
from kvstore.server.metrics.export import collector_registry, exposition
from kvstore.server.metrics.process import WORST_SECONDS
from kvstore.server.metrics.values import Family, Histogram, exponential_buckets

ETCD_NAMES = (Path(__file__).parent / "etcd_metrics.txt").read_text().splitlines()
MEANINGLESS_HERE = {
    "etcd_debugging_auth_revision",
    "etcd_debugging_disk_backend_commit_write_duration_seconds",
    "etcd_debugging_mvcc_index_compaction_pause_duration_milliseconds",
    "etcd_debugging_server_watch_send_loop_control_stream_duration_seconds",
    "etcd_debugging_server_watch_send_loop_progress_duration_seconds",
    "etcd_debugging_snap_save_marshalling_duration_seconds",
    "etcd_debugging_snap_save_total_duration_seconds",
    "etcd_server_feature_enabled",
    "etcd_snap_fsync_duration_seconds",
}


def feed_everything() -> Metrics:
    """Metrics in which every name of the catalog has a value: 3 observations of 2, counters and gauges of 7."""
    metrics = Metrics()
    for name, spec in CATALOG.items():
        values = tuple(f"a {label}" for label in spec.labels)
        match spec.kind, bool(spec.labels):
            case "histogram", True:
                metrics.histograms(name).at(*values).observe_each(2.0, 3)
            case "histogram", False:
                metrics.histogram(name).observe_each(2.0, 3)
            case "counter", True:
                metrics.counters(name).at(*values).value += 7
            case "counter", False:
                metrics.counter(name).value += 7
            case _, True:
                metrics.gauges(name).at(*values).value = 7
            case _:
                metrics.gauge(name).value = 7
    return metrics


def samples_of(text: str) -> dict[str, Sample]:
    """The last sample of each name."""
    families = parser.text_string_to_metric_families(text)
    return {sample.name: sample for family in families for sample in family.samples}


def classic(metrics: Metrics) -> str:
    text, content_type = exposition(collector_registry(metrics), "")
    assert content_type == "text/plain; version=0.0.4; charset=utf-8"
    return text.decode()


@pytest.mark.parametrize("line", ETCD_NAMES, ids=lambda line: line.split()[0])
def test_every_metric_of_etcd_is_in_the_catalog_as_it_is_there(line: str) -> None:
    name, kind, *labels = line.split()
    if name in MEANINGLESS_HERE:
        assert name not in CATALOG
    else:
        spec = CATALOG[name]
        assert (spec.kind, sorted(spec.labels)) == (kind, sorted(labels))


def test_the_catalog_holds_nothing_else_but_calls_and_the_loop() -> None:
    others = set(CATALOG) - {line.split()[0] for line in ETCD_NAMES}
    assert {name for name in others if not name.startswith("grpc_server_")} == {
        "kvstore_loop_lag_seconds",
        "kvstore_loop_lag_distribution_seconds",
    }


def test_every_fed_metric_is_published_under_its_exact_name_and_type() -> None:
    text = classic(feed_everything())
    declared = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
    assert {name: declared.get(name) for name in CATALOG} == {name: spec.kind for name, spec in CATALOG.items()}
    samples = samples_of(text)
    for name, spec in CATALOG.items():
        raw = f"{name}_count" if spec.kind == "histogram" else name
        assert re.search(rf"^{raw}[ {{]", text, re.MULTILINE)
        # The parser gives every counter the ending that some of etcd's do not have.
        sample = samples.get(raw) or samples[f"{raw}_total"]
        assert sample.labels == {label: f"a {label}" for label in spec.labels}
        assert sample.value == (3 if spec.kind == "histogram" else 7)


def test_openmetrics_is_given_to_who_prefers_it_and_keeps_the_names() -> None:
    registry = collector_registry(feed_everything())
    text, content_type = exposition(registry, "application/openmetrics-text;version=1.0.0,text/plain;q=0.5")
    assert content_type.startswith("application/openmetrics-text; version=1.0.0")
    families = openmetrics.text_string_to_metric_families(text.decode())  # type: ignore[no-untyped-call]
    samples = {sample.name for family in families for sample in family.samples}
    expected = {f"{name}_count" if spec.kind == "histogram" else name for name, spec in CATALOG.items()}
    assert expected <= samples


def test_what_nobody_feeds_is_not_published() -> None:
    metrics = Metrics()
    metrics.counter("etcd_mvcc_put_total")
    text = classic(metrics)
    assert "etcd_mvcc_put_total 0\n" in text
    assert "etcd_mvcc_delete_total" not in text
    assert "etcd_mvcc_put_total" not in metrics.unfed()
    assert "etcd_mvcc_delete_total" in metrics.unfed()


def test_sources_are_read_at_each_scrape() -> None:
    metrics = Metrics()
    values = iter([3, 4])
    metrics.read("etcd_debugging_mvcc_current_revision", lambda: next(values))
    metrics.read_family("etcd_server_id", lambda: {("8e9e05c52164694d",): 1})
    assert "etcd_debugging_mvcc_current_revision 3\n" in classic(metrics)
    assert 'etcd_server_id{server_id="8e9e05c52164694d"} 1\n' in (text := classic(metrics))
    assert "etcd_debugging_mvcc_current_revision 4\n" in text


def test_labels_are_escaped() -> None:
    metrics = Metrics()
    metrics.counters("etcd_network_peer_sent_bytes_total").at('a"b\\c\nd').value = 1
    assert samples_of(classic(metrics))["etcd_network_peer_sent_bytes_total"].labels == {"To": 'a"b\\c\nd'}


def test_bounds_are_written_as_etcd_writes_them() -> None:
    metrics = Metrics()
    metrics.histogram("etcd_debugging_lease_ttl_total").observe(60)
    metrics.histogram("etcd_disk_wal_fsync_duration_seconds")
    metrics.histogram("etcd_debugging_mvcc_db_compaction_total_duration_milliseconds")
    text = classic(metrics)
    bounds = re.findall(r'etcd_debugging_lease_ttl_total_bucket\{le="(\S+)"\}', text)
    assert (bounds[0], bounds[-2:], len(bounds)) == ("1", ["8.388608e+06", "+Inf"], 25)
    assert 'etcd_disk_wal_fsync_duration_seconds_bucket{le="0.001"} 0\n' in text
    assert 'etcd_debugging_mvcc_db_compaction_total_duration_milliseconds_bucket{le="819200"} 0\n' in text


def test_histogram_counts_a_value_at_a_bound_as_within_it() -> None:
    histogram = Histogram(exponential_buckets(1, 2, 3))
    for value in (0.5, 1, 1.5, 4, 4.1):
        histogram.observe(value)
    assert histogram.counts == [2, 1, 1, 1]
    histogram.observe_each(2, 10)
    assert histogram.counts == [2, 11, 1, 1]
    assert histogram.sum == pytest.approx(31.1)


def test_a_member_of_a_family_is_made_once_and_can_be_forgotten() -> None:
    metrics = Metrics()
    family = metrics.counters("etcd_network_peer_sent_bytes_total")
    assert isinstance(family, Family)
    assert family.at("a") is family.at("a")
    family.forget("a")
    assert 'To="a"' not in classic(metrics)
    with pytest.raises(ValueError, match="labels are To"):
        family.at("a", "b")


def test_a_name_is_fed_once_and_as_what_it_is() -> None:
    metrics = Metrics()
    metrics.counter("etcd_mvcc_put_total")
    with pytest.raises(ValueError, match="fed already"):
        metrics.read("etcd_mvcc_put_total", lambda: 0)
    with pytest.raises(TypeError, match="is a counter"):
        metrics.gauge("etcd_mvcc_delete_total")
    with pytest.raises(TypeError, match="with labels"):
        metrics.counter("etcd_network_peer_sent_bytes_total")
    with pytest.raises(TypeError, match="observed"):
        metrics.read("etcd_disk_wal_fsync_duration_seconds", lambda: 0)
    with pytest.raises(KeyError):
        metrics.counter("etcd_no_such_thing_total")


def test_calls_are_published_as_the_server_counts_them() -> None:
    metrics = Metrics()
    observer = CallMetrics(metrics)
    stats = observer.method("etcdserverpb.KV", "Range", "unary")
    assert observer.method("etcdserverpb.KV", "Range", "unary") is stats
    stats.started += 5
    stats.handled[StatusCode.OK] += 2
    stats.handled[StatusCode.CANCELLED] += 1
    stats.messages_received += 4
    stats.messages_sent += 3
    stats.bytes_received += 100
    stats.bytes_sent += 200
    text = classic(metrics)
    call = 'grpc_method="Range",grpc_service="etcdserverpb.KV",grpc_type="unary"'
    for line in (
        f"grpc_server_started_total{{{call}}} 5",
        f'grpc_server_handled_total{{grpc_code="OK",{call}}} 2',
        f'grpc_server_handled_total{{grpc_code="Canceled",{call}}} 1',
        f"grpc_server_msg_received_total{{{call}}} 4",
        f"grpc_server_msg_sent_total{{{call}}} 3",
        "etcd_network_client_grpc_received_bytes_total 100",
        "etcd_network_client_grpc_sent_bytes_total 200",
    ):
        assert f"\n{line}\n" in text
    assert "Unavailable" not in text


def test_the_process_and_its_descriptors_are_published() -> None:
    metrics = Metrics()
    publish_descriptors(metrics)
    samples = samples_of(classic(metrics))
    assert 0 < samples["os_fd_used"].value <= samples["os_fd_limit"].value
    assert samples["process_resident_memory_bytes"].value > 1_000_000
    assert samples["process_start_time_seconds"].value > 0


async def test_a_busy_loop_shows_as_lag() -> None:
    loop = asyncio.get_running_loop()
    metrics = Metrics()
    lag = LoopLag(loop, metrics)
    lag.start()
    sampled = asyncio.Event()

    def hold_up() -> None:
        # From before the sample is due until 50 ms after.
        deadline = loop.time() + 0.1
        while loop.time() < deadline:
            pass
        loop.call_later(0, sampled.set)

    loop.call_later(0.2, hold_up)
    async with asyncio.timeout(10):
        await sampled.wait()
    lag.stop()
    # On a machine that is busy with other things more samples are late; this one is among them.
    samples = samples_of(classic(metrics))
    assert samples["kvstore_loop_lag_distribution_seconds_sum"].value >= 0.04
    assert samples["kvstore_loop_lag_seconds"].value >= 0.04


def test_the_longest_lag_is_published_until_scrapes_have_seen_it() -> None:
    class Clock:
        now = 100.0

        def time(self) -> float:
            return self.now

        def call_at(self, when: float, function: Callable[[], None]) -> asyncio.TimerHandle:
            self.due, self.sample = when, function
            return cast(asyncio.TimerHandle, None)

    clock = Clock()
    lag = LoopLag(cast(asyncio.AbstractEventLoop, clock), Metrics())
    lag.start()

    def late(seconds: float) -> float:
        clock.now = clock.due + seconds
        clock.sample()
        return lag.worst()

    assert late(0.5) == pytest.approx(0.5)
    assert late(0.1) == pytest.approx(0.5)
    began = clock.now
    while late(0.0) > 0.4:
        assert clock.now < began + 2 * WORST_SECONDS + 1
    assert clock.now > began + WORST_SECONDS
    assert late(0.2) == pytest.approx(0.2)
