"""Starting a member: its directory, log and state are opened, its identity found, its parts made, its peers served."""

from __future__ import annotations

import asyncio
from functools import partial

from kvstore.pb import rpc_pb2 as pb
from kvstore.peer.identity import Caller
from kvstore.peer.service import PeerService
from kvstore.peer.transport import ask, ask_members
from kvstore.peer.versions import LOWEST
from kvstore.rpc import RpcError, StatusCode
from kvstore.server.assembly import Foundation, assemble
from kvstore.server.bootstrap import Origin, check_owner, found_cluster, join_cluster
from kvstore.server.config import Config
from kvstore.server.corruption import HASH_SECONDS, check_before_start
from kvstore.server.disk import Disk
from kvstore.server.lifecycle import Lifecycle
from kvstore.server.member_storage import MemberStorage
from kvstore.server.membership import Membership
from kvstore.server.metrics import Metrics, PeerTimes
from kvstore.server.state import State
from kvstore.server.surroundings import PeerServer, Surroundings
from kvstore.server.telemetry import publish
from kvstore.storage.errors import CorruptStore
from kvstore.storage.meta import Identity


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
    storage = await MemberStorage.open(config, metrics, disk, fail, surroundings)
    try:
        # Neither log nor state is changed by the word of one that is not sound.
        await storage.looked_at()
        identity, origin = await _identify(config, storage, surroundings)
        await _reconciled(storage, failed)
        peer_times = PeerTimes(metrics)
        lifecycle = assemble(
            Foundation(config, identity, storage, disk, fail, metrics, peer_times, surroundings),
            founders=origin.founders if origin is not None else None,
        )
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


async def _identify(
    config: Config, storage: MemberStorage, surroundings: Surroundings
) -> tuple[Identity, Origin | None]:
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


async def _reconciled(storage: MemberStorage, failed: asyncio.Future[BaseException]) -> None:
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    storage.wal.reconcile(storage.backend.applied, lambda: done.set_result(None))
    await asyncio.wait((done, failed), return_when=asyncio.FIRST_COMPLETED)
    if failed.done():
        raise failed.result()
