"""What a leader does with a message of its term: take proposals, replicate them, confirm reads, hand leadership on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from raft.confchange import as_v2
from raft.confcodec import decode_entry
from raft.describe import describe_conf_change
from raft.errors import (
    Compacted,
    InvariantViolation,
    MisuseError,
    ProposalDropped,
    SnapshotTemporarilyUnavailable,
    Unavailable,
)
from raft.messages import (
    NO_LIMIT,
    NONE,
    ConfChangeV2,
    Entry,
    EntryType,
    Message,
    MessageType,
    ReadOnlyOption,
    ReadState,
)
from raft.progress import Progress, ProgressState
from raft.sizes import payloads_size
from raft.tables import Handler, handler_table

if TYPE_CHECKING:
    from raft.raft import Raft

_APP = MessageType.APP
_PROBE, _REPLICATE, _SNAPSHOT = ProgressState.PROBE, ProgressState.REPLICATE, ProgressState.SNAPSHOT


def step_leader(r: Raft, m: Message) -> None:
    """Handle a message while leader; what it has no use for is ignored."""
    handler = _HANDLERS[m.type]
    if handler is not None:
        handler(r, m)
        return
    progress = r.tracker.progress.get(m.from_)
    if progress is None:
        r.logger.debug(f"{r.id:x} no progress available for {m.from_:x}")
        return
    peer_handler = _PEER_HANDLERS[m.type]
    if peer_handler is not None:
        peer_handler(r, m, progress)


# Sending


def broadcast_append(r: Raft) -> None:
    """Send every peer what it lacks, or at least the commit index."""
    for id, progress in r.tracker.progress.items():
        if id != r.id:
            maybe_send_append(r, id, progress, send_if_empty=True)


def maybe_send_append(r: Raft, to: int, progress: Progress, *, send_if_empty: bool) -> bool:
    """Send peer `to` one append as its progress allows, or a snapshot if the entries are gone. True if sent.

    send_if_empty: whether an append without entries, only for its commit index, is worth sending.
    """
    if progress.is_paused():
        return False
    log = r.log
    previous = progress.next - 1
    entries: Sequence[Entry] = ()
    try:
        previous_term = log.term(previous)
        # With the window full, only empty appends go out. Were all that filled it lost, nothing else would ever
        # tell: the answer to an empty one, accepted or rejected, clears the window.
        if progress.state != _REPLICATE or not progress.inflights.full():
            entries = log.entries(progress.next, r.config.max_size_per_msg)
    except (Compacted, Unavailable):
        return _maybe_send_snapshot(r, to, progress)
    if not entries and not send_if_empty:
        return False
    commit = log.committed
    r.send(Message(_APP, to, index=previous, log_term=previous_term, entries=entries, commit=commit))
    size = payloads_size(entries) if progress.inflights.limits_bytes else 0
    progress.sent_entries(len(entries), size)
    progress.sent_commit = commit
    return True


def _maybe_send_snapshot(r: Raft, to: int, progress: Progress) -> bool:
    if not progress.recent_active:
        r.logger.debug(f"ignore sending snapshot to {to:x} since it is not recently active")
        return False
    try:
        snapshot = r.log.snapshot()
    except SnapshotTemporarilyUnavailable:
        r.logger.debug(f"{r.id:x} failed to send snapshot to {to:x} because snapshot is temporarily unavailable")
        return False
    if snapshot.is_empty():
        raise InvariantViolation("need non-empty snapshot")
    metadata = snapshot.metadata
    r.logger.debug(
        f"{r.id:x} [firstindex: {r.log.first_index()}, commit: {r.log.committed}] sent "
        f"snapshot[index: {metadata.index}, term: {metadata.term}] to {to:x} [{progress}]"
    )
    progress.become_snapshot(metadata.index)
    r.logger.debug(f"{r.id:x} paused sending replication messages to {to:x} [{progress}]")
    r.send(Message(MessageType.SNAP, to, snapshot=snapshot))
    return True


def broadcast_heartbeat(r: Raft, m: Message | None = None) -> None:
    """Send every peer a heartbeat, which also confirms the reads that wait."""
    context = r.read_only.heartbeat_context()
    committed = r.log.committed
    for id, progress in r.tracker.progress.items():
        if id == r.id:
            continue
        # A peer may lack, or hold differently, what comes after its match: it must not commit that.
        commit = min(progress.match, committed)
        r.send(Message(MessageType.HEARTBEAT, id, commit=commit, context=context))
        progress.sent_commit = commit


# Proposals


def append_entries(r: Raft, entries: Sequence[Entry]) -> bool:
    """Append proposed entries to the log with this leader's term. False if too much is uncommitted already."""
    term, index = r.term, r.log.last_index()
    # The proposal's entries may be shared, with a forwarded message for one: never write into them.
    appended = [Entry(term, at, entry.type, entry.data) for at, entry in enumerate(entries, index + 1)]
    if not _increase_uncommitted_size(r, appended):
        r.logger.warning(
            f"{r.id:x} appending new entries to log would exceed uncommitted entry size limit; dropping proposal"
        )
        return False
    if r.tracer is not None:
        r.tracer.replicate(r, appended)
    last = r.log.append(appended)
    # The leader's own acknowledgement, which like any other counts only once the entries are on stable storage.
    r.send(Message(MessageType.APP_RESP, r.id, index=last))
    return True


