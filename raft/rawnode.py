"""The library's core interface: one member as a state machine without threads, driven by its owner.

Turns calls into messages for the state machine (raft.py) and its outcome into `Ready` batches. Does no I/O: everything
that must be written or sent comes out of `ready()`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from raft.config import Config
from raft.messages import ConfChange, ConfChangeV2, ConfState, Entry, HardState, Message, ReadState, Snapshot, SoftState
from raft.status import BasicStatus, Status


@dataclass(slots=True)
class Ready:
    """What a member wants done. Fields without news are None or empty.

    soft_state: changed leader or role. hard_state, entries, snapshot: to persist, in any order but all before
    `messages` leave (with asynchronous storage writes they come again inside a message to the append thread; do only
    what that says). must_sync: whether the persisting must reach the disk before going on.
    committed_entries: to apply, in order, after the snapshot; they are stable already or among `entries`.
    read_states: reads that may be served once their index is applied.
    """

    soft_state: SoftState | None = None
    hard_state: HardState | None = None
    read_states: Sequence[ReadState] = ()
    entries: Sequence[Entry] = ()
    snapshot: Snapshot | None = None
    committed_entries: Sequence[Entry] = ()
    messages: list[Message] = field(default_factory=list)
    must_sync: bool = False


class RawNode:
    """One member. Not safe for use from several threads; every call returns at once."""

    def __init__(self, config: Config) -> None:
        """Start from what config.storage holds. Raises ConfigError."""
        raise NotImplementedError

    def tick(self) -> None:
        """Let one tick of the logical clock pass."""
        raise NotImplementedError

    def step(self, message: Message) -> None:
        """Take a message from a peer or a storage thread.

        Raises StepLocalMessage for types that never cross a network, StepPeerNotFound for responses from strangers,
        ProposalDropped for a forwarded proposal that cannot be taken.
        """
        raise NotImplementedError

    def campaign(self) -> None:
        """Become a candidate now."""
        raise NotImplementedError

    def propose(self, data: bytes) -> None:
        """Propose one payload. Raises ProposalDropped."""
        raise NotImplementedError

    def propose_batch(self, payloads: Sequence[bytes]) -> None:
        """Propose several payloads, to be appended together in this order. All or none; raises ProposalDropped."""
        raise NotImplementedError

    def propose_conf_change(self, change: ConfChange | ConfChangeV2) -> None:
        """Propose a configuration change. Raises ProposalDropped."""
        raise NotImplementedError

    def apply_conf_change(self, change: ConfChange | ConfChangeV2) -> ConfState:
        """Apply a committed configuration change; to be called for each one, unless the owner rejects it.

        Returns the new configuration. Raises ConfChangeError if it cannot be applied to the current one.
        """
        raise NotImplementedError

    def read_index(self, ctx: bytes) -> None:
        """Ask for the index a linearizable read must wait for; comes back as a ReadState with the same ctx."""
        raise NotImplementedError

    def transfer_leader(self, transferee: int) -> None:
        """Ask the leader to hand its leadership to `transferee`."""
        raise NotImplementedError

    def forget_leader(self) -> None:
        """Make a follower forget who leads, so that it may grant (pre-)votes at once."""
        raise NotImplementedError

    def report_unreachable(self, id: int) -> None:
        """Tell the leader that a message to peer `id` could not be delivered."""
        raise NotImplementedError

    def report_snapshot(self, id: int, ok: bool) -> None:
        """Tell the leader whether the snapshot sent to peer `id` arrived."""
        raise NotImplementedError

    def has_ready(self) -> bool:
        """Whether ready() would hold anything."""
        raise NotImplementedError

    def ready(self) -> Ready:
        """Everything to be done now. Must be carried out and (unless storage writes are asynchronous) advanced."""
        raise NotImplementedError

    def advance(self, ready: Ready | None = None) -> None:
        """Say that the last Ready was persisted, sent and applied. Wrong with asynchronous storage writes."""
        raise NotImplementedError

    def status(self) -> Status:
        """The full status, with the progress of every peer on a leader."""
        raise NotImplementedError

    def basic_status(self) -> BasicStatus:
        """The status without what takes time to gather."""
        raise NotImplementedError
