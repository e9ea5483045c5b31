"""No space left: at all members, at a majority, at one follower, at the leader. What docs/operations.md says must hold.

Who has no room refuses writes with NOSPACE, says so among its alarms, and cannot store what the others still write.
Reads go on all the time at every member, both kinds. Once there is room all is as before, without anybody's doing.

A member knows nothing of a full disk while what it stores fits into pages of its files that compactions have freed. So
what is written here stays until the case is over, each time under a key of its own: once that is more than the file of
the member's state holds, the file must have grown, however slowly it was written.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Self

import grpc

from kvstore.pb.rpc_pb2 import (
    AlarmRequest,
    AlarmType,
    DefragmentRequest,
    DeleteRangeRequest,
    PutRequest,
    RangeRequest,
    RequestOp,
    TxnRequest,
)
from tests.chaos.arena import Arena
from tests.chaos.nemesis import Nemesis, describe
from tests.chaos.verdict import compare_hashes
from tests.cluster.harness import Member, wait_until

NO_SPACE = (grpc.StatusCode.RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded")
TIMED_OUT = "etcdserver: request timed out"
"""How the texts begin that a write comes to which was under way when the disk was full, or the leader changed."""

NOTICED_SECONDS = 30.0
"""How long writes may still be taken once what was written cannot fit into the file any more."""

REFUSED_SECONDS = 8.0
ROUND_SECONDS = 0.1
"""Between two rounds of writes through all members while a disk is full: all that they leave has to be stored, and read
by watches, on a busy machine, too."""

CALL_SECONDS = 10.0
READ_SECONDS = 5.0
"""How long a read may take: the leader may just have handed the lead on, and a member that cannot serve it asks the
others, up to 1.5 s each."""

READ_INTERVAL = 0.05
RECOVERED_SECONDS = 30.0
DEFRAGMENTED_SECONDS = 60.0
KEY = b"disk"
FILLERS = (b"filler/", b"filler0")
FILLER_BYTES = 256 << 10


def disk_full(nemesis: Nemesis) -> None:
    """One after the other.

    First that in which nobody has room, while all members have as few freed pages: one that had many more than the
    others would come to timeouts instead, for a majority has to store what it takes.
    """
    cluster = nemesis.cluster
    nemesis.pass_time(2.0)
    cases: Sequence[tuple[str, Callable[[], list[Member]]]] = (
        ("every member's", lambda: list(cluster.members)),
        ("a majority's", lambda: [cluster.leader(), *cluster.followers()[: len(cluster.members) // 2]]),
        ("a follower's", lambda: cluster.followers()[:1]),
        ("the leader's", lambda: [cluster.leader()]),
    )
    for name, find in cases:
        fill(nemesis, name, find())


class Readers:
    """Reads a key at every member, one read after the other, linearizable and serializable, until the `with` ends."""

    def __init__(self, arena: Arena, members: Sequence[Member]) -> None:
        self.answered: Counter[str] = Counter()
        self.slowest: Counter[str] = Counter()
        self.failed: list[str] = []
        self._arena = arena
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._read, args=(member, kind == "serializable", f"{kind} {member.name}"))
            for member in members
            for kind in ("linearizable", "serializable")
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _read(self, member: Member, serializable: bool, name: str) -> None:
        request = RangeRequest(key=KEY, serializable=serializable)
        while not self._stop.wait(READ_INTERVAL):
            began = time.monotonic()
            try:
                self._arena.recorded(member.client.kv.Range, request, READ_SECONDS)
            except grpc.RpcError as error:
                self.failed.append(f"a {name} read after {time.monotonic() - began:.2f} s: {describe(error)}")
            else:
                self.answered[name] += 1
                self.slowest[name] = max(self.slowest[name], time.monotonic() - began)  # type: ignore[assignment]

    def told(self) -> str:
        """How many were answered, and how late."""
        return ", ".join(f"{name} {count} (<= {self.slowest[name]:.2f} s)" for name, count in self.answered.items())


@dataclass(slots=True)
class Writes:
    """What became of writes, by the names of members. others: what none may come to."""

    taken: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    others: list[str] = field(default_factory=list)

    def write(self, nemesis: Nemesis, member: Member) -> bool:
        """Write a little that is read, and a filler that stays beside all others: whether it was refused."""
        value = _value(member)
        puts = (
            PutRequest(key=KEY, value=value),
            PutRequest(key=FILLERS[0] + value, value=value.ljust(FILLER_BYTES, b".")),
        )
        request = TxnRequest(success=[RequestOp(request_put=put) for put in puts])
        try:
            nemesis.arena.recorded(member.client.kv.Txn, request, CALL_SECONDS)
        except grpc.RpcError as error:
            if (error.code(), error.details()) == NO_SPACE:
                self.refused[member.name] += 1
                return True
            if error.code() is grpc.StatusCode.UNAVAILABLE and (error.details() or "").startswith(TIMED_OUT):
                self.lost += 1
            else:
                self.others.append(f"a write through {member.name}: {describe(error)}")
        else:
            self.taken[member.name] += 1
        return False


def fill_up(write: Callable[[], bool], held: int, name: str, patience: float = NOTICED_SECONDS) -> int:
    """Write fillers until one is refused, if need be more than a file of `held` bytes can hold: how many there were.

    write: writes one that stays; whether it was refused. Raises ConditionNotMet if none is, within `patience` seconds
    from when there were more than can fit.
    """
    most = held // FILLER_BYTES + 1
    for count in range(1, most + 1):
        if write():
            return count
    written = f"{most * FILLER_BYTES >> 10} KiB, where its file has {held >> 10}"
    wait_until(write, f"writes through {name} are refused, after {written}", patience)
    return most + 1


def fill(nemesis: Nemesis, name: str, full: Sequence[Member]) -> None:
    """Leave some members no room, see them refuse writes and answer reads, make room, and see them recover.

    name: whose disks these are, in words. Raises AssertionError, ConditionNotMet for what does not come in time.
    """
    arena, members = nemesis.arena, nemesis.cluster.members
    writes = Writes()
    for member in full:
        # What compactions have freed so far would have to be filled first.
        member.client.maintenance.Defragment(DefragmentRequest(), timeout=DEFRAGMENTED_SECONDS)
    with Readers(arena, members) as readers:
        began = time.monotonic()
        for member in full:
            arena.layer(member).leave_space(0)
        held = {member.name: member.client.status().dbSize for member in full}
        needed = [fill_up(partial(writes.write, nemesis, member), held[member.name], member.name) for member in full]
        noticed = time.monotonic() - began
        until = time.monotonic() + REFUSED_SECONDS
        while time.monotonic() < until:
            for member in members:
                writes.write(nemesis, member)
            nemesis.pass_time(ROUND_SECONDS)
        silent = [member.name for member in full if member.id not in _alarms(member)]
    for member in full:
        arena.layer(member).leave_space(None)
    freed = time.monotonic()
    arena.settle()
    for member in members:
        wait_until(lambda member=member: _takes(nemesis, member), "writes are taken", RECOVERED_SECONDS)  # type: ignore[misc]
    recovered = time.monotonic() - freed
    wait_until(lambda: _removes_fillers(nemesis), "the fillers are removed", RECOVERED_SECONDS)
    nemesis.say(
        f"{name} disk full ({', '.join(member.name for member in full)}): noticed by all after {noticed:.2f} s, "
        f"at the fillers {', '.join(map(str, needed))}\n"
        f"  writes: taken {dict(writes.taken)}, refused {dict(writes.refused)}, {writes.lost} timed out\n"
        f"  reads: {readers.told()}; {len(readers.failed)} failed\n"
        f"  all well {recovered:.2f} s after there was room"
    )
    assert not writes.others, f"{name} disk full: {writes.others[:5]}"
    assert set(writes.refused) <= {member.name for member in full}, f"{name} disk full: refused where there is room"
    with_room = [member.name for member in members if member not in full]
    assert all(writes.taken[each] for each in with_room), f"{name} disk full: nothing was taken where there is room"
    assert not readers.failed, f"{name} disk full: {len(readers.failed)} reads failed: {readers.failed[:5]}"
    assert len(readers.answered) == 2 * len(members), f"{name} disk full: only {readers.answered} were answered"
    assert not silent, f"{name} disk full: {silent} did not say so"
    raised = {member.name: _alarms(member) for member in members}
    assert not any(raised.values()), f"there is room again, but the alarms say {raised}"
    compare_hashes(members, samples=1)
    nemesis.pass_time(2.0)


def _takes(nemesis: Nemesis, member: Member) -> bool:
    nemesis.arena.recorded(member.client.kv.Put, PutRequest(key=KEY, value=_value(member)), CALL_SECONDS)
    return True


def _removes_fillers(nemesis: Nemesis) -> bool:
    request = DeleteRangeRequest(key=FILLERS[0], range_end=FILLERS[1])
    nemesis.arena.recorded(nemesis.cluster.members[0].client.kv.DeleteRange, request, CALL_SECONDS)
    return True


def _value(member: Member) -> bytes:
    """What nobody has written yet."""
    return f"{member.name}-{time.monotonic_ns()}".encode()


def _alarms(member: Member) -> list[int]:
    request = AlarmRequest(action=AlarmRequest.GET, alarm=AlarmType.NOSPACE)
    return [alarm.memberID for alarm in member.client.maintenance.Alarm(request).alarms]
