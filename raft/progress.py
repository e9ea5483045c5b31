"""A peer's log as its leader knows it, and how much may be under way to it.

Decides whether the leader may send and from where; knows nothing of the log's content or of messages.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import IntEnum

from raft.errors import InvariantViolation
from raft.messages import NO_LIMIT


class ProgressState(IntEnum):
    """How a leader treats a peer.

    PROBE: its log is not known; one append at a time, until one is accepted.
    REPLICATE: it follows; appends are sent without waiting for answers, as far as the inflight limits allow.
    SNAPSHOT: it needs a snapshot and got one; no appends until it is back.
    """

    PROBE = 0
    REPLICATE = 1
    SNAPSHOT = 2


STATE_NAMES = ("StateProbe", "StateReplicate", "StateSnapshot")


class Inflights:
    """The appends under way to a peer: for each the index of its last entry and the bytes of its payloads.

    size: how many messages may be under way. max_bytes: how much payload, NO_LIMIT for any. The message that
    crosses the byte limit is still let through, so that an entry larger than the limit can be sent at all.
    """

    __slots__ = ("_max_bytes", "_size", "_window", "bytes")

    def __init__(self, size: int, max_bytes: int = NO_LIMIT) -> None:
        self._size = size
        self._max_bytes = max_bytes
        self._window: deque[tuple[int, int]] = deque()
        self.bytes = 0

    def __len__(self) -> int:
        """Messages under way."""
        return len(self._window)

    @property
    def limits_bytes(self) -> bool:
        """Whether payload counts at all."""
        return self._max_bytes < NO_LIMIT

    def full(self) -> bool:
        """Whether nothing more may be sent before an answer comes."""
        return len(self._window) >= self._size or self.bytes >= self._max_bytes

    def add(self, index: int, size: int) -> None:
        """Note a message that ends with entry `index` and carries `size` bytes. Indexes must not fall."""
        if self.full():
            raise InvariantViolation("cannot add into a full inflights")
        if self._window and index < self._window[-1][0]:
            raise InvariantViolation(f"inflight index {index} after {self._window[-1][0]}")
        self._window.append((index, size))
        self.bytes += size

    def free_le(self, index: int) -> None:
        """Forget every message whose last entry is at or before `index`: the peer has acknowledged them."""
        window = self._window
        while window and window[0][0] <= index:
            self.bytes -= window.popleft()[1]

    def reset(self) -> None:
        """Forget everything."""
        self._window.clear()
        self.bytes = 0

    def copy(self) -> Inflights:
        """An independent copy."""
        copied = Inflights(self._size, self._max_bytes)
        copied._window = self._window.copy()
        copied.bytes = self.bytes
        return copied


@dataclass(slots=True)
class Progress:
    """What a leader knows of one peer.

    match: the last index known to agree with the leader's log.
    next: the next index to send; always above match. What lies between is under way.
    sent_commit: the highest commit index sent; commit indexes at or above next are of no use to the peer yet.
    pending_snapshot: in SNAPSHOT, the index of the snapshot sent.
    recent_active: whether it was heard from since the last check of the quorum; always true for the leader itself.
    flow_paused: in PROBE that an append is under way, in REPLICATE that an empty one was sent because the limits
    of `inflights` are reached. The answer to a heartbeat resumes.
    """

    inflights: Inflights
    match: int = 0
    next: int = 1
    sent_commit: int = 0
    state: ProgressState = ProgressState.PROBE
    pending_snapshot: int = 0
    recent_active: bool = False
    flow_paused: bool = False
    is_learner: bool = False

    def reset_state(self, state: ProgressState) -> None:
        """Enter `state` with nothing under way."""
        self.flow_paused = False
        self.pending_snapshot = 0
        self.state = state
        self.inflights.reset()

    def become_probe(self) -> None:
        """Find out where the peer's log agrees, from what it has acknowledged or from the snapshot it was sent."""
        if self.state == ProgressState.SNAPSHOT:
            pending = self.pending_snapshot
            self.reset_state(ProgressState.PROBE)
            self.next = max(self.match, pending) + 1
        else:
            self.reset_state(ProgressState.PROBE)
            self.next = self.match + 1
        self.sent_commit = min(self.sent_commit, self.next - 1)

    def become_replicate(self) -> None:
        """Stream from the entry after the last acknowledged one."""
        self.reset_state(ProgressState.REPLICATE)
        self.next = self.match + 1
        self.sent_commit = min(self.sent_commit, self.next - 1)

    def become_snapshot(self, index: int) -> None:
        """Wait for the peer to take the snapshot that ends with `index`."""
        self.reset_state(ProgressState.SNAPSHOT)
        self.pending_snapshot = index
        self.next = index + 1
        self.sent_commit = index

    def sent_entries(self, count: int, size: int) -> None:
        """Note an append of `count` entries from next on, `size` bytes of payload."""
        if self.state == ProgressState.REPLICATE:
            if count:
                self.next += count
                self.inflights.add(self.next - 1, size)
            # A message that fills the window, or was sent although it was full, is a probe: wait for an answer.
            self.flow_paused = self.inflights.full()
        elif self.state == ProgressState.PROBE:
            if count:
                self.flow_paused = True
        else:
            raise InvariantViolation(f"sending append in unhandled state {STATE_NAMES[self.state]}")

    def can_bump_commit(self, commit: int) -> bool:
        """Whether sending `commit` could move the peer's commit index."""
        return commit > self.sent_commit and self.sent_commit < self.next - 1

    def maybe_update(self, index: int) -> bool:
        """Take an acknowledgement up to `index`. False if it says nothing new."""
        if index <= self.match:
            return False
        self.match = index
        if self.next <= index:
            self.next = index + 1
        self.flow_paused = False
        return True

    def maybe_decrease(self, rejected: int, hint: int) -> bool:
        """Take the rejection of the append after `rejected`; the peer suggests to try after `hint`.

        False if it is stale: the peer has acknowledged more meanwhile, or this was not the append last sent.
        """
        if self.state == ProgressState.REPLICATE:
            if rejected <= self.match:
                return False
            self.next = self.match + 1
            self.sent_commit = min(self.sent_commit, self.match)
            return True
        # Without the stream only one append is under way: the one after next - 1.
        if self.next - 1 != rejected:
            return False
        self.next = max(min(rejected, hint + 1), self.match + 1)
        self.sent_commit = min(self.sent_commit, self.next - 1)
        self.flow_paused = False
        return True

    def is_paused(self) -> bool:
        """Whether nothing may be sent now."""
        return self.flow_paused or self.state == ProgressState.SNAPSHOT

    def copy(self) -> Progress:
        """An independent copy."""
        return Progress(
            inflights=self.inflights.copy(),
            match=self.match,
            next=self.next,
            sent_commit=self.sent_commit,
            state=self.state,
            pending_snapshot=self.pending_snapshot,
            recent_active=self.recent_active,
            flow_paused=self.flow_paused,
            is_learner=self.is_learner,
        )

    def __str__(self) -> str:
        """StateReplicate match=3 next=5 learner paused pendingSnap=9 inactive inflight=2[full]."""
        parts = [f"{STATE_NAMES[self.state]} match={self.match} next={self.next}"]
        if self.is_learner:
            parts.append("learner")
        if self.is_paused():
            parts.append("paused")
        if self.pending_snapshot > 0:
            parts.append(f"pendingSnap={self.pending_snapshot}")
        if not self.recent_active:
            parts.append("inactive")
        if len(self.inflights):
            parts.append(f"inflight={len(self.inflights)}{'[full]' if self.inflights.full() else ''}")
        return " ".join(parts)
