"""A member's life: its clock, its name in the cluster, its connections to the others, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final

import structlog

from kvstore import errors
from kvstore.pb import internal_pb2
from kvstore.pb import rpc_pb2 as pb
from kvstore.peer.snapshot import Copy, ReceivedSnapshot
from kvstore.peer.transport import Transport
from kvstore.peer.versions import Versions
from kvstore.rpc import Promise
from kvstore.server.cluster_version import VersionKeeper
from kvstore.server.compactor import Compactor
from kvstore.server.config import Config
from kvstore.server.corruption import CorruptionMonitor
from kvstore.server.headers import ResponseHeaders
from kvstore.server.member import Member
from kvstore.server.proposals import Proposals
from kvstore.server.ready_loop import Leadership
from kvstore.server.scrub import Scrubber
from kvstore.server.state import State
from kvstore.server.watching import WatchKeeper
from raft.errors import StepPeerNotFound
from raft.messages import Message, MessageType, StateType
from raft.rawnode import RawNode

PUBLISH_RETRY_SECONDS: Final = 0.5

FULL_DISK_SECONDS: Final = 1.0
"""How long a write that is under way may take while the disk is full; new ones are refused at once."""

STEP_ASIDE_SECONDS: Final = 1.0
MAX_STEP_ASIDE_SECONDS: Final = 30.0
"""Between two tries of a leader whose disk is full to hand the lead on, each time twice as long."""

MAX_STRANGERS: Final = 32
"""Callers that this member answers although it does not know that they were added."""

_ENTRIES: Final = frozenset({MessageType.APP, MessageType.PROP})
"""Messages that bring what is to be applied."""

STOP_SECONDS: Final = 3.0
"""How long a member that stops waits for another to take over leadership."""


class Lifecycle:
    """Runs one member; serves its peers as their host and owns its transport.

    incoming: where copies of the state from peers are stored. close: ends what the member stands on (writers, files),
    in the right order.
    """

    def __init__(
        self,
        *,
        config: Config,
        member: Member,
        state: State,
        transport: Transport,
        proposals: Proposals,
        headers: ResponseHeaders,
        compactor: Compactor | None,
        versions: VersionKeeper,
        corruption: CorruptionMonitor,
        incoming: Path,
        close: Callable[[], Awaitable[None]],
    ) -> None:
        self.member = member
        self.id = member.id
        self.cluster_id = member.cluster_id
        self.transport = transport
        self._config = config
        self._state = state
        self.proposals = proposals
        self._headers = headers
        self._compactor = compactor
        self._versions = versions
        self._corruption = corruption
        self._scrubber = Scrubber(state.backend.look)
        self.snapshot_directory = incoming
        self._close = close
        self._loop = asyncio.get_running_loop()
        self._watches = WatchKeeper(state.store.watches, config.watch_progress_notify_interval)
        self._tick_seconds = config.heartbeat_interval / 1000
        self._timers: list[asyncio.TimerHandle] = []
        self._tick_timer: asyncio.TimerHandle | None = None
        self._compact_timer: asyncio.TimerHandle | None = None
        self._leaderless_since: float | None = self._loop.time()
        self._reported_lost = False
        self._stepping_aside = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = False
        self._leaving = False
        # Callers that say to be members of this cluster, which this one has not learned of yet.
        self._strangers: set[int] = set()
        self._log = structlog.get_logger("kvstore.member")
        self.leader_changes = 0
        self.late_heartbeats = 0
        self._last_tick: float | None = None
        self.removed = asyncio.Event()

    # Start

    def start(self) -> None:
        """Begin to tick, to reach the others, and to tell them who this is."""
        for known in self._state.membership.all():
            self.transport.set_member(known.ID, known.peerURLs)
        self._state.membership.on_change = self._member_changed
        if self._state.membership.is_removed(self.id):
            self._leave()
        if self._config.initial_election_tick_advance:
            # Most of the first election timeout need not be waited for: pre-vote keeps a running cluster undisturbed.
            for _ in range(self._config.election_ticks - 2):
                self.member.loop.tick()
        self._campaign_if_alone()
        self._tick_timer = self._loop.call_later(self._tick_seconds, self._tick)
        self.member.leases.start()
        self._watches.start()
        self._corruption.start()
        self._scrubber.start()
        if self._compactor is not None:
            self._compact_timer = self._loop.call_later(self._compactor.interval, self._compact)
        self.member.loop.wake()

    async def publish(self) -> None:
        """Tell the cluster this member's name and where clients reach it; return once it knows."""
        attributes = internal_pb2.MemberAttributes(
            member_id=self.id,
            name=self._config.name,
            client_urls=[str(url) for url in self._config.advertise_client_urls],
        )
        while True:
            try:
                await self.member.proposer.propose("member_attributes", attributes)
                return
            except errors.Stopped:
                raise
            except errors.KvstoreError as error:
                self._log.warning("could not publish this member's name yet", reason=type(error).__name__)
                await asyncio.sleep(PUBLISH_RETRY_SECONDS)

    # A full disk

    def disk_full(self) -> None:
        """This member cannot write its log. As the leader it hands on what it cannot do; reads go on."""
        if not self._stepping_aside and not self._stopping:
            self._stepping_aside = True
            task = self._loop.create_task(self._step_aside())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _step_aside(self) -> None:
        """Lead no more while the disk is full, if somebody else can."""
        pause = STEP_ASIDE_SECONDS
        while self.member.disk.full:
            if self.member.is_leader:
                with contextlib.suppress(errors.KvstoreError, TimeoutError):
                    await self._hand_on_to_who_can_write(pause)
            await asyncio.sleep(pause)
            pause = min(2 * pause, MAX_STEP_ASIDE_SECONDS)
        self._stepping_aside = False

    async def _hand_on_to_who_can_write(self, seconds: float) -> None:
        """Hand leadership to a member that has just stored an entry, as has a quorum.

        An election is a write on most of the disks. Where they are all full it would be without end, and no leader
        means no reads.
        """
        loop = self.member.loop
        written = 0

        def write(node: RawNode) -> None:
            nonlocal written
            node.propose(b"")
            written = node.raft.log.last_index()

        loop.call(write)
        until = self._loop.time() + seconds
        while self.member.is_leader and self._loop.time() < until:
            await asyncio.sleep(self._tick_seconds)
            if written and loop.committed >= written:
                progress = loop.node.status().progress
                voters = [voter.ID for voter in self._state.membership.voters() if self.id != voter.ID]
                ready = [number for number in voters if number in progress and progress[number].match >= written]
                if ready:
                    self._log.info("the disk is full: handing leadership on", to=f"{ready[0]:x}")
                    async with asyncio.timeout(STOP_SECONDS):
                        await self.member.move_leader(ready[0])
                return

    # The end

    async def stop(self) -> None:
        """Hand leadership on, finish what is proposed, and end. Clients are gone already."""
        if self._stopping:
            return
        self._stopping = True
        if not self.removed.is_set():
            with contextlib.suppress(errors.KvstoreError, TimeoutError):
                await self._hand_over()
        self.member.proposer.stopped = True
        for timer in (self._tick_timer, self._compact_timer):
            if timer is not None:
                timer.cancel()
        self.member.leases.stop()
        self._watches.stop()
        await self._corruption.stop()
        await self._scrubber.stop()
        self.proposals.fail_all(errors.Stopped())
        self.member.reads.fail_all(errors.Stopped())
        await self.transport.close()
        self.member.loop.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.member.stop()
        await self._close()

    async def _hand_over(self, attempt: int = 0) -> None:
        """Hand the lead on, if it is held; attempt: how often it has failed, for each time another one is chosen."""
        if not self.member.is_leader:
            return
        since = {
            voter.ID: self.transport.active_since(voter.ID)
            for voter in self._state.membership.voters()
            if self.id != voter.ID
        }
        # Whoever has been connected longest is the most likely to be in sync.
        connected = sorted((since_, number) for number, since_ in since.items() if since_ is not None)
        if not connected:
            return
        target = connected[attempt % len(connected)][1]
        self._log.info("handing leadership on", to=f"{target:x}")
        async with asyncio.timeout(STOP_SECONDS):
            await self.member.move_leader(target)

    def _leave(self) -> None:
        """This member has been removed. It stays, as a voter that others may need, until one of them turns it away."""
        if not self._leaving:
            self._leaving = True
            self._log.warning("this member is being removed from the cluster; it stays until the others are ready")
            task = self._loop.create_task(self._lead_no_more())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _lead_no_more(self) -> None:
        """Hand the lead on to one of those who stay: a removed leader can append nothing."""
        for attempt in itertools.count():
            with contextlib.suppress(errors.KvstoreError, TimeoutError):
                await self._hand_over(attempt)
            await asyncio.sleep(self._tick_seconds)

    # Time

    def _tick(self) -> None:
        self._tick_timer = self._loop.call_later(self._tick_seconds, self._tick)
        now = self._loop.time()
        self._check_heartbeats(now)
        error: errors.KvstoreError = errors.RequestTimeout()
        if self._leaderless_since is not None:
            error = errors.TimeoutDueToLeaderFail()
            if not self._reported_lost and now - self._leaderless_since > self._config.election_timeout / 1000:
                self._reported_lost = True
                self.member.leader_lost()
            self._campaign_if_alone()
        self.proposals.expire(now, error)
        if self.member.disk.full:
            # Nothing more is applied here until there is room, which may be in a day.
            self.proposals.expire(now + self._config.request_timeout - FULL_DISK_SECONDS, error)
        self._versions.tick()
        self.member.changes.removals.look()
        if self._leaving:
            self.transport.knock()
        self.member.loop.tick()

    def _campaign_if_alone(self) -> None:
        if [voter.ID for voter in self._state.membership.voters()] == [self.id]:
            # There is nobody to wait for; but a campaign that waits for a slow disk must not be begun anew.
            self.member.loop.call(_campaign_once)

    def _check_heartbeats(self, now: float) -> None:
        # A tick of the leader is a heartbeat to each of the others, who count on it.
        last, self._last_tick = self._last_tick, now
        others = len(self.transport.stats())
        if last is None or not others or not self.member.is_leader or now - last <= 2 * self._tick_seconds:
            return
        self.late_heartbeats += others
        self._log.warning("sent heartbeats too late", seconds=round(now - last, 3), expected=self._tick_seconds)

    def _compact(self) -> None:
        compactor = self._compactor
        if compactor is None:
            return
        self._compact_timer = self._loop.call_later(compactor.interval, self._compact)
        store = self._state.store
        revision = compactor.due(self._loop.time(), store.revision, self.member.is_leader)
        if revision is None or revision <= store.compact_revision:
            return

        def compacted(answer: Promise[bytes]) -> None:
            error = answer.exception()
            if error is None:
                self._log.info("compacted automatically", revision=revision)
            else:
                self._log.warning("could not compact automatically", revision=revision, reason=type(error).__name__)

        self.member.proposer.propose("compaction", pb.CompactionRequest(revision=revision)).then(compacted)

    # What the Ready loop tells.

    def leadership_changed(self, leadership: Leadership) -> None:
        """The leader or the own role changed."""
        self._headers.set_term(self.member.loop.node.basic_status().hard_state.term)
        if leadership.leader:
            if self._leaderless_since is not None:
                self.leader_changes += 1
            self._leaderless_since, self._reported_lost = None, False
        else:
            self._leaderless_since = self._loop.time()
        self.member.maintenance.leadership_changed()
        self.member.changes.leader.leadership_changed()
        self.member.leases.leadership_changed(leadership.is_leader, self._config.election_timeout / 1000)
        self._log.info("leadership changed", leader=f"{leadership.leader:x}", is_leader=leadership.is_leader)

    def _member_changed(self, number: int) -> None:
        self._strangers.discard(number)
        known = self._state.membership.get(number)
        if known is not None:
            self.transport.set_member(number, known.peerURLs)
        elif number == self.id:
            self._leave()
        else:
            # The one that is removed may still be needed. A copy of the state may tell of a removal when it is settled.
            self._loop.call_later(2 * self._config.election_timeout / 1000, self._forget_member, number)
        self.member.changes.removals.look()

    def _forget_member(self, number: int) -> None:
        if not self._stopping and self._state.membership.get(number) is None:
            self.transport.remove_member(number)

    # What peers send (PeerHost).

    @property
    def spoken(self) -> Versions:
        """What this member speaks; the lowest is what the cluster has agreed on."""
        return self._state.version.spoken

    def speaks(self, member: int, versions: Versions, urls: Sequence[str]) -> None:
        """A member has begun to send messages, and says what it speaks and where it is reached."""
        self._versions.speaks(member, versions)
        membership = self._state.membership
        if not urls or membership.get(member) is not None or membership.is_removed(member):
            return
        # It was added while this one was away. If it leads, this one learns of it only if it can be answered.
        if member in self._strangers or len(self._strangers) < MAX_STRANGERS:
            self._strangers.add(member)
            self.transport.set_member(member, urls)

    def is_removed(self, member: int) -> bool:
        """Whether a member was removed from the cluster, and nobody needs it any more."""
        return self._state.membership.is_settled(member)

    @property
    def has_room(self) -> bool:
        """Whether there is room on the disk, as far as is known."""
        return not self.member.disk.full

    def receive(self, messages: Sequence[Message]) -> None:
        """Take raft messages."""
        if self.member.disk.full:
            # Who can write nothing must not be made the leader. The one that wants to be rid of it keeps it.
            messages = [message for message in messages if message.type is not MessageType.TIMEOUT_NOW]
            if self._state.holds_too_much:
                # The log may have room that the state has not. To be behind is as if it had none, either.
                messages = [message for message in messages if message.type not in _ENTRIES or not message.entries]
        if self.transport.pausing:
            for message in messages:
                if message.type is MessageType.APP_RESP and not message.reject:
                    self.transport.has_stored(message.from_)
        self.member.loop.receive(messages)

    def receive_snapshot(self, received: ReceivedSnapshot) -> None:
        """Take a copy of the state."""
        snapshot = received.message.snapshot
        if snapshot is None:
            raise AssertionError("a snapshot without metadata")
        self._state.discard_incoming()
        self._state.expect(snapshot.metadata, received.path)
        self.member.loop.receive((received.message,))

    @property
    def applied(self) -> int:
        """For the peer service: the newest entry applied."""
        return self.member.loop.applied

    def members(self) -> list[pb.Member]:
        """Everybody in the cluster."""
        return self._state.membership.all()

    def heard_from(self, member: int, received_bytes: int) -> None:
        """A member is alive."""
        self.transport.heard_from(member, received_bytes)

    async def answer_lease_keep_alive(self, lease_id: int) -> pb.LeaseKeepAliveResponse:
        """Renew a lease as the leader."""
        return pb.LeaseKeepAliveResponse(ID=lease_id, TTL=await self.member.leases.renew_here(lease_id))

    async def answer_lease_time_to_live(self, request: pb.LeaseTimeToLiveRequest) -> pb.LeaseTimeToLiveResponse:
        """Say what is left of a lease as the leader."""
        await self.member.linearizable()
        return pb.LeaseTimeToLiveResponse.FromString(self.member.leases.time_to_live_here(request))

    async def answer_member_promote(self, number: int) -> list[pb.Member]:
        """Promote a learner as the leader."""
        return await self.member.changes.promote_here(number)

    async def answer_range(self, request: pb.RangeRequest) -> bytes:
        """Read keys from what is here."""
        return await self.member.range_here(request)

    async def answer_txn(self, request: pb.TxnRequest) -> bytes:
        """Carry out a transaction that only reads, on what is here."""
        return await self.member.txn_here(request)

    async def hash_kv(self, revision: int) -> pb.HashKVResponse:
        """Hash the history up to a revision."""
        return await self.member.hash_kv(revision)

    # What the transport reports (TransportOwner).

    def report_unreachable(self, member: int) -> None:
        """Messages to a member were lost."""
        with contextlib.suppress(StepPeerNotFound):
            self.member.loop.call(lambda node: node.report_unreachable(member))

    def report_snapshot(self, member: int, ok: bool) -> None:
        """A copy of the state arrived, or did not."""
        self.member.loop.call(lambda node: node.report_snapshot(member, ok))

    def report_removed(self) -> None:
        """Another member says that this one was removed, and that the others can do without it."""
        if not self.removed.is_set():
            self._log.warning("this member has been removed from the cluster; it stops")
            self.removed.set()
            self.member.changes.removals.told()

    async def copy_state(self) -> Copy:
        """A consistent copy of the state, made now."""
        return await self._state.copy()


def _campaign_once(node: RawNode) -> None:
    if node.basic_status().soft_state.raft_state is StateType.FOLLOWER:
        node.campaign()
