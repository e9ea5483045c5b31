"""Whether members hold the same: the leader compares all of them from time to time, one that starts itself with them.

Hashes of history say something of each other only if they are of the same revisions: up to the same one, and compacted
at the same one. Members compact when they apply the log, each at its own time, so those that cannot be compared now are
no finding. Of hashes that differ, the one that most members of the cluster have is taken for right; if none has that
many, something is wrong, and nobody can say with whom.

Knows how hashes are compared and what follows from it; not how they are made, nor how members are asked.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import structlog

from kvstore import errors
from kvstore.pb import rpc_pb2 as pb
from kvstore.rpc import RpcError
from kvstore.server.alarms import Alarms
from kvstore.server.bootstrap import BootstrapError
from kvstore.server.proposals import Proposer
from kvstore.storage.errors import StorageError

ATTEMPTS: Final = 5
"""How often members are asked when hashes differ and it cannot be told whose is right."""

RETRY_SECONDS: Final = 1.0
"""Between two of these attempts: a member that lags may have come level then, and decide."""

NOBODY: Final = 0
"""The member that an alarm is raised for when it cannot be told which one it is about, as etcd does."""

AskHash = Callable[[int, int], Awaitable[pb.HashKVResponse]]
"""Asks a member for the hash of its history up to a revision. Raises KvstoreError, RpcError or StorageError."""

HASH_SECONDS: Final = 60.0
"""How long a member may take for it: some 2 us for each revision that it keeps, in a process of its own."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """What hashes say of members.

    compared: how many members had a hash that could be compared with another's. differing: those that hold something
    else than most members. undecided: hashes differ, and none is that of most members.
    """

    compared: int
    differing: frozenset[int]
    undecided: bool

    @property
    def alike(self) -> bool:
        """Whether nothing was found."""
        return not self.differing and not self.undecided


def compare(hashes: Mapping[int, pb.HashKVResponse], members: int) -> Comparison:
    """Compare hashes up to one revision, by member, in a cluster of so many members."""
    by_compaction: defaultdict[int, defaultdict[int, set[int]]] = defaultdict(lambda: defaultdict(set))
    for member, answer in hashes.items():
        by_compaction[answer.compact_revision][answer.hash].add(member)
    compared, differing, undecided = 0, frozenset[int](), False
    for holders in by_compaction.values():
        comparable = frozenset[int]().union(*holders.values())
        if len(comparable) > 1:
            compared += len(comparable)
        if len(holders) == 1:
            continue
        most = max(holders.values(), key=len)
        if len(most) > members // 2:
            differing |= comparable - most
        else:
            undecided = True
    return Comparison(compared, differing, undecided)


async def hashes_of(members: Iterable[int], revision: int, ask: AskHash) -> dict[int, pb.HashKVResponse]:
    """The hashes of those members that give one; why another does not is logged."""
    log = structlog.get_logger("kvstore.corruption")

    async def one(member: int) -> tuple[int, pb.HashKVResponse | None]:
        try:
            return member, await ask(member, revision)
        except (errors.KvstoreError, RpcError, StorageError) as error:
            # It is behind, has compacted further, or cannot be reached: no reason to suspect it.
            reason = str(error) or type(error).__name__
            log.info("a member cannot be compared now", member=f"{member:x}", revision=revision, reason=reason)
            return member, None

    answers = await asyncio.gather(*map(one, members))
    return {member: answer for member, answer in answers if answer is not None}


async def check_before_start(
    own: int,
    members: Collection[int],
    revision: int,
    ask: AskHash,
    hash_here: Callable[[int], Awaitable[pb.HashKVResponse]],
) -> None:
    """Compare a member's data with the others' before it takes part.

    hash_here: its own hash up to a revision. Raises BootstrapError if it differs: from most members, or from any while
    it cannot be told who is right. If others differ from it and most members, it is they who have to be replaced, and
    this one is needed. Raises StorageError if its data cannot be read.
    """
    log = structlog.get_logger("kvstore.corruption")
    hashes = await hashes_of((member for member in members if member != own), revision, ask)
    hashes[own] = await hash_here(revision)
    found = compare(hashes, len(members))
    if own in found.differing or found.undecided:
        others = ", ".join(f"{member:x}" for member in sorted(hashes) if member != own)
        raise BootstrapError(
            f"the data of this member ({own:x}) is not that of the others ({others}) up to revision {revision}, so it "
            "does not start; find the member that differs from the rest with kvctl endpoint hashkv, remove it, and add "
            "it again with an empty directory"
        )
    if found.differing:
        names = ", ".join(f"{member:x}" for member in sorted(found.differing))
        log.error("the data of other members differs", members=names, revision=revision)
    log.info("compared the data with other members", revision=revision, compared=max(0, found.compared - 1))


class CorruptionMonitor:
    """Compares all members every `interval` seconds while this one leads, and raises the alarm CORRUPT; 0: never.

    own: this member. members: everybody in the cluster, this one too. revision: the store's. ask: of any of them.
    """

    def __init__(
        self,
        own: int,
        interval: float,
        *,
        is_leader: Callable[[], bool],
        members: Callable[[], Collection[int]],
        revision: Callable[[], int],
        ask: AskHash,
        alarms: Alarms,
        proposer: Proposer,
    ) -> None:
        self._own = own
        self._interval = interval
        self._is_leader = is_leader
        self._members = members
        self._revision = revision
        self._ask = ask
        self._alarms = alarms
        self._proposer = proposer
        self._task: asyncio.Task[None] | None = None
        self._log = structlog.get_logger("kvstore.corruption")

    def start(self) -> None:
        """Begin, if there is an interval."""
        if self._interval:
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """End; a comparison under way is given up."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._interval)
            if self._is_leader():
                await self.check()

    async def check(self) -> None:
        """Compare once, and raise alarms for what is found."""
        found = await self._compare()
        for _ in range(ATTEMPTS - 1):
            if not found.undecided:
                break
            await asyncio.sleep(RETRY_SECONDS)
            found = await self._compare()
        if found.alike:
            self._log.info("members hold the same", compared=found.compared)
            return
        for member in sorted(found.differing | ({NOBODY} if found.undecided else frozenset())):
            await self._raise_alarm(member)

    async def _compare(self) -> Comparison:
        members, revision = self._members(), self._revision()
        # Its own first: meanwhile the others apply what they have not applied yet.
        hashes = await hashes_of((self._own,), revision, self._ask)
        hashes |= await hashes_of((member for member in members if member != self._own), revision, self._ask)
        return compare(hashes, len(members))

    async def _raise_alarm(self, member: int) -> None:
        if any(alarm.memberID == member for alarm in self._alarms.raised(pb.AlarmType.CORRUPT)):
            return
        self._log.error("the data of members differs", member=f"{member:x}" if member else "nobody knows whose")
        request = pb.AlarmRequest(action=pb.AlarmRequest.ACTIVATE, memberID=member, alarm=pb.AlarmType.CORRUPT)
        try:
            await self._proposer.propose("alarm", request)
        except errors.KvstoreError as error:
            # The next comparison finds the same again.
            self._log.warning("could not raise an alarm", reason=type(error).__name__)
