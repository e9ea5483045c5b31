"""Starting a member: its directory, log and state are opened, its identity found, its parts made and wired."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from functools import partial
from typing import Final

import structlog

from kvstore.lease.lessor import Lessor, LessorConfig, min_ttl
from kvstore.mvcc.compaction import CompactionConfig
from kvstore.mvcc.store import TABLES as STORE_TABLES
from kvstore.mvcc.store import Store
from kvstore.mvcc.watch import WatchConfig
from kvstore.pb import rpc_pb2 as pb
from kvstore.peer.identity import Caller
from kvstore.peer.service import PeerService
from kvstore.peer.snapshot import Copy
from kvstore.peer.transport import Transport, ask, ask_members
from kvstore.peer.versions import LOWEST
from kvstore.rpc import RpcError, StatusCode
from kvstore.server.apply import Applier
from kvstore.server.bootstrap import Origin, check_owner, found_cluster, join_cluster
from kvstore.server.changes import MembershipChanges
from kvstore.server.cluster_version import VersionKeeper, check_stored
from kvstore.server.compactor import Compactor, PeriodicCompactor, RevisionCompactor
from kvstore.server.config import Config
from kvstore.server.corruption import HASH_SECONDS, CorruptionMonitor, check_before_start
from kvstore.server.disk import Disk
from kvstore.server.elsewhere import Elsewhere
from kvstore.server.leader_calls import LeaderCalls
from kvstore.server.leases import LeaseKeeper
from kvstore.server.lifecycle import Lifecycle
from kvstore.server.maintenance import Maintenance
from kvstore.server.member import Member, RequestProposer, ResponseHeaders
from kvstore.server.membership import Membership
from kvstore.server.metrics import (
    ApplyTimes,
    DiskTimes,
    MeasuredLog,
    Metrics,
    PeerTimes,
    RangeTimes,
    WatchTimes,
    WorkTimes,
)
from kvstore.server.proposals import Proposals
from kvstore.server.ready_loop import ReadyLoop
from kvstore.server.removals import Removals
from kvstore.server.state import State
from kvstore.server.surroundings import PeerServer, Surroundings
from kvstore.server.telemetry import MeasuredReads, publish
from kvstore.storage.backend import BackendOptions
from kvstore.storage.batch import TableSpec, WriteStats
from kvstore.storage.datadir import DataDirectory
from kvstore.storage.engine import EngineOptions
from kvstore.storage.errors import CorruptStore, DiskFull, WriterFailed
from kvstore.storage.meta import Identity
from kvstore.storage.wal import Wal, WalOptions
from kvstore.storage.writer import WriterEvents
from raft.config import Config as RaftConfig
from raft.rawnode import RawNode

MESSAGE_BYTES: Final = 1 << 20
"""Entries in one message to a peer: enough to be efficient, too little to stall."""

APPLY_BYTES: Final = 1 << 20
"""Entries applied before the loop looks at its connections again: some 15 ms of small puts."""

INFLIGHT_MESSAGES: Final = 512

UNCOMMITTED_BYTES: Final = 1 << 30

RESPONSE_OVERHEAD_BYTES: Final = 512 << 10
"""What a watch response may be larger than the largest request before it is sent in fragments."""

TABLES: Final = (
    *STORE_TABLES,
    TableSpec("leases"),
    TableSpec("lease_keys"),
    TableSpec("members"),
    TableSpec("removed_members"),
    TableSpec("alarms"),
)
"""Every table of the state, beside its meta table."""


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


class RunningMember:
    """A member that runs, and the server its peers talk to.

    failed: resolved with what the member could not go on after.
    """

    def __init__(self, lifecycle: Lifecycle, peer_server: PeerServer, failed: asyncio.Future[BaseException]) -> None:
        self.lifecycle = lifecycle
        self.member = lifecycle.member
        self.failed = failed
        self._peer_server = peer_server

    async def stop(self) -> None:
        """End it. Its clients are gone already."""
        await self.lifecycle.stop()
        await self._peer_server.stop(0.5)


class _Storage:
    """What a member stands on: its directory, log and state, opened."""

    def __init__(
        self,
        config: Config,
        metrics: Metrics,
        disk: Disk,
        fail: Callable[[BaseException], None],
        surroundings: Surroundings,
    ) -> None:
        times = DiskTimes(metrics)
        self.directory = DataDirectory.open(
            config.data_dir,
            config.wal_dir,
            accept=lambda meta: check_stored(meta, config.highest_protocol, config.data_dir),
        )
        try:
            engine = EngineOptions(unsafe_no_fsync=config.unsafe_no_fsync)
            keep_open = self.directory.descriptors
            self.wal = surroundings.open_log(
                self.directory.wal,
                WalOptions(engine=engine),
                _events("log", disk, fail, times.log_committed),
                keep_open,
            )
            self.backend = surroundings.open_state(
                self.directory.db,
                TABLES,
                BackendOptions(
                    flush_seconds=config.backend_batch_interval,
                    flush_operations=config.backend_batch_limit,
                    engine=EngineOptions(
                        count_free=True,
                        unsafe_no_fsync=config.unsafe_no_fsync,
                        lock_memory=config.experimental_memory_mlock,
                    ),
                ),
                _events("state", disk, fail, times.state_committed),
                keep_open,
            )
        except BaseException:
            self.directory.close()
            raise
        self.backend.on_damage = partial(_damaged, disk)

    async def close(self) -> None:
        """Flush and end everything."""
        await self.backend.close()
        await self.wal.close()
        self.directory.close()


def _events(
    name: str, disk: Disk, fail: Callable[[BaseException], None], committed: Callable[[WriteStats], None]
) -> WriterEvents:
    log = structlog.get_logger("kvstore.storage")

    def full(error: DiskFull) -> None:
        log.error("no room on the disk: refusing writes until there is", writer=name, reason=str(error))
        disk.set_full(name)

    def recovered() -> None:
        log.info("there is room on the disk again", writer=name)
        disk.set_recovered(name)

    return WriterEvents(full=full, recovered=recovered, failed=fail, committed=committed)


def _damaged(disk: Disk, error: CorruptStore) -> None:
    if disk.note_damage(str(error)):
        structlog.get_logger("kvstore.storage").error("damaged data on the disk: not served", reason=str(error))


async def start_member(config: Config, metrics: Metrics, surroundings: Surroundings | None = None) -> RunningMember:
    """Start a member and let its peers reach it; it serves clients once it is published.

    metrics: where it publishes what is to be known of it. surroundings: what it has from outside; the real things.

    Raises ConfigError or BootstrapError for flags that do not fit, StorageError for data that cannot be used, OSError
    for an address that is taken.
    """
    failed: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()

    def fail(error: BaseException) -> None:
        if not failed.done():
            failed.set_result(error)

    surroundings = surroundings or Surroundings()
    disk = Disk()
    storage = _Storage(config, metrics, disk, fail, surroundings)
    try:
        identity, origin = await _identify(config, storage, surroundings)
        await _reconciled(storage, failed)
        peer_times = PeerTimes(metrics)
        lifecycle = _assemble(config, storage, identity, origin, disk, fail, metrics, peer_times, surroundings)
        if config.initial_corrupt_check:
            await _compare_with_others(config, identity, lifecycle.member.state, surroundings)
        peer_server = await surroundings.serve_peers(config, PeerService(lifecycle, peer_times))
    except BaseException:
        await storage.close()
        raise
    for known in origin.members if origin is not None else ():
        lifecycle.transport.set_member(known.ID, known.peerURLs)
    publish(metrics, lifecycle)
    lifecycle.start()
    return RunningMember(lifecycle, peer_server, failed)


async def _identify(config: Config, storage: _Storage, surroundings: Surroundings) -> tuple[Identity, Origin | None]:
    """Who the member is, recorded on disk; and where it comes from, unless its log tells everything already."""
    known = storage.wal.identity
    if known is not None and storage.wal.last_index() > 0:
        backend = storage.backend
        check_owner(
            config, known.member_id, Membership(backend.table("members"), backend.table("removed_members")).all()
        )
        return known, None
    if config.initial_cluster_state == "new":
        if storage.backend.applied.index:
            raise CorruptStore(
                f"{storage.wal.path}: the log is empty, but the state in {storage.backend.path} is that of entry "
                f"{storage.backend.applied.index}: one of them is not from here, as when a directory is made anew "
                "while its member still runs; put the log back, or remove this member from the cluster and add it "
                "again with an empty data directory"
            )
        origin = found_cluster(config)
    else:
        origin = await join_cluster(
            config,
            partial(ask_members, versions=(LOWEST, config.highest_protocol), open_channel=surroundings.open_channel),
        )
    identity = Identity(origin.cluster_id, origin.member_id)
    storage.directory.check(identity)
    await storage.directory.record(storage, identity)
    return identity, origin


async def _compare_with_others(config: Config, identity: Identity, state: State, surroundings: Surroundings) -> None:
    urls = {member.ID: member.peerURLs for member in state.membership.all()}
    versions = state.version.spoken

    async def ask_hash(member: int, revision: int) -> pb.HashKVResponse:
        caller = Caller(identity.cluster_id, identity.member_id, member, versions)
        request = pb.HashKVRequest(revision=revision).SerializeToString()
        failure = RpcError(StatusCode.UNAVAILABLE, "it has no peer URL")
        for url in urls[member]:
            try:
                encoded = await ask(url, "HashKV", request, caller, HASH_SECONDS, surroundings.open_channel)
                return pb.HashKVResponse.FromString(encoded)
            except RpcError as error:
                failure = error
        raise failure

    # Before it has applied who belongs to the cluster it has nothing that could be compared.
    if identity.member_id in urls:
        await check_before_start(identity.member_id, urls, state.store.revision, ask_hash, state.store.hash_kv)


async def _reconciled(storage: _Storage, failed: asyncio.Future[BaseException]) -> None:
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    storage.wal.reconcile(storage.backend.applied, lambda: done.set_result(None))
    await asyncio.wait((done, failed), return_when=asyncio.FIRST_COMPLETED)
    if failed.done():
        raise failed.result()


def _assemble(
    config: Config,
    storage: _Storage,
    identity: Identity,
    origin: Origin | None,
    disk: Disk,
    fail: Callable[[BaseException], None],
    metrics: Metrics,
    peer_times: PeerTimes,
    surroundings: Surroundings,
) -> Lifecycle:
    loop, chance = asyncio.get_running_loop(), surroundings.chance
    work_times = WorkTimes(metrics)
    headers = ResponseHeaders(identity.cluster_id, identity.member_id)
    lessor = Lessor(storage.backend, LessorConfig(min_ttl=min_ttl(config.election_timeout / 1000)))
    store = Store(
        storage.backend,
        lessor,
        header=headers.encode,
        later=loop.call_later,
        compaction=CompactionConfig(config.compaction_batch_limit, config.compaction_sleep_interval),
        watch=WatchConfig(fragment_bytes=config.max_request_bytes + RESPONSE_OVERHEAD_BYTES),
    )

    def give_up(error: BaseException) -> None:
        # What is in memory may be half of what it should be. What is on disk is whole, and the log has the rest.
        fail(error)
        storage.backend.abandon(WriterFailed(f"nothing more is stored after: {error}"))

    state = State(
        config,
        identity,
        storage.backend,
        storage.wal,
        store,
        lessor,
        give_up,
        disk,
        copy_times=work_times.snapshot,
        watch_times=WatchTimes(metrics),
    )
    node = RawNode(_raft_config(config, identity, storage.wal, state.applied, chance))
    if origin is not None and origin.founders is not None:
        node.bootstrap(origin.founders)
    proposals = Proposals(identity.member_id, chance.getrandbits(62), config.request_timeout)
    reads = MeasuredReads(
        identity.member_id,
        chance.getrandbits(62),
        node.read_index,
        config.request_timeout,
        lambda: disk.full,
        times=RangeTimes(metrics, lambda: store.ranges),
    )
    parts = _Late()
    transport = Transport(
        identity.cluster_id,
        identity.member_id,
        parts,
        lambda: state.version.spoken,
        peer_times,
        surroundings.open_channel,
    )
    ready_loop = ReadyLoop(
        node=node,
        member_id=identity.member_id,
        log=MeasuredLog(storage.wal, metrics),
        peers=transport,
        machine=state,
        proposals=proposals,
        reads=reads,
        applied=state.applied,
        on_leadership=lambda leadership: parts.lifecycle.leadership_changed(leadership),
        on_failure=give_up,
        clock=surroundings.clock,
    )
    applier = Applier(
        member_id=identity.member_id,
        store=store,
        lessor=lessor,
        alarms=state.alarms,
        membership=state.membership,
        version=state.version,
        proposals=proposals,
        header=headers.encode,
        apply_conf_change=node.apply_conf_change,
        conf_state_changed=state.set_conf_state,
        now=loop.time,
        times=ApplyTimes(metrics, config.warning_apply_duration, structlog.get_logger("kvstore.apply")),
    )
    state.attach(applier)
    proposer = RequestProposer(proposals, loop, config.max_request_bytes, disk)
    proposer.wake = ready_loop.wake
    leader = LeaderCalls(lambda: ready_loop.leadership, transport, config.request_timeout)
    member: Member = Member(
        config=config,
        member_id=identity.member_id,
        cluster_id=identity.cluster_id,
        headers=headers,
        state=state,
        loop=ready_loop,
        proposer=proposer,
        reads=reads,
        elsewhere=Elsewhere(lambda: _others(identity.member_id, state, ready_loop), transport),
        leases=LeaseKeeper(
            lessor,
            proposer,
            leader,
            lambda waiter: member.confirm(waiter),
            lambda: node.basic_status().hard_state.term,
        ),
        changes=MembershipChanges(
            config,
            identity.member_id,
            ready_loop,
            proposals,
            applier,
            state.membership,
            transport,
            leader,
            loop.time,
            chance,
            Removals(identity.member_id, state.membership, proposer, ready_loop),
        ),
        maintenance=Maintenance(
            config, identity.member_id, state, ready_loop, proposer, lambda: member.header_message(), disk, work_times
        ),
        disk=disk,
        chance=chance,
    )
    parts.lifecycle = Lifecycle(
        config=config,
        member=member,
        state=state,
        transport=transport,
        proposals=proposals,
        headers=headers,
        compactor=_compactor(config),
        versions=VersionKeeper(
            identity.member_id,
            state.version,
            state.membership,
            transport,
            proposer,
            lambda: ready_loop.leadership.is_leader,
        ),
        corruption=_corruption_monitor(member, transport),
        incoming=storage.directory.incoming,
        close=storage.close,
    )
    disk.on_full = parts.lifecycle.disk_full
    return parts.lifecycle


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
