"""What the nemesis can do to processes, links and the cluster's membership, one context manager each.

Entering strikes, leaving makes good again. A fault says in one line what it did. It chooses by the generator that it is
given alone, so that one seed always makes the same choices from the same members. It takes the members it acts upon, so
that two faults at once strike two.
"""

import random
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from subprocess import TimeoutExpired

import grpc

from kvstore.pb.rpc_pb2 import (
    CompactionRequest,
    DefragmentRequest,
    MemberPromoteRequest,
    MoveLeaderRequest,
)
from tests.chaos import partitions
from tests.chaos.arena import Arena, NotNow
from tests.chaos.network import Condition
from tests.cluster.harness import Member, wait_until

RESTART_SECONDS = 20.0


# Processes


@contextmanager
def kill(arena: Arena, chance: random.Random) -> Iterator[str]:
    with _killed(arena, arena.any_member(chance), chance) as done:
        yield done


@contextmanager
def kill_leader(arena: Arena, chance: random.Random) -> Iterator[str]:
    with _killed(arena, arena.leader(), chance) as done:
        yield f"{done}, the leader"


@contextmanager
def _killed(arena: Arena, member: Member, chance: random.Random) -> Iterator[str]:
    with arena.taken(member):
        alone = chance.random() < 0.5
        (member.kill if alone else member.kill_group)()
        yield f"killed {member.name}" + ("" if alone else " and its writers")
        member.start()


@contextmanager
def kill_all(arena: Arena, chance: random.Random) -> Iterator[str]:
    victims = arena.free()
    if not victims:
        raise NotNow
    with arena.taken(*victims):
        for member in victims:
            member.signal_group(signal.SIGKILL)
        for member in victims:
            member.kill_group()
        yield "killed " + ", ".join(member.name for member in victims) + " at once"
        for member in chance.sample(victims, len(victims)):
            member.start()


@contextmanager
def pause(arena: Arena, chance: random.Random) -> Iterator[str]:
    with _paused(arena, arena.any_member(chance), chance) as done:
        yield done


@contextmanager
def pause_leader(arena: Arena, chance: random.Random) -> Iterator[str]:
    with _paused(arena, arena.leader(), chance) as done:
        yield f"{done}, the leader"


@contextmanager
def _paused(arena: Arena, member: Member, chance: random.Random) -> Iterator[str]:
    with arena.taken(member):
        alone = chance.random() < 0.5
        if alone:
            member.pause()
        else:
            member.signal_group(signal.SIGSTOP)
        yield f"paused {member.name}" + ("" if alone else " and its writers")
        member.signal_group(signal.SIGCONT)


@contextmanager
def rolling_restart(arena: Arena, chance: random.Random) -> Iterator[str]:
    members = arena.free()
    if not members:
        raise NotNow
    with arena.taken(*members):
        for member in chance.sample(members, len(members)):
            # A member without a majority cannot hand anything on; it is given as long as its service manager would.
            with suppress(TimeoutExpired):
                member.request_stop()
                member.wait_ended(RESTART_SECONDS)
            if member.running:
                member.kill_group()
            member.start()
            with suppress(AssertionError):
                wait_until(member.serves, "it serves", 5.0)
    yield "restarted " + ", ".join(member.name for member in members) + ", one after the other"


# Networks


@contextmanager
def _linked(arena: Arena, pairs: partitions.Pairs, condition: Condition, done: str) -> Iterator[str]:
    arena.set_links(pairs, condition)
    yield done
    arena.set_links(pairs, Condition())


@contextmanager
def _parted(arena: Arena, pairs: partitions.Pairs, chance: random.Random, done: str) -> Iterator[str]:
    """Silently, as by a lost cable, or with resets, as by a firewall."""
    silent = chance.random() < 0.7
    condition = Condition(cut=True) if silent else Condition(refused=True)
    with _linked(arena, pairs, condition, done + ("" if silent else ", with resets")) as told:
        yield told


@contextmanager
def halves(arena: Arena, chance: random.Random) -> Iterator[str]:
    pairs = partitions.halves(arena.names, chance)
    cut = " ".join(sorted(f"{a}|{b}" for a, b in pairs if a < b))
    with _parted(arena, pairs, chance, f"divided {cut}") as done:
        yield done


@contextmanager
def isolate_leader(arena: Arena, chance: random.Random) -> Iterator[str]:
    leader = arena.leader()
    pairs = partitions.isolated(arena.names, leader.name)
    with _parted(arena, pairs, chance, f"isolated {leader.name}, the leader") as done:
        yield done


@contextmanager
def one_way(arena: Arena, chance: random.Random) -> Iterator[str]:
    name = arena.leader().name if chance.random() < 0.5 else chance.choice(arena.names)
    mute = chance.random() < 0.5
    pairs = partitions.one_way(arena.names, name, mute=mute)
    with _linked(arena, pairs, Condition(cut=True), f"made {name} {'mute' if mute else 'deaf'}") as done:
        yield done


