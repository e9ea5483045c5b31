"""The log: entries a member holds, stable or not, and how far they are committed and applied.

Knows terms and indexes only. Who may append, and when an index is committed, is the state machine's business (raft.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from raft.config import Logger
from raft.errors import Compacted, InvariantViolation, StorageError, Unavailable
from raft.messages import NO_LIMIT, Entry, Snapshot
from raft.sizes import entries_size
from raft.storage import Storage
from raft.unstable import Unstable


class RaftLog:
    """The whole log. Invariant: applied <= applying <= committed <= last_index().

    committed: the highest index known to be on stable storage of a quorum.
    applying: the highest index handed out to be applied. applied: the highest index that is.
    max_applying_size: encoded bytes of entries that may be handed out and not yet applied.
    """

    __slots__ = (
        "_applying_paused",
        "_applying_size",
        "_logger",
        "_max_applying_size",
        "_storage",
        "applied",
        "applying",
        "committed",
        "unstable",
    )

    def __init__(self, storage: Storage, logger: Logger, max_applying_size: int = NO_LIMIT) -> None:
        """Start from what `storage` holds; everything compacted counts as committed and applied."""
        self._storage = storage
        self._logger = logger
        self._max_applying_size = max_applying_size
        self._applying_size = 0
        self._applying_paused = False
        self.unstable = Unstable(storage.last_index() + 1, logger)
        self.committed = self.applying = self.applied = storage.first_index() - 1

    # Reading

    def first_index(self) -> int:
        """The first index that is available."""
        snapshot = self.unstable.snapshot
        return self._storage.first_index() if snapshot is None else snapshot.metadata.index + 1

    def last_index(self) -> int:
        """The last index, stable or not."""
        # The unstable part begins where the stable one ends, so storage need not be asked.
        return self.unstable.offset + len(self.unstable.entries) - 1

    def term(self, index: int) -> int:
        """The term of entry `index`, or of the one compacted last. Raises Compacted or Unavailable."""
        held = self.unstable.term(index)
        if held is not None:
            return held
        if index >= self.unstable.offset:
            raise Unavailable
        # With a snapshot that is not stored yet, what storage holds before it is void.
        if self.unstable.snapshot is not None:
            raise Compacted
        return self._storage.term(index)

    def term_or_zero(self, index: int) -> int:
        """The term of entry `index`, 0 if it is not known."""
        try:
            return self.term(index)
        except (Compacted, Unavailable):
            return 0

    def match_term(self, index: int, term: int) -> bool:
        """Whether entry `index` is known and has `term`."""
        try:
            return self.term(index) == term
        except (Compacted, Unavailable):
            return False

    def last_term(self) -> int:
        """The term of the last entry."""
        try:
            return self.term(self.last_index())
        except StorageError as error:
            raise InvariantViolation(f"unexpected error when getting the last term ({error})") from error

    def is_up_to_date(self, index: int, term: int) -> bool:
        """Whether a log that ends with (index, term) holds all that this one may have committed (Raft §5.4.1)."""
        last_term = self.last_term()
        return term > last_term or (term == last_term and index >= self.last_index())

    def entries(self, lo: int, max_size: int) -> Sequence[Entry]:
        """Entries from lo on, within max_size encoded bytes but at least one if there is any. Raises Compacted."""
        hi = self.last_index() + 1
        return self.slice(lo, hi, max_size) if lo < hi else ()

    def slice(self, lo: int, hi: int, max_size: int) -> Sequence[Entry]:
        """Entries lo <= index < hi, within max_size encoded bytes but at least one if lo < hi. Raises Compacted."""
        if lo > hi:
            raise InvariantViolation(f"invalid slice {lo} > {hi}")
        if hi > self.last_index() + 1:
            raise InvariantViolation(f"slice[{lo},{hi}) out of bound [{self.first_index()},{self.last_index()}]")
        unstable = self.unstable
        if lo >= unstable.offset:
            return unstable.slice(lo, hi, max_size)
        if lo < self.first_index():
            raise Compacted
        cut = min(hi, unstable.offset)
        try:
            stable = self._storage.entries(lo, cut, max_size)
        except Unavailable as error:
            raise InvariantViolation(f"entries[{lo}:{cut}) is unavailable from storage") from error
        # Storage may have stopped at the limit already, or hold all that was asked for.
        if len(stable) < cut - lo or hi <= unstable.offset:
            return stable
        if max_size >= NO_LIMIT:
            return [*stable, *unstable.slice(unstable.offset, hi)]
        left = max_size - entries_size(stable)
        if left <= 0:
            return stable
        rest = unstable.slice(unstable.offset, hi, left)
        # There is always one entry; here it is one too many if it does not fit.
        if len(rest) == 1 and entries_size(rest) > left:
            return stable
        return [*stable, *rest]

    def scan(self, lo: int, hi: int, page_size: int) -> Iterator[Sequence[Entry]]:
        """Entries lo <= index < hi in pages of at most page_size encoded bytes, at least one entry each.

        They must all be there: InvariantViolation if not.
        """
        while lo < hi:
            try:
                page = self.slice(lo, hi, page_size)
            except Compacted as error:
                raise InvariantViolation(f"error scanning unapplied entries [{lo}, {hi}): {error}") from error
            if not page:
                raise InvariantViolation(f"got 0 entries in [{lo}, {hi})")
            yield page
            lo += len(page)

    def snapshot(self) -> Snapshot:
        """The newest snapshot, stored or not. Raises SnapshotTemporarilyUnavailable."""
        return self._storage.snapshot() if self.unstable.snapshot is None else self.unstable.snapshot

    # Appending

    def append(self, entries: Sequence[Entry]) -> int:
        """Append `entries`, replacing what conflicts. Returns the last index. Committed entries are never replaced."""
        if entries:
            after = entries[0].index - 1
            if after < self.committed:
                raise InvariantViolation(f"after({after}) is out of range [committed({self.committed})]")
            self.unstable.truncate_and_append(entries)
        return self.last_index()

    def maybe_append(self, prev_index: int, prev_term: int, commit: int, entries: Sequence[Entry]) -> int | None:
        """Take over a leader's entries that follow (prev_index, prev_term), and its commit index as far as they reach.

        Returns the index of the last of them, or None if this log has nothing that matches the previous entry.
        """
        if not self.match_term(prev_index, prev_term):
            return None
        last_new = prev_index + len(entries)
        # Nothing can conflict behind the end of the log, which is where appends arrive when all goes well.
        conflict = prev_index + 1 if prev_index == self.last_index() else self.find_conflict(entries)
        if entries and conflict:
            if conflict <= self.committed:
                raise InvariantViolation(
                    f"entry {conflict} conflict with committed entry [committed({self.committed})]"
                )
            self.append(entries[conflict - prev_index - 1 :])
        self.commit_to(min(commit, last_new))
        return last_new

    def find_conflict(self, entries: Sequence[Entry]) -> int:
        """The index of the first of `entries` that this log lacks or holds with another term; 0 if it holds all."""
        for entry in entries:
            if not self.match_term(entry.index, entry.term):
                if entry.index <= self.last_index():
                    self._logger.info(
                        f"found conflict at index {entry.index} [existing term: {self.term_or_zero(entry.index)}, "
                        f"conflicting term: {entry.term}]"
                    )
                return entry.index
        return 0

    def find_conflict_by_term(self, index: int, term: int) -> tuple[int, int]:
        """The best guess where this log and one that holds `term` at `index` may still agree.

        Returns the highest index at or before `index` whose term here is at most `term`, and that term; the term is 0
        where it is not known because the entry is compacted or not there.
        """
        while index > 0:
            try:
                ours = self.term(index)
            except (Compacted, Unavailable):
                return index, 0
            if ours <= term:
                return index, ours
            index -= 1
        return 0, 0

    def restore(self, snapshot: Snapshot) -> None:
        """Replace the whole log by `snapshot`, which is committed by its nature."""
        metadata = snapshot.metadata
        self._logger.info(f"log [{self}] starts to restore snapshot [index: {metadata.index}, term: {metadata.term}]")
        self.committed = metadata.index
        self.unstable.restore(snapshot)

    def stable_to(self, index: int, term: int) -> None:
        """Entries up to `index` are stable, provided that the entry there still has `term`."""
        self.unstable.stable_to(index, term)

    # Committing and applying

    def commit_to(self, index: int) -> None:
        """Raise the commit index to `index`; it never falls."""
        if index > self.committed:
            if index > self.last_index():
                raise InvariantViolation(
                    f"tocommit({index}) is out of range [lastIndex({self.last_index()})]. "
                    "Was the raft log corrupted, truncated, or lost?"
                )
            self.committed = index

    def maybe_commit(self, index: int, term: int) -> bool:
        """Commit up to `index` if the entry there is of `term`, the leader's own (Raft §5.4.2). True if it moved."""
        if index > self.committed and term and self.term_or_zero(index) == term:
            self.commit_to(index)
            return True
        return False

    def max_appliable_index(self, allow_unstable: bool) -> int:
        """The last index that may be applied: committed and, unless allow_unstable, on this member's storage."""
        return self.committed if allow_unstable else min(self.committed, self.unstable.offset - 1)

    def has_next_committed(self, allow_unstable: bool) -> bool:
        """Whether next_committed() would hold any entries."""
        # A snapshot is applied before anything else, and alone: which comes first must not be in question.
        if self._applying_paused or self.unstable.snapshot is not None:
            return False
        return self.applying < self.max_appliable_index(allow_unstable)

    def next_committed(self, allow_unstable: bool) -> Sequence[Entry]:
        """The entries to apply next, within what is left of max_applying_size."""
        if not self.has_next_committed(allow_unstable):
            return ()
        size = self._max_applying_size
        if size < NO_LIMIT:
            size -= self._applying_size
            if size <= 0:
                raise InvariantViolation(
                    f"applying entry size ({self._max_applying_size}-{self._applying_size})={size} not positive"
                )
        try:
            return self.slice(self.applying + 1, self.max_appliable_index(allow_unstable) + 1, size)
        except Compacted as error:
            raise InvariantViolation(f"unexpected error when getting unapplied entries ({error})") from error

    def accept_applying(self, entries: Sequence[Entry], allow_unstable: bool) -> None:
        """Note that `entries`, from next_committed(), were handed out."""
        index = entries[-1].index
        if index > self.committed:
            raise InvariantViolation(
                f"applying({index}) is out of range [prevApplying({self.applying}), committed({self.committed})]"
            )
        self.applying = index
        if self._max_applying_size >= NO_LIMIT:
            return
        self._applying_size += entries_size(entries)
        # If not all was handed out that could be, the limit was in the way: the next entry is too large for what is
        # left of it, until something is applied.
        self._applying_paused = self._applying_size >= self._max_applying_size or index < self.max_appliable_index(
            allow_unstable
        )

    def applied_to(self, index: int, entries: Sequence[Entry] = ()) -> None:
        """Note that everything up to `index` is applied, of which `entries` were handed out by next_committed()."""
        if index > self.committed or index < self.applied:
            raise InvariantViolation(
                f"applied({index}) is out of range [prevApplied({self.applied}), committed({self.committed})]"
            )
        self.applied = index
        self.applying = max(self.applying, index)
        if self._max_applying_size < NO_LIMIT:
            self._applying_size = max(self._applying_size - entries_size(entries), 0)
            self._applying_paused = self._applying_size >= self._max_applying_size

    def __str__(self) -> str:
        """The indexes, for log lines."""
        unstable = self.unstable
        return (
            f"committed={self.committed}, applied={self.applied}, applying={self.applying}, "
            f"unstable.offset={unstable.offset}, unstable.offsetInProgress={unstable.offset_in_progress}, "
            f"len(unstable.Entries)={len(unstable.entries)}"
        )