def _increase_uncommitted_size(r: Raft, entries: Sequence[Entry]) -> bool:
    limit = r.config.uncommitted_size_limit
    if limit >= NO_LIMIT:
        return True
    size = payloads_size(entries)
    # Something always fits if nothing is uncommitted, whatever its size; and entries without payload always do:
    # a new leader's first one, and the one that leaves a joint configuration.
    if r.uncommitted_size > 0 and size > 0 and r.uncommitted_size + size > limit:
        return False
    r.uncommitted_size += size
    return True


def _propose(r: Raft, m: Message) -> None:
    if not m.entries:
        raise MisuseError(f"{r.id:x} stepped empty MsgProp")
    # A leader that was removed from its group still leads until the others have learned of it.
    if r.id not in r.tracker.progress:
        raise ProposalDropped
    if r.lead_transferee:
        r.logger.debug(
            f"{r.id:x} [term {r.term}] transfer leadership to {r.lead_transferee:x} is in progress; dropping proposal"
        )
        raise ProposalDropped
    entries = m.entries
    for entry in entries:
        if entry.type:
            entries = _admit_conf_changes(r, entries)
            break
    if not append_entries(r, entries):
        raise ProposalDropped
    broadcast_append(r)


def _admit_conf_changes(r: Raft, entries: Sequence[Entry]) -> Sequence[Entry]:
    """The entries with every configuration change that is not allowed now replaced by an empty entry."""
    admitted = list(entries)
    for position, entry in enumerate(entries):
        if entry.type == EntryType.NORMAL:
            continue
        decoded = decode_entry(entry)
        change = as_v2(decoded)
        refusal = _refusal(r, change)
        if refusal and not r.config.disable_conf_change_validation:
            r.logger.info(
                f"{r.id:x} ignoring conf change {describe_conf_change(decoded)} at config {r.tracker.config}: {refusal}"
            )
            admitted[position] = Entry()
        else:
            r.pending_conf_index = r.log.last_index() + position + 1
            if r.tracer is not None:
                r.tracer.change_conf(r, change)
    return admitted


def _refusal(r: Raft, change: ConfChangeV2) -> str:
    """Why the change may not enter the log now; empty if it may. Only one change may be unapplied at a time."""
    joint = r.tracker.config.voters.is_joint()
    if r.pending_conf_index > r.log.applied:
        return f"possible unapplied conf change at index {r.pending_conf_index} (applied to {r.log.applied})"
    if joint and change.changes:
        return "must transition out of joint config first"
    if not joint and not change.changes:
        return "not in joint state; refusing empty conf change"
    return ""


# Answers from peers


def _append_answered(r: Raft, m: Message, progress: Progress) -> None:
    progress.recent_active = True
    if m.reject:
        _append_rejected(r, m, progress)
    # In PROBE an answer that says nothing new still shows that the logs agree there. In SNAPSHOT it shows nothing:
    # the entries after it are not in the log.
    elif progress.maybe_update(m.index) or (progress.match == m.index and progress.state == _PROBE):
        _append_accepted(r, m, progress)


