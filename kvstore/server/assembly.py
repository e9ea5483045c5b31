"""Making the parts of a member from its opened storage, and wiring them.

Knows every part's constructor and nothing of what they do. Parts need each other in circles: what is made later is
reached through a function or through _Late.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from kvstore.lease.lessor import Lessor, LessorConfig, min_ttl
from kvstore.mvcc.compaction import CompactionConfig
from kvstore.mvcc.store import Store
from kvstore.mvcc.watchers import WatchConfig
from kvstore.pb import rpc_pb2 as pb
from kvstore.peer.snapshot import Copy
from kvstore.peer.transport import Transport
from kvstore.server.apply import Applier
from kvstore.server.changes import MembershipChanges
from kvstore.server.cluster_version import VersionKeeper
from kvstore.server.compactor import Compactor, PeriodicCompactor, RevisionCompactor
from kvstore.server.config import Config
from kvstore.server.corruption import HASH_SECONDS, CorruptionMonitor
from kvstore.server.disk import Disk
from kvstore.server.elsewhere import Elsewhere
from kvstore.server.headers import ResponseHeaders
from kvstore.server.leader_calls import LeaderCalls
from kvstore.server.leases import LeaseKeeper
from kvstore.server.lifecycle import Lifecycle
from kvstore.server.maintenance import Maintenance
from kvstore.server.member import Member
from kvstore.server.member_storage import MemberStorage
from kvstore.server.metrics import ApplyTimes, MeasuredLog, Metrics, PeerTimes, RangeTimes, WatchTimes, WorkTimes
from kvstore.server.proposals import Proposals
from kvstore.server.proposer import RequestProposer
from kvstore.server.reads import ReadRounds
from kvstore.server.ready_loop import ReadyLoop
from kvstore.server.removals import Removals
from kvstore.server.retention import Retention
from kvstore.server.state import State
from kvstore.server.surroundings import Surroundings
from kvstore.storage.errors import WriterFailed
from kvstore.storage.meta import Identity
from kvstore.storage.wal import Wal
from raft.config import Config as RaftConfig
from raft.messages import Peer
from raft.rawnode import RawNode

MESSAGE_BYTES: Final = 1 << 20
"""Entries in one message to a peer: enough to be efficient, too little to stall."""

APPLY_BYTES: Final = 1 << 20
"""Entries applied before the loop looks at its connections again: some 15 ms of small puts."""

INFLIGHT_MESSAGES: Final = 512

UNCOMMITTED_BYTES: Final = 1 << 30

RESPONSE_OVERHEAD_BYTES: Final = 512 << 10
"""What a watch response may be larger than the largest request before it is sent in fragments."""


@dataclass(frozen=True, slots=True)
class Foundation:
    """What the parts of a member are made from.

    fail: called with what the member cannot go on after. metrics, peer_times: where the parts publish what they do.
    """

    config: Config
    identity: Identity
    storage: MemberStorage
    disk: Disk
    fail: Callable[[BaseException], None]
    metrics: Metrics
    peer_times: PeerTimes
    surroundings: Surroundings

    def give_up(self, error: BaseException) -> None:
        """The member cannot go on, and what is in memory may be half of what it should be.

        What is on disk is whole, and the log has the rest: nothing more is stored.
        """
        self.fail(error)
        self.storage.backend.abandon(WriterFailed(f"nothing more is stored after: {error}"))


@dataclass(frozen=True, slots=True)
class _Replication:
    """The parts that bring requests into the log and the log into the state."""

    node: RawNode
    proposals: Proposals
    reads: ReadRounds
    transport: Transport
    loop: ReadyLoop


def assemble(given: Foundation, founders: Sequence[Peer] | None) -> Lifecycle:
    """Make the parts of a member. founders: with what its log begins, if that is new and of a new cluster."""
    identity, storage = given.identity, given.storage
    late = _Late()
    work_times = WorkTimes(given.metrics)
    headers = ResponseHeaders(identity.cluster_id, identity.member_id)
    state = _state(given, headers, work_times)
    replication = _replication(given, state, founders, late)
    applier = _applier(given, state, replication, headers)
    state.attach(applier, Retention(replication.node, replication.transport.copies))
    member = _member(given, state, replication, applier, headers, work_times)
    late.lifecycle = lifecycle = Lifecycle(
        config=given.config,
        member=member,
        state=state,
        transport=replication.transport,
        proposals=replication.proposals,
        headers=headers,
        compactor=_compactor(given.config),
        versions=VersionKeeper(
            identity.member_id,
            state.version,
            state.membership,
            replication.transport,
            member.proposer,
            lambda: replication.loop.leadership.is_leader,
        ),
        corruption=_corruption_monitor(member, replication.transport),
        incoming=storage.directory.incoming,
        close=storage.close,
    )
    given.disk.on_full = lifecycle.disk_full
    return lifecycle


def _state(given: Foundation, headers: ResponseHeaders, work_times: WorkTimes) -> State:
    config, backend = given.config, given.storage.backend
    lessor = Lessor(backend, LessorConfig(min_ttl=min_ttl(config.election_timeout / 1000)))
    store = Store(
        backend,
        lessor,
        header=headers.encode,
        later=asyncio.get_running_loop().call_later,
        compaction=CompactionConfig(config.compaction_batch_limit, config.compaction_sleep_interval),
        watch=WatchConfig(fragment_bytes=config.max_request_bytes + RESPONSE_OVERHEAD_BYTES),
    )
    return State(
        config,
        given.identity,
        backend,
        given.storage.wal,
        store,
        lessor,
        given.give_up,
        given.disk,
        copy_times=work_times.snapshot,
        watch_times=WatchTimes(given.metrics),
    )


def _replication(given: Foundation, state: State, founders: Sequence[Peer] | None, late: _Late) -> _Replication:
    config, identity, disk = given.config, given.identity, given.disk
    chance, store = given.surroundings.chance, state.store
    node = RawNode(_raft_config(config, identity, given.storage.wal, state.applied, chance))
    if founders is not None:
        node.bootstrap(founders)
    proposals = Proposals(identity.member_id, chance.getrandbits(62), config.request_timeout)
    reads = ReadRounds(
        identity.member_id,
        chance.getrandbits(62),
        node.read_index,
        config.request_timeout,
        lambda: disk.full,
        measure=RangeTimes(given.metrics, lambda: store.ranges).measure,
    )
    transport = Transport(
        identity.cluster_id,
        identity.member_id,
        late,
        lambda: state.version.spoken,
        given.peer_times,
        given.surroundings.open_channel,
        lambda: _own_urls(config, state.membership.get(identity.member_id)),
    )
    loop = ReadyLoop(
        node=node,
        member_id=identity.member_id,
        log=MeasuredLog(given.storage.wal, given.metrics),
        peers=transport,
        machine=state,
        proposals=proposals,
        reads=reads,
        applied=state.applied,
        on_leadership=lambda leadership: late.lifecycle.leadership_changed(leadership),
        on_failure=given.give_up,
        clock=given.surroundings.clock,
    )
    return _Replication(node, proposals, reads, transport, loop)


def _applier(given: Foundation, state: State, replication: _Replication, headers: ResponseHeaders) -> Applier:
    log = structlog.get_logger("kvstore.apply")
    return Applier(
        member_id=given.identity.member_id,
        store=state.store,
        lessor=state.lessor,
        alarms=state.alarms,
        membership=state.membership,
        version=state.version,
        proposals=replication.proposals,
        headers=headers,
        apply_conf_change=replication.node.apply_conf_change,
        conf_state_changed=state.set_conf_state,
        now=asyncio.get_running_loop().time,
        times=ApplyTimes(given.metrics, given.config.warning_apply_duration, log),
    )


def _member(
    given: Foundation,
    state: State,
    replication: _Replication,
    applier: Applier,
    headers: ResponseHeaders,
    work_times: WorkTimes,
) -> Member:
    config, own, chance = given.config, given.identity.member_id, given.surroundings.chance
    loop = asyncio.get_running_loop()
    node, transport, ready_loop = replication.node, replication.transport, replication.loop
    proposer = RequestProposer(replication.proposals, loop, config.max_request_bytes, given.disk)
    proposer.wake = ready_loop.wake
    leader = LeaderCalls(lambda: ready_loop.leadership, transport, config.request_timeout)
    member: Member = Member(
        config=config,
        member_id=own,
        cluster_id=given.identity.cluster_id,
        headers=headers,
        state=state,
        loop=ready_loop,
        proposer=proposer,
        reads=replication.reads,
        elsewhere=Elsewhere(lambda: _others(own, state, ready_loop), transport),
        leases=LeaseKeeper(
            state.lessor,
            proposer,
            leader,
            lambda waiter: member.confirm(waiter),
            lambda: node.basic_status().hard_state.term,
        ),
        changes=MembershipChanges(
            config,
            own,
            ready_loop,
            replication.proposals,
            applier,
            state.membership,
            transport,
            leader,
            loop.time,
            chance,
            Removals(own, state.membership, proposer, ready_loop),
        ),
        maintenance=Maintenance(
            config, own, state, ready_loop, proposer, lambda: member.header_message(), given.disk, work_times
        ),
        disk=given.disk,
        chance=chance,
    )
    return member


def _corruption_monitor(member: Member, transport: Transport) -> CorruptionMonitor:
    state = member.state

    async def ask_hash(number: int, revision: int) -> pb.HashKVResponse:
        if number == member.id:
            return await member.hash_kv(revision)
        request = pb.HashKVRequest(revision=revision).SerializeToString()
        return pb.HashKVResponse.FromString(await transport.call(number, "HashKV", request, HASH_SECONDS))

    return CorruptionMonitor(
        member.id,
        member.config.corrupt_check_time,
        is_leader=lambda: member.is_leader,
        members=lambda: [each.ID for each in state.membership.all()],
        revision=lambda: state.store.revision,
        ask=ask_hash,
        alarms=state.alarms,
        proposer=member.proposer,
    )


def _others(own: int, state: State, loop: ReadyLoop) -> list[int]:
    """The other voters, the leader first: it has what is committed."""
    others = [voter.ID for voter in state.membership.voters() if own != voter.ID]
    return sorted(others, key=lambda member: member != loop.leadership.leader)


def _own_urls(config: Config, known: pb.Member | None) -> Sequence[str]:
    return tuple(known.peerURLs) if known is not None else tuple(map(str, config.initial_advertise_peer_urls))


class _Late:
    """Stands for the lifecycle where parts need it that are made before it."""

    lifecycle: Lifecycle

    def report_unreachable(self, member: int) -> None:
        self.lifecycle.report_unreachable(member)

    def report_snapshot(self, member: int, ok: bool) -> None:
        self.lifecycle.report_snapshot(member, ok)

    def report_removed(self) -> None:
        self.lifecycle.report_removed()

    async def copy_state(self) -> Copy:
        return await self.lifecycle.copy_state()


def _raft_config(config: Config, identity: Identity, wal: Wal, applied: int, chance: random.Random) -> RaftConfig:
    return RaftConfig(
        id=identity.member_id,
        election_tick=config.election_ticks,
        heartbeat_tick=1,
        storage=wal,
        applied=applied,
        async_storage_writes=True,
        max_size_per_msg=MESSAGE_BYTES,
        max_committed_size_per_ready=APPLY_BYTES,
        max_uncommitted_entries_size=UNCOMMITTED_BYTES,
        max_inflight_msgs=INFLIGHT_MESSAGES,
        check_quorum=True,
        pre_vote=config.pre_vote,
        logger=_RaftLogger(),
        random_source=chance,
    )


def _compactor(config: Config) -> Compactor | None:
    if not config.auto_compaction_retention:
        return None
    if config.auto_compaction_mode == "revision":
        return RevisionCompactor(int(config.auto_compaction_retention))
    return PeriodicCompactor(config.auto_compaction_retention)


class _RaftLogger:
    """Raft's own log lines, as this server's."""

    def __init__(self) -> None:
        log = structlog.get_logger("raft")
        self.debug: Callable[[str], None] = log.debug
        self._info: Callable[[str], None] = log.info
        self.warning: Callable[[str], None] = log.warning
        self.error: Callable[[str], None] = log.error

    def info(self, message: str) -> None:
        """What changes a role, a term or the configuration."""
        # With writes under way an entry is often reported stable twice; raft says so each time.
        if not message.startswith("entry at "):
            self._info(message)
