"""The metrics of a member, under the names that etcd's dashboards and alert rules know.

`Metrics` holds the values; who counts asks it for them. What publishes
them is in `export`, which is imported only where that is done: it brings prometheus_client with it.
"""

from kvstore.server.metrics.process import LoopLag, publish_descriptors
from kvstore.server.metrics.recorders import (
    ApplyTimes,
    DiskTimes,
    MeasuredLog,
    PeerTimes,
    RangeTimes,
    Timed,
    WatchTimes,
    WorkTimes,
)
from kvstore.server.metrics.registry import Metrics
from kvstore.server.metrics.rpc import CallListener, CallMetrics, CallTimes, SlowCalls
from kvstore.server.metrics.values import Counter, Family, Gauge, Histogram

__all__ = [
    "ApplyTimes",
    "CallListener",
    "CallMetrics",
    "CallTimes",
    "Counter",
    "DiskTimes",
    "Family",
    "Gauge",
    "Histogram",
    "LoopLag",
    "MeasuredLog",
    "Metrics",
    "PeerTimes",
    "RangeTimes",
    "SlowCalls",
    "Timed",
    "WatchTimes",
    "WorkTimes",
    "publish_descriptors",
]
