"""Every metric that a member can publish: name, type, labels, buckets and a line of help.

The names and bounds are etcd's, so that dashboards and alert rules made for it keep working. A name being here does not
publish it: that needs somebody who feeds it (registry.py). Of etcd's, these have no meaning here and are left out:

- etcd_debugging_auth_revision: there are no users and roles.
- etcd_debugging_disk_backend_commit_write_duration_seconds: a phase of bbolt's commit; LMDB's commit has no such parts.
- etcd_debugging_mvcc_index_compaction_pause_duration_milliseconds: there is no index in memory that compaction walks.
- etcd_debugging_snap_save_marshalling_duration_seconds, etcd_debugging_snap_save_total_duration_seconds,
  etcd_snap_fsync_duration_seconds: files that describe a raft snapshot; here that is a row of the log's environment.
- etcd_debugging_server_watch_send_loop_control_stream_duration_seconds,
  etcd_debugging_server_watch_send_loop_progress_duration_seconds: how long one stream's send loop was held up by such a
  response. There are no such loops: these responses go into the call's buffer where they are made, without waiting.
- etcd_server_feature_enabled: there is nothing to switch on or off by that flag.

These are published with --metrics=extensive only, because they cost something for each call:
etcd_server_client_requests_total, etcd_server_request_duration_seconds, grpc_server_handling_seconds.
"""

from dataclasses import dataclass
from typing import Final, Literal

from kvstore.server.metrics.values import exponential_buckets

Kind = Literal["counter", "gauge", "histogram"]


