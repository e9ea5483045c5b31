"""What a follower does with a message of its term: take over the leader's log, and forward what is the leader's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raft import confchange
from raft.errors import InvariantViolation, ProposalDropped
from raft.messages import Message, MessageType, ReadOnlyOption, ReadState, Snapshot, StateType
from raft.tables import Handler, handler_table
from raft.tracker import Tracker

if TYPE_CHECKING:
    from raft.raft import Raft


def step_follower(r: Raft, m: Message) -> None:
    """Handle a message while follower; what it has no use for is ignored."""
    handler = _HANDLERS[m.type]
    if handler is not None:
        handler(r, m)


def _hear_from_leader(r: Raft, m: Message) -> None:
    r.election_elapsed = 0
    r.lead = m.from_


def _append(r: Raft, m: Message) -> None:
    """Take over entries (Raft §5.3), or tell the leader where the logs may still agree."""
    _hear_from_leader(r, m)
    log = r.log
    if m.index < log.committed:
        r.send(Message(MessageType.APP_RESP, to=m.from_, index=log.committed))
        return
    last_new = log.maybe_append(m.index, m.log_term, m.commit, m.entries)
    if last_new is not None:
        r.send(Message(MessageType.APP_RESP, to=m.from_, index=last_new))
        return
    r.logger.debug(
        f"{r.id:x} [logterm: {log.term_or_zero(m.index)}, index: {m.index}] rejected MsgApp "
        f"[logterm: {m.log_term}, index: {m.index}] from {m.from_:x}"
    )
    # The leader's terms up to its previous entry are at most log_term, so nothing here with a higher term can match:
    # the hint skips it all at once.
    hint, hint_term = log.find_conflict_by_term(min(m.index, log.last_index()), m.log_term)
    r.send(Message(MessageType.APP_RESP, to=m.from_, index=m.index, reject=True, reject_hint=hint, log_term=hint_term))


def _heartbeat(r: Raft, m: Message) -> None:
    _hear_from_leader(r, m)
    r.log.commit_to(m.commit)
    r.send(Message(MessageType.HEARTBEAT_RESP, to=m.from_, context=m.context))


def _snapshot(r: Raft, m: Message) -> None:
    _hear_from_leader(r, m)
    snapshot = Snapshot() if m.snapshot is None else m.snapshot
    metadata = snapshot.metadata
    restored = restore(r, snapshot)
    r.logger.info(
        f"{r.id:x} [commit: {r.log.committed}] {'restored' if restored else 'ignored'} snapshot "
        f"[index: {metadata.index}, term: {metadata.term}]"
    )
    index = r.log.last_index() if restored else r.log.committed
    r.send(Message(MessageType.APP_RESP, to=m.from_, index=index))


def restore(r: Raft, snapshot: Snapshot) -> bool:
    """Replace the log and the configuration by the snapshot's. False if it is of no use, or not for this member."""
    log, metadata = r.log, snapshot.metadata
    if metadata.index <= log.committed:
        return False
    if r.state != StateType.FOLLOWER:
        raise InvariantViolation(f"{r.id:x} attempted to restore a snapshot while not a follower")
    conf_state = metadata.conf_state
    # Who is in learners_next is in voters_outgoing as well.
    if all(r.id not in ids for ids in (conf_state.voters, conf_state.learners, conf_state.voters_outgoing)):
        r.logger.warning(
            f"{r.id:x} attempted to restore snapshot but it is not in the ConfState {conf_state}; should never happen"
        )
        return False

    def position() -> str:
        return f"commit: {log.committed}, lastindex: {log.last_index()}, lastterm: {log.last_term()}"

    # With the snapshot's last entry in the log, everything before it agrees as well: it only commits.
    if log.match_term(metadata.index, metadata.term):
        r.logger.info(
            f"{r.id:x} [{position()}] fast-forwarded commit to snapshot "
            f"[index: {metadata.index}, term: {metadata.term}]"
        )
        log.commit_to(metadata.index)
        return False

    log.restore(snapshot)
    if r.superseded is None:
        r.superseded = r.tracker
    r.tracker = Tracker(r.tracker.max_inflight, r.tracker.max_inflight_bytes)
    r.restore_config(confchange.restore(r.tracker, log.last_index(), conf_state), conf_state)
    r.logger.info(f"{r.id:x} [{position()}] restored snapshot [index: {metadata.index}, term: {metadata.term}]")
    return True


def _forward_proposal(r: Raft, m: Message) -> None:
    if not r.lead:
        r.logger.info(f"{r.id:x} no leader at term {r.term}; dropping proposal")
        raise ProposalDropped
    if r.config.disable_proposal_forwarding:
        r.logger.info(f"{r.id:x} not forwarding to leader {r.lead:x} at term {r.term}; dropping proposal")
        raise ProposalDropped
    _pass_on(r, m)


def _forward_transfer(r: Raft, m: Message) -> None:
    if not r.lead:
        r.logger.info(f"{r.id:x} no leader at term {r.term}; dropping leader transfer msg")
        return
    _pass_on(r, m)


def _forward_read(r: Raft, m: Message) -> None:
    if not r.lead:
        r.logger.info(f"{r.id:x} no leader at term {r.term}; dropping index reading msg")
        return
    _pass_on(r, m)


def _pass_on(r: Raft, m: Message) -> None:
    """Send the leader what is for it, with all that a message of these types says."""
    r.send(Message(m.type, r.lead, m.from_, m.term, entries=m.entries, context=m.context))


def _read_answered(r: Raft, m: Message) -> None:
    if len(m.entries) != 1:
        r.logger.error(f"{r.id:x} invalid format of MsgReadIndexResp from {m.from_:x}, entries count: {len(m.entries)}")
        return
    r.read_states.append(ReadState(m.index, m.entries[0].data))


def _forget_leader(r: Raft, m: Message) -> None:
    # A lease-based leader answers reads on the promise that its followers elect no other before it expires.
    if r.config.read_only_option == ReadOnlyOption.LEASE_BASED:
        r.logger.error("ignoring MsgForgetLeader due to ReadOnlyLeaseBased")
    elif r.lead:
        r.logger.info(f"{r.id:x} forgetting leader {r.lead:x} at term {r.term}")
        r.lead = 0


def _timeout_now(r: Raft, m: Message) -> None:
    r.logger.info(
        f"{r.id:x} [term {r.term}] received MsgTimeoutNow from {m.from_:x} and starts an election to get leadership."
    )
    # The leader is not lost but wants this: there is nothing for a pre-vote to protect.
    r.hup(pre_vote=False, transfer=True)


_HANDLERS: tuple[Handler | None, ...] = handler_table(
    {
        MessageType.PROP: _forward_proposal,
        MessageType.APP: _append,
        MessageType.HEARTBEAT: _heartbeat,
        MessageType.SNAP: _snapshot,
        MessageType.TRANSFER_LEADER: _forward_transfer,
        MessageType.FORGET_LEADER: _forget_leader,
        MessageType.TIMEOUT_NOW: _timeout_now,
        MessageType.READ_INDEX: _forward_read,
        MessageType.READ_INDEX_RESP: _read_answered,
    }
)
