"""Where a member's stable log lives: the protocol a store must keep, and one in memory.

Knows entries, snapshots and hard state, nothing of roles or peers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from raft.errors import Compacted, InvariantViolation, SnapshotOutOfDate, Unavailable
from raft.messages import NO_LIMIT, ConfState, Entry, HardState, Snapshot, SnapshotMetadata
from raft.sizes import limited_end


class Storage(Protocol):
    """What the library reads from the stable log. Whatever else it raises leaves the node unusable."""

    def initial_state(self) -> tuple[HardState, ConfState]:
        """The hard state and the configuration stored last."""

    def entries(self, lo: int, hi: int, max_size: int) -> Sequence[Entry]:
        """Entries lo <= index < hi, cut so that their encoded size stays within max_size bytes; at least one.

        Raises Compacted if lo is not after the last compacted index, Unavailable if the storage does not reach lo.
        """

    def term(self, i: int) -> int:
        """The term of entry i, for first_index() - 1 <= i <= last_index().

        Raises Compacted below that range, Unavailable above it.
        """

    def last_index(self) -> int:
        """The index of the last entry, or of the snapshot where there is none after it."""

    def first_index(self) -> int:
        """The index of the first entry that is, or will be, available through entries()."""

    def snapshot(self) -> Snapshot:
        """The newest snapshot. Raises SnapshotTemporarilyUnavailable while one is being made."""


# Stands where compacted entries stood until the list is cut, so that their payloads are freed at once.
_DROPPED = Entry()


class MemoryStorage:
    """A Storage in memory.

    The caller appends what a Ready holds and compacts when it wants to. Compacting drops entries in amortized constant
    time an entry: the dead front of the list is cut only once it outweighs what lives.
    """

    def __init__(self, snapshot: Snapshot | None = None) -> None:
        """Start empty or, with `snapshot`, as after apply_snapshot(snapshot)."""
        self.hard_state = HardState()
        self._snapshot = Snapshot()
        self._entries: list[Entry] = []
        # Entries before this position in the list are compacted.
        self._dead = 0
        # Index and term of the last compacted entry: the log can still be matched there.
        self._offset = 0
        self._offset_term = 0
        if snapshot is not None:
            self.apply_snapshot(snapshot)

    def initial_state(self) -> tuple[HardState, ConfState]:
        """The hard state and the configuration of the newest snapshot."""
        return self.hard_state, self._snapshot.metadata.conf_state

    def set_hard_state(self, hard_state: HardState) -> None:
        """Store the hard state of a Ready."""
        self.hard_state = hard_state

    def entries(self, lo: int, hi: int, max_size: int = NO_LIMIT) -> Sequence[Entry]:
        """Entries lo <= index < hi within max_size encoded bytes, at least one.

        Raises Compacted or Unavailable as Storage.entries; asking beyond last_index() + 1 is InvariantViolation.
        """
        if lo <= self._offset:
            raise Compacted
        if hi > self.last_index() + 1:
            raise InvariantViolation(f"entries' hi({hi}) is out of bound lastindex({self.last_index()})")
        if not self._live():
            raise Unavailable
        shift = self._dead - self._offset - 1
        start = lo + shift
        return self._entries[start : limited_end(self._entries, start, hi + shift, max_size)]

    def term(self, i: int) -> int:
        """The term of entry i. Raises Compacted or Unavailable as Storage.term."""
        offset = self._offset
        if i <= offset:
            if i == offset:
                return self._offset_term
            raise Compacted
        position = i - offset - 1 + self._dead
        if position >= len(self._entries):
            raise Unavailable
        return self._entries[position].term

    def last_index(self) -> int:
        """The index of the last entry, or of the last compacted one."""
        return self._offset + self._live()

    def first_index(self) -> int:
        """The index after the last compacted one."""
        return self._offset + 1

    def snapshot(self) -> Snapshot:
        """The newest snapshot; an empty one if there never was any."""
        return self._snapshot

    def apply_snapshot(self, snapshot: Snapshot) -> None:
        """Replace everything by `snapshot`. Raises SnapshotOutOfDate if the one held is as new."""
        metadata = snapshot.metadata
        if self._snapshot.metadata.index >= metadata.index:
            raise SnapshotOutOfDate
        self._snapshot = snapshot
        self._entries = []
        self._dead = 0
        self._offset = metadata.index
        self._offset_term = metadata.term

    def create_snapshot(self, i: int, conf_state: ConfState | None, data: bytes) -> Snapshot:
        """Make and keep the snapshot of the state machine at index i. Entries stay until compact().

        conf_state: the configuration at i; None keeps that of the last snapshot.
        Raises SnapshotOutOfDate if the one held is as new; an index past the log is InvariantViolation.
        """
        last = self._snapshot.metadata
        if i <= last.index:
            raise SnapshotOutOfDate
        if i > self.last_index():
            raise InvariantViolation(f"snapshot {i} is out of bound lastindex({self.last_index()})")
        metadata = SnapshotMetadata(last.conf_state if conf_state is None else conf_state, i, self.term(i))
        self._snapshot = Snapshot(data, metadata)
        return self._snapshot

    def compact(self, compact_index: int) -> None:
        """Drop the entries up to and including compact_index. The caller makes sure that they are applied.

        Raises Compacted if they are gone already; an index past the log is InvariantViolation.
        """
        if compact_index <= self._offset:
            raise Compacted
        if compact_index > self.last_index():
            raise InvariantViolation(f"compact {compact_index} is out of bound lastindex({self.last_index()})")
        self._offset_term = self.term(compact_index)
        count = compact_index - self._offset
        dead = self._dead + count
        if dead >= len(self._entries) - dead:
            del self._entries[:dead]
            self._dead = 0
        else:
            self._entries[self._dead : dead] = [_DROPPED] * count
            self._dead = dead
        self._offset = compact_index

    def append(self, entries: Sequence[Entry]) -> None:
        """Append a Ready's entries, replacing what conflicts from the first of them on.

        Entries that are compacted already are skipped; a gap after the log is InvariantViolation.
        """
        if not entries:
            return
        first = entries[0].index
        skip = self._offset + 1 - first
        if skip > 0:
            entries = entries[skip:]
            if not entries:
                return
            first += skip
        position = first - self._offset - 1 + self._dead
        if position > len(self._entries):
            raise InvariantViolation(f"missing log entry [last: {self.last_index()}, append at: {first}]")
        if position < len(self._entries):
            del self._entries[position:]
        self._entries.extend(entries)

    def _live(self) -> int:
        return len(self._entries) - self._dead
