"""What an operator asks of a member: alarms, hashes, copies, defragmentation, another leader."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from typing import Final

from kvstore import errors
from kvstore.pb import rpc_pb2 as pb
from kvstore.server.config import Config
from kvstore.server.disk import Disk
from kvstore.server.metrics import WorkTimes
from kvstore.server.proposals import Proposer
from kvstore.server.ready_loop import ReadyLoop
from kvstore.server.state import State

API_VERSION: Final = "3.6.0"
"""The level of the etcd API that is served; clients switch features on by it."""

STORAGE_VERSION: Final = "3.6.0"

MAX_COPIES: Final = 4
"""Snapshots sent to clients at once. Each is a process of some 20 MiB and keeps what it copies from being reused."""


@dataclass(slots=True)
class Maintenance:
    """Maintenance of one member."""

    config: Config
    member_id: int
    state: State
    loop: ReadyLoop
    proposer: Proposer
    header: Callable[[], pb.ResponseHeader]
    disk: Disk
    times: WorkTimes
    waiting: dict[asyncio.Event, None] = field(default_factory=dict)
    copies: int = 0

    def status(self) -> pb.StatusResponse:
        """Sizes, leader and indexes, and what is wrong."""
        state, loop = self.state, self.loop
        node = loop.node.basic_status()
        problems = [] if loop.leadership.leader else ["etcdserver: no leader"]
        problems += [f"memberID:{alarm.memberID} alarm:{pb.AlarmType.Name(alarm.alarm)} " for alarm in self.alarms()]
        member = state.membership.get(self.member_id)
        return pb.StatusResponse(
            header=self.header(),
            version=API_VERSION,
            dbSize=state.backend.size,
            leader=loop.leadership.leader,
            raftIndex=loop.committed,
            raftTerm=node.hard_state.term,
            raftAppliedIndex=loop.applied,
            errors=problems,
            dbSizeInUse=state.backend.size_in_use,
            isLearner=member is not None and member.isLearner,
            storageVersion=STORAGE_VERSION,
            dbSizeQuota=self.config.quota or 0,
            downgradeInfo=pb.DowngradeInfo(),
        )

    async def alarm(self, request: pb.AlarmRequest) -> pb.AlarmResponse:
        """List, raise or disarm alarms."""
        if request.action == pb.AlarmRequest.GET:
            alarms = [each for each in self.alarms() if request.alarm in (pb.AlarmType.NONE, each.alarm)]
            return pb.AlarmResponse(header=self.header(), alarms=alarms)
        return pb.AlarmResponse.FromString(await self.proposer.propose("alarm", request))

    def alarms(self) -> list[pb.AlarmMember]:
        """What is raised in the cluster, and what is wrong with this member's disk, which nobody else may have to know.

        Damage found here is no reason to refuse writes everywhere, which is what an alarm of the cluster would do.
        """
        alarms = self.state.alarms.raised()
        for kind, holds in ((pb.AlarmType.NOSPACE, self.disk.full), (pb.AlarmType.CORRUPT, self.disk.damaged)):
            own = pb.AlarmMember(memberID=self.member_id, alarm=kind)
            if holds and own not in alarms:
                alarms.append(own)
        return alarms

    async def hash(self) -> int:
        """A hash of the whole state at its current revision."""
        with self.times.hash.measure():
            return (await self.state.store.hash()).hash

    async def hash_kv(self, revision: int) -> pb.HashKVResponse:
        """A hash of the history between the compacted revision and `revision` (0: the current one)."""
        with self.times.hash_revision.measure():
            answer = await self.state.store.hash_kv(revision)
        answer.header.CopyFrom(self.header())
        return answer

    async def snapshot(self) -> AsyncGenerator[pb.SnapshotResponse, None]:
        """A consistent copy of the state in chunks, its SHA-256 at the end.

        Raises RequestTooManyRequests while as many are under way as may be.
        """
        if self.copies >= MAX_COPIES:
            raise errors.RequestTooManyRequests
        self.copies += 1
        try:
            with self.times.snapshot.measure():
                digest = hashlib.sha256()
                async with await self.state.backend.snapshot() as copy:
                    remaining = copy.size
                    async for chunk in copy:
                        digest.update(chunk)
                        remaining = max(0, remaining - len(chunk))
                        yield self._chunk(remaining, chunk)
                yield self._chunk(0, digest.digest())
        finally:
            self.copies -= 1

    def _chunk(self, remaining: int, blob: bytes) -> pb.SnapshotResponse:
        return pb.SnapshotResponse(header=self.header(), remaining_bytes=remaining, blob=blob, version=STORAGE_VERSION)

    async def defragment(self) -> None:
        """Rewrite the state's file without its free pages."""
        with self.times.defragment.measure():
            await self.state.backend.defragment()

    async def move_leader(self, target: int) -> None:
        """Hand leadership to a voter. Raises NotLeader, BadLeaderTransferee or RequestTimeout."""
        if not self.loop.leadership.is_leader:
            raise errors.NotLeader
        member = self.state.membership.get(target)
        if member is None or member.isLearner:
            raise errors.BadLeaderTransferee
        if target == self.member_id:
            return
        changed = asyncio.Event()
        self.waiting[changed] = None
        self.loop.call(lambda node: node.transfer_leader(target))
        try:
            async with asyncio.timeout(self.config.request_timeout):
                while self.loop.leadership.leader != target:
                    changed.clear()
                    await changed.wait()
        except TimeoutError:
            raise errors.RequestTimeout from None
        finally:
            self.waiting.pop(changed, None)

    def leadership_changed(self) -> None:
        """The leader changed: whoever waits for that looks again."""
        for changed in self.waiting:
            changed.set()