@contextmanager
def bridge(arena: Arena, chance: random.Random) -> Iterator[str]:
    middle = chance.choice(arena.names)
    pairs = partitions.bridge(arena.names, middle, chance)
    with _parted(arena, pairs, chance, f"left {middle} as the only bridge") as done:
        yield done


@contextmanager
def ring(arena: Arena, chance: random.Random) -> Iterator[str]:
    pairs = partitions.ring(arena.names, chance)
    with _parted(arena, pairs, chance, "left each member its two neighbours in a ring") as done:
        yield done


@contextmanager
def slow(arena: Arena, chance: random.Random) -> Iterator[str]:
    delay, narrow = chance.choice((0.01, 0.05, 0.15)), chance.random() < 0.3
    condition = Condition(delay=delay, jitter=delay, rate=2e6 if narrow else 0.0)
    done = f"made all links {delay * 1000:g} to {delay * 2000:g} ms slow" + (" and 2 MB/s narrow" if narrow else "")
    with _linked(arena, partitions.between(arena.names, arena.names), condition, done) as told:
        yield told


@contextmanager
def lossy(arena: Arena, chance: random.Random) -> Iterator[str]:
    condition = Condition(jitter=0.005, loss=chance.choice((0.01, 0.05, 0.2)), reset=chance.choice((0.0, 0.002)))
    done = f"made all links lose {condition.loss:.0%}" + (" and break at times" if condition.reset else "")
    with _linked(arena, partitions.between(arena.names, arena.names), condition, done) as told:
        yield told


# Membership


@contextmanager
def replace(arena: Arena, chance: random.Random) -> Iterator[str]:
    """A member's disk is lost: it is removed, wiped and added again."""
    member = arena.any_member(chance)
    if len(arena.free()) < len(arena.cluster.members):
        raise NotNow
    with arena.taken(member):
        member_id = member.id
        member.kill_group()
        arena.cluster.remove(member, member_id)
        member.wipe()
        yield f"removed {member.name} and wiped it"
        learner = chance.random() < 0.5
        arena.cluster.add_again(member, learner=learner)
        arena.join(member)
        if learner:
            _promote(arena, member)


@contextmanager
def grow(arena: Arena, chance: random.Random) -> Iterator[str]:
    """One member more for a while, which learns first and votes then."""
    cluster = arena.cluster
    member = cluster.add(arena.next_name(), learner=True)
    with arena.taken(member):
        arena.join(member)
        yield f"added {member.name} as a learner"
        _promote(arena, member)
        cluster.remove(member, member.id)
        member.close()


def _promote(arena: Arena, member: Member) -> None:
    """Promote a learner as soon as it has joined and caught up."""

    def attempt() -> bool:
        learner = member.status()
        if learner is None:
            return False
        try:
            arena.cluster.leader(5.0).client.cluster.MemberPromote(
                MemberPromoteRequest(ID=learner.header.member_id), timeout=5.0
            )
        except grpc.RpcError as error:
            # A promotion whose answer was lost has happened.
            return error.details() == "etcdserver: can only promote a learner member"
        return True

    arena.wait_for(member, attempt, f"{member.name} is promoted", 60)
    arena.cluster.introduce()


@contextmanager
def transfer(arena: Arena, chance: random.Random) -> Iterator[str]:
    leader = arena.leader()
    to = chance.choice([member for member in arena.cluster.members if member is not leader])
    status = to.status()
    if status is None:
        raise NotNow
    outcome = "handed the leadership"
    try:
        leader.client.maintenance.MoveLeader(MoveLeaderRequest(targetID=status.header.member_id), timeout=5.0)
    except grpc.RpcError as error:
        outcome = f"asked ({error.details()}) to hand the leadership"
    yield f"{outcome} of {leader.name} to {to.name}"


# Maintenance


@contextmanager
def compact(arena: Arena, chance: random.Random) -> Iterator[str]:
    member = arena.any_member(chance)
    status = member.status()
    if status is None:
        raise NotNow
    revision = max(1, status.header.revision - chance.choice((0, 10, 1_000, 10_000)))
    request = CompactionRequest(revision=revision, physical=chance.random() < 0.5)
    outcome = "compacted"
    try:
        arena.recorded(member.client.kv.Compact, request, 10.0)
    except grpc.RpcError as error:
        outcome = f"asked to compact ({error.details()})"
    yield f"{outcome} at {revision} through {member.name}"


@contextmanager
def defragment(arena: Arena, chance: random.Random) -> Iterator[str]:
    member = arena.any_member(chance)
    outcome = "defragmented"
    try:
        member.client.maintenance.Defragment(DefragmentRequest(), timeout=20.0)
    except grpc.RpcError as error:
        outcome = f"asked to defragment ({error.details()})"
    yield f"{outcome} {member.name}"
