"""No space left: at one follower, at the leader, at all members. What docs/operations.md says must hold.

Who has no room refuses writes with NOSPACE. Reads go on: at members that have room all of them; at those that have none
the serializable ones for certain, the linearizable ones as long as nothing newer was written that they could not store,
which is so for one of them at least.
Once there is room and the alarm is taken back all is as before.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import grpc

from kvstore.pb.rpc_pb2 import AlarmRequest, AlarmType, PutRequest, RangeRequest
from tests.chaos.nemesis import Nemesis, describe
from tests.chaos.verdict import compare_hashes
from tests.cluster.harness import Member, wait_until

NO_SPACE = (grpc.StatusCode.RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded")
NOTICED_SECONDS = 30.0
REFUSED_SECONDS = 8.0
CALL_SECONDS = 10.0
READ_SECONDS = 2.0
"""How long a read may take while no member can write: the leader may just have stepped aside for another."""

KEY = b"disk"
FILLER_BYTES = 256 << 10


def disk_full(nemesis: Nemesis) -> None:
    """Each of the three, one after the other."""
    cluster = nemesis.cluster
    nemesis.pass_time(2.0)
    cases: Sequence[tuple[str, Callable[[], list[Member]]]] = (
        ("a follower's", lambda: cluster.followers()[:1]),
        ("the leader's", lambda: [cluster.leader()]),
        ("every member's", lambda: list(cluster.members)),
    )
    for name, find in cases:
        _fill(nemesis, name, find())


@dataclass(slots=True)
class Seen:
    """What became of calls made one after the other while there was no room. behind: linearizable reads at members
    without room that could not be answered, since something newer had been written elsewhere.
    """

    reads: int = 0
    slowest_read: float = 0.0
    behind: int = 0
    taken: int = 0
    refused: int = 0
    others: list[str] = field(default_factory=list)


def _fill(nemesis: Nemesis, name: str, full: Sequence[Member]) -> None:
    arena, members = nemesis.arena, nemesis.cluster.members
    for member in full:
        arena.layer(member).leave_space(0)
    began = time.monotonic()
    wait_until(lambda: all(_refuses(nemesis, member) for member in full), "writes are refused", NOTICED_SECONDS)
    noticed = time.monotonic() - began
    wait_until(lambda: any(member.serves() for member in members), "reads are answered", NOTICED_SECONDS)
    seen = Seen()
    until = time.monotonic() + REFUSED_SECONDS
    while time.monotonic() < until:
        behind = 0
        for member in members:
            _write(nemesis, member, seen, FILLER_BYTES)
            _read(nemesis, member, seen, serializable=True, may_be_behind=False)
            before = seen.behind
            _read(nemesis, member, seen, serializable=False, may_be_behind=member in full)
            behind += seen.behind - before
        if behind == len(members):
            seen.others.append("no member answered a linearizable read")
    alarmed = len(_alarms(members[0]))
    for member in full:
        arena.layer(member).leave_space(None)
    freed = time.monotonic()
    arena.expect_alarm()
    arena.settle()
    recovered = time.monotonic() - freed
    nemesis.say(
        f"{name} disk full: noticed by all after {noticed:.2f} s; then {seen.refused} writes refused, "
        f"{seen.taken} taken; {seen.reads} reads answered, the slowest after {seen.slowest_read:.2f} s, and "
        f"{seen.behind} refused by members without room; {alarmed} alarms; "
        f"all well {recovered:.2f} s after there was room"
    )
    assert not seen.others, f"{name} disk full: {seen.others[:5]}"
    assert seen.refused, f"{name} disk full: no write was refused"
    assert seen.slowest_read < READ_SECONDS, f"{name} disk full: a read took {seen.slowest_read:.2f} s"
    assert not _alarms(members[0]), "the alarm is still raised"
    compare_hashes(members, samples=1)
    nemesis.pass_time(2.0)


def _refuses(nemesis: Nemesis, member: Member) -> bool:
    """Write something that does not fit into the pages that the files have: whether it was refused."""
    seen = Seen()
    _write(nemesis, member, seen, FILLER_BYTES)
    return seen.refused > 0


def _write(nemesis: Nemesis, member: Member, seen: Seen, size: int = 0) -> None:
    put = PutRequest(key=KEY, value=f"{member.name}-{time.monotonic_ns()}".encode().ljust(size, b"."))
    try:
        nemesis.arena.recorded(member.client.kv.Put, put, CALL_SECONDS)
    except grpc.RpcError as error:
        if (error.code(), error.details()) == NO_SPACE:
            seen.refused += 1
        else:
            seen.others.append(f"a write through {member.name}: {describe(error)}")
    else:
        seen.taken += 1


def _read(nemesis: Nemesis, member: Member, seen: Seen, *, serializable: bool, may_be_behind: bool) -> None:
    began = time.monotonic()
    request = RangeRequest(key=KEY, serializable=serializable)
    try:
        nemesis.arena.recorded(member.client.kv.Range, request, CALL_SECONDS)
    except grpc.RpcError as error:
        if may_be_behind and error.code() is grpc.StatusCode.UNAVAILABLE:
            seen.behind += 1
        else:
            kind = "serializable" if serializable else "linearizable"
            seen.others.append(f"a {kind} read through {member.name}: {describe(error)}")
    else:
        seen.reads += 1
        seen.slowest_read = max(seen.slowest_read, time.monotonic() - began)


def _alarms(member: Member) -> list[int]:
    request = AlarmRequest(action=AlarmRequest.GET, alarm=AlarmType.NOSPACE)
    return [alarm.memberID for alarm in member.client.maintenance.Alarm(request).alarms]
