"""What a candidate or pre-candidate does with a message of its term, and how an election is begun.

The two differ only in the answers they count: a pre-candidate asks whether an election could be won, for the next
term, without entering it (dissertation §9.6).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from raft import follower, leader
from raft.describe import MESSAGE_NAMES, STATE_NAMES
from raft.errors import ProposalDropped
from raft.messages import EntryType, Message, MessageType, StateType
from raft.quorum import VoteResult

if TYPE_CHECKING:
    from raft.raft import Raft

TRANSFER_CONTEXT = b"CampaignTransfer"
"""Marks the votes of an election that the leader itself asked for: they are granted within its lease."""


def hup(r: Raft, *, pre_vote: bool, transfer: bool = False) -> None:
    """Begin an election, unless this member leads, may not lead, or has configuration changes to apply first."""
    if r.state == StateType.LEADER:
        r.logger.debug(f"{r.id:x} ignoring MsgHup because already leader")
    elif not r.promotable():
        r.logger.warning(f"{r.id:x} is unpromotable and can not campaign")
    elif _has_unapplied_conf_changes(r):
        r.logger.warning(
            f"{r.id:x} cannot campaign at term {r.term} since there are still pending configuration changes to apply"
        )
    else:
        r.logger.info(f"{r.id:x} is starting a new election at term {r.term}")
        campaign(r, pre_vote=pre_vote, transfer=transfer)


def campaign(r: Raft, *, pre_vote: bool, transfer: bool = False) -> None:
    """Become a (pre-)candidate and ask every voter, this member included."""
    if pre_vote:
        r.become_pre_candidate()
        request, response, term = MessageType.PRE_VOTE, MessageType.PRE_VOTE_RESP, r.term + 1
    else:
        r.become_candidate()
        request, response, term = MessageType.VOTE, MessageType.VOTE_RESP, r.term
    last_index, last_term = r.log.last_index(), r.log.last_term()
    for id in sorted(r.tracker.config.voters.ids()):
        if id == r.id:
            # Its own vote counts once it is on stable storage, like any other: it comes back as a message.
            r.send(Message(response, to=id, term=term))
            continue
        r.logger.info(
            f"{r.id:x} [logterm: {last_term}, index: {last_index}] sent {MESSAGE_NAMES[request]} request "
            f"to {id:x} at term {r.term}"
        )
        context = TRANSFER_CONTEXT if transfer else b""
        r.send(Message(request, to=id, term=term, index=last_index, log_term=last_term, context=context))


def _has_unapplied_conf_changes(r: Raft) -> bool:
    """Whether a committed configuration change waits to be applied: a leader must not act on the one before it."""
    log = r.log
    for page in log.scan(log.applied + 1, log.committed + 1, r.config.committed_size_limit):
        if any(entry.type != EntryType.NORMAL for entry in page):
            return True
    return False


def step_candidate(r: Raft, m: Message) -> None:
    """Handle a message while candidate or pre-candidate."""
    kind = m.type
    # As candidate, answers to the pre-vote before may still arrive; they are not votes.
    awaited = MessageType.PRE_VOTE_RESP if r.state == StateType.PRE_CANDIDATE else MessageType.VOTE_RESP
    if kind == awaited:
        _count_vote(r, m)
    elif kind in (MessageType.APP, MessageType.HEARTBEAT, MessageType.SNAP):
        # Only the leader of this term sends these: the election is over.
        r.become_follower(m.term, m.from_)
        follower.step_follower(r, m)
    elif kind == MessageType.PROP:
        r.logger.info(f"{r.id:x} no leader at term {r.term}; dropping proposal")
        raise ProposalDropped
    elif kind == MessageType.TIMEOUT_NOW:
        r.logger.debug(f"{r.id:x} [term {r.term} state {STATE_NAMES[r.state]}] ignored MsgTimeoutNow from {m.from_:x}")


def _count_vote(r: Raft, m: Message) -> None:
    name = MESSAGE_NAMES[m.type]
    rejection = " rejection" if m.reject else ""
    r.logger.info(f"{r.id:x} received {name}{rejection} from {m.from_:x} at term {r.term}")
    r.tracker.record_vote(m.from_, not m.reject)
    granted, denied, result = r.tracker.tally()
    r.logger.info(f"{r.id:x} has received {granted} {name} votes and {denied} vote rejections")
    if result == VoteResult.WON:
        if r.state == StateType.PRE_CANDIDATE:
            campaign(r, pre_vote=False)
        else:
            r.become_leader()
            leader.broadcast_append(r)
    elif result == VoteResult.LOST:
        # The answer to a pre-vote carries the term asked for, which this member has not entered.
        r.become_follower(r.term)
