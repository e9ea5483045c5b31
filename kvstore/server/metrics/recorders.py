"""What is timed as it happens: each recorder belongs to the part that does the work, and is told once a batch or less.

Where a batch holds many operations they are recorded with their mean: a clock read for each would cost what the work
costs. Knows values and names, and of the parts only what they hand over.
"""

from __future__ import annotations

import time
from collections import Counter as Tally
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final, Protocol

from structlog.typing import FilteringBoundLogger

from kvstore.server.metrics.registry import Metrics
from kvstore.server.metrics.values import Histogram
from kvstore.storage.batch import WriteStats
from raft.messages import Entry, HardState, SnapshotMetadata
from raft.sizes import entry_size

_VERSION: Final = "v3"
_OPERATIONS: Final = {"member_attributes": "ClusterMemberAttrSet"}
"""etcd's name of a kind of request where it is not the kind in capitals."""

Clock = Callable[[], float]


class Timed:
    """Times pieces of work that may overlap. running: how many are under way. What fails is not recorded."""

    __slots__ = ("_histogram", "running")

    def __init__(self, histogram: Histogram) -> None:
        self._histogram = histogram
        self.running = 0

    @contextmanager
    def measure(self) -> Iterator[None]:
        """Time what is done within."""
        began = time.perf_counter()
        self.running += 1
        try:
            yield
            self._histogram.observe(time.perf_counter() - began)
        finally:
            self.running -= 1


class WorkTimes:
    """What operators ask for, and what reads the state beside the loop."""

    __slots__ = ("defragment", "hash", "hash_revision", "snapshot")

    def __init__(self, metrics: Metrics) -> None:
        self.defragment = Timed(metrics.histogram("etcd_disk_backend_defrag_duration_seconds"))
        self.hash = Timed(metrics.histogram("etcd_mvcc_hash_duration_seconds"))
        self.hash_revision = Timed(metrics.histogram("etcd_mvcc_hash_rev_duration_seconds"))
        self.snapshot = Timed(metrics.histogram("etcd_disk_backend_snapshot_duration_seconds"))
        metrics.read("etcd_disk_defrag_inflight", lambda: self.defragment.running)
        # The loop's own is always open; a copy or a hash has one in a process of its own.
        readers = (self.hash, self.hash_revision, self.snapshot)
        metrics.read("etcd_mvcc_db_open_read_transactions", lambda: 1 + sum(timed.running for timed in readers))


class DiskTimes:
    """What the writers of the log and of the state say of their commits."""

    __slots__ = ("_commit", "_fsync", "_pause")

    def __init__(self, metrics: Metrics) -> None:
        self._fsync = metrics.histogram("etcd_disk_wal_fsync_duration_seconds")
        self._commit = metrics.histogram("etcd_disk_backend_commit_duration_seconds")
        self._pause = metrics.histogram("etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds")

    def log_committed(self, stats: WriteStats) -> None:
        """The log's writer has committed."""
        self._fsync.observe(stats.commit_seconds)

    def state_committed(self, stats: WriteStats) -> None:
        """The state's writer has committed batches, or, without batches, run a step of a compaction."""
        if stats.batches:
            self._commit.observe(stats.seconds)
        elif stats.seconds:
            self._pause.observe(stats.seconds * 1000)


class Log(Protocol):
    """As the Ready loop sees the log (ready_loop.Log)."""

    def append(
        self,
        hard_state: HardState | None,
        entries: Sequence[Entry],
        snapshot: SnapshotMetadata | None,
        done: Callable[[], None],
    ) -> None: ...


class MeasuredLog:
    """A log whose appends are timed and whose entries are counted in bytes."""

    __slots__ = ("_bytes", "_log", "_time")

    def __init__(self, log: Log, metrics: Metrics) -> None:
        self._log = log
        self._time = metrics.histogram("etcd_disk_wal_write_duration_seconds")
        self._bytes = metrics.gauge("etcd_disk_wal_write_bytes_total")

    def append(
        self,
        hard_state: HardState | None,
        entries: Sequence[Entry],
        snapshot: SnapshotMetadata | None,
        done: Callable[[], None],
    ) -> None:
        """As Log.append."""
        began = time.perf_counter()
        self._log.append(hard_state, entries, snapshot, done)
        self._time.observe(time.perf_counter() - began)
        self._bytes.value += sum(map(entry_size, entries))


class Compactions(Protocol):
    """The steps that follow a compaction (mvcc.compaction.Compactor)."""

    def when_finished(self, revision: int, callback: Callable[[], None]) -> None: ...


