"""Members in memory for tests: one alone that is fed messages, and groups that exchange theirs.

Real RawNodes over real storages; only the network between them, and time, belong to the test.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from raft import (
    Config,
    ConfState,
    Entry,
    EntryType,
    HardState,
    MemoryStorage,
    Message,
    MessageType,
    ProposalDropped,
    RawNode,
    ReadState,
    Snapshot,
    SnapshotMetadata,
    StateType,
    StepPeerNotFound,
    decode_entry,
)

ELECTION_TICK = 10


class FixedRandom:
    """Draws a given number every time, as far as the range allows."""

    def __init__(self, value: int = 0) -> None:
        self.value = value

    def randrange(self, stop: int, /) -> int:
        """The number."""
        return min(self.value, stop - 1)


def log_of(*terms: int) -> list[Entry]:
    """Entries from index 1 on with these terms, each with a payload that tells both."""
    return [Entry(term, index, data=f"{term}/{index}".encode()) for index, term in enumerate(terms, 1)]


class Member:
    """A node that persists, applies and advances by itself, and hands out what it sends.

    voters: the configuration from before the log. log: what is stored when it starts. applied: what it has applied,
    in order. reads: the answers to its reads.
    """

    def __init__(
        self,
        id: int = 1,
        voters: Iterable[int] = (1, 2, 3),
        *,
        log: Sequence[Entry] = (),
        hard_state: HardState | None = None,
        learners: Iterable[int] = (),
        **config: Any,
    ) -> None:
        self.id = id
        self.storage = MemoryStorage()
        conf_state = ConfState(voters=list(voters), learners=list(learners))
        self.initial_conf_state = conf_state
        self.storage.initial_state = lambda: (self.storage.hard_state, self.conf_state)  # type: ignore[method-assign]
        self.conf_state = conf_state
        self.storage.append(log)
        if hard_state is not None:
            self.storage.set_hard_state(hard_state)
        elif log:
            self.storage.set_hard_state(HardState(term=log[-1].term))
        self.options: dict[str, Any] = {
            "election_tick": ELECTION_TICK,
            "heartbeat_tick": 1,
            "random_source": random.Random(id),
            **config,
        }
        self.applied: list[Entry] = []
        self.reads: list[ReadState] = []
        self.node = self._start()

    def _start(self) -> RawNode:
        applied = self.applied[-1].index if self.applied else self.storage.first_index() - 1
        return RawNode(Config(id=self.id, storage=self.storage, applied=applied, **self.options))

    def restart(self) -> None:
        """Crash, and come back from what is stored."""
        self.node = self._start()

    # What it is

    @property
    def term(self) -> int:
        """The current term."""
        return self.node.raft.term

    @property
    def vote(self) -> int:
        """For whom it voted in this term."""
        return self.node.raft.vote

    @property
    def role(self) -> StateType:
        """The role."""
        return self.node.raft.state

    @property
    def lead(self) -> int:
        """The leader as far as known."""
        return self.node.raft.lead

    @property
    def commit(self) -> int:
        """The commit index."""
        return self.node.raft.log.committed

    @property
    def terms(self) -> list[int]:
        """The terms of the whole log, stable or not."""
        log = self.node.raft.log
        return [log.term(index) for index in range(log.first_index(), log.last_index() + 1)]

    @property
    def payloads(self) -> list[bytes]:
        """What was applied, without the entries that hold nothing and the configuration changes."""
        return [entry.data for entry in self.applied if entry.data and entry.type == EntryType.NORMAL]

    # What it does

    def work(self) -> list[Message]:
        """Do everything that is ready; what it sent."""
        sent: list[Message] = []
        while self.node.has_ready():
            ready = self.node.ready()
            if ready.hard_state is not None:
                self.storage.set_hard_state(ready.hard_state)
            if ready.snapshot is not None:
                self.storage.apply_snapshot(ready.snapshot)
                self.conf_state = ready.snapshot.metadata.conf_state
            self.storage.append(ready.entries)
            for entry in ready.committed_entries:
                if entry.type != EntryType.NORMAL:
                    self.conf_state = self.node.apply_conf_change(decode_entry(entry))
                self.applied.append(entry)
            self.reads += ready.read_states
            sent += ready.messages
            self.node.advance(ready)
        return sent

    def receive(self, *messages: Message) -> list[Message]:
        """Step messages and do what follows; what it sent."""
        for message in messages:
            self.node.step(message)
        return self.work()

    def tick(self, count: int = 1) -> list[Message]:
        """Let ticks pass and do what follows; what it sent."""
        sent: list[Message] = []
        for _ in range(count):
            self.node.tick()
            sent += self.work()
        return sent

    def take_snapshot(self, *, keep: int = 0) -> None:
        """Snapshot what is applied and drop all but the last `keep` entries of it."""
        index = self.applied[-1].index
        self.storage.create_snapshot(index, self.conf_state, b"state at %d" % index)
        self.storage.compact(index - keep)

    def become_candidate(self) -> list[Message]:
        """Campaign; the votes it asks for."""
        self.node.campaign()
        return self.work()

    def become_leader(self) -> list[Message]:
        """Campaign and win with the votes of everybody; what it sends first."""
        sent = self.become_candidate()
        while True:
            asked = [m for m in sent if m.type in (MessageType.VOTE, MessageType.PRE_VOTE)]
            if not asked:
                return sent
            answer = MessageType.VOTE_RESP if asked[0].type == MessageType.VOTE else MessageType.PRE_VOTE_RESP
            sent = []
            for m in asked:
                if self.role in (StateType.CANDIDATE, StateType.PRE_CANDIDATE):
                    sent += self.receive(Message(answer, self.id, m.to, m.term))


class Cluster:
    """Members whose messages are delivered in order, unless they are cut off from one another."""

    def __init__(self, size: int = 3, **config: Any) -> None:
        ids = range(1, size + 1)
        self.members = {id: Member(id, ids, **config) for id in ids}
        self.cut: set[tuple[int, int]] = set()
        self.lost: Callable[[Message], bool] = lambda message: False
        self.flight: list[Message] = []

    def __getitem__(self, id: int) -> Member:
        return self.members[id]

    def add(self, member: Member) -> Member:
        """Let one more member take part in the exchange."""
        self.members[member.id] = member
        return member

    def separate(self, *ids: int) -> None:
        """Cut these members off from all others, though not from one another."""
        for inside in ids:
            for outside in set(self.members) - set(ids):
                self.cut |= {(inside, outside), (outside, inside)}

    def heal(self) -> None:
        """Let everything through again."""
        self.cut = set()
        self.lost = lambda message: False

    def settle(self) -> None:
        """Exchange messages until nobody has anything to do."""
        while True:
            for member in self.members.values():
                self.flight += member.work()
            if not self.flight:
                return
            flight, self.flight = self.flight, []
            for message in flight:
                if (message.from_, message.to) in self.cut or self.lost(message) or message.to not in self.members:
                    continue
                self.flight += self._deliver(message)

    def _deliver(self, message: Message) -> list[Message]:
        member = self.members[message.to]
        try:
            return member.receive(message)
        except (StepPeerNotFound, ProposalDropped):
            # As on a network: nobody hears of it.
            return member.work()

    def elect(self, id: int) -> Member:
        """Have a member campaign, and win."""
        self.members[id].node.campaign()
        self.settle()
        assert self.members[id].role == StateType.LEADER
        return self.members[id]

    def tick(self, count: int = 1, ids: Iterable[int] | None = None) -> None:
        """Let ticks pass for all, or for some, with everything that follows."""
        for _ in range(count):
            for id in list(self.members if ids is None else ids):
                self.members[id].node.tick()
            self.settle()

    def propose(self, id: int, *payloads: bytes) -> None:
        """Propose payloads one after the other."""
        for payload in payloads:
            self.members[id].node.propose(payload)
            self.settle()

    def leaders(self) -> list[int]:
        """Who takes itself for the leader."""
        return [id for id, member in self.members.items() if member.role == StateType.LEADER]


def snapshot_at(index: int, term: int, voters: Iterable[int] = (1, 2, 3)) -> Snapshot:
    """A snapshot with a configuration and hardly any data."""
    return Snapshot(b"state at %d" % index, SnapshotMetadata(ConfState(voters=list(voters)), index, term))


def of_type(messages: Iterable[Message], kind: MessageType) -> list[Message]:
    """Those of the messages that are of this type."""
    return [message for message in messages if message.type == kind]