@dataclass(frozen=True, slots=True)
class Spec:
    """What a scraper is told of one metric. bounds: of a histogram, without infinity."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()


_DISK = exponential_buckets(0.001, 2, 14)
_FAST = exponential_buckets(0.0001, 2, 20)
_HASH = exponential_buckets(0.01, 2, 15)
_SNAPSHOT = exponential_buckets(0.1, 2, 10)
# The default of the Go client library, which the histogram of calls is published with everywhere.
_CALLS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_RPC = ("grpc_type", "grpc_service", "grpc_method")


def _counter(name: str, text: str, *labels: str) -> Spec:
    return Spec(name, "counter", text, labels)


def _gauge(name: str, text: str, *labels: str) -> Spec:
    return Spec(name, "gauge", text, labels)


def _histogram(name: str, text: str, bounds: tuple[float, ...], *labels: str) -> Spec:
    return Spec(name, "histogram", text, labels, bounds)


_SERVER = (
    _gauge("etcd_cluster_version", "1 for the version that the whole cluster speaks.", "cluster_version"),
    _gauge("etcd_server_version", "1 for the API level of this member.", "server_version"),
    _gauge("etcd_server_id", "1 for the id of this member, in hexadecimal.", "server_id"),
    _gauge("etcd_server_has_leader", "1 if this member knows a leader."),
    _gauge("etcd_server_is_leader", "1 if this member is the leader."),
    _gauge("etcd_server_is_learner", "1 if this member is a learner."),
    _counter("etcd_server_leader_changes_seen_total", "Changes of leader that this member has seen."),
    _counter("etcd_server_learner_promote_failures", "Promotions of a learner that were refused.", "Reason"),
    _counter("etcd_server_learner_promote_successes", "Learners promoted while this member led."),
    _counter("etcd_server_heartbeat_send_failures_total", "Heartbeats that the leader sent too late or not at all."),
    _gauge("etcd_server_proposals_committed_total", "Index of the newest committed entry."),
    _gauge("etcd_server_proposals_applied_total", "Index of the newest applied entry."),
    _gauge("etcd_server_proposals_pending", "Proposals that wait to be committed."),
    _counter("etcd_server_proposals_failed_total", "Proposals that came to nothing."),
    _counter("etcd_server_slow_apply_total", "Entries that took longer to apply than --warning-apply-duration."),
    _counter("etcd_server_slow_read_indexes_total", "Rounds of ReadIndex that took too long."),
    _counter("etcd_server_read_indexes_failed_total", "Rounds of ReadIndex that failed."),
    _gauge("etcd_server_snapshot_apply_in_progress_total", "1 while a snapshot from the leader is being applied."),
    _gauge("etcd_server_quota_backend_bytes", "Bytes that the state may take before writes are refused."),
    _counter("etcd_server_client_requests_total", "Calls that have ended, by client.", "type", "client_api_version"),
    _counter("etcd_server_health_success", "Health checks that found the member healthy."),
    _counter("etcd_server_health_failures", "Health checks that found the member unhealthy."),
    _gauge("etcd_server_healthcheck", "1 if the last check of this name passed.", "type", "name"),
    _counter("etcd_server_healthchecks_total", "Checks by result.", "type", "name", "status"),
    _histogram(
        "etcd_server_apply_duration_seconds",
        "Mean time to apply a request of an entry.",
        _FAST,
        "version",
        "op",
        "success",
    ),
    _histogram(
        "etcd_server_range_duration_seconds", "Mean time of the ranges that a ReadIndex let go on.", _FAST, "success"
    ),
    _histogram(
        "etcd_server_request_duration_seconds", "Time from a unary call to its answer.", _FAST, "type", "success"
    ),
    _counter("etcd_debugging_server_lease_expired_total", "Leases that ran out while this member led."),
    _gauge("etcd_debugging_server_alarms", "1 for each alarm that is raised.", "server_id", "alarm_type"),
    _histogram(
        "etcd_debugging_server_watch_send_loop_watch_stream_duration_seconds",
        "Time to hand the events of a turn to all who watch.",
        _DISK,
    ),
    _histogram(
        "etcd_debugging_server_watch_send_loop_watch_stream_duration_per_event_seconds",
        "Time to hand the events of a turn to all who watch, divided by the number handed out.",
        _DISK,
    ),
)

_STATE = (
    _counter("etcd_mvcc_range_total", "Ranges served by this member."),
    _counter("etcd_mvcc_put_total", "Puts applied by this member."),
    _counter("etcd_mvcc_delete_total", "Deletes applied by this member."),
    _counter("etcd_mvcc_txn_total", "Transactions applied by this member."),
    _gauge("etcd_mvcc_db_total_size_in_bytes", "Bytes that the state takes on disk."),
    _gauge("etcd_mvcc_db_total_size_in_use_in_bytes", "Bytes of the state that hold data."),
    _gauge("etcd_mvcc_db_open_read_transactions", "Read transactions that are open on the state."),
    _histogram("etcd_mvcc_hash_duration_seconds", "Time to hash the whole state.", _HASH),
    _histogram("etcd_mvcc_hash_rev_duration_seconds", "Time to hash the state at a revision.", _HASH),
    _gauge("etcd_debugging_mvcc_current_revision", "Newest revision of the store."),
    _gauge("etcd_debugging_mvcc_compact_revision", "Revision of the last compaction."),
    _gauge("etcd_debugging_mvcc_keys_total", "Live keys."),
    _gauge("etcd_debugging_mvcc_total_put_size_in_bytes", "Bytes of keys and values put through this member."),
    _counter("etcd_debugging_mvcc_events_total", "Events sent to watchers."),
    _gauge("etcd_debugging_mvcc_pending_events_total", "Events that wait to be sent to watchers."),
    _gauge("etcd_debugging_mvcc_watch_stream_total", "Watch streams that are open."),
    _gauge("etcd_debugging_mvcc_watcher_total", "Watches that are open."),
    _gauge("etcd_debugging_mvcc_slow_watcher_total", "Watches that are being caught up from history."),
    _counter("etcd_debugging_mvcc_db_compaction_keys_total", "Rows of history that compactions dropped."),
    _gauge("etcd_debugging_mvcc_db_compaction_last", "Unix time of the last compaction; 0 before the first."),
    _histogram(
        "etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds",
        "Time that one batch of a compaction held up commits of the state.",
        exponential_buckets(1, 2, 13),
    ),
    _histogram(
        "etcd_debugging_mvcc_db_compaction_total_duration_milliseconds",
        "Time from the start of a compaction to its end.",
        exponential_buckets(100, 2, 14),
    ),
    _counter("etcd_debugging_lease_granted_total", "Leases granted."),
    _counter("etcd_debugging_lease_renewed_total", "Leases renewed by this member while it led."),
    _counter("etcd_debugging_lease_revoked_total", "Leases revoked, by request or because they ran out."),
    _histogram("etcd_debugging_lease_ttl_total", "TTLs of granted leases, in seconds.", exponential_buckets(1, 2, 24)),
)

_STORAGE = (
    _histogram("etcd_disk_wal_fsync_duration_seconds", "Time until a batch of the log was on disk.", _DISK),
    _histogram("etcd_disk_wal_write_duration_seconds", "Time to hand a batch of the log to its writer.", _DISK),
    _gauge("etcd_disk_wal_write_bytes_total", "Bytes of entries written to the log."),
    _histogram("etcd_disk_backend_commit_duration_seconds", "Time until a commit of the state was on disk.", _DISK),
    _histogram(
        "etcd_disk_backend_defrag_duration_seconds",
        "Time of a defragmentation.",
        exponential_buckets(0.1, 2, 13),
    ),
    _histogram(
        "etcd_disk_backend_snapshot_duration_seconds",
        "Time to read and send a copy of the state.",
        exponential_buckets(0.01, 2, 17),
    ),
    _gauge("etcd_disk_defrag_inflight", "1 while the state is being defragmented."),
    _histogram("etcd_snap_db_fsync_duration_seconds", "Time to sync the file of a received snapshot.", _DISK),
    _histogram("etcd_snap_db_save_total_duration_seconds", "Time to receive and save a snapshot.", _SNAPSHOT),
)

_NETWORK = (
    _gauge("etcd_network_active_peers", "Streams to a peer that are up.", "Local", "Remote"),
    _gauge("etcd_network_known_peers", "1 for each peer of the membership.", "Local", "Remote"),
    _counter("etcd_network_disconnected_peers_total", "Times that a peer was lost.", "Local", "Remote"),
    _counter("etcd_network_peer_sent_bytes_total", "Bytes sent to a peer.", "To"),
    _counter("etcd_network_peer_received_bytes_total", "Bytes received from a peer.", "From"),
    _counter("etcd_network_peer_sent_failures_total", "Messages to a peer that could not be sent.", "To"),
    _counter("etcd_network_peer_received_failures_total", "Messages from a peer that could not be read.", "From"),
    _histogram(
        "etcd_network_peer_round_trip_time_seconds",
        "Time from a message to a peer to its answer.",
        exponential_buckets(0.0001, 2, 16),
        "To",
    ),
    _counter("etcd_network_snapshot_send_success", "Snapshots sent to a peer.", "To"),
    _counter("etcd_network_snapshot_send_failures", "Snapshots to a peer that failed.", "To"),
    _gauge("etcd_network_snapshot_send_inflights_total", "Snapshots that are being sent to a peer.", "To"),
    _histogram("etcd_network_snapshot_send_total_duration_seconds", "Time to send a snapshot.", _SNAPSHOT, "To"),
    _counter("etcd_network_snapshot_receive_success", "Snapshots received from a peer.", "From"),
    _counter("etcd_network_snapshot_receive_failures", "Snapshots from a peer that failed.", "From"),
    _gauge("etcd_network_snapshot_receive_inflights_total", "Snapshots that a peer is sending here.", "From"),
    _histogram(
        "etcd_network_snapshot_receive_total_duration_seconds", "Time to receive a snapshot.", _SNAPSHOT, "From"
    ),
    _counter("etcd_network_client_grpc_received_bytes_total", "Bytes of the messages of clients."),
    _counter("etcd_network_client_grpc_sent_bytes_total", "Bytes of the messages to clients."),
    _counter("etcd_network_server_stream_failures_total", "Streams of clients that broke.", "Type", "API"),
    _counter("grpc_server_started_total", "Calls that have begun.", *_RPC),
    _counter("grpc_server_handled_total", "Calls that have ended, by status code.", *_RPC, "grpc_code"),
    _counter("grpc_server_msg_received_total", "Messages received.", *_RPC),
    _counter("grpc_server_msg_sent_total", "Messages sent.", *_RPC),
    _histogram("grpc_server_handling_seconds", "Time from the start of a call to its end.", _CALLS, *_RPC),
)

_PROCESS = (
    _gauge("os_fd_limit", "File descriptors that this process may have."),
    _gauge("os_fd_used", "File descriptors that this process has."),
    _gauge("kvstore_loop_lag_seconds", "The latest that the event loop ran a timer in the last half minute."),
    _histogram(
        "kvstore_loop_lag_distribution_seconds",
        "How late the event loop ran a timer, sampled fifty times a second.",
        exponential_buckets(0.0005, 2, 15),
    ),
)

CATALOG: Final = {spec.name: spec for spec in (*_SERVER, *_STATE, *_STORAGE, *_NETWORK, *_PROCESS)}
