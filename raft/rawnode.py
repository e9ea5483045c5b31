"""The library's core interface: one member as a state machine without threads, driven by its owner.

Turns calls into messages for the state machine (raft.py) and its outcome into `Ready` batches. Does no I/O: everything
that must be written or sent comes out of `ready()`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from raft.confchange import as_v2
from raft.confcodec import encode_conf_change
from raft.config import Config
from raft.errors import MisuseError, StepLocalMessage, StepPeerNotFound
from raft.messages import (
    LOCAL_APPEND_THREAD,
    LOCAL_APPLY_THREAD,
    ConfChange,
    ConfChangeType,
    ConfChangeV2,
    ConfState,
    Entry,
    HardState,
    Message,
    MessageType,
    Peer,
    ReadState,
    Snapshot,
    SoftState,
    StateType,
)
from raft.raft import Raft
from raft.status import BasicStatus, Status
from raft.tables import flag_table

_LOCAL = flag_table(
    (
        MessageType.HUP,
        MessageType.BEAT,
        MessageType.UNREACHABLE,
        MessageType.SNAP_STATUS,
        MessageType.CHECK_QUORUM,
        MessageType.STORAGE_APPEND,
        MessageType.STORAGE_APPEND_RESP,
        MessageType.STORAGE_APPLY,
        MessageType.STORAGE_APPLY_RESP,
    )
)
_RESPONSE = flag_table(
    (
        MessageType.APP_RESP,
        MessageType.VOTE_RESP,
        MessageType.HEARTBEAT_RESP,
        MessageType.UNREACHABLE,
        MessageType.READ_INDEX_RESP,
        MessageType.PRE_VOTE_RESP,
        MessageType.STORAGE_APPEND_RESP,
        MessageType.STORAGE_APPLY_RESP,
    )
)
_EMPTY_HARD_STATE = HardState()


def is_local_message(kind: MessageType) -> bool:
    """Whether messages of this type never cross a network."""
    return _LOCAL[kind]


def is_response_message(kind: MessageType) -> bool:
    """Whether messages of this type answer another."""
    return _RESPONSE[kind]


def is_local_target(id: int) -> bool:
    """Whether `id` stands for a storage thread rather than a member."""
    return id >= LOCAL_APPLY_THREAD


@dataclass(slots=True, init=False)
class Ready:
    """What a member wants done. Fields without news are None or empty.

    soft_state: changed leader or role. hard_state, entries, snapshot: to persist, in any order but all before
    `messages` leave (with asynchronous storage writes they come again inside a message to the append thread; do only
    what that says). must_sync: whether the persisting must reach the disk before going on.
    committed_entries: to apply, in order, after the snapshot; they are stable already or among `entries`.
    read_states: reads that may be served once their index is applied.
    """

    soft_state: SoftState | None
    hard_state: HardState | None
    read_states: Sequence[ReadState]
    entries: Sequence[Entry]
    snapshot: Snapshot | None
    committed_entries: Sequence[Entry]
    messages: list[Message]
    must_sync: bool

    def __init__(
        self,
        soft_state: SoftState | None = None,
        hard_state: HardState | None = None,
        read_states: Sequence[ReadState] = (),
        entries: Sequence[Entry] = (),
        snapshot: Snapshot | None = None,
        committed_entries: Sequence[Entry] = (),
        messages: list[Message] | None = None,
        must_sync: bool = False,
    ) -> None:
        self.soft_state = soft_state
        self.hard_state = hard_state
        self.read_states = read_states
        self.entries = entries
        self.snapshot = snapshot
        self.committed_entries = committed_entries
        self.messages = messages if messages is not None else []
        self.must_sync = must_sync


class RawNode:
    """One member. Not safe for use from several threads; every call returns at once.

    Without asynchronous storage writes: take `ready()`, persist, send, apply, call `advance()`, and so on. With them:
    hand the messages to the two storage threads over, and `step` the responses each of them carries, in order, once
    its work is done; Readys may be taken meanwhile.
    """

    def __init__(self, config: Config) -> None:
        """Start from what config.storage holds.

        Raises InvariantViolation or ConfChangeError if that contradicts itself.
        """
        self.raft = Raft(config)
        self._async = config.async_storage_writes
        self._previous_soft = self.raft.soft_state()
        self._previous_hard = self.raft.hard_state()
        self._steps_on_advance: list[Message] = []

    def bootstrap(self, peers: Sequence[Peer]) -> None:
        """Make `peers` the first configuration, as committed entries that are to be applied like any others.

        Every member of the group must do the same. A storage that holds a snapshot with the first configuration
        serves as well and takes no entries. Raises MisuseError if peers or storage do not allow it.
        """
        if not peers:
            raise MisuseError("must provide at least one peer to bootstrap")
        r = self.raft
        if r.log.last_index():
            raise MisuseError("can't bootstrap a nonempty Storage")
        # Nothing is stored yet, not even the hard state: the first Ready has to hold one.
        self._previous_hard = HardState()
        r.become_follower(1)
        changes = [ConfChange(type=ConfChangeType.ADD_NODE, node_id=peer.id, context=peer.context) for peer in peers]
        r.log.append([Entry(1, index, *encode_conf_change(change)) for index, change in enumerate(changes, 1)])
        # An owner may want to campaign before it applies these, so they are in force at once. Applying them
        # again later changes nothing.
        r.log.committed = len(changes)
        for change in changes:
            r.apply_conf_change(as_v2(change))

    def tick(self) -> None:
        """Let one tick of the logical clock pass."""
        self.raft.tick()

    def step(self, message: Message) -> None:
        """Take a message from a peer or a storage thread.

        Raises StepLocalMessage for types that never cross a network, StepPeerNotFound for responses from strangers,
        ProposalDropped for a forwarded proposal that cannot be taken.
        """
        kind, sender = message.type, message.from_
        if sender < LOCAL_APPLY_THREAD:
            if _LOCAL[kind]:
                raise StepLocalMessage
            if _RESPONSE[kind] and sender not in self.raft.tracker.progress:
                raise StepPeerNotFound
        self.raft.step(message)

    def campaign(self) -> None:
        """Become a candidate now."""
        self.raft.step(Message(MessageType.HUP))

    def propose(self, data: bytes) -> None:
        """Propose one payload. Raises ProposalDropped."""
        self._propose((Entry(data=data),))

    def propose_batch(self, payloads: Sequence[bytes]) -> None:
        """Propose several payloads, to be appended together in this order. All or none; raises ProposalDropped."""
        if payloads:
            self._propose([Entry(data=data) for data in payloads])

    def propose_conf_change(self, change: ConfChange | ConfChangeV2) -> None:
        """Propose a configuration change. Raises ProposalDropped.

        A change that the configuration does not allow now is taken as an entry without effect, unless
        disable_conf_change_validation is set.
        """
        kind, data = encode_conf_change(change)
        self._propose((Entry(type=kind, data=data),))

    def _propose(self, entries: Sequence[Entry]) -> None:
        self.raft.step(Message(MessageType.PROP, from_=self.raft.id, entries=entries))

    def apply_conf_change(self, change: ConfChange | ConfChangeV2) -> ConfState:
        """Apply a committed configuration change; to be called for each one, unless the owner rejects it.

        Returns the new configuration. Raises ConfChangeError if it cannot be applied to the current one.
        """
        return self.raft.apply_conf_change(as_v2(change))

    def read_index(self, ctx: bytes) -> None:
        """Ask for the index a linearizable read must wait for; comes back as a ReadState with the same ctx.

        May be lost without notice, so ask again after a while.
        """
        self.raft.step(Message(MessageType.READ_INDEX, entries=(Entry(data=ctx),)))

    def transfer_leader(self, transferee: int) -> None:
        """Ask the leader to hand its leadership to `transferee`."""
        self.raft.step(Message(MessageType.TRANSFER_LEADER, from_=transferee))

    def forget_leader(self) -> None:
        """Make a follower forget who leads, so that it may grant (pre-)votes at once."""
        self.raft.step(Message(MessageType.FORGET_LEADER))

    def report_unreachable(self, id: int) -> None:
        """Tell the leader that a message to peer `id` could not be delivered."""
        self.raft.step(Message(MessageType.UNREACHABLE, from_=id))

    def report_snapshot(self, id: int, ok: bool) -> None:
        """Tell the leader whether the snapshot sent to peer `id` arrived; until then it sends that peer nothing."""
        self.raft.step(Message(MessageType.SNAP_STATUS, from_=id, reject=not ok))

    def has_ready(self) -> bool:
        """Whether ready() would hold anything."""
        r = self.raft
        log = r.log
        return bool(
            r.messages
            or r.messages_after_append
            or log.unstable.has_next_entries()
            or log.has_next_committed(not self._async)
            or r.read_states
            or log.unstable.next_snapshot() is not None
            or self._soft_state_changed()
            or self._hard_state_changed()
        )

    def _soft_state_changed(self) -> bool:
        previous = self._previous_soft
        return self.raft.lead != previous.lead or self.raft.state != previous.raft_state

    def _hard_state_changed(self) -> bool:
        r, previous = self.raft, self._previous_hard
        return r.log.committed != previous.commit or r.term != previous.term or r.vote != previous.vote

    def ready(self) -> Ready:
        """Everything to be done now. Must be carried out and (unless storage writes are asynchronous) advanced."""
        r = self.raft
        log = r.log
        if self._steps_on_advance:
            raise MisuseError("ready() called again before advance()")
        entries = log.unstable.next_entries()
        ready = Ready(
            entries=entries,
            committed_entries=log.next_committed(not self._async),
            snapshot=log.unstable.next_snapshot(),
            messages=r.messages,
            must_sync=bool(entries) or r.term != self._previous_hard.term or r.vote != self._previous_hard.vote,
        )
        if self._soft_state_changed():
            ready.soft_state = self._previous_soft = r.soft_state()
        if self._hard_state_changed():
            self._previous_hard = r.hard_state()
            # Only a member that never stored anything has an empty one; there is nothing to store then.
            if self._previous_hard != _EMPTY_HARD_STATE:
                ready.hard_state = self._previous_hard
        if r.read_states:
            ready.read_states, r.read_states = r.read_states, []
        if self._async:
            self._add_storage_messages(ready)
        else:
            self._keep_steps(ready)
        r.messages, r.messages_after_append = [], []
        log.unstable.accept_in_progress()
        if ready.committed_entries:
            log.accept_applying(ready.committed_entries, not self._async)
        if r.tracer is not None:
            r.tracer.event("Ready", r)
        return ready

    def _add_storage_messages(self, ready: Ready) -> None:
        """Put the storage threads' work among the messages."""
        r = self.raft
        responses = r.messages_after_append
        if ready.entries or ready.hard_state is not None or ready.snapshot is not None or responses:
            append = Message(
                MessageType.STORAGE_APPEND, LOCAL_APPEND_THREAD, r.id, entries=ready.entries, snapshot=ready.snapshot
            )
            if ready.hard_state is not None:
                hard = ready.hard_state
                append.term, append.vote, append.commit = hard.term, hard.vote, hard.commit
            # The report to the log goes last: the acknowledgements before it then find their entries' terms in
            # memory still.
            append.responses = [*responses, *self._storage_reports(ready)]
            ready.messages.append(append)
        if ready.committed_entries:
            ready.messages.append(
                Message(
                    MessageType.STORAGE_APPLY,
                    LOCAL_APPLY_THREAD,
                    r.id,
                    entries=ready.committed_entries,
                    responses=(self._apply_report(ready),),
                )
            )

    def _keep_steps(self, ready: Ready) -> None:
        """Keep what advance() has to step; what is for others waits no longer than the owner's persisting."""
        steps = self._steps_on_advance
        own = self.raft.id
        for message in self.raft.messages_after_append:
            (steps if message.to == own else ready.messages).append(message)
        steps.extend(self._storage_reports(ready))
        if ready.committed_entries:
            steps.append(self._apply_report(ready))

    def _storage_reports(self, ready: Ready) -> list[Message]:
        """The message, if any is needed, that tells the log of entries and a snapshot stored.

        It names the last entry of the whole log, whether this Ready holds it or an earlier one: storage is written in
        order, so then all of it is stored. And it carries the term. Between leaders of different terms an entry may
        be replaced, and later be replaced by itself again, while its first write is still under way (A-B-A); a report
        about that first write must not make the log forget an entry that a later write has yet to restore. So a
        report from a lower term is ignored, and since every new term brings a hard state to store, a later report
        always makes up for it.
        """
        r = self.raft
        log = r.log
        if not log.unstable.entries and ready.snapshot is None:
            return []
        report = Message(
            MessageType.STORAGE_APPEND_RESP, r.id, LOCAL_APPEND_THREAD, term=r.term, snapshot=ready.snapshot
        )
        if log.unstable.entries:
            report.index, report.log_term = log.last_index(), log.last_term()
        return [report]

    def _apply_report(self, ready: Ready) -> Message:
        """The message that tells the log of entries applied; they are applied under no term."""
        return Message(
            MessageType.STORAGE_APPLY_RESP, self.raft.id, LOCAL_APPLY_THREAD, entries=ready.committed_entries
        )

    def advance(self, ready: Ready | None = None) -> None:
        """Say that the last Ready was persisted, sent and applied.

        ready: not looked at. Raises MisuseError with asynchronous storage writes, where the responses do this.
        """
        if self._async:
            raise MisuseError("advance() must not be called when using async_storage_writes")
        steps, self._steps_on_advance = self._steps_on_advance, []
        for message in steps:
            self.raft.step(message)

    def status(self) -> Status:
        """The full status, with the progress of every peer on a leader."""
        r = self.raft
        basic = self.basic_status()
        progress = r.tracker.progress if r.state == StateType.LEADER else {}
        return Status(
            id=basic.id,
            hard_state=basic.hard_state,
            soft_state=basic.soft_state,
            applied=basic.applied,
            lead_transferee=basic.lead_transferee,
            config=r.tracker.config.copy(),
            progress={id: peer.copy() for id, peer in progress.items()},
        )

    @property
    def term(self) -> int:
        """The term that this member is in."""
        return self.raft.term

    @property
    def leads(self) -> bool:
        """Whether it takes itself for its term's leader."""
        return self.raft.state == StateType.LEADER

    @property
    def leader(self) -> int:
        """Who leads in its term as far as it knows, to whom proposals go; 0: nobody."""
        return self.raft.lead

    def uncommitted(self) -> range:
        """Indices of the entries that the log has and that are not known to be committed."""
        log = self.raft.log
        return range(log.committed + 1, log.last_index() + 1)

    def basic_status(self) -> BasicStatus:
        """The status without what takes time to gather."""
        r = self.raft
        return BasicStatus(r.id, r.hard_state(), r.soft_state(), r.log.applied, r.lead_transferee)