class ApplyTimes:
    """How long entries of the log took to apply.

    warning_seconds: an entry that takes longer is counted and logged; 0 logs none. clock: seconds that only go
    forward.
    """

    __slots__ = ("_compaction", "_known", "_logger", "_slow", "_times", "_warning_seconds", "clock")

    def __init__(
        self,
        metrics: Metrics,
        warning_seconds: float,
        logger: FilteringBoundLogger,
        clock: Clock = time.perf_counter,
    ) -> None:
        self._times = metrics.histograms("etcd_server_apply_duration_seconds")
        self._known: dict[tuple[str, str], Histogram] = {}
        self._slow = metrics.counter("etcd_server_slow_apply_total")
        self._compaction = metrics.histogram("etcd_debugging_mvcc_db_compaction_total_duration_milliseconds")
        self._warning_seconds = warning_seconds
        self._logger = logger
        self.clock = clock

    def applied(self, index: int, kinds: list[str], failed: list[str], began: float) -> None:
        """An entry's requests are applied and their callers answered.

        kinds: of all requests. failed: kinds of those that came to an error. began: on `clock`.
        """
        seconds = self.clock() - began
        if not kinds:
            return
        each = seconds / len(kinds)
        if not failed and kinds.count(kinds[0]) == len(kinds):
            # Most entries hold one kind of request, and many one request.
            self._histogram(kinds[0], "true").observe_each(each, len(kinds))
        else:
            failures = Tally(failed)
            for kind, count in (Tally(kinds) - failures).items():
                self._histogram(kind, "true").observe_each(each, count)
            for kind, count in failures.items():
                self._histogram(kind, "false").observe_each(each, count)
        if self._warning_seconds and seconds > self._warning_seconds:
            self._slow.value += 1
            self._logger.warning(
                "apply took too long",
                took=f"{seconds:.3f}s",
                expected=f"{self._warning_seconds:g}s",
                index=index,
                requests=dict(Tally(kinds)),
                failed=len(failed),
            )

    def compacting(self, compactions: Compactions, revision: int) -> None:
        """A compaction begins; it is over when what it frees is freed."""
        began = self.clock()
        compactions.when_finished(revision, lambda: self._compaction.observe((self.clock() - began) * 1000))

    def _histogram(self, kind: str, success: str) -> Histogram:
        found = self._known.get((kind, success))
        if found is None:
            operation = _OPERATIONS.get(kind) or "".join(part.capitalize() for part in kind.split("_"))
            found = self._known[kind, success] = self._times.at(_VERSION, operation, success)
        return found


class RangeTimes:
    """How long ranges took, recorded for all together that one confirmed round lets go on.

    ranges: how many have been served so far.
    """

    __slots__ = ("_ranges", "_time")

    def __init__(self, metrics: Metrics, ranges: Callable[[], int]) -> None:
        self._time = metrics.histograms("etcd_server_range_duration_seconds").at("true")
        self._ranges = ranges

    @contextmanager
    def measure(self) -> Iterator[None]:
        """Time the ranges that are served within."""
        before, began = self._ranges(), time.perf_counter()
        yield
        served = self._ranges() - before
        if served:
            self._time.observe_each((time.perf_counter() - began) / served, served)


class Hub(Protocol):
    """The watches of a member (mvcc.watch.WatchHub)."""

    events_sent: int

    def notify(self) -> None: ...


class WatchTimes:
    """How long it took to tell watchers of a turn's events."""

    __slots__ = ("_each", "_time")

    def __init__(self, metrics: Metrics) -> None:
        name = "etcd_debugging_server_watch_send_loop_watch_stream_duration"
        self._time = metrics.histogram(f"{name}_seconds")
        self._each = metrics.histogram(f"{name}_per_event_seconds")

    def notify(self, hub: Hub) -> None:
        """Tell watchers; recorded if there was anything to tell."""
        before, began = hub.events_sent, time.perf_counter()
        hub.notify()
        sent = hub.events_sent - before
        if sent:
            seconds = time.perf_counter() - began
            self._time.observe(seconds)
            self._each.observe(seconds / sent)


class PeerTimes:
    """What transport and service tell of the other members (kvstore.peer.observer.PeerObserver)."""

    __slots__ = (
        "_failures",
        "_receive_failed",
        "_receive_time",
        "_received",
        "_receiving",
        "_round_trip",
        "_save",
        "_send_time",
        "_sending",
        "_sync",
    )

    def __init__(self, metrics: Metrics) -> None:
        self._round_trip = metrics.histograms("etcd_network_peer_round_trip_time_seconds")
        self._failures = metrics.counters("etcd_network_peer_received_failures_total")
        self._sending = metrics.gauges("etcd_network_snapshot_send_inflights_total")
        self._send_time = metrics.histograms("etcd_network_snapshot_send_total_duration_seconds")
        self._receiving = metrics.gauges("etcd_network_snapshot_receive_inflights_total")
        self._received = metrics.counters("etcd_network_snapshot_receive_success")
        self._receive_failed = metrics.counters("etcd_network_snapshot_receive_failures")
        self._receive_time = metrics.histograms("etcd_network_snapshot_receive_total_duration_seconds")
        self._save = metrics.histogram("etcd_snap_db_save_total_duration_seconds")
        self._sync = metrics.histogram("etcd_snap_db_fsync_duration_seconds")

    def round_trip(self, member: int, seconds: float) -> None:
        """A call to a member was answered."""
        self._round_trip.at(f"{member:x}").observe(seconds)

    def unreadable(self, member: int) -> None:
        """A member has sent what cannot be read."""
        self._failures.at(f"{member:x}").value += 1

    @contextmanager
    def sending_snapshot(self, member: int) -> Iterator[None]:
        """A copy of the state goes to a member."""
        began = time.perf_counter()
        sending = self._sending.at(f"{member:x}")
        sending.value += 1
        try:
            yield
            self._send_time.at(f"{member:x}").observe(time.perf_counter() - began)
        finally:
            sending.value -= 1

    @contextmanager
    def receiving_snapshot(self, member: int) -> Iterator[None]:
        """A copy of the state comes from a member."""
        name = f"{member:x}"
        began = time.perf_counter()
        receiving, received, failed = self._receiving.at(name), self._received.at(name), self._receive_failed.at(name)
        receiving.value += 1
        try:
            yield
        except BaseException:
            failed.value += 1
            raise
        else:
            seconds = time.perf_counter() - began
            received.value += 1
            self._receive_time.at(name).observe(seconds)
            self._save.observe(seconds)
        finally:
            receiving.value -= 1

    def synced_snapshot(self, seconds: float) -> None:
        """The file of a received copy was synced."""
        self._sync.observe(seconds)
