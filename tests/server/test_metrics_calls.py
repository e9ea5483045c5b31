"""What is told of single calls, and what is made of it: histograms, versions of clients, warnings."""

from __future__ import annotations

import logging
import math
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from kvstore.rpc import MethodStats, StatusCode
from kvstore.server.metrics import ApplyTimes, CallMetrics, CallTimes, Metrics, SlowCalls
from kvstore.server.metrics.rpc import WARNING_SECONDS, CallListener
from tests.rpc.wire import Exchange, Handler, request_headers

CLIENT = "ipv4:10.0.0.9:4000"


class Call:
    """A call that has ended, as a report sees it."""

    def __init__(self, **metadata: str) -> None:
        self._metadata = tuple((key.replace("_", "-"), value) for key, value in metadata.items())

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return self._metadata

    def peer(self) -> str:
        return CLIENT


class Recording:
    """A listener that keeps what it is told."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.told: list[tuple[str, StatusCode, float]] = []

    def listen(self, service: str, name: str, kind: str) -> tuple[float, Any]:
        return self._seconds, lambda context, code, seconds: self.told.append((name, code, seconds))


class Clock:
    """Moves when a test says so."""

    def __init__(self) -> None:
        self.time = 100.0

    def __call__(self) -> float:
        return self.time


def stats_of(*listeners: CallListener, kind: str = "unary", name: str = "Put") -> MethodStats:
    return CallMetrics(Metrics(), *listeners).method("etcdserverpb.KV", name, kind)


def test_nobody_who_listens_costs_no_report() -> None:
    assert stats_of().report_from == math.inf
    assert stats_of(SlowCalls(0, structlog.get_logger())).report_from == math.inf
    assert stats_of(SlowCalls(0.3, structlog.get_logger()), kind="bidi_stream").report_from == math.inf
    assert stats_of(SlowCalls(0.3, structlog.get_logger())).report_from == 0.3


def test_each_listener_is_told_from_its_own_threshold_on() -> None:
    every, slow = Recording(0.0), Recording(0.3)
    stats = stats_of(every, slow)
    assert stats.report_from == 0.0
    stats.report(Call(), StatusCode.OK, 0.29)
    stats.report(Call(), StatusCode.UNAVAILABLE, 0.3)
    assert every.told == [("Put", StatusCode.OK, 0.29), ("Put", StatusCode.UNAVAILABLE, 0.3)]
    assert slow.told == [("Put", StatusCode.UNAVAILABLE, 0.3)]


def test_versions_of_clients_are_told_apart_up_to_a_limit_and_only_if_they_look_like_one() -> None:
    metrics = Metrics()
    report = CallTimes(metrics).listen("etcdserverpb.KV", "Put", "unary")[1]
    for version in ("3.6", "3.6", "3.5.1", "latest", "3.6\n", "9" * 50):
        report(Call(client_api_version=version), StatusCode.OK, 0.1)
    report(Call(), StatusCode.OK, 0.1)
    counters = metrics.fed["etcd_server_client_requests_total"]
    found = {labels: counter.value for labels, counter in counters.members.items()}  # type: ignore[union-attr]
    assert found == {("unary", "3.6"): 2, ("unary", "3.5.1"): 1, ("unary", "unknown"): 4}
    for number in range(200):
        report(Call(client_api_version=f"4.{number}"), StatusCode.OK, 0.1)
    assert len(counters.members) == 65  # type: ignore[union-attr]


def test_slow_calls_of_a_method_are_warned_of_once_in_a_while() -> None:
    clock = Clock()
    with capture_logs() as logs:
        slow = SlowCalls(0.3, structlog.get_logger(), clock)
        put, take = stats_of(slow), stats_of(slow, name="Range")
        put.report(Call(), StatusCode.OK, 0.5)
        take.report(Call(), StatusCode.DEADLINE_EXCEEDED, 7.0)
        for _ in range(5):
            put.report(Call(), StatusCode.OK, 0.5)
        clock.time += WARNING_SECONDS
        put.report(Call(), StatusCode.OK, 0.75)
    warned = [(entry["method"], entry["took"], entry["code"], entry["unreported"]) for entry in logs]
    assert warned == [
        ("/etcdserverpb.KV/Put", "0.500s", "OK", 0),
        ("/etcdserverpb.KV/Range", "7.000s", "DeadlineExceeded", 0),
        ("/etcdserverpb.KV/Put", "0.750s", "OK", 5),
    ]
    assert {(entry["remote"], entry["expected"], entry["log_level"]) for entry in logs} == {(CLIENT, "0.3s", "warning")}


class Reporting:
    """An observer whose counters report calls from a threshold on."""

    def __init__(self, seconds: float, report: Any) -> None:
        self._stats = MethodStats(seconds, report)

    def method(self, service: str, name: str, kind: str) -> MethodStats:
        return self._stats


def call(exchange: Exchange, *, ended: bool = True) -> int:
    stream = exchange.client.send_request(request_headers())
    exchange.client.send_data(stream, bytes(5), end_stream=ended)
    exchange.transfer()
    return stream


@pytest.mark.parametrize(
    ("outcome", "code"), [(None, StatusCode.OK), (ValueError("no"), StatusCode.UNKNOWN)], ids=["answer", "error"]
)
def test_a_connection_times_calls_from_the_bytes_of_their_request(outcome: Exception | None, code: StatusCode) -> None:
    told: list[tuple[StatusCode, float]] = []
    observer = Reporting(2.0, lambda context, code, seconds: told.append((code, seconds)))
    clock = Clock()

    def handler(request: bytes, context: Any) -> bytes:
        clock.time += durations.pop(0)
        if outcome is not None:
            raise outcome
        return b""

    durations = [1.5, 2.5]
    exchange = Exchange({"Unary": Handler(handler)}, observer=observer)
    exchange.server.clock = clock
    call(exchange)
    call(exchange)
    assert told == [(code, 2.5)]


def test_a_report_that_fails_fails_no_call(caplog: pytest.LogCaptureFixture) -> None:
    def report(context: Any, code: StatusCode, seconds: float) -> None:
        raise OSError("nowhere to write to")

    exchange = Exchange({"Unary": Handler(lambda request, context: b"ok")}, observer=Reporting(0.0, report))
    with caplog.at_level(logging.ERROR):
        stream = call(exchange)
    assert exchange.data[stream] == b"\0\0\0\0\x02ok"
    assert "a report of a call failed" in caplog.text


def apply_times(seconds: float) -> tuple[ApplyTimes, Clock, Metrics]:
    metrics, clock = Metrics(), Clock()
    return ApplyTimes(metrics, seconds, structlog.get_logger(), clock), clock, metrics


def test_the_requests_of_an_entry_share_its_time() -> None:
    times, clock, metrics = apply_times(0)
    began = clock()
    clock.time += 0.8
    times.applied(7, ["put", "put", "txn", "put"], ["put"], began)
    times.applied(8, [], [], began)
    found = metrics.fed["etcd_server_apply_duration_seconds"].members  # type: ignore[union-attr]
    assert {labels: (sum(one.counts), one.sum) for labels, one in found.items()} == {  # type: ignore[union-attr]
        ("v3", "Put", "false"): (1, pytest.approx(0.2)),
        ("v3", "Put", "true"): (2, pytest.approx(0.4)),
        ("v3", "Txn", "true"): (1, pytest.approx(0.2)),
    }


def test_an_entry_that_takes_longer_than_the_threshold_is_counted_and_logged() -> None:
    with capture_logs() as logs:
        times, clock, metrics = apply_times(0.1)
        for seconds in (0.1, 0.25):
            began = clock.time = 100.0
            clock.time += seconds
            times.applied(9, ["put", "txn", "put"], ["txn"], began)
    slow = metrics.fed["etcd_server_slow_apply_total"]
    assert slow.value == 1  # type: ignore[union-attr]
    assert logs == [
        {
            "event": "apply took too long",
            "log_level": "warning",
            "took": "0.250s",
            "expected": "0.1s",
            "index": 9,
            "requests": {"put": 2, "txn": 1},
            "failed": 1,
        }
    ]
