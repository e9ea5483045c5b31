"""What the nemesis can do to the machine under a member: its clock and its disk.

Done by a library that is loaded into the members' processes, so nothing of the real machine changes.
"""

import errno
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from tests.chaos.arena import Arena
from tests.cluster.harness import Member, wait_until
from tests.cluster.harness.waiting import ConditionNotMet

CLOCK_STEPS = (-86_400.0, -3_600.0, -5.0, -0.4, 0.4, 5.0, 3_600.0, 86_400.0)

ENDING_SECONDS = 3.0


def some(arena: Arena, chance: random.Random) -> Sequence[Member]:
    """One member, most of the time, or all that are free. Raises NotNow."""
    one = arena.any_member(chance)
    return arena.free() if chance.random() < 0.3 else [one]


def named(members: Sequence[Member]) -> str:
    return ", ".join(member.name for member in members)


@contextmanager
def clock(arena: Arena, chance: random.Random) -> Iterator[str]:
    """The time of day steps, and steps back in the end."""
    members = some(arena, chance)
    step = chance.choice(CLOCK_STEPS)
    for member in members:
        arena.layer(member).shift_clock(step)
    yield f"moved the clock of {named(members)} by {step:+g} s"
    for member in members:
        arena.layer(member).shift_clock(0)


@contextmanager
def slow_syncs(arena: Arena, chance: random.Random) -> Iterator[str]:
    members = some(arena, chance)
    delay = chance.choice((0.02, 0.1, 0.5))
    for member in members:
        arena.layer(member).delay_syncs(delay)
    yield f"made every sync of {named(members)} take {delay:g} s longer"
    for member in members:
        arena.layer(member).delay_syncs(0)


@contextmanager
def failing_syncs(arena: Arena, chance: random.Random) -> Iterator[str]:
    """A disk that reports errors, once or until it is replaced. The member may stop: it could promise nothing."""
    member = arena.any_member(chance)
    count = chance.choice((1, 3, -1))
    with arena.taken(member):
        arena.excuse(member)
        arena.layer(member).fail_syncs(errno.EIO, count)
        yield f"made {'all' if count < 0 else count} syncs of {member.name} fail"
        arena.layer(member).fail_syncs(0, 0)
        # One that has met an error ends, which takes it a moment. Others may wait for it to come back.
        with suppress(ConditionNotMet):
            wait_until(lambda: not member.running, f"{member.name} has ended", ENDING_SECONDS)
        if not member.running:
            member.start()


@contextmanager
def disk_full(arena: Arena, chance: random.Random) -> Iterator[str]:
    members = some(arena, chance)
    left = chance.choice((0, 4_096, 1 << 20))
    with arena.taken(*members):
        for member in members:
            arena.layer(member).leave_space(left)
        yield f"left {left >> 10} KiB on the disk of {named(members)}"
        for member in members:
            arena.layer(member).leave_space(None)
    arena.expect_room()
