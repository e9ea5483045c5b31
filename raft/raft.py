"""The state machine of one member: term, vote, role, log and the progress of its peers.

`step` sorts a message by its term and hands it to the role's own step function (leader.py, candidate.py, follower.py).
May not do I/O, know the time, or draw random numbers other than from its configuration: the same calls always have
the same outcome. What is to be sent gathers in `messages` and `messages_after_append`.
"""

from __future__ import annotations

from collections.abc import Callable

from raft import candidate, follower, leader
from raft.candidate import TRANSFER_CONTEXT
from raft.confchange import Changer, Proposed, restore
from raft.config import Config
from raft.describe import MESSAGE_NAMES
from raft.errors import ConfChangeError, InvariantViolation, ProposalDropped
from raft.log import RaftLog
from raft.messages import (
    NONE,
    ConfChangeV2,
    ConfState,
    Entry,
    EntryType,
    HardState,
    Message,
    MessageType,
    ReadState,
    Snapshot,
    SoftState,
    StateType,
)
from raft.progress import Progress
from raft.readonly import ReadOnly
from raft.sizes import payloads_size
from raft.tables import Handler, flag_table, handler_table
from raft.trace import Tracer
from raft.tracker import Tracker

_LEADER = StateType.LEADER
_VOTES = (MessageType.VOTE, MessageType.PRE_VOTE)
# Only the leader of a term sends these.
_FROM_LEADER = (MessageType.APP, MessageType.HEARTBEAT, MessageType.SNAP)

# The sender of these sets the term: it is not always the one it is in.
_TERM_GIVEN = flag_table((*_VOTES, MessageType.VOTE_RESP, MessageType.PRE_VOTE_RESP))
# These are forwarded to whoever leads by then, so no term is attached.
_TERM_FREE = flag_table((MessageType.PROP, MessageType.READ_INDEX))
# What these say depends on state that must be on stable storage before they leave. (A rejection may seem harmless
# without; that has not been proven, and it is rare.)
_AFTER_APPEND = flag_table((MessageType.APP_RESP, MessageType.VOTE_RESP, MessageType.PRE_VOTE_RESP))


