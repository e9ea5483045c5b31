"""What a member publishes of itself: reads the counters that its parts keep anyway, when somebody scrapes.

What is recorded as it happens, durations mostly, is metrics/recorders.py's business.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from kvstore.pb.rpc_pb2 import AlarmType
from kvstore.peer.sending import PeerStats
from kvstore.server.lifecycle import Lifecycle
from kvstore.server.maintenance import API_VERSION
from kvstore.server.metrics import Metrics


def publish(metrics: Metrics, lifecycle: Lifecycle) -> None:
    """Publish everything that is read of a member."""
    _publish_server(metrics, lifecycle)
    _publish_store(metrics, lifecycle)
    _publish_peers(metrics, lifecycle)


def _publish_server(metrics: Metrics, lifecycle: Lifecycle) -> None:
    member = lifecycle.member
    own = f"{member.id:x}"
    metrics.read_family("etcd_server_id", lambda: {(own,): 1})
    metrics.read_family("etcd_server_version", lambda: {(API_VERSION,): 1})
    metrics.read_family("etcd_cluster_version", lambda: {(API_VERSION.rpartition(".")[0],): 1})
    metrics.read_family("etcd_debugging_server_alarms", lambda: _alarms(lifecycle))
    changes = member.changes
    metrics.read_family(
        "etcd_server_learner_promote_failures",
        lambda: {(reason,): count for reason, count in changes.promotions_refused.items()},
    )
    loop, reads = member.loop, member.reads
    metrics.read_all(
        {
            "etcd_server_has_leader": lambda: int(member.has_leader),
            "etcd_server_is_leader": lambda: int(member.is_leader),
            "etcd_server_is_learner": lambda: int(member.is_learner),
            "etcd_server_leader_changes_seen_total": lambda: lifecycle.leader_changes,
            "etcd_server_learner_promote_successes": lambda: changes.promoted,
            "etcd_server_heartbeat_send_failures_total": lambda: lifecycle.late_heartbeats,
            "etcd_server_proposals_committed_total": lambda: loop.committed,
            "etcd_server_proposals_applied_total": lambda: loop.applied,
            "etcd_server_proposals_pending": lambda: lifecycle.proposals.pending_requests,
            "etcd_server_proposals_failed_total": lambda: lifecycle.proposals.failed_total,
            "etcd_server_slow_read_indexes_total": lambda: reads.slow_total,
            "etcd_server_read_indexes_failed_total": lambda: reads.failed_total,
            "etcd_server_snapshot_apply_in_progress_total": lambda: int(loop.installing),
            "etcd_server_quota_backend_bytes": lambda: member.config.quota or 0,
            "etcd_debugging_server_lease_expired_total": lambda: member.leases.expired_total,
        }
    )


def _alarms(lifecycle: Lifecycle) -> dict[tuple[str, ...], float]:
    raised = lifecycle.member.maintenance.alarms()
    return {(f"{alarm.memberID:x}", AlarmType.Name(alarm.alarm)): 1 for alarm in raised}


def _publish_store(metrics: Metrics, lifecycle: Lifecycle) -> None:
    store, lessor = lifecycle.member.store, lifecycle.member.lessor
    backend = lifecycle.member.state.backend
    lessor.ttl_observed = metrics.histogram("etcd_debugging_lease_ttl_total").observe
    last_compaction = _LastChange(lambda: store.compactor.finished)
    metrics.read_all(
        {
            "etcd_mvcc_range_total": lambda: store.ranges,
            "etcd_mvcc_put_total": lambda: store.puts,
            "etcd_mvcc_delete_total": lambda: store.deletes,
            "etcd_mvcc_txn_total": lambda: store.txns,
            "etcd_mvcc_db_total_size_in_bytes": lambda: backend.size,
            "etcd_mvcc_db_total_size_in_use_in_bytes": lambda: backend.size_in_use,
            "etcd_debugging_mvcc_current_revision": lambda: store.revision,
            "etcd_debugging_mvcc_compact_revision": lambda: store.compact_revision,
            "etcd_debugging_mvcc_keys_total": lambda: store.keys,
            "etcd_debugging_mvcc_total_put_size_in_bytes": lambda: store.put_bytes,
            "etcd_debugging_mvcc_events_total": lambda: store.watches.events_sent,
            "etcd_debugging_mvcc_pending_events_total": lambda: store.watches.pending_events,
            "etcd_debugging_mvcc_watch_stream_total": lambda: store.watches.streams,
            "etcd_debugging_mvcc_watcher_total": lambda: store.watches.watchers,
            "etcd_debugging_mvcc_slow_watcher_total": lambda: store.watches.slow_watchers,
            "etcd_debugging_mvcc_db_compaction_keys_total": lambda: store.compactor.removed,
            "etcd_debugging_mvcc_db_compaction_last": last_compaction,
            "etcd_debugging_lease_granted_total": lambda: lessor.granted,
            "etcd_debugging_lease_renewed_total": lambda: lessor.renewed,
            "etcd_debugging_lease_revoked_total": lambda: lessor.revoked,
        }
    )


class _LastChange:
    """When a value was last seen to change, in seconds since 1970; 0 before the first change."""

    def __init__(self, value: Callable[[], int]) -> None:
        self._value = value
        self._seen = value()
        self._at = 0.0

    def __call__(self) -> float:
        value = self._value()
        if value != self._seen:
            self._seen, self._at = value, time.time()
        return self._at


def _publish_peers(metrics: Metrics, lifecycle: Lifecycle) -> None:
    own = f"{lifecycle.id:x}"

    def by_pair(read: Callable[[PeerStats], float]) -> Callable[[], Mapping[tuple[str, ...], float]]:
        return lambda: {(own, f"{peer:x}"): read(stats) for peer, stats in lifecycle.transport.stats().items()}

    def by_peer(read: Callable[[PeerStats], float]) -> Callable[[], Mapping[tuple[str, ...], float]]:
        return lambda: {(f"{peer:x}",): read(stats) for peer, stats in lifecycle.transport.stats().items()}

    metrics.read_family("etcd_network_known_peers", by_pair(lambda _: 1))
    metrics.read_family("etcd_network_active_peers", by_pair(lambda stats: int(stats.active_since is not None)))
    metrics.read_family("etcd_network_disconnected_peers_total", by_pair(lambda stats: stats.disconnects))
    metrics.read_family("etcd_network_peer_sent_bytes_total", by_peer(lambda stats: stats.sent_bytes))
    metrics.read_family("etcd_network_peer_received_bytes_total", by_peer(lambda stats: stats.received_bytes))
    metrics.read_family("etcd_network_peer_sent_failures_total", by_peer(lambda stats: stats.sent_failures))
    metrics.read_family("etcd_network_snapshot_send_success", by_peer(lambda stats: stats.snapshots_sent))
    metrics.read_family("etcd_network_snapshot_send_failures", by_peer(lambda stats: stats.snapshots_failed))
