"""What must hold in a group at all times, whatever is lost, late or dead: checked as it happens.

Knows what every member ever said and did, which no member does; so it can compare.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence

from raft.errors import Compacted, Unavailable
from raft.messages import Entry, HardState, ReadState, Snapshot
from raft.rawnode import RawNode
from raft.storage import MemoryStorage

_Place = tuple[int, int]
"""Index and term of an entry."""


class Violation(AssertionError):
    """A safety property does not hold."""


def holds(disk: MemoryStorage, index: int, term: int) -> bool:
    """Whether a disk has the entry, or had it before it was compacted."""
    try:
        return disk.term(index) == term
    except Compacted:
        return True
    except Unavailable:
        return False


class Invariants:
    """The properties of figure 3 of the Raft paper, what they rest on, and linearizable reads (dissertation, 6.4).

    A property of figure 3 may be broken many steps after what broke it, or by luck not at all. So what each member
    promises (a vote, an acknowledgement, a commit) is held against the disks at once.
    """

    def __init__(self, first: Snapshot) -> None:
        index, term = first.metadata.index, first.metadata.term
        self._leaders: dict[int, int] = {}
        self._entries: dict[_Place, tuple[int, bytes, int]] = {}
        self._applied: dict[int, Entry] = {}
        self._digests: dict[int, bytes] = {index: first.data}
        self._terms: dict[int, int] = {index: term}
        self._reads: dict[bytes, int] = {}
        self._commits: dict[int, int] = {}
        self._states: dict[int, HardState] = {}
        self._votes: dict[tuple[int, int], int] = {}
        self.first_index = index
        self.committed = index

    # Terms and votes.

    def hard_state(self, number: int, state: HardState) -> None:
        """The term of a running member never falls, and in one term its vote never changes once it is given."""
        before = self._states.get(number)
        self._states[number] = state
        if before is None:
            return
        if state.term < before.term:
            raise Violation(f"terms: that of {number} falls from {before.term} to {state.term}")
        if state.term == before.term and before.vote and state.vote != before.vote:
            raise Violation(f"votes: {number} voted for {before.vote} in term {state.term}, now for {state.vote}")

    def voted(self, number: int, term: int, candidate: int) -> None:
        """A vote that others hear of is the only one of its term, whatever the member forgot since."""
        other = self._votes.setdefault((term, number), candidate)
        if other != candidate:
            raise Violation(f"votes: {number} gives {other} and {candidate} its vote in term {term}")

    # Election safety, leader completeness.

    def became_leader(
        self, number: int, node: RawNode, quorums: Iterable[Collection[int]], disks: Mapping[int, MemoryStorage]
    ) -> None:
        """At most one leader a term, by votes that are stored; its log has every entry that is committed."""
        term = node.basic_status().hard_state.term
        for voters in quorums:
            # Who is in a later term by now may have voted in this one.
            states = {voter: disks[voter].hard_state for voter in voters if voter in disks}
            given = [v for v, s in states.items() if s.term > term or (s.term, s.vote) == (term, number)]
            if 2 * len(given) <= len(voters):
                raise Violation(
                    f"election safety: {number} leads in term {term} by {sorted(given)} of {sorted(voters)}"
                )
        other = self._leaders.setdefault(term, number)
        if other != number:
            raise Violation(f"election safety: {other} and {number} both lead in term {term}")
        self.voted(number, term, number)
        log = node.raft.log
        for index in range(max(log.first_index(), self.first_index + 1), self.committed + 1):
            known = self._terms.get(index)
            if known is None or known > term:
                continue
            if index > log.last_index() or log.term(index) != known:
                raise Violation(f"leader completeness: {number} leads in term {term} without entry {known}/{index}")

    # Log matching.

    def appended(self, entries: Sequence[Entry], previous_term: int) -> None:
        """Entries with the same index and term are the same, and so is what comes before them."""
        for entry in entries:
            place = (entry.index, entry.term)
            content = (int(entry.type), entry.data, previous_term)
            if self._entries.setdefault(place, content) != content:
                raise Violation(f"log matching: two entries {entry.term}/{entry.index}")
            previous_term = entry.term

    # Acknowledgements.

    def acknowledged(self, number: int, disk: MemoryStorage, index: int, leader: RawNode | None) -> None:
        """What a member acknowledges is on its disk, and is what the leader has. leader: None if it is not any more."""
        if index > disk.last_index():
            raise Violation(f"acknowledgement: {number} acknowledges {index}, its disk ends with {disk.last_index()}")
        if leader is None:
            return
        log = leader.raft.log
        if index > log.last_index() or (index >= log.first_index() and not holds(disk, index, log.term(index))):
            raise Violation(f"acknowledgement: {number} acknowledges {index}, which is not what its leader holds there")

    # State machine safety.

    def applied(self, number: int, entry: Entry, disk: MemoryStorage) -> None:
        """Every member applies the same entry at an index, and not before it has stored it."""
        if not holds(disk, entry.index, entry.term):
            raise Violation(f"state machine safety: {number} applies {entry.index} before it is stored")
        known = self._applied.setdefault(entry.index, entry)
        if (known.term, known.type, known.data) != (entry.term, entry.type, entry.data):
            raise Violation(f"state machine safety: {number} applies another entry at {entry.index}")
        self._terms[entry.index] = entry.term
        if entry.index not in self._digests:
            state = hashlib.blake2b(self._digests[entry.index - 1], digest_size=8)
            state.update(b"%d %d " % (entry.term, entry.type) + entry.data)
            self._digests[entry.index] = state.digest()

    def digest(self, index: int) -> bytes:
        """What a state machine that has applied everything up to an index holds."""
        return self._digests[index]

    def term(self, index: int) -> int:
        """The term of the entry that everybody applies at an index."""
        return self._terms[index]

    def restored(self, number: int, snapshot: Snapshot) -> None:
        """A snapshot holds what applying the log would have led to."""
        if snapshot.data != self._digests.get(snapshot.metadata.index):
            raise Violation(f"state machine safety: {number} restores another state at {snapshot.metadata.index}")

    # Commit.

    def commit_index(self, number: int, index: int) -> None:
        """A running member's commit index never goes back."""
        if index < self._commits.get(number, 0):
            raise Violation(f"commit: that of {number} goes back to {index}")
        self._commits[number] = index
        self.committed = max(self.committed, index)

    def leader_commits(
        self, leader: RawNode, quorums: Iterable[Collection[int]], disks: Mapping[int, MemoryStorage]
    ) -> None:
        """What a leader commits first is of its term, and on the disks of a majority of each set of voters."""
        log, term = leader.raft.log, leader.raft.term
        index = log.committed
        if index <= self.committed:
            return
        if log.term(index) != term:
            raise Violation(f"commit: {index} of term {log.term(index)} by counting in term {term}")
        for voters in quorums:
            having = [voter for voter in voters if voter in disks and holds(disks[voter], index, term)]
            if 2 * len(having) <= len(voters):
                raise Violation(f"commit: {index} is stored by {sorted(having)} of {sorted(voters)} alone")

    def stopped(self, number: int) -> None:
        """When it stops, a member may forget how far the log was committed, and what it has told nobody."""
        self._commits.pop(number, None)
        self._states.pop(number, None)

    # Reads.

    def read_asked(self, context: bytes) -> None:
        """A read begins: it must see everything that is committed by now."""
        self._reads[context] = self.committed

    def reads_confirmed(self, states: Iterable[ReadState]) -> None:
        """A read is answered with the index it must wait for."""
        for state in states:
            needed = self._reads.get(state.request_ctx)
            if needed is not None and state.index < needed:
                raise Violation(f"linearizable reads: one at {state.index} after {needed} was committed")
