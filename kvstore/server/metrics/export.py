"""Metrics as Prometheus reads them.

The registry is prometheus_client's, one for each member; OpenMetrics text is written by it. The classic text format is
written here: prometheus_client appends `_total` to the name of every counter, and some of etcd's do not have it.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from kvstore.server.metrics.catalog import CATALOG, Spec
from kvstore.server.metrics.registry import Fed, Metrics
from kvstore.server.metrics.values import Counter, Family, Gauge, Histogram

CLASSIC_TEXT = "text/plain; version=0.0.4; charset=utf-8"


def collector_registry(metrics: Metrics) -> CollectorRegistry:
    """What /metrics publishes: a member's metrics, and process_* of the process that asks."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(MemberCollector(metrics))
    ProcessCollector(registry=registry)
    return registry


def exposition(registry: CollectorRegistry, accept: str) -> tuple[bytes, str]:
    """The text of all metrics and its content type, in the format that an Accept header prefers."""
    encode, content_type = choose_encoder(accept)
    if content_type.startswith("application/openmetrics-text"):
        return encode(registry), content_type
    return classic_text(registry), CLASSIC_TEXT


class MemberCollector(Collector):
    """Reads the values of a member when a registry is collected."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        for name, fed in sorted(self._metrics.fed.items()):
            spec = CATALOG[name]
            # A counter without _total cannot be called one in OpenMetrics; `unknown` keeps its name.
            kind = "unknown" if spec.kind == "counter" and not name.endswith("_total") else spec.kind
            metric = Metric(name.removesuffix("_total") if kind == "counter" else name, spec.help, kind)
            for label_values, value in _values(fed):
                labels = dict(zip(spec.labels, label_values, strict=True))
                if isinstance(value, Histogram):
                    _add_histogram(metric, spec, labels, value)
                else:
                    metric.add_sample(name, labels, value)
            yield metric


def _values(fed: Fed) -> Iterable[tuple[tuple[str, ...], float | Histogram]]:
    if isinstance(fed, Family):
        return [(labels, _value(member)) for labels, member in fed.members.items()]
    if isinstance(fed, Counter | Gauge | Histogram):
        return [((), _value(fed))]
    read = fed()
    return [((), read)] if isinstance(read, int | float) else read.items()


def _value(member: Counter | Gauge | Histogram) -> float | Histogram:
    return member if isinstance(member, Histogram) else member.value


def _add_histogram(metric: Metric, spec: Spec, labels: dict[str, str], histogram: Histogram) -> None:
    bucket, seen = f"{spec.name}_bucket", 0
    for bound, count in zip((*map(str, histogram.bounds), "+Inf"), histogram.counts, strict=True):
        seen += count
        metric.add_sample(bucket, {**labels, "le": bound}, seen)
    metric.add_sample(f"{spec.name}_sum", labels, histogram.sum)
    metric.add_sample(f"{spec.name}_count", labels, seen)


def classic_text(registry: CollectorRegistry) -> bytes:
    """All metrics in Prometheus' text format 0.0.4, under exactly the names of the catalog."""
    lines: list[str] = []
    for metric in registry.collect():
        name, kind = metric.name, metric.type
        if kind == "counter":
            name += "_total"
        elif kind == "unknown":
            kind = CATALOG[name].kind if name in CATALOG else "untyped"
        lines.append(f"# HELP {name} {_escape(metric.documentation)}\n# TYPE {name} {kind}\n")
        for sample in metric.samples:
            labels = ",".join(f'{key}="{_label_text(key, value)}"' for key, value in _in_order(sample.labels))
            braced = f"{{{labels}}}" if labels else ""
            lines.append(f"{sample.name}{braced} {_number(sample.value)}\n")
    return "".join(lines).encode()


def _in_order(labels: Mapping[str, str]) -> list[tuple[str, str]]:
    """Labels as Go's client writes them: by name, and the bound of a bucket last."""
    return sorted(labels.items(), key=lambda label: (label[0] == "le", label[0]))


def _number(value: float) -> str:
    if isinstance(value, bool):
        return str(int(value))
    if math.isfinite(value):
        return str(value)
    return "NaN" if math.isnan(value) else f"{'+' if value > 0 else '-'}Inf"


def _label_text(key: str, value: str) -> str:
    if key == "le" and value != "+Inf":
        return _go_number(Decimal(value))
    return _escape(value).replace('"', r"\"")


def _go_number(number: Decimal) -> str:
    """A bound as etcd writes it (`1`, not `1.0`): rules and dashboards select buckets by this text."""
    exponent = number.normalize().adjusted()
    if -4 <= exponent < 6:
        return f"{number.normalize():f}"
    digits = "".join(map(str, number.normalize().as_tuple().digits))
    fraction = f".{digits[1:]}" if digits[1:] else ""
    return f"{digits[0]}{fraction}e{exponent:+03d}"


def _escape(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n")
