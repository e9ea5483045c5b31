"""The replicated state of one member, as the Ready loop sees it: what entries are applied to, flushed and replaced.

Brings the store, leases, alarms and membership together over one backend. Decides when the backend is flushed and when
the log may be cut; knows nothing of clients.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import structlog

from kvstore.lease.lessor import Lessor
from kvstore.mvcc.store import Store
from kvstore.pb import peer_pb2
from kvstore.peer.codec import decode_conf_state, encode_conf_state
from kvstore.server.alarms import Alarms
from kvstore.server.apply import Applier
from kvstore.server.cluster_version import ClusterVersion
from kvstore.server.config import Config
from kvstore.server.disk import Disk
from kvstore.server.membership import Membership
from kvstore.server.metrics import Timed, WatchTimes
from kvstore.server.retention import Retention
from kvstore.storage import pace
from kvstore.storage.backend import Backend
from kvstore.storage.errors import DiskFull
from kvstore.storage.meta import Identity, Position
from kvstore.storage.snapshot import SnapshotReader
from kvstore.storage.wal import Wal
from raft.errors import SnapshotTemporarilyUnavailable
from raft.messages import ConfState, Entry, Snapshot, SnapshotMetadata

CONF_STATE = "conf_state"
"""Name of the configuration's row in the backend's meta table."""

MAX_UNSTORED_BYTES: Final = 64 << 20
MAX_UNSTORED_ROWS: Final = 600_000
"""What is applied at most while the state's disk has no room and the log's, another one, has: bytes of log entries, and
rows of the state that they change. It is all in memory."""

REPLACE_RETRY_SECONDS: Final = 0.5
"""How often to try again to replace the state while there is no room for it."""


class State:
    """Store, leases, alarms and membership over one backend.

    on_failure: called with what the member cannot go on after. disk: told if there is no room to replace the state by
    a copy. copy_times, watch_times: told how long copies of the state and notifications of watchers take.
    """

    def __init__(
        self,
        config: Config,
        identity: Identity,
        backend: Backend,
        wal: Wal,
        store: Store,
        lessor: Lessor,
        on_failure: Callable[[BaseException], None],
        disk: Disk,
        copy_times: Timed,
        watch_times: WatchTimes,
    ) -> None:
        self._config = config
        self._identity = identity
        self._on_failure = on_failure
        self._disk = disk
        self._copy_times = copy_times
        self._watch_times = watch_times
        self._replacing: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        self.backend = backend
        self.wal = wal
        self.store = store
        self.lessor = lessor
        self.membership = Membership(backend.table("members"), backend.table("removed_members"))
        self.alarms = Alarms(backend.table("alarms"))
        self.version = ClusterVersion(backend.meta, config.highest_protocol)
        self.applied = backend.applied.index
        self.applied_term = backend.applied.term
        self.conf_state = self._stored_conf_state()
        self.installs_total = 0
        # Bytes of the entries that were applied since the disk of the state is full, by the last index of a batch.
        self._unstored: deque[tuple[int, int]] = deque()
        self._unstored_bytes = 0
        self._applier: Applier | None = None
        self._retention: Retention | None = None
        self._incoming: dict[tuple[int, int], Path] = {}
        self._cut = wal.first_index() - 1
        self._log = structlog.get_logger("kvstore.state")
        wal.conf_state = lambda: self.conf_state
        wal.snapshot = self._newest_snapshot

    def attach(self, applier: Applier, retention: Retention) -> None:
        """Say who applies entries, and who knows what others need of the log; both need this state to exist first."""
        self._applier = applier
        self._retention = retention

    async def copy(self) -> StateCopy:
        """A consistent copy of the state as it is now, or a little later."""
        return StateCopy(await self.backend.snapshot(), self._copy_times)

    def _newest_snapshot(self) -> Snapshot:
        # The copy that is sent is made when raft wants it sent, and is at least this new.
        if not self.applied:
            raise SnapshotTemporarilyUnavailable
        return Snapshot(b"", SnapshotMetadata(self.conf_state, self.applied, self.applied_term))

    def set_conf_state(self, state: ConfState) -> None:
        """Keep the configuration with the state it belongs to."""
        self.conf_state = state
        self.backend.meta[CONF_STATE] = encode_conf_state(state).SerializeToString()

    # What the Ready loop asks.

    def apply(self, entries: Sequence[Entry]) -> None:
        """Apply entries in their order."""
        if self._applier is None:
            raise AssertionError("entries to apply before anyone is there to do it")
        # An error on the way leaves this set, and the backend then refuses to store what was half done.
        self.backend.applying = True
        self._applier.apply(entries)
        last = entries[-1]
        self.applied, self.applied_term = last.index, last.term
        self.backend.set_applied(last.index, last.term)
        self.backend.applying = False
        # Also when there seems to be room: it may be for a part only, and what was counted is in memory still.
        if self.backend.is_full or self._unstored:
            size = sum([len(entry.data) for entry in entries])
            self._unstored.append((last.index, size))
            self._unstored_bytes += size
            self._forget_stored()

    @property
    def holds_too_much(self) -> bool:
        """Whether nothing more should be applied before there is room on the disk for what is."""
        if not self.backend.is_full:
            return False
        self._forget_stored()
        return self._unstored_bytes > MAX_UNSTORED_BYTES or self.backend.overlay_ops > MAX_UNSTORED_ROWS

    def _forget_stored(self) -> None:
        while self._unstored and self._unstored[0][0] <= self.backend.flushed_index:
            self._unstored_bytes -= self._unstored.popleft()[1]

    def turn_ended(self) -> None:
        """Tell watchers, flush when it is time, and cut the log behind what is durable."""
        self._watch_times.notify(self.store.watches)
        self.backend.maybe_flush(self._loop.time())
        self._cut_log()

    def expect(self, metadata: SnapshotMetadata, path: Path) -> None:
        """Keep the file of a copy that arrived, for raft to ask for or refuse."""
        self._incoming[(metadata.index, metadata.term)] = path

    def discard_incoming(self, except_for: SnapshotMetadata | None = None) -> None:
        """Delete copies that raft had no use for."""
        kept = (except_for.index, except_for.term) if except_for is not None else None
        for key in [key for key in self._incoming if key != kept]:
            pace.remove(self._incoming.pop(key))

    def install(self, snapshot: SnapshotMetadata, done: Callable[[], None]) -> None:
        """Replace the state by the copy that was received with this snapshot."""
        path = self._incoming.pop((snapshot.index, snapshot.term))
        self._log.info("replacing the state by a snapshot", index=snapshot.index, term=snapshot.term)

        async def replace() -> None:
            try:
                await self._replace(path, snapshot)
                done()
            except Exception as error:  # neither the old state nor the new one can be trusted from here
                self._on_failure(error)

        self._replacing = self._loop.create_task(replace())

    async def _replace(self, path: Path, snapshot: SnapshotMetadata) -> None:
        full = False
        while True:
            try:
                # A read between the new rows and the revision that goes with them would show neither state.
                await self.backend.replace(path, self._identity, partial(self._reload, snapshot))
            except DiskFull as error:
                if not full:
                    full = True
                    self._log.error("no room to replace the state by a snapshot", reason=str(error))
                    self._disk.set_full("snapshot")
                await asyncio.sleep(REPLACE_RETRY_SECONDS)
            else:
                if full:
                    self._disk.set_recovered("snapshot")
                return

    def _reload(self, snapshot: SnapshotMetadata) -> None:
        if self.backend.applied != Position(snapshot.index, snapshot.term):
            text = f"a snapshot at {snapshot.index} holds the state at {self.backend.applied.index}"
            raise AssertionError(text)
        self.applied, self.applied_term = snapshot.index, snapshot.term
        self.conf_state = snapshot.conf_state
        self.store.reload()
        self.lessor.reload()
        before = {member.ID for member in self.membership.all()}
        self.membership.reload()
        self.alarms.reload()
        self.version.reload()
        # Those too that were removed meanwhile: somebody may still try to reach them.
        for number in sorted(before.union(member.ID for member in self.membership.all())):
            self.membership.on_change(number)
        self.installs_total += 1
        self._cut = snapshot.index
        self._log.info("replaced the state by a snapshot", index=snapshot.index, revision=self.store.revision)

    def _cut_log(self) -> None:
        config = self._config
        cut = self.backend.flushed_index - config.snapshot_catchup_entries
        if cut - self._cut < config.snapshot_count:
            return
        if self._retention is not None:
            cut = self._retention.limit(cut)
            if cut - self._cut < config.snapshot_count:
                return
        self._cut = cut
        self.wal.compact(cut)
        self._log.info("cut the log", index=self._cut, applied=self.applied)

    def _stored_conf_state(self) -> ConfState:
        return stored_conf_state(self.backend.meta)


class StateCopy:
    """A consistent copy of the state, being read. metadata: what it covers."""

    def __init__(self, reader: SnapshotReader, times: Timed) -> None:
        self._reader = reader
        self._times = times
        self.metadata = SnapshotMetadata(stored_conf_state(reader.meta), reader.applied.index, reader.applied.term)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with self._times.measure():
            async with self._reader:
                async for chunk in self._reader:
                    yield chunk


def stored_conf_state(meta: Mapping[str, bytes]) -> ConfState:
    """The configuration in a state's meta table; an empty one before the first."""
    row = meta.get(CONF_STATE)
    return decode_conf_state(peer_pb2.ConfState.FromString(row)) if row else ConfState()