def _append_rejected(r: Raft, m: Message, progress: Progress) -> None:
    """Step back to where the logs may still agree (Raft §5.3), skipping a whole term at a time."""
    r.logger.debug(
        f"{r.id:x} received MsgAppResp(rejected, hint: (index {m.reject_hint}, term {m.log_term})) "
        f"from {m.from_:x} for index {m.index}"
    )
    probe = m.reject_hint
    if m.log_term:
        # The peer holds log_term at the hint and nothing higher before it, so none of this log's entries with a
        # higher term can match there.
        probe, _ = r.log.find_conflict_by_term(m.reject_hint, m.log_term)
    if progress.maybe_decrease(m.index, probe):
        r.logger.debug(f"{r.id:x} decreased progress of {m.from_:x} to [{progress}]")
        if progress.state == _REPLICATE:
            progress.become_probe()
        maybe_send_append(r, m.from_, progress, send_if_empty=True)


def _append_accepted(r: Raft, m: Message, progress: Progress) -> None:
    if progress.state == _PROBE:
        progress.become_replicate()
    elif progress.state == _REPLICATE:
        progress.inflights.free_le(m.index)
    # Whichever snapshot the peer has taken, it is back as soon as the log goes on from there.
    elif progress.match + 1 >= r.log.first_index():
        r.logger.debug(
            f"{r.id:x} recovered from needing snapshot, resumed sending replication messages "
            f"to {m.from_:x} [{progress}]"
        )
        progress.become_probe()
        progress.become_replicate()

    peer = m.from_ != r.id
    if r.maybe_commit():
        release_reads(r)
        broadcast_append(r)
    elif peer and progress.can_bump_commit(r.log.committed):
        maybe_send_append(r, m.from_, progress, send_if_empty=True)
    # The answer may have made room for several appends.
    if peer:
        while maybe_send_append(r, m.from_, progress, send_if_empty=False):
            pass
    if m.from_ == r.lead_transferee and progress.match == r.log.last_index():
        r.logger.info(f"{r.id:x} sent MsgTimeoutNow to {m.from_:x} after received MsgAppResp")
        _send_timeout_now(r, m.from_)


def _heartbeat_answered(r: Raft, m: Message, progress: Progress) -> None:
    progress.recent_active = True
    progress.flow_paused = False
    # In PROBE even a peer that lacks nothing gets an append: its answer brings it back to REPLICATE.
    if progress.match < r.log.last_index() or progress.state == _PROBE:
        maybe_send_append(r, m.from_, progress, send_if_empty=True)
    if r.read_only.option == ReadOnlyOption.SAFE and m.context:
        r.read_only.receive_ack(m.from_, m.context)
        for request, index in r.read_only.confirm(r.tracker.config.voters):
            _answer_read(r, request, index)


def _snapshot_reported(r: Raft, m: Message, progress: Progress) -> None:
    if progress.state != _SNAPSHOT:
        return
    if m.reject:
        # Before leaving SNAPSHOT, or probing would begin after a snapshot that never arrived.
        progress.pending_snapshot = 0
    progress.become_probe()
    outcome = "failed" if m.reject else "succeeded"
    r.logger.debug(f"{r.id:x} snapshot {outcome}, resumed sending replication messages to {m.from_:x} [{progress}]")
    # After a success the peer's own answer goes on; after a failure a heartbeat's must pass before the next try.
    progress.flow_paused = True


def _unreachable(r: Raft, m: Message, progress: Progress) -> None:
    # What was streamed to it is most likely lost.
    if progress.state == _REPLICATE:
        progress.become_probe()
    r.logger.debug(f"{r.id:x} failed to send message to {m.from_:x} because it is unreachable [{progress}]")


# Leadership


def _check_quorum(r: Raft, m: Message) -> None:
    """Step down if no quorum was heard from since the last check (dissertation §6.2)."""
    if not r.tracker.quorum_active():
        r.logger.warning(f"{r.id:x} stepped down to follower since quorum is not active")
        r.become_follower(r.term)
    for id, progress in r.tracker.progress.items():
        if id != r.id:
            progress.recent_active = False