class Raft:
    """One member. Attributes are for the modules of this library; owners use RawNode.

    messages: to send at once. messages_after_append: to send, or if addressed to this member to step, once everything
    unstable so far is on stable storage.
    pending_conf_index: no index above it holds an unapplied configuration change; only kept by a leader.
    superseded: the configuration before a snapshot that is not stored yet, for changes that are still being applied.
    uncommitted_size: payload of this leader's entries that are not known to be committed; never too high.
    """

    def __init__(self, config: Config) -> None:
        """Start as a follower from what the storage holds."""
        self.config = config
        self.id = config.id
        self.logger = config.logger
        self.log = RaftLog(config.storage, config.logger, config.committed_size_limit)
        self.tracker = Tracker(config.max_inflight_msgs, config.inflight_bytes_limit)
        self.superseded: Tracker | None = None
        self.tracer = None if config.trace is None else Tracer(config.trace)
        self.term = 0
        self.vote = NONE
        self.lead = NONE
        self.state = StateType.FOLLOWER
        self.messages: list[Message] = []
        self.messages_after_append: list[Message] = []
        self.read_states: list[ReadState] = []
        self.read_only = ReadOnly(config.read_only_option)
        self.pending_reads: list[Message] = []
        self.lead_transferee = NONE
        self.pending_conf_index = 0
        self.uncommitted_size = 0
        self.election_elapsed = 0
        self.heartbeat_elapsed = 0
        self.randomized_election_timeout = config.election_tick
        self._step_role: Handler = follower.step_follower

        hard_state, conf_state = config.storage.initial_state()
        if self.tracer is not None:
            self.tracer.event("InitState", self)
        self.restore_config(restore(self.tracker, self.log.last_index(), conf_state), conf_state)
        self._load(hard_state)
        if config.applied:
            self.log.applied_to(config.applied)
        self.become_follower(self.term)
        peers = ",".join(f"{id:x}" for id in sorted(self.tracker.config.voters.ids()))
        self.logger.info(
            f"newRaft {self.id:x} [peers: [{peers}], term: {self.term}, commit: {self.log.committed}, "
            f"applied: {self.log.applied}, lastindex: {self.log.last_index()}, lastterm: {self.log.last_term()}]"
        )

    def _load(self, hard_state: HardState) -> None:
        if hard_state == HardState():
            return
        committed, last = self.log.committed, self.log.last_index()
        if not committed <= hard_state.commit <= last:
            raise InvariantViolation(
                f"{self.id:x} state.commit {hard_state.commit} is out of range [{committed}, {last}]"
            )
        self.log.committed = hard_state.commit
        self.term = hard_state.term
        self.vote = hard_state.vote

    def soft_state(self) -> SoftState:
        """The leader as far as known, and this member's role."""
        return SoftState(self.lead, self.state)

    def hard_state(self) -> HardState:
        """What must be on stable storage."""
        return HardState(self.term, self.vote, self.log.committed)

    # Sending

    def send(self, m: Message) -> None:
        """Queue a message, from this member and, where it has one, with this term."""
        if not m.from_:
            m.from_ = self.id
        kind = m.type
        if _TERM_GIVEN[kind]:
            if not m.term:
                raise InvariantViolation(f"term should be set when sending {MESSAGE_NAMES[kind]}")
        elif m.term:
            raise InvariantViolation(f"term should not be set when sending {MESSAGE_NAMES[kind]} (was {m.term})")
        elif not _TERM_FREE[kind]:
            m.term = self.term
        if _AFTER_APPEND[kind]:
            self.messages_after_append.append(m)
        elif m.to == self.id:
            raise InvariantViolation(f"message should not be self-addressed when sending {MESSAGE_NAMES[kind]}")
        else:
            self.messages.append(m)
        if self.tracer is not None:
            self.tracer.send(self, m)

    # Time

    def tick(self) -> None:
        """Let one tick pass."""
        if self.state == _LEADER:
            self._tick_heartbeat()
        else:
            self._tick_election()

    def _tick_election(self) -> None:
        self.election_elapsed += 1
        if self.promotable() and self.election_elapsed >= self.randomized_election_timeout:
            self.election_elapsed = 0
            self.step(Message(MessageType.HUP, from_=self.id))

    def _tick_heartbeat(self) -> None:
        self.heartbeat_elapsed += 1
        self.election_elapsed += 1
        if self.election_elapsed >= self.config.election_tick:
            self.election_elapsed = 0
            if self.config.check_quorum:
                self.step(Message(MessageType.CHECK_QUORUM, from_=self.id))
            # A transfer that has not succeeded by now is given up, and proposals are taken again.
            if self.state == _LEADER:
                self.lead_transferee = NONE
        if self.state == _LEADER and self.heartbeat_elapsed >= self.config.heartbeat_tick:
            self.heartbeat_elapsed = 0
            self.step(Message(MessageType.BEAT, from_=self.id))

    # Roles

    def _reset(self, term: int) -> None:
        """What every change of role or term begins with."""
        if self.term != term:
            self.term = term
            self.vote = NONE
        self.lead = NONE
        self.election_elapsed = 0
        self.heartbeat_elapsed = 0
        # Drawn anew each time, so that members that collided once are unlikely to collide again (Raft §5.2).
        timeout = self.config.election_tick
        self.randomized_election_timeout = timeout + self.config.random_source.randrange(timeout)
        self.lead_transferee = NONE
        self.tracker.reset_votes()
        last = self.log.last_index()
        for id, progress in self.tracker.progress.items():
            self.tracker.progress[id] = Progress(
                self.tracker.new_inflights(),
                match=last if id == self.id else 0,
                next=last + 1,
                is_learner=progress.is_learner,
            )
        self.pending_conf_index = 0
        self.uncommitted_size = 0
        self.read_only = ReadOnly(self.config.read_only_option)

    def become_follower(self, term: int, lead: int = NONE) -> None:
        """Follow `lead`, or whoever turns up, in `term`."""
        self._step_role = follower.step_follower
        self._reset(term)
        self.lead = lead
        self.state = StateType.FOLLOWER
        self.logger.info(f"{self.id:x} became follower at term {self.term}")
        if self.tracer is not None:
            self.tracer.event("BecomeFollower", self)

    def become_candidate(self) -> None:
        """Enter the next term with a vote for itself."""
        if self.state == _LEADER:
            raise InvariantViolation("invalid transition [leader -> candidate]")
        self._step_role = candidate.step_candidate
        self._reset(self.term + 1)
        self.vote = self.id
        self.state = StateType.CANDIDATE
        self.logger.info(f"{self.id:x} became candidate at term {self.term}")
        if self.tracer is not None:
            self.tracer.event("BecomeCandidate", self)

    def become_pre_candidate(self) -> None:
        """Ask for pre-votes; term and vote stay as they are."""
        if self.state == _LEADER:
            raise InvariantViolation("invalid transition [leader -> pre-candidate]")
        self._step_role = candidate.step_candidate
        self.tracker.reset_votes()
        self.lead = NONE
        self.state = StateType.PRE_CANDIDATE
        self.logger.info(f"{self.id:x} became pre-candidate at term {self.term}")

    def become_leader(self) -> None:
        """Lead this term, beginning with an empty entry: once it is committed, all before it is (Raft §8)."""
        if self.state == StateType.FOLLOWER:
            raise InvariantViolation("invalid transition [follower -> leader]")
        self._step_role = leader.step_leader
        self._reset(self.term)
        self.lead = self.id
        self.state = _LEADER
        own = self.tracker.progress[self.id]
        own.become_replicate()
        own.recent_active = True
        # There may be a configuration change anywhere in what is not applied; assuming one at the end costs only
        # that the next has to wait until the log so far is applied, and spares searching it.
        self.pending_conf_index = self.log.last_index()
        if self.tracer is not None:
            self.tracer.event("BecomeLeader", self)
        if not leader.append_entries(self, (Entry(),)):
            raise InvariantViolation("empty entry was dropped")
        self.logger.info(f"{self.id:x} became leader at term {self.term}")

    def hup(self, *, pre_vote: bool, transfer: bool = False) -> None:
        """Begin an election if this member may."""
        candidate.hup(self, pre_vote=pre_vote, transfer=transfer)

    def promotable(self) -> bool:
        """Whether this member could lead: it votes, and has no snapshot still to store."""
        own = self.tracker.progress.get(self.id)
        return own is not None and not own.is_learner and self.log.unstable.snapshot is None

    # Messages

    def step(self, m: Message) -> None:
        """Handle one message. Raises ProposalDropped for a proposal that is not taken."""
        if self.tracer is not None:
            self.tracer.receive(self, m)
        # Term 0 is that of local messages.
        if m.term and m.term != self.term:
            if m.term < self.term:
                self._step_lower_term(m)
                return
            if not self._enter_higher_term(m):
                return
        handler = _ANY_ROLE[m.type]
        if handler is None:
            self._step_role(self, m)
        else:
            handler(self, m)

    def _enter_higher_term(self, m: Message) -> bool:
        """Follow into the term of `m`, if it obliges to. False if `m` is to be ignored."""
        kind = m.type
        if kind in _VOTES:
            # Within an election timeout of hearing from a leader, a member neither enters a new term nor votes:
            # who cannot hear the leader must not disturb those who can (Raft §6). The leader itself may ask for it.
            in_lease = self.config.check_quorum and self.lead and self.election_elapsed < self.config.election_tick
            if in_lease and m.context != TRANSFER_CONTEXT:
                left = self.config.election_tick - self.election_elapsed
                self._log_vote("ignored", m, f": lease is not expired (remaining ticks: {left})")
                return False
        # A pre-vote asks about a term that nobody has entered, and if granted it is answered with that term.
        if kind == MessageType.PRE_VOTE or (kind == MessageType.PRE_VOTE_RESP and not m.reject):
            return True
        self.logger.info(
            f"{self.id:x} [term: {self.term}] received a {MESSAGE_NAMES[kind]} message with higher term "
            f"from {m.from_:x} [term: {m.term}]"
        )
        self.become_follower(m.term, m.from_ if kind in _FROM_LEADER else NONE)
        return True

    def _step_lower_term(self, m: Message) -> None:
        kind = m.type
        if kind in (MessageType.APP, MessageType.HEARTBEAT) and (self.config.check_quorum or self.config.pre_vote):
            # With these switches a member that went ahead of its group, cut off from it, finds no votes for its term
            # and is not heard by the leader. The answer carries its term, so that the leader steps down and the
            # group goes on in a term that all can enter.
            self.send(Message(MessageType.APP_RESP, m.from_))
        elif kind == MessageType.PRE_VOTE:
            # Silence could leave a group without leader where some members use pre-votes and some are in a higher
            # term with a shorter log: told of the term, the pre-candidate enters it.
            self._log_vote("rejected", m)
            self.send(Message(MessageType.PRE_VOTE_RESP, m.from_, term=self.term, reject=True))
        elif kind == MessageType.STORAGE_APPEND_RESP:
            if m.index:
                # The entries may have been replaced since, and the same ones may be on their way to storage again,
                # behind others: what storage holds now is not known. See RawNode for what replaces this answer.
                self.logger.info(
                    f"{self.id:x} [term: {self.term}] ignored entry appends from a {MESSAGE_NAMES[kind]} message "
                    f"with lower term [term: {m.term}]"
                )
            if m.snapshot is not None:
                # A snapshot holds only what is committed: stored once, no term can undo it.
                self._applied_snapshot(m.snapshot)
        else:
            self.logger.info(
                f"{self.id:x} [term: {self.term}] ignored a {MESSAGE_NAMES[kind]} message with lower term "
                f"from {m.from_:x} [term: {m.term}]"
            )

    def _hup_asked(self, m: Message) -> None:
        self.hup(pre_vote=self.config.pre_vote)

    def _vote_asked(self, m: Message) -> None:
        """Grant a vote, or a pre-vote, at most once a term and only to a log that is up to date (Raft §5.2, §5.4.1)."""
        pre_vote = m.type == MessageType.PRE_VOTE
        response = MessageType.PRE_VOTE_RESP if pre_vote else MessageType.VOTE_RESP
        free = not self.vote and not self.lead
        can_vote = self.vote == m.from_ or free or (pre_vote and m.term > self.term)
        # A learner votes like any other: it may have been promoted and not know yet, and its vote be needed to
        # commit the entry that tells it.
        if not can_vote or not self.log.is_up_to_date(m.index, m.log_term):
            self._log_vote("rejected", m)
            self.send(Message(response, m.from_, term=self.term, reject=True))
            return
        self._log_vote("cast", m)
        # The term asked for: that of a pre-vote is not this member's, and the asking one ignores any lower.
        self.send(Message(response, m.from_, term=m.term))
        if not pre_vote:
            self.election_elapsed = 0
            self.vote = m.from_

    def _log_vote(self, verdict: str, m: Message, reason: str = "") -> None:
        preposition = "for" if verdict == "cast" else "from"
        self.logger.info(
            f"{self.id:x} [logterm: {self.log.last_term()}, index: {self.log.last_index()}, vote: {self.vote:x}] "
            f"{verdict} {MESSAGE_NAMES[m.type]} {preposition} {m.from_:x} "
            f"[logterm: {m.log_term}, index: {m.index}] at term {self.term}{reason}"
        )

    # Storage

    def _append_stored(self, m: Message) -> None:
        if m.index:
            self.log.stable_to(m.index, m.log_term)
        if m.snapshot is not None:
            self._applied_snapshot(m.snapshot)

    def _apply_done(self, m: Message) -> None:
        entries = m.entries
        if not entries:
            return
        self.applied_to(entries[-1].index, m)
        if self.uncommitted_size:
            # Entries of former terms are not in the sum, so it may fall short, but never below nothing.
            self.uncommitted_size = max(self.uncommitted_size - payloads_size(entries), 0)

    def _applied_snapshot(self, snapshot: Snapshot) -> None:
        index = snapshot.metadata.index
        self.log.unstable.stable_snapshot_to(index)
        if self.log.unstable.snapshot is None:
            self.superseded = None
        self.applied_to(index)

    def applied_to(self, index: int, m: Message | None = None) -> None:
        """Everything up to `index` is applied; `m` holds the entries of it that were handed out."""
        index = max(index, self.log.applied)
        self.log.applied_to(index, () if m is None else m.entries)
        if self.tracker.config.auto_leave and index >= self.pending_conf_index and self.state == _LEADER:
            self._leave_joint()

    def _leave_joint(self) -> None:
        """Propose to leave the joint configuration, now that it is in force."""
        # Without payload it cannot be refused for its size. A transfer of leadership may refuse it; then the next
        # entry applied, or the next leader, tries again.
        try:
            self.step(Message(MessageType.PROP, entries=(Entry(type=EntryType.CONF_CHANGE_V2),)))
        except ProposalDropped as error:
            self.logger.debug(
                f"not initiating automatic transition out of joint configuration {self.tracker.config}: {error}"
            )
        else:
            self.logger.info(f"initiating automatic transition out of joint configuration {self.tracker.config}")

    # Commitment

    def maybe_commit(self) -> bool:
        """Advance the commit index to what a quorum has stored. True if it moved."""
        moved = self.log.maybe_commit(self.tracker.committed(), self.term)
        if self.tracer is not None:
            self.tracer.event("Commit", self)
        return moved

    def committed_in_term(self) -> bool:
        """Whether an entry of this term is committed."""
        return self.log.term_or_zero(self.log.committed) == self.term

    # Configuration

    def apply_conf_change(self, change: ConfChangeV2) -> ConfState:
        """Follow the configuration that `change` leads to. Raises ConfChangeError."""
        if self.superseded is not None:
            # It was handed out before the snapshot came, whose configuration is in force by now and has it already.
            # The state machine is not there yet: it is told what holds where it is.
            proposed = Changer(self.superseded, self.log.last_index()).change(change)
            self.superseded.switch_to(proposed.config, proposed.progress)
            return proposed.config.conf_state()
        return self._switch_config(Changer(self.tracker, self.log.last_index()).change(change))

    def restore_config(self, proposed: Proposed, conf_state: ConfState) -> None:
        """Follow a stored configuration. Raises ConfChangeError if it is not what was stored."""
        built = self._switch_config(proposed)
        if not _equivalent(built, conf_state):
            raise ConfChangeError(f"ConfState {conf_state} cannot be restored; it leads to {built}")

    def _switch_config(self, proposed: Proposed) -> ConfState:
        if self.tracer is not None:
            self.tracer.apply_conf_change(self, proposed.config)
        self.tracker.switch_to(proposed.config, proposed.progress)
        self.logger.info(f"{self.id:x} switched to configuration {self.tracker.config}")
        conf_state = self.tracker.config.conf_state()
        if self.state != _LEADER:
            return conf_state
        own = self.tracker.progress.get(self.id)
        if own is None or own.is_learner:
            if self.config.step_down_on_removal:
                self.become_follower(self.term)
            return conf_state
        if not conf_state.voters:
            return conf_state
        if self.maybe_commit():
            # A smaller quorum may have what the larger one lacked.
            leader.broadcast_append(self)
        else:
            # New peers need not wait for a heartbeat or the next proposal.
            for id, progress in self.tracker.progress.items():
                if id != self.id:
                    leader.maybe_send_append(self, id, progress, send_if_empty=False)
        if self.lead_transferee and self.lead_transferee not in self.tracker.config.voters.ids():
            self.lead_transferee = NONE
        return conf_state


def _equivalent(a: ConfState, b: ConfState) -> bool:
    """Whether the two mean the same configuration, whatever the order of the ids."""
    return (
        sorted(a.voters) == sorted(b.voters)
        and sorted(a.learners) == sorted(b.learners)
        and sorted(a.voters_outgoing) == sorted(b.voters_outgoing)
        and sorted(a.learners_next) == sorted(b.learners_next)
        and a.auto_leave == b.auto_leave
    )


# What is handled alike in every role.
_ANY_ROLE: tuple[Callable[[Raft, Message], None] | None, ...] = handler_table(
    {
        MessageType.HUP: Raft._hup_asked,
        MessageType.VOTE: Raft._vote_asked,
        MessageType.PRE_VOTE: Raft._vote_asked,
        MessageType.STORAGE_APPEND_RESP: Raft._append_stored,
        MessageType.STORAGE_APPLY_RESP: Raft._apply_done,
    }
)
