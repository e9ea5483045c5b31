"""A group of members, its network and its disks, moved by one source of chance.

A step is one small thing: some messages arrive, clocks tick, a disk finishes a write, a member crashes. What is not yet
synced when a member crashes is lost, except that a disk may have got further than it said.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from raft import Config, MemoryStorage, RawNode
from raft.confcodec import decode_entry
from raft.errors import ProposalDropped, RaftError, SnapshotOutOfDate
from raft.messages import (
    LOCAL_APPEND_THREAD,
    LOCAL_APPLY_THREAD,
    ConfChange,
    ConfChangeSingle,
    ConfChangeTransition,
    ConfChangeType,
    ConfChangeV2,
    ConfState,
    Entry,
    EntryType,
    HardState,
    Message,
    MessageType,
    Snapshot,
    SnapshotMetadata,
    StateType,
)
from raft.rawnode import Ready
from tests.simulation.invariants import Invariants, Violation

MAX_MEMBERS = 7
ELECTION_TICKS = 5
MAX_IN_FLIGHT = 400


@dataclass(slots=True)
class Weights:
    """How often each kind of step is taken, relative to the others; drawn anew for each world."""

    deliver: int
    tick: int
    write: int
    apply: int
    propose: int
    read: int
    drop: float
    repeat: float
    crash: int
    restart: int
    partition: int
    change: int
    transfer: int
    compact: int

    @classmethod
    def draw(cls, chance: random.Random) -> Weights:
        """Worlds differ: in some nothing ever breaks, in others little works."""
        trouble = chance.choice((0, 1, 1, 3, 10))
        return cls(
            deliver=chance.choice((100, 200, 300)),
            tick=chance.choice((20, 50, 100)),
            write=chance.choice((50, 100, 200)),
            apply=chance.choice((20, 100)),
            propose=chance.choice((5, 20, 50)),
            read=chance.choice((1, 5, 15)),
            drop=chance.choice((0.0, 0.01, 0.05, 0.2)) if trouble else 0.0,
            repeat=chance.choice((0.0, 0.02, 0.1)) if trouble else 0.0,
            crash=trouble,
            restart=4 * trouble + 1,
            partition=chance.choice((0, 1, 3)) * trouble,
            change=chance.choice((0, 1, 4)),
            transfer=chance.choice((0, 1, 3)),
            compact=chance.choice((0, 2, 10)),
        )


@dataclass(slots=True)
class Member:
    """One member: its disk, and while it runs its node and the work that its storage threads have not done yet."""

    number: int
    disk: MemoryStorage
    node: RawNode | None = None
    writes: deque[Message] = field(default_factory=deque)
    applies: deque[Message] = field(default_factory=deque)
    applied: int = 0
    conf_state: ConfState = field(default_factory=ConfState)
    leading: int = 0


class World:
    """One run. step() raises Violation when something does not hold."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.seed = seed
        self.weights = Weights.draw(self.chance)
        self.asynchronous = self.chance.random() < 0.5
        self.options = {
            "pre_vote": self.chance.random() < 0.5,
            "check_quorum": self.chance.random() < 0.5,
            "max_size_per_msg": self.chance.choice((0, 64, 1 << 20)),
            "max_inflight_msgs": self.chance.choice((1, 4, 256)),
            "step_down_on_removal": self.chance.random() < 0.5,
        }
        voters = list(range(1, self.chance.randint(1, 5) + 1))
        first = Snapshot(b"begin", SnapshotMetadata(ConfState(voters=voters), 1, 1))
        self.invariants = Invariants(first)
        self.members = {number: Member(number, MemoryStorage(first)) for number in voters}
        self.network: list[Message] = []
        self.groups: dict[int, int] = {}
        self.steps = 0
        self.proposed = 0
        self.asked = 0
        self.quiet = False
        for member in self.members.values():
            self._start(member)
        weights = self.weights
        self._actions: list[tuple[Callable[[], None], int]] = [
            (self._deliver, weights.deliver),
            (self._tick, weights.tick),
            (self._write, weights.write),
            (self._apply_some, weights.apply),
            (self._propose, weights.propose),
            (self._read, weights.read),
            (self._crash, weights.crash),
            (self._restart, weights.restart),
            (self._partition, weights.partition),
            (self._change, weights.change),
            (self._transfer, weights.transfer),
            (self._compact, weights.compact),
        ]
        self._choices = [action for action, _ in self._actions]
        self._cumulative = [sum(weight for _, weight in self._actions[: i + 1]) for i in range(len(self._actions))]

    # One step.

    def step(self) -> None:
        """Let one thing happen."""
        self.steps += 1
        self.chance.choices(self._choices, cum_weights=self._cumulative)[0]()

    def recover(self, ticks: int = 600) -> None:
        """End all trouble; then the group must commit and apply a new entry everywhere. Raises Violation."""
        self.quiet = True
        self.groups = {}
        for member in self.members.values():
            if member.node is None:
                self._start(member)
        goal = term = 0
        for _ in range(ticks):
            self._switch_off_removed()
            for member in self._running():
                self._call(member, RawNode.tick)
            for _ in range(12):
                self._settle()
            leader = next((m for m in self._running() if self._leads(m)), None)
            if leader is None or leader.node is None:
                continue
            if goal == 0 or term != leader.node.raft.term:
                # What was proposed in an earlier term may be lost with its leader.
                term, before = leader.node.raft.term, leader.node.raft.log.last_index()
                self._call(leader, lambda node: node.propose(b"last"))
                after = leader.node.raft.log.last_index() if leader.node is not None else before
                goal = after if after > before else 0
            elif leader.applied >= goal:
                voters = {*leader.conf_state.voters, *leader.conf_state.learners}
                if all(self.members[n].applied >= goal for n in voters if n in self.members):
                    return
        raise Violation(f"liveness: nothing new was committed everywhere within {ticks} ticks without trouble")

    def _switch_off_removed(self) -> None:
        """As an operator would: a removed member that does not know it may disturb elections for ever."""
        state = max(self.members.values(), key=lambda member: member.applied).conf_state
        known = {*state.voters, *state.voters_outgoing, *state.learners, *state.learners_next}
        for member in self.members.values():
            if member.number not in known and member.node is not None:
                member.node = None
                self.invariants.stopped(member.number)

    def _settle(self) -> None:
        messages, self.network = self.network, []
        for message in messages:
            self._receive(message)
        for member in self._running():
            while member.writes:
                self._finish_write(member)
            while member.applies:
                self._finish_apply(member)

    # What may happen.

    def _deliver(self) -> None:
        for _ in range(min(self.chance.randint(1, 8), len(self.network))):
            self._deliver_one()

    def _deliver_one(self) -> None:
        if not self.network:
            return
        position = self.chance.randrange(len(self.network))
        if self.chance.random() < 0.7:
            # Mostly in order, as a connection delivers; sometimes not.
            position = min(position, 3)
        message = self.network.pop(position)
        if self.chance.random() < self.weights.drop:
            self._report(message, arrived=False)
            return
        if self.chance.random() < self.weights.repeat:
            self.network.append(message)
        self._receive(message)

    def _receive(self, message: Message) -> None:
        member = self.members.get(message.to)
        cut = self.groups.get(message.to, 0) != self.groups.get(message.from_, 0)
        if member is None or member.node is None or cut:
            self._report(message, arrived=False)
            return
        self._report(message, arrived=True)
        self._call(member, lambda node: node.step(message))

    def _report(self, message: Message, arrived: bool) -> None:
        """What a transport owes its member: what became of a snapshot. Of other messages it may say nothing."""
        sender = self.members.get(message.from_)
        if message.type is MessageType.SNAP and sender is not None:
            self._call(sender, lambda node: node.report_snapshot(message.to, arrived))

    def _tick(self) -> None:
        running = self._running()
        if running and self.chance.random() < 0.5:
            running = [self.chance.choice(running)]
        for member in running:
            self._call(member, RawNode.tick)

    def _write(self) -> None:
        busy = [member for member in self._running() if member.writes]
        if busy:
            self._finish_write(self.chance.choice(busy))

    def _apply_some(self) -> None:
        busy = [member for member in self._running() if member.applies]
        if busy:
            self._finish_apply(self.chance.choice(busy))

    def _propose(self) -> None:
        proposer = self._one_of_the_leaders_or_any()
        if proposer is not None:
            self.proposed += 1
            data = b"%d" % self.proposed
            self._call(proposer, lambda node: node.propose(data))

    def _read(self) -> None:
        running = self._running()
        if running:
            self.asked += 1
            context = b"read %d" % self.asked
            self.invariants.read_asked(context)
            self._call(self.chance.choice(running), lambda node: node.read_index(context))

    def _crash(self) -> None:
        running = self._running()
        if not running:
            return
        member = self.chance.choice(running)
        # The disk may have finished some of what it had not reported yet, in order.
        for _ in range(self.chance.randint(0, len(member.writes))):
            self._persist(member, member.writes.popleft())
        member.node = None
        member.writes.clear()
        member.applies.clear()
        self.invariants.stopped(member.number)

    def _restart(self) -> None:
        stopped = [member for member in self.members.values() if member.node is None]
        if stopped:
            self._start(self.chance.choice(stopped))

    def _partition(self) -> None:
        if self.chance.random() < 0.5:
            self.groups = {}
        else:
            self.groups = {number: self.chance.randint(0, 1) for number in self.members}
            leader = self._one_of_the_leaders_or_any()
            if leader is not None and self.chance.random() < 0.5:
                # Cut off from most, a leader gathers entries that others will replace.
                self.groups = {number: int(number == leader.number) for number in self.members}
                self.groups[self.chance.choice(list(self.members))] = 1

    def _transfer(self) -> None:
        running = self._running()
        if running:
            target = self.chance.choice(list(self.members))
            self._call(self.chance.choice(running), lambda node: node.transfer_leader(target))

    def _compact(self) -> None:
        running = self._running()
        if not running:
            return
        member = self.chance.choice(running)
        disk = member.disk
        index = min(member.applied, disk.last_index())
        if index <= disk.snapshot().metadata.index or index < disk.first_index():
            return
        disk.create_snapshot(index, member.conf_state, self.invariants.digest(index))
        kept = self.chance.choice((0, 1, 5))
        if index - kept >= disk.first_index():
            disk.compact(index - kept)

    def _change(self) -> None:
        leaders = [member for member in self._running() if self._leads(member)]
        if not leaders:
            return
        leader = self.chance.choice(leaders)
        change = self._draw_change(leader.conf_state)
        if change is not None:
            self._call(leader, lambda node: node.propose_conf_change(change))

    def _draw_change(self, state: ConfState) -> ConfChange | ConfChangeV2 | None:
        if state.voters_outgoing:
            return ConfChangeV2()
        known = {*state.voters, *state.learners}
        singles = []
        for _ in range(self.chance.choice((1, 1, 2, 3))):
            number = self.chance.randint(1, MAX_MEMBERS)
            if number in known and len(state.voters) > 1 and self.chance.random() < 0.6:
                singles.append(ConfChangeSingle(ConfChangeType.REMOVE_NODE, number))
            else:
                kind = self.chance.choice((ConfChangeType.ADD_NODE, ConfChangeType.ADD_LEARNER_NODE))
                if kind is ConfChangeType.ADD_LEARNER_NODE and number in state.voters and len(state.voters) == 1:
                    continue
                singles.append(ConfChangeSingle(kind, number))
        removed = {single.node_id for single in singles if single.type is not ConfChangeType.ADD_NODE}
        if not set(state.voters) - removed:
            return None
        if len(singles) == 1 and self.chance.random() < 0.5:
            return ConfChange(type=singles[0].type, node_id=singles[0].node_id)
        return ConfChangeV2(self.chance.choice(list(ConfChangeTransition)), singles)

    # A member at work.

    def _running(self) -> list[Member]:
        return [member for member in self.members.values() if member.node is not None]

    def _one_of_the_leaders_or_any(self) -> Member | None:
        """A member that takes itself for the leader half the time, if there is one: more comes of it."""
        running = self._running()
        leaders = [member for member in running if self._leads(member)]
        if leaders and self.chance.random() < 0.5:
            return self.chance.choice(leaders)
        return self.chance.choice(running) if running else None

    @staticmethod
    def _leads(member: Member) -> bool:
        return member.node is not None and member.node.raft.state is StateType.LEADER

    def _start(self, member: Member) -> None:
        snapshot = member.disk.snapshot()
        stored = member.disk.hard_state
        # What is in a snapshot is committed, whether or not the commit index was stored since.
        member.disk.set_hard_state(replace(stored, commit=max(stored.commit, snapshot.metadata.index)))
        member.applied = snapshot.metadata.index
        member.conf_state = snapshot.metadata.conf_state
        member.leading = 0
        member.node = RawNode(
            Config(
                id=member.number,
                election_tick=ELECTION_TICKS,
                heartbeat_tick=1,
                storage=member.disk,
                applied=member.applied,
                async_storage_writes=self.asynchronous,
                random_source=random.Random(self.chance.random()),
                **self.options,  # type: ignore[arg-type]
            )
        )

    def _call(self, member: Member, action: Callable[[RawNode], None]) -> None:
        node = member.node
        if node is None:
            return
        try:
            action(node)
        except ProposalDropped:
            pass
        except RaftError as error:
            if isinstance(error, AssertionError):
                raise
        self._handle_ready(member)

    def _handle_ready(self, member: Member) -> None:
        node = member.node
        while node is not None and node.has_ready():
            ready = node.ready()
            self._observe(member, node, ready)
            if self.asynchronous:
                for message in ready.messages:
                    self._route(member, message)
            else:
                self._carry_out(member, node, ready)
            node = member.node

    def _observe(self, member: Member, node: RawNode, ready: Ready) -> None:
        status = node.basic_status().hard_state
        self.invariants.hard_state(member.number, status)
        self._check_leader_commit(node)
        self.invariants.commit_index(member.number, status.commit)
        self.invariants.reads_confirmed(ready.read_states)
        if node.raft.state is StateType.LEADER and member.leading != status.term:
            member.leading = status.term
            self.invariants.became_leader(member.number, node, *self._electorate(node))
        if ready.entries:
            self.invariants.appended(ready.entries, node.raft.log.term(ready.entries[0].index - 1))

    def _check_leader_commit(self, node: RawNode) -> None:
        if node.raft.state is StateType.LEADER:
            self.invariants.leader_commits(node, *self._electorate(node))

    def _electorate(self, node: RawNode) -> tuple[list[set[int]], dict[int, MemoryStorage]]:
        """The sets of voters that have to agree, as a member sees them, and the disks of all."""
        voters = node.raft.tracker.config.voters
        quorums = [quorum for quorum in (voters.incoming, voters.outgoing) if quorum]
        return quorums, {number: member.disk for number, member in self.members.items()}

    def _check_promise(self, member: Member, message: Message) -> None:
        if message.reject:
            return
        if message.type is MessageType.VOTE_RESP:
            self.invariants.voted(member.number, message.term, message.to)
        elif message.type is MessageType.APP_RESP:
            leader = self.members[message.to].node
            if leader is not None and (leader.raft.state is not StateType.LEADER or leader.raft.term != message.term):
                leader = None
            self.invariants.acknowledged(member.number, member.disk, message.index, leader)

    def _route(self, member: Member, message: Message) -> None:
        if message.to == LOCAL_APPEND_THREAD:
            member.writes.append(message)
            return
        if message.to == LOCAL_APPLY_THREAD:
            member.applies.append(message)
            return
        self._check_promise(member, message)
        if len(self.network) < MAX_IN_FLIGHT or self.quiet:
            if message.type is MessageType.SNAP:
                message = self._with_state(member, message)
            self.network.append(message)

    def _with_state(self, member: Member, message: Message) -> Message:
        """A MsgSnap with the state as it is now: the stored one may not know the member that it is for."""
        stored = message.snapshot
        if stored is None or stored.metadata.index > member.applied:
            return message
        index = member.applied
        metadata = SnapshotMetadata(member.conf_state, index, self.invariants.term(index))
        return replace(message, snapshot=Snapshot(self.invariants.digest(index), metadata))

    def _carry_out(self, member: Member, node: RawNode, ready: Ready) -> None:
        """Without asynchronous writes: persist, send, apply, advance; a crash may come between any two."""
        work = Message(MessageType.STORAGE_APPEND, entries=ready.entries, snapshot=ready.snapshot)
        if ready.hard_state is not None:
            state = ready.hard_state
            work.term, work.vote, work.commit = state.term, state.vote, state.commit
        self._persist(member, work)
        for message in ready.messages:
            self._route(member, message)
        if ready.snapshot is not None:
            self._restored(member, ready.snapshot)
        for entry in ready.committed_entries:
            self._apply(member, node, entry)
        node.advance()

    def _finish_write(self, member: Member) -> None:
        work = member.writes.popleft()
        self._persist(member, work)
        if work.snapshot is not None:
            self._restored(member, work.snapshot)
        for response in work.responses:
            if response.to == member.number:
                self._call(member, lambda node, response=response: node.step(response))  # type: ignore[misc]
            else:
                self._route(member, response)

    def _finish_apply(self, member: Member) -> None:
        work = member.applies.popleft()
        if member.node is not None:
            for entry in work.entries:
                # A snapshot may have overtaken the entries.
                if entry.index > member.applied:
                    self._apply(member, member.node, entry)
        for response in work.responses:
            self._call(member, lambda node, response=response: node.step(response))  # type: ignore[misc]

    @staticmethod
    def _persist(member: Member, work: Message) -> None:
        if work.snapshot is not None:
            try:
                member.disk.apply_snapshot(work.snapshot)
            except SnapshotOutOfDate:
                pass
        member.disk.append(work.entries)
        if work.term:
            member.disk.set_hard_state(HardState(work.term, work.vote, work.commit))

    def _restored(self, member: Member, snapshot: Snapshot) -> None:
        self.invariants.restored(member.number, snapshot)
        if snapshot.metadata.index > member.applied:
            member.applied = snapshot.metadata.index
            member.conf_state = snapshot.metadata.conf_state

    def _apply(self, member: Member, node: RawNode, entry: Entry) -> None:
        if entry.index != member.applied + 1:
            raise Violation(f"{member.number} applies {entry.index} after {member.applied}")
        self.invariants.applied(member.number, entry, member.disk)
        member.applied = entry.index
        if entry.type is EntryType.NORMAL:
            return
        member.conf_state = node.apply_conf_change(decode_entry(entry))
        # The next change, which may be applied before anybody looks, may need another majority.
        self._check_leader_commit(node)
        state = member.conf_state
        for number in (*state.voters, *state.learners, *state.learners_next):
            if number not in self.members:
                self.members[number] = Member(number, MemoryStorage())
                self._start(self.members[number])
