"""The part of the log that is not known to be on stable storage: new entries, and a snapshot that replaces the log.

Entries stay here after they were handed out for writing, until the write is known to be done: meanwhile this is the
only place to read them from.
"""

from __future__ import annotations

from collections.abc import Sequence

from raft.config import Logger
from raft.errors import InvariantViolation
from raft.messages import NO_LIMIT, Entry, Snapshot
from raft.sizes import limited_end


class Unstable:
    """entries[i] has the index offset + i.

    offset_in_progress: entries below it were handed out for writing. snapshot_in_progress: the snapshot was.
    The offset may be below the storage's last index: what is there then is about to be overwritten.
    """

    __slots__ = ("_logger", "entries", "offset", "offset_in_progress", "snapshot", "snapshot_in_progress")

    def __init__(self, offset: int, logger: Logger) -> None:
        self.snapshot: Snapshot | None = None
        self.snapshot_in_progress = False
        self.entries: list[Entry] = []
        self.offset = offset
        self.offset_in_progress = offset
        self._logger = logger

    def last_index(self) -> int:
        """The last index of the whole log: that of the entries, or what stable storage or the snapshot ends with."""
        return self.offset + len(self.entries) - 1

    def term(self, index: int) -> int | None:
        """The term of entry `index` if it is held here, or of the snapshot that ends there."""
        position = index - self.offset
        if 0 <= position < len(self.entries):
            return self.entries[position].term
        snapshot = self.snapshot
        if snapshot is not None and snapshot.metadata.index == index:
            return snapshot.metadata.term
        return None

    def next_entries(self) -> Sequence[Entry]:
        """Entries not yet handed out for writing."""
        start = self.offset_in_progress - self.offset
        return self.entries[start:] if start < len(self.entries) else ()

    def has_next_entries(self) -> bool:
        """Whether next_entries() holds any."""
        return self.offset_in_progress - self.offset < len(self.entries)

    def next_snapshot(self) -> Snapshot | None:
        """The snapshot, unless it was handed out already."""
        return None if self.snapshot_in_progress else self.snapshot

    def accept_in_progress(self) -> None:
        """Note that everything held was handed out for writing."""
        if self.entries:
            self.offset_in_progress = self.offset + len(self.entries)
        if self.snapshot is not None:
            self.snapshot_in_progress = True

    def stable_to(self, index: int, term: int) -> None:
        """Drop the entries up to `index`: they are stable, and no write under way can replace them.

        A report about an entry that was replaced meanwhile, recognised by its term, changes nothing.
        """
        held = self.term(index)
        if held is None:
            self._logger.info(f"entry at index {index} missing from unstable log; ignoring")
        elif index < self.offset:
            self._logger.info(f"entry at index {index} matched unstable snapshot; ignoring")
        elif held != term:
            self._logger.info(
                f"entry at (index,term)=({index},{term}) mismatched with entry at ({index},{held}) "
                "in unstable log; ignoring"
            )
        else:
            del self.entries[: index + 1 - self.offset]
            self.offset = index + 1
            self.offset_in_progress = max(self.offset_in_progress, self.offset)

    def stable_snapshot_to(self, index: int) -> None:
        """Drop the snapshot if it is the one that ends with `index`."""
        if self.snapshot is not None and self.snapshot.metadata.index == index:
            self.snapshot = None
            self.snapshot_in_progress = False

    def restore(self, snapshot: Snapshot) -> None:
        """Replace everything by `snapshot`."""
        self.offset = self.offset_in_progress = snapshot.metadata.index + 1
        self.entries = []
        self.snapshot = snapshot
        self.snapshot_in_progress = False

    def truncate_and_append(self, entries: Sequence[Entry]) -> None:
        """Append `entries`, dropping whatever is held from the first of them on."""
        first = entries[0].index
        position = first - self.offset
        if position == len(self.entries):
            self.entries.extend(entries)
        elif position <= 0:
            self._logger.info(f"replace the unstable entries from index {first}")
            self.entries = list(entries)
            self.offset = self.offset_in_progress = first
        elif position < len(self.entries):
            self._logger.info(f"truncate the unstable entries before index {first}")
            self.entries[position:] = entries
            self.offset_in_progress = min(self.offset_in_progress, first)
        else:
            raise InvariantViolation(f"entries from {first} leave a gap after {self.last_index()}")

    def slice(self, lo: int, hi: int, max_size: int = NO_LIMIT) -> list[Entry]:
        """Entries lo <= index < hi, all of which must be held, within max_size encoded bytes but at least one."""
        offset = self.offset
        if not offset <= lo <= hi <= offset + len(self.entries):
            raise InvariantViolation(f"unstable.slice[{lo},{hi}) out of bound [{offset},{self.last_index() + 1}]")
        return self.entries[lo - offset : limited_end(self.entries, lo - offset, hi - offset, max_size)]
