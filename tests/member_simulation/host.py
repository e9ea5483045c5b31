"""One member of a simulated cluster: its directory and addresses, and the process that runs there, if any.

A process is what the daemon is: a member, started, published and served to clients, until it is stopped, fails or is
removed. It is looked at from outside at each turn, and what it promises is held against the disks of all.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from kvstore.api.cluster import ClusterService
from kvstore.api.errors import translate
from kvstore.api.gate import Gate, GatedRegistry
from kvstore.api.kv import DECODERS, KVService
from kvstore.api.lease import LeaseService
from kvstore.api.maintenance import MaintenanceService
from kvstore.api.watch import WatchService
from kvstore.pb import rpc_pb2_grpc
from kvstore.pb.peer_pb2_grpc import PeerServicer
from kvstore.peer import service as peer_service
from kvstore.rpc import RpcError
from kvstore.server.bootstrap import BootstrapError
from kvstore.server.config import Config
from kvstore.server.member import Member
from kvstore.server.metrics import Metrics
from kvstore.server.start import RunningMember, start_member
from kvstore.server.surroundings import Surroundings
from kvstore.storage.errors import WriterFailed
from kvstore.storage.wal import Wal
from raft.confcodec import decode_entry
from raft.errors import Compacted, Unavailable
from raft.messages import (
    ConfChange,
    ConfChangeType,
    Entry,
    EntryType,
    HardState,
    Message,
    MessageType,
    SnapshotMetadata,
    StateType,
)
from tests.member_simulation.disk import Disks
from tests.member_simulation.durable import DiskHabits
from tests.member_simulation.network import Channel, Handlers, Network, Server
from tests.member_simulation.timeline import ProcessLoop, Timeline, Violation
from tests.member_simulation.truth import Truth
from tests.simulation.invariants import Invariants


class KnownLog:
    """What a member's log is known to have on disk, by what the member was told; it outlives the process."""

    def __init__(self) -> None:
        self.hard_state = HardState()
        self._cut, self._cut_term = 0, 0
        self._terms: list[int] = []

    def last_index(self) -> int:
        """The last entry."""
        return self._cut + len(self._terms)

    def term(self, index: int) -> int:
        """As raft's Storage.term."""
        if index == self._cut:
            return self._cut_term
        if index < self._cut:
            raise Compacted
        if index > self.last_index():
            raise Unavailable
        return self._terms[index - self._cut - 1]

    def durable(
        self, hard_state: HardState | None, entries: Sequence[Entry], snapshot: SnapshotMetadata | None
    ) -> None:
        """The log says that this is on disk."""
        if snapshot is not None:
            self._cut, self._cut_term, self._terms = snapshot.index, snapshot.term, []
        if entries:
            del self._terms[entries[0].index - self._cut - 1 :]
            self._terms += [entry.term for entry in entries]
        if hard_state is not None:
            self.hard_state = hard_state

    def compare(self, name: str, wal: Wal) -> None:
        """The log was opened again: everything must still be there. Raises Violation."""
        known, found = self.hard_state, wal.hard_state
        if found.term < known.term or (found.term == known.term and known.vote and found.vote != known.vote):
            raise Violation(f"{name}'s log has lost its hard state: {known}, now {found}")
        last = wal.last_index()
        for index in range(max(self._cut, wal.cut.index) + 1, self.last_index() + 1):
            if index <= last and wal.term(index) > self.term(index):
                # Replaced by a later leader; the member had not heard of it yet.
                break
            if index > last or wal.term(index) < self.term(index):
                raise Violation(f"{name}'s log has lost entry {self.term(index)}/{index}; it ends with {last}")
        self.take(wal)

    def take(self, wal: Wal) -> None:
        """What is there."""
        self.hard_state = wal.hard_state
        self._cut, self._cut_term = wal.cut.index, wal.cut.term
        self._terms = [wal.term(index) for index in range(self._cut + 1, wal.last_index() + 1)]


