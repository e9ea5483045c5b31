"""The Ready loop: raft, the log, the peers and the state machine of one member, brought together once a turn.

Whatever happens to a member (a proposal, a message, an answer of the log's writer, a tick) is only noted and `wake`
called; the turn that follows takes it all at once. Storage writes are asynchronous to raft: entries go to the log's
writer, messages that depend on them leave when it answers, and what is committed is applied here. An answer that comes
at once, as that of a journal does, is taken in the same turn. Within a turn peers come first, then the log, then the
state: each of them is what others wait for longest.

Knows raft and whom to hand its output to; not what an entry means.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from kvstore.errors import TimeoutDueToConnectionLost, TimeoutDueToLeaderFail
from kvstore.server.outbox import Outbox, Peers
from kvstore.server.proposals import Proposals
from kvstore.server.reads import ReadRounds
from raft.errors import ProposalDropped, RaftError
from raft.messages import (
    LOCAL_APPEND_THREAD,
    LOCAL_APPLY_THREAD,
    Entry,
    EntryType,
    HardState,
    Message,
    MessageType,
    SnapshotMetadata,
    SoftState,
    StateType,
)
from raft.rawnode import RawNode, Ready

MAX_PARKED: Final = 1024
"""Forwarded proposals that a leader which hands its leadership on keeps for its successor; more are lost."""

MAX_APPENDS: Final = 2
"""Appends of its own requests that a leader has under way at most: one being written, and one being made."""

PASSED_ON_BYTES: Final = 1 << 20
"""Requests passed on to the leader in one message, unless the first alone is larger."""

TURN_SECONDS: Final = 0.01
"""A turn that has worked this long lets connections go on and continues in the next one."""


class Log(Protocol):
    """The writer of the log: durable when `done` is called, in the order of the calls."""

    def append(
        self,
        hard_state: HardState | None,
        entries: Sequence[Entry],
        snapshot: SnapshotMetadata | None,
        done: Callable[[], None],
    ) -> None: ...


class StateMachine(Protocol):
    """What committed entries are applied to."""

    def apply(self, entries: Sequence[Entry]) -> None:
        """Apply entries in their order."""

    def install(self, snapshot: SnapshotMetadata, done: Callable[[], None]) -> None:
        """Replace the state by the copy that was received with this snapshot; call done once it is in place."""

    def turn_ended(self) -> None:
        """Everything of this turn is applied: flush, notify."""


class Links(Peers, Protocol):
    """The ways to the other members."""

    def reaches(self, member: int) -> bool:
        """Whether a message sent to a member now is on its way, not dropped for want of a connection."""


@dataclass(slots=True, frozen=True)
class Leadership:
    """Who leads as far as this member knows, and whether it does itself."""

    leader: int
    is_leader: bool


class ReadyLoop:
    """Drives one RawNode.

    on_leadership: called when the leader or the own role changed. on_failure: called with what the member cannot go
    on after; nothing more happens then. clock: seconds, for how long a turn takes; the loop's own stands still in it.
    """

    def __init__(
        self,
        *,
        node: RawNode,
        member_id: int,
        log: Log,
        peers: Links,
        machine: StateMachine,
        proposals: Proposals,
        reads: ReadRounds,
        applied: int,
        on_leadership: Callable[[Leadership], None],
        on_failure: Callable[[BaseException], None],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._clock = clock
        self._node = node
        self._id = member_id
        self._log = log
        self._peers = peers
        self._outbox = Outbox(peers, self._loop.call_later, self._loop.time)
        self._machine = machine
        self._proposals = proposals
        self._reads = reads
        self._on_leadership = on_leadership
        self._on_failure = on_failure
        self.applied = applied
        self.applied_term = 0
        self.committed = applied
        self.leadership = Leadership(0, False)
        self._inbox: list[Message] = []
        self._calls: list[Callable[[RawNode], None]] = []
        self._unproposed: list[tuple[int, bytes]] = []
        self._parked: list[Message] = []
        # What this turn's Readys ask the log and the state to do, and what they have answered.
        self._appends: list[Message] = []
        self._applies: list[Message] = []
        self._answers: list[Message] = []
        # As the leader: the last index of each append of its own requests that is not committed yet.
        self._under_way: deque[int] = deque()
        self._turning = False
        # Term and vote that the log has or is about to have; for each write under way, what follows it.
        self._ballot = (node.basic_status().hard_state.term, node.basic_status().hard_state.vote)
        self._writing: deque[list[Message]] = deque()
        # Where the log has, or may have, membership changes that are not committed as far as is written; and the hard
        # state that says that one is, to be written with the next entries.
        self._changes: deque[int] = deque(node.uncommitted())
        self._owed: HardState | None = None
        self._scheduled = False
        self.installing = False
        self._stopped = False

    # What may happen; each is done in the next turn.

    def wake(self) -> None:
        """Make sure that a turn follows."""
        if not self._scheduled and not self._stopped:
            self._scheduled = True
            self._loop.call_soon(self._turn)

    def receive(self, messages: Sequence[Message]) -> None:
        """Take messages from a peer."""
        self._inbox += messages
        self.wake()

    def call(self, action: Callable[[RawNode], None]) -> None:
        """Do something with the node in the next turn. A RaftError it raises is dropped: the node refused."""
        self._calls.append(action)
        self.wake()

    def tick(self) -> None:
        """Let one tick of raft's clock pass."""
        # While the state is being replaced there are no turns, and time stands still for raft: all of it at once would
        # make a follower that has just come level campaign.
        if not self.installing:
            self._calls.append(RawNode.tick)
        self._reads.tick(self._loop.time())
        self.wake()

    def stop(self) -> None:
        """No further turn."""
        self._stopped = True

    @property
    def node(self) -> RawNode:
        """The node, to be asked for its status only."""
        return self._node

    # The turn.

    def _turn(self) -> None:
        self._scheduled = False
        # The state is being replaced: nothing may be applied, and what depends on it can wait.
        if self._stopped or self.installing:
            return
        self._turning = True
        try:
            self._take_input()
            self._work()
            self._outbox.send()
            self._machine.turn_ended()
        except BaseException as error:  # a member whose state may be half changed must not go on
            self._stopped = True
            self._on_failure(error)
        finally:
            self._turning = False

    def _work(self) -> None:
        """Do what raft wants done, until it wants nothing more or the turn has lasted long enough."""
        node = self._node
        end = self._clock() + TURN_SECONDS
        while True:
            self._take_proposals()
            if not node.has_ready():
                return
            self._collect(end)
            self._outbox.send()
            self._append_all()
            self._outbox.send()
            self._apply_all()
            if self.installing:
                return
            self._take_answers()
            if self._clock() >= end:
                self.wake()
                return

    def _take_input(self) -> None:
        node = self._node
        self._take_answers()
        if self._inbox:
            inbox, self._inbox = self._inbox, []
            for message in inbox:
                if message.type is MessageType.PROP:
                    self._outbox.attend(message.from_)
                self._step(message)
        if self._calls:
            calls, self._calls = self._calls, []
            for action in calls:
                try:
                    action(node)
                except RaftError as error:
                    self._refused(error)
        if self._parked and self.leadership.leader:
            parked, self._parked = self._parked, []
            for message in parked:
                self._step(message)
        if self._reads.wants_round:
            self._reads.begin(self._loop.time())

    def _step(self, message: Message) -> None:
        try:
            self._node.step(message)
        except ProposalDropped:
            # Another member's proposal, which is in nobody's log. Here, or at who leads next, it will be taken later.
            if len(self._parked) < MAX_PARKED:
                self._parked.append(message)
        except RaftError as error:
            self._refused(error)

    @staticmethod
    def _refused(error: RaftError) -> None:
        # What raft does not take (a response from a removed member, a forwarded proposal without a leader) is lost as
        # on a network; a broken invariant is not.
        if isinstance(error, AssertionError):
            raise error

    def _take_proposals(self) -> None:
        """Propose what waits. A leader with appends under way lets it wait, so that it fills one entry, not several.

        Nothing is lost by it: what waits goes when the first of them is committed, and every entry costs this member
        and each follower a write and a message, whatever is in it. What others pass on is appended as it comes and does
        not count: with enough of that under way all the time, the leader's own requests would wait for ever.
        """
        node = self._node
        leader = self.leadership.leader
        if not leader or not (self._proposals.has_open or self._unproposed):
            return
        if leader != node.leader:
            # Another one, of whom the next Ready tells.
            return
        if node.leads:
            under_way = self._under_way
            while under_way and under_way[0] <= self.committed:
                under_way.popleft()
            if len(under_way) >= MAX_APPENDS:
                return
        elif not self._peers.reaches(leader):
            # It would be lost, and its callers would wait for nothing. The next tick looks again, or another leads.
            return
        if self._proposals.has_open:
            self._unproposed += self._proposals.take()
        self._propose()

    def _propose(self) -> None:
        node = self._node
        term = node.term
        self._proposals.withdraw(term if node.leads else 0)
        wanted = [row for row in self._unproposed if self._proposals.is_waiting(row[0])]
        self._unproposed = wanted
        try:
            while wanted:
                # The leader is sent it all in one message, which is to stay small.
                count = len(wanted) if node.leads else _first(wanted, PASSED_ON_BYTES)
                node.propose_batch([payload for _, payload in wanted[:count]])
                for sequence, _ in wanted[:count]:
                    self._proposals.proposed(sequence, term)
                if node.leads:
                    self._under_way.append(node.uncommitted().stop - 1)
                self._unproposed = wanted = wanted[count:]
        except ProposalDropped:
            # Nothing of the rest was taken. It goes again with the next turn; at the latest the next tick brings one.
            pass

    def _take_answers(self) -> None:
        if self._answers:
            answers, self._answers = self._answers, []
            for answer in answers:
                self._step(answer)

    def _collect(self, end: float) -> None:
        """Take the Ready that there is, and more until `end`; one with a snapshot is the last, for the state is another
        one after it.
        """
        node = self._node
        while True:
            self._sort(node.ready())
            if self._appends and self._appends[-1].snapshot is not None:
                return
            if not node.has_ready() or self._clock() >= end:
                return

    def _sort(self, ready: Ready) -> None:
        if ready.soft_state is not None:
            self._set_leadership(ready.soft_state)
        if ready.hard_state is not None:
            self.committed = max(self.committed, ready.hard_state.commit)
        for message in ready.messages:
            to = message.to
            if to == LOCAL_APPEND_THREAD:
                self._appends.append(message)
            elif to == LOCAL_APPLY_THREAD:
                self._applies.append(message)
            else:
                self._outbox.add(message)
        if ready.read_states:
            self._reads.confirmed(ready.read_states, self.applied)

    def _set_leadership(self, state: SoftState) -> None:
        before = self.leadership
        self.leadership = Leadership(state.lead, state.raft_state is StateType.LEADER)
        if self.leadership != before:
            self._under_way.clear()
            self._on_leadership(self.leadership)
            if state.lead:
                self._reads.restart(self._loop.time())
                if self._proposals.has_open or self._unproposed:
                    self.wake()

    def _append_all(self) -> None:
        appends, self._appends = self._appends, []
        for message in appends:
            self._append(message)

    def _append(self, message: Message) -> None:
        hard_state = HardState(message.term, message.vote, message.commit) if message.term else None
        if message.snapshot is None:
            if not message.entries and (message.term, message.vote) in (self._ballot, (0, 0)):
                self._append_commit(message, hard_state)
            else:
                self._write(message, hard_state, None)
            return
        # The copy of the state comes first and the log follows: a state that is ahead of its log is found at the next
        # start and the log is cut to it; a log ahead of its state would have lost what is between.
        metadata = message.snapshot.metadata
        self._apply_all()
        self.installing = True

        def installed() -> None:
            self.installing = False
            self.applied = max(self.applied, metadata.index)
            self.applied_term = metadata.term
            self._write(message, hard_state, metadata)
            self._proposals.overtaken(TimeoutDueToConnectionLost())
            self._reads.applied(self.applied)
            self.wake()

        self._machine.install(metadata, installed)

    def _write(self, message: Message, hard_state: HardState | None, snapshot: SnapshotMetadata | None) -> None:
        if hard_state is None:
            hard_state = self._owed
        self._owed = None
        changes = self._changes
        entries = message.entries
        if entries:
            while changes and changes[-1] >= entries[0].index:
                changes.pop()
            for entry in entries:
                if entry.type is not EntryType.NORMAL:
                    changes.append(entry.index)
        if hard_state is not None:
            self._ballot = (hard_state.term, hard_state.vote)
            while changes and changes[0] <= hard_state.commit:
                changes.popleft()
        followers: list[Message] = []
        self._writing.append(followers)

        def written() -> None:
            self._writing.popleft()
            self._persisted(message)
            for follower in followers:
                self._persisted(follower)

        self._log.append(hard_state, entries, snapshot, written)

    def _append_commit(self, message: Message, hard_state: HardState | None) -> None:
        # Nothing but the commit index moved. It need not be durable (a member that forgets it learns it again), so it
        # is worth no sync of its own; its responses only keep their place behind the writes under way. That a
        # membership change is committed has to be known with every entry after it, though: see removals.py.
        changes = self._changes
        if hard_state is not None and changes and changes[0] <= hard_state.commit:
            self._owed = hard_state
        if self._writing:
            self._writing[-1].append(message)
        else:
            self._persisted(message)

    def _persisted(self, message: Message) -> None:
        for response in message.responses:
            if response.to == self._id:
                self._answers.append(response)
            else:
                self._outbox.add(response)
        if not self._turning:
            self.wake()

    def _apply_all(self) -> None:
        if self._applies:
            applies, self._applies = self._applies, []
            for message in applies:
                self._apply(message)

    def _apply(self, message: Message) -> None:
        entries = message.entries
        if entries:
            if entries[0].index != self.applied + 1:
                raise AssertionError(f"entry {entries[0].index} is to be applied after {self.applied}")
            self._machine.apply(entries)
            last = entries[-1]
            if last.term > self.applied_term:
                self._proposals.leader_failed(last.term, TimeoutDueToLeaderFail())
            self.applied, self.applied_term = last.index, last.term
            self._reads.applied(last.index)
        for response in message.responses:
            self._step(response)


def _first(rows: Sequence[tuple[int, bytes]], size: int) -> int:
    """How many of the first rows have so many bytes together at most; one at least."""
    for number, (_, payload) in enumerate(rows):
        size -= len(payload)
        if size < 0:
            return max(1, number)
    return len(rows)