def _transfer_leader(r: Raft, m: Message, progress: Progress) -> None:
    """Hand leadership to the sender, once its log is complete (dissertation §3.10)."""
    transferee = m.from_
    if progress.is_learner:
        r.logger.debug(f"{r.id:x} is learner. Ignored transferring leadership")
        return
    previous = r.lead_transferee
    if previous == transferee:
        r.logger.info(
            f"{r.id:x} [term {r.term}] transfer leadership to {transferee:x} is in progress, "
            f"ignores request to same node {transferee:x}"
        )
        return
    if previous:
        r.lead_transferee = NONE
        r.logger.info(f"{r.id:x} [term {r.term}] abort previous transferring leadership to {previous:x}")
    if transferee == r.id:
        r.logger.debug(f"{r.id:x} is already leader. Ignored transferring leadership to self")
        return
    r.logger.info(f"{r.id:x} [term {r.term}] starts to transfer leadership to {transferee:x}")
    # The transfer has one election timeout, from now on.
    r.election_elapsed = 0
    r.lead_transferee = transferee
    if progress.match == r.log.last_index():
        _send_timeout_now(r, transferee)
        r.logger.info(
            f"{r.id:x} sends MsgTimeoutNow to {transferee:x} immediately as {transferee:x} already has up-to-date log"
        )
    else:
        maybe_send_append(r, transferee, progress, send_if_empty=True)


def _send_timeout_now(r: Raft, to: int) -> None:
    r.send(Message(MessageType.TIMEOUT_NOW, to))


def _forget_leader(r: Raft, m: Message) -> None:
    """A leader does not forget itself."""


# Reads


def _read_index(r: Raft, m: Message) -> None:
    if len(m.entries) != 1:
        r.logger.error(f"{r.id:x} invalid format of MsgReadIndex from {m.from_:x}, entries count: {len(m.entries)}")
    # Before it has committed an entry of its own term, a leader does not know what is committed (dissertation §6.4).
    # That holds for one that is alone, too: the commit index it had before a restart need not have been stored.
    elif not r.committed_in_term():
        r.pending_reads.append(m)
    else:
        _confirm_read(r, m)


def release_reads(r: Raft) -> None:
    """Take up the reads that waited for the first commit of this term."""
    if not r.pending_reads:
        return
    if not r.committed_in_term():
        r.logger.error("pending MsgReadIndex should be released only after first commit in current term")
        return
    pending, r.pending_reads = r.pending_reads, []
    for request in pending:
        _confirm_read(r, request)


def _confirm_read(r: Raft, m: Message) -> None:
    committed = r.log.committed
    # A leader that was removed goes on leading for a while, and then the single voter is another, which may have
    # elected itself meanwhile.
    alone = r.tracker.is_singleton() and r.id in r.tracker.config.voters.incoming
    if alone or r.read_only.option == ReadOnlyOption.LEASE_BASED:
        _answer_read(r, m, committed)
        return
    r.read_only.add(m, committed)
    r.read_only.receive_ack(r.id, r.read_only.heartbeat_context())
    broadcast_heartbeat(r)


def _answer_read(r: Raft, request: Message, index: int) -> None:
    if request.from_ in (NONE, r.id):
        r.read_states.append(ReadState(index, request.entries[0].data))
    else:
        r.send(Message(MessageType.READ_INDEX_RESP, request.from_, index=index, entries=request.entries))


_HANDLERS: tuple[Handler | None, ...] = handler_table(
    {
        MessageType.BEAT: broadcast_heartbeat,
        MessageType.CHECK_QUORUM: _check_quorum,
        MessageType.PROP: _propose,
        MessageType.READ_INDEX: _read_index,
        MessageType.FORGET_LEADER: _forget_leader,
    }
)

_PeerHandler = Callable[["Raft", Message, Progress], None]
_PEER_HANDLERS: tuple[_PeerHandler | None, ...] = handler_table(
    {
        MessageType.APP_RESP: _append_answered,
        MessageType.HEARTBEAT_RESP: _heartbeat_answered,
        MessageType.SNAP_STATUS: _snapshot_reported,
        MessageType.UNREACHABLE: _unreachable,
        MessageType.TRANSFER_LEADER: _transfer_leader,
    }
)