class Group:
    """What the members of a cluster share in the eyes of who checks them."""

    def __init__(self, timeline: Timeline, network: Network, truth: Truth, invariants: Invariants) -> None:
        self.timeline = timeline
        self.network = network
        self.truth = truth
        self.invariants = invariants
        self.logs: dict[int, KnownLog] = {}
        # At which entry each member was removed.
        self.removals: dict[int, int] = {}


class Host:
    """The place of one member.

    rate: of its clock. checkpoint_seconds: how often, while it leads, it has the others note what is left of leases.
    """

    def __init__(self, group: Group, config: Config, rate: float, checkpoint_seconds: float) -> None:
        self.name = config.name
        self.config = config
        self.peer_url = str(config.initial_advertise_peer_urls[0])
        self.client_url = str(config.advertise_client_urls[0])
        self.disk = DiskHabits()
        self.loop: ProcessLoop | None = None
        self.running: RunningMember | None = None
        self.removed = False
        self.failures_expected = 0
        self.incarnation = 0
        self.member_id = 0
        self._group = group
        self._timeline = group.timeline
        self._rate = rate
        self._checkpoint_seconds = checkpoint_seconds
        self._disks: Disks | None = None
        self._stop: asyncio.Event | None = None
        self._leading = 0

    @property
    def member(self) -> Member | None:
        """The member that runs here."""
        return self.running.member if self.running is not None else None

    @property
    def leads(self) -> bool:
        """Whether it takes itself for the leader."""
        member = self.member
        return member is not None and member.is_leader

    # Its life.

    def start(self) -> None:
        """Start the process, unless it runs, or its member is no longer one."""
        if self.loop is not None or self.removed:
            return
        timeline = self._timeline
        self.incarnation += 1
        self.loop = loop = ProcessLoop(timeline, self.name, self._rate, timeline.chance.uniform(0.0, 1e5))
        self._disks = Disks(timeline, loop, self.name, self.disk)
        self._leading = 0
        timeline.note(f"{self.name} starts")
        loop.create_task(self._run(loop, self._disks))

    def crash(self) -> None:
        """End the process here and now."""
        if self.loop is not None:
            self._timeline.note(f"{self.name} crashes")
            self._dead()

    def close(self) -> None:
        """End the process with the world."""
        if self.loop is not None:
            self._dead()

    def stop(self) -> None:
        """Stop it in order."""
        if self.loop is not None and self._stop is not None:
            self._timeline.note(f"{self.name} is stopped")
            self.loop.call_soon(self._stop.set)

    def pause(self, seconds: float) -> None:
        """Let it do nothing for a while."""
        if self.loop is not None:
            self._timeline.note(f"{self.name} pauses for {seconds:.3f} s")
            self.loop.pause(seconds)

    def break_writer(self) -> None:
        """One of its writers dies."""
        if self._disks is not None and self._disks.writers:
            self._timeline.note(f"a writer of {self.name} dies")
            self.failures_expected += 1
            self._timeline.chance.choice(self._disks.writers).break_down()

    def _dead(self) -> None:
        loop, disks = self.loop, self._disks
        assert loop is not None
        assert disks is not None
        self.loop, self.running, self._disks, self._stop = None, None, None, None
        disks.crash()
        loop.kill()
        self._group.network.process_died(loop)
        if self.member_id:
            self._group.invariants.stopped(self.member_id)

    def _ended(self, loop: ProcessLoop, why: str) -> None:
        if self.loop is loop:
            self._timeline.note(f"{self.name} has ended: {why}")
            self._timeline.after(0.0, lambda: self._dead() if self.loop is loop else None)

    async def _run(self, loop: ProcessLoop, disks: Disks) -> None:
        try:
            await self._main(loop, disks)
        except Exception as error:
            if not loop.alive:
                # Taken apart in the middle of something.
                return
            violation = Violation(f"{self.name} has died: {error!r}")
            violation.__cause__ = error
            self._timeline.fail(violation)

    async def _main(self, loop: ProcessLoop, disks: Disks) -> None:
        self._stop = stop = asyncio.Event()
        surroundings = Surroundings(
            chance=random.Random(self._timeline.chance.getrandbits(64)),
            clock=disks.clock,
            open_log=disks.open_log,
            open_state=disks.open_state,
            open_channel=self._open_channel,
            serve_peers=self._serve_peers,
        )
        try:
            running = await start_member(self.config, Metrics(), surroundings)
        except (BootstrapError, WriterFailed) as error:
            disks.let_go()
            self._ended(loop, f"{error}")
            return
        self.running = running
        self._watch_over(running, disks)
        gate = Gate(running.member)
        publishing = loop.create_task(running.lifecycle.publish())
        ended = loop.create_task(_end(running, stop))
        server: Server | None = None
        await asyncio.wait((publishing, ended), return_when=asyncio.FIRST_COMPLETED)
        if not ended.done():
            self._timeline.note(f"{self.name} serves clients")
            server = self._serve_clients(running.member, gate)
            await ended
        publishing.cancel()
        gate.close()
        if server is not None:
            await server.stop(0.0)
        if running.lifecycle.removed.is_set():
            self.removed = True
        await running.stop()
        disks.let_go()
        if running.failed.done():
            self._failed(running.failed.result())
        self._ended(loop, "removed" if self.removed else "stopped")

    def _failed(self, error: BaseException) -> None:
        if isinstance(error, WriterFailed) and self.failures_expected:
            self.failures_expected -= 1
            return
        violation = Violation(f"{self.name} could not go on: {error!r}")
        violation.__cause__ = error
        self._timeline.fail(violation)

    # Its connections.

    def _open_channel(self, url: str) -> Channel:
        assert self.loop is not None
        return self._group.network.channel(self.loop, url)

    async def _serve_peers(self, config: Config, service: PeerServicer) -> Server:
        assert self.loop is not None
        handlers = Handlers()
        peer_service.register(service, handlers)
        return self._group.network.listen(self.peer_url, self.loop, handlers, _no_translation)

    def _serve_clients(self, member: Member, gate: Gate) -> Server:
        assert self.loop is not None
        handlers = Handlers()
        registry = GatedRegistry(handlers, gate, DECODERS)
        services: tuple[tuple[Callable[[Any, Any], Any], object], ...] = (
            (rpc_pb2_grpc.add_KVServicer_to_server, KVService(member)),
            (rpc_pb2_grpc.add_WatchServicer_to_server, WatchService(member)),
            (rpc_pb2_grpc.add_LeaseServicer_to_server, LeaseService(member)),
            (rpc_pb2_grpc.add_ClusterServicer_to_server, ClusterService(member)),
            (rpc_pb2_grpc.add_MaintenanceServicer_to_server, MaintenanceService(member)),
        )
        for add, servicer in services:
            add(servicer, registry)
        return self._group.network.listen(self.client_url, self.loop, handlers, translate)

    # What is checked as it happens.

    def _watch_over(self, running: RunningMember, disks: Disks) -> None:
        member, group = running.member, self._group
        state, wal = member.state, disks.wal
        assert wal is not None
        self.member_id = member.id
        log = group.logs.setdefault(member.id, KnownLog())
        as_disk: Any = log
        self._guarded(lambda: log.compare(self.name, wal))
        self._guarded(lambda: group.truth.check_state(self.name, state.applied, member.store.revision))
        disks.tell(log.durable)
        apply, turn_ended, install = state.apply, state.turn_ended, state.install
        send = running.lifecycle.transport.send

        def checked_apply(entries: Sequence[Entry]) -> None:
            self._guarded(lambda: self._check_commit(member))
            for entry in entries:
                self._guarded(partial(group.invariants.applied, member.id, entry, as_disk))
                self._guarded(partial(group.truth.apply, self.name, entry))
                if entry.type is not EntryType.NORMAL:
                    change = decode_entry(entry)
                    assert isinstance(change, ConfChange)
                    if change.type is ConfChangeType.REMOVE_NODE:
                        group.removals.setdefault(change.node_id, entry.index)
            apply(entries)
            last = entries[-1].index
            self._guarded(lambda: group.truth.check_state(self.name, last, member.store.revision))

        def checked_turn() -> None:
            self._guarded(lambda: self._check_turn(member))
            turn_ended()

        def checked_install(snapshot: SnapshotMetadata, done: Callable[[], None]) -> None:
            self._timeline.note(f"{self.name} installs a snapshot at {snapshot.index}")

            def installed() -> None:
                self._guarded(lambda: group.truth.check_state(self.name, snapshot.index, member.store.revision))
                done()

            install(snapshot, installed)

        def checked_send(to: int, messages: list[Message]) -> None:
            for message in messages:
                self._guarded(partial(self._check_promise, log, message))
            send(to, messages)

        settle = state.membership.settle

        def checked_settle(numbers: Iterable[int]) -> None:
            numbers = list(numbers)
            self._guarded(lambda: self._check_settled(member, numbers))
            settle(numbers)

        # No daemon is told another interval, and in five minutes a world is over.
        lessor = state.lessor
        lessor._config = replace(lessor._config, checkpoint_interval=self._checkpoint_seconds)
        # The parts call each other by these names; nothing of theirs has to know.
        state.apply = checked_apply  # type: ignore[method-assign]
        state.membership.settle = checked_settle  # type: ignore[method-assign]
        state.turn_ended = checked_turn  # type: ignore[method-assign]
        state.install = checked_install  # type: ignore[method-assign]
        running.lifecycle.transport.send = checked_send  # type: ignore[method-assign]

    def _guarded(self, check: Callable[[], None]) -> None:
        try:
            check()
        except AssertionError as error:
            self._timeline.fail(error)

    def _check_turn(self, member: Member) -> None:
        node, invariants = member.loop.node, self._group.invariants
        status = node.basic_status().hard_state
        invariants.hard_state(member.id, status)
        self._check_commit(member)
        if node.raft.state is StateType.LEADER and self._leading != status.term:
            self._leading = status.term
            self._timeline.note(f"{self.name} leads in term {status.term}")
            invariants.became_leader(member.id, node, self._quorums(member), self._logs())

    def _check_commit(self, member: Member) -> None:
        node, invariants = member.loop.node, self._group.invariants
        if node.raft.state is StateType.LEADER:
            invariants.leader_commits(node, self._quorums(member), self._logs())
        invariants.commit_index(member.id, node.raft.log.committed)

    def _logs(self) -> Any:
        # Like a MemoryStorage, as far as it is asked.
        return self._group.logs

    @staticmethod
    def _quorums(member: Member) -> list[Collection[int]]:
        voters = member.loop.node.raft.tracker.config.voters
        return [quorum for quorum in (voters.incoming, voters.outgoing) if quorum]

    def _check_settled(self, member: Member, numbers: Iterable[int]) -> None:
        """Whoever of those who stay makes a quorum, one of it has on disk that these removals are committed."""
        voters = [voter.ID for voter in member.state.membership.voters()]
        for number in numbers:
            removed_at = self._group.removals[number]
            logs = [self._group.logs.get(voter, KnownLog()) for voter in voters]
            known = sum(log.hard_state.commit >= removed_at for log in logs)
            if known + len(voters) // 2 + 1 <= len(voters):
                raise Violation(
                    f"removal: {number:x}, removed at {removed_at}, is let go when {known} of {len(voters)} know it"
                )

    def _check_promise(self, log: KnownLog, message: Message) -> None:
        if message.reject:
            return
        if message.type is MessageType.VOTE_RESP:
            self._group.invariants.voted(message.from_, message.term, message.to)
        elif message.type is MessageType.APP_RESP and message.term >= log.hard_state.term:
            # One of an earlier term may be of what a later leader's entries have replaced before both were written, in
            # one write: as if it had been on its way for that long.
            self._group.invariants.acknowledged(message.from_, log, message.index, None)  # type: ignore[arg-type]


async def _end(running: RunningMember, stop: asyncio.Event) -> None:
    """Return when the process is to end."""
    events = [asyncio.ensure_future(event.wait()) for event in (stop, running.lifecycle.removed)]
    reasons: list[asyncio.Future[Any]] = [running.failed, *events]
    await asyncio.wait(reasons, return_when=asyncio.FIRST_COMPLETED)
    for event in events:
        event.cancel()


def _no_translation(error: Exception) -> RpcError | None:
    return None
