"""A RawNode inside asyncio: calls that wait where there is something to wait for, and may be cancelled.

The event loop already serves one call at a time, so there is no task and no queue in here: a call acts on the
RawNode at once, or waits until it can and then acts without giving way in between. That is what makes cancelling
safe: a call that was cancelled has done nothing, and one that has acted is not cancelled any more. Everything must
happen on one event loop; the state machine itself stays in raft.py, which knows nothing of asyncio.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from raft.config import Config
from raft.errors import MisuseError, NodeStopped, ProposalDropped, StepPeerNotFound
from raft.messages import NONE, ConfChange, ConfChangeV2, ConfState, Message, MessageType, Peer
from raft.rawnode import RawNode, Ready
from raft.status import Status


def start_node(config: Config, peers: Sequence[Peer]) -> Node:
    """A member of a new group whose first configuration is `peers`; all of them must start with the same.

    Raises MisuseError if peers is empty or the storage is not: then it is restart_node that is meant.
    """
    if not peers:
        raise MisuseError("no peers given; use restart_node instead")
    raw = RawNode(config)
    raw.bootstrap(peers)
    return Node(raw)


def restart_node(config: Config) -> Node:
    """A member that goes on from its storage, or one that joins a group with an empty storage.

    config.applied: the index its state machine has applied already; what comes after it is handed out again.
    """
    return Node(RawNode(config))


class Node:
    """One member. Take `await ready()`, persist, send and apply what it holds, call `advance()`, and so on.

    Whoever drives it calls tick() at regular intervals and hands received messages to step(). stop() ends it: what
    waits raises NodeStopped, and so do later calls that would have to wait or to change anything.
    """

    def __init__(self, raw: RawNode) -> None:
        self._raw = raw
        # In the order in which they began to wait.
        self._waiters: dict[asyncio.Future[None], None] = {}
        self._stopped = False
        self._advance_due = False
        self._lead = NONE
        # This member was removed; until it hears of another leader it is most likely not part of the group.
        self._removed = False
        self._after_change()

    # What is to be done

    async def ready(self) -> Ready:
        """The next batch of work, once there is one and the last has been advanced.

        Raises NodeStopped. Cancelled, it takes nothing: the work comes with the next call.
        """
        await self._wait_until(lambda: not self._advance_due and self._raw.has_ready())
        ready = self._raw.ready()
        self._advance_due = not self._raw.raft.config.async_storage_writes
        return ready

    def advance(self) -> None:
        """Say that the last Ready was persisted, sent and applied. Does nothing once stopped.

        Raises MisuseError without a Ready taken, or with asynchronous storage writes.
        """
        if self._stopped:
            return
        if not self._advance_due and not self._raw.raft.config.async_storage_writes:
            raise MisuseError("advance() called without a Ready taken")
        self._raw.advance()
        self._advance_due = False
        self._after_change()

    def apply_conf_change(self, change: ConfChange | ConfChangeV2) -> ConfState:
        """Apply a committed configuration change; to be called for each one, unless its owner rejects it.

        Returns the new configuration, which belongs into snapshots. Raises ConfChangeError if it does not fit.
        """
        r = self._raw.raft
        member = r.id in r.tracker.progress
        conf_state = self._raw.apply_conf_change(change)
        # One that was not a member before may only be catching up, with its own addition still to come.
        if member and r.id not in r.tracker.progress:
            self._removed = True
        self._after_change()
        return conf_state

    # Input

    def tick(self) -> None:
        """Let one tick of the logical clock pass. Does nothing once stopped."""
        if not self._stopped:
            self._raw.tick()
            self._after_change()

    async def step(self, message: Message) -> None:
        """Take a message from a peer, or a response of a storage thread.

        Raises StepLocalMessage for a type that no peer may send, NodeStopped. A proposal waits for a leader, and is
        lost like any message if it cannot be taken then; so is a response from a peer that is no member.
        """
        if message.type == MessageType.PROP:
            await self._wait_until(self._may_propose)
        self._check_running()
        try:
            self._raw.step(message)
        except (StepPeerNotFound, ProposalDropped):
            return
        finally:
            self._after_change()

    async def campaign(self) -> None:
        """Become a candidate now. Raises NodeStopped."""
        self._check_running()
        self._raw.campaign()
        self._after_change()

    async def propose(self, data: bytes) -> None:
        """Propose one payload, once a leader is known.

        Returning means only that it was taken or sent to the leader: it may still be lost, and is committed when it
        comes among the committed entries. Raises ProposalDropped if it was not even taken, NodeStopped.
        """
        await self._wait_until(self._may_propose)
        self._act(lambda: self._raw.propose(data))

    async def propose_batch(self, payloads: Sequence[bytes]) -> None:
        """Propose several payloads together, as propose() does one."""
        await self._wait_until(self._may_propose)
        self._act(lambda: self._raw.propose_batch(payloads))

    async def propose_conf_change(self, change: ConfChange | ConfChangeV2) -> None:
        """Propose a configuration change, once a leader is known. Raises as propose() does.

        If an earlier change is not applied yet, or this one does not fit the configuration, it is taken but becomes
        an entry without effect.
        """
        await self._wait_until(self._may_propose)
        self._act(lambda: self._raw.propose_conf_change(change))

    async def read_index(self, ctx: bytes) -> None:
        """Ask for the index a linearizable read must wait for; comes in a Ready's read_states with the same ctx.

        May be lost without notice. Raises NodeStopped.
        """
        self._check_running()
        self._act(lambda: self._raw.read_index(ctx))

    async def transfer_leadership(self, lead: int, transferee: int) -> None:
        """Ask the leader `lead` to hand its leadership to `transferee`. May fail without notice. Raises NodeStopped."""
        self._check_running()
        message = Message(MessageType.TRANSFER_LEADER, to=lead, from_=transferee)
        self._act(lambda: self._raw.raft.step(message))

    async def forget_leader(self) -> None:
        """Make a follower forget who leads, so that it may grant (pre-)votes at once. Raises NodeStopped."""
        self._check_running()
        self._act(self._raw.forget_leader)

    def report_unreachable(self, id: int) -> None:
        """Tell that a message to peer `id` could not be delivered. Does nothing once stopped."""
        if not self._stopped:
            self._act(lambda: self._raw.report_unreachable(id))

    def report_snapshot(self, id: int, ok: bool) -> None:
        """Tell whether a snapshot sent to peer `id` arrived; needed after each one. Does nothing once stopped."""
        if not self._stopped:
            self._act(lambda: self._raw.report_snapshot(id, ok))

    def status(self) -> Status:
        """The full status, with the progress of every peer on a leader."""
        return self._raw.status()

    async def stop(self) -> None:
        """End it: everything that waits raises NodeStopped. Stopping again does nothing."""
        self._stopped = True
        self._wake()

    # Waiting

    def _act(self, action: Callable[[], None]) -> None:
        try:
            action()
        finally:
            self._after_change()

    def _check_running(self) -> None:
        if self._stopped:
            raise NodeStopped

    def _may_propose(self) -> bool:
        return self._raw.raft.lead != NONE and not self._removed

    async def _wait_until(self, condition: Callable[[], bool]) -> None:
        """Return once the condition holds; it still holds when the caller goes on. Raises NodeStopped."""
        self._check_running()
        while not condition():
            waiter = asyncio.get_running_loop().create_future()
            self._waiters[waiter] = None
            try:
                await waiter
            finally:
                del self._waiters[waiter]
            self._check_running()

    def _after_change(self) -> None:
        r = self._raw.raft
        if r.lead != self._lead:
            self._log_leader()
            self._lead = r.lead
            self._removed = False
        self._wake()

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _log_leader(self) -> None:
        r = self._raw.raft
        if r.lead == NONE:
            r.logger.info(f"raft.node: {r.id:x} lost leader {self._lead:x} at term {r.term}")
        elif self._lead == NONE:
            r.logger.info(f"raft.node: {r.id:x} elected leader {r.lead:x} at term {r.term}")
        else:
            r.logger.info(f"raft.node: {r.id:x} changed leader from {self._lead:x} to {r.lead:x} at term {r.term}")
