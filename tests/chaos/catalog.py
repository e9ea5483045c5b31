"""All faults by their names."""

import random
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from tests.chaos import faults, machine_faults
from tests.chaos.arena import Arena


@dataclass(frozen=True, slots=True)
class Fault:
    """One kind of fault.

    rank: of faults that strike together the lower begins, and is made good last. least_members: below, it is none.
    """

    name: str
    strike: Callable[[Arena, random.Random], AbstractContextManager[str]]
    rank: int = 2
    least_members: int = 3


CATALOG: dict[str, Fault] = {
    fault.name: fault
    for fault in (
        Fault("kill", faults.kill),
        Fault("kill-leader", faults.kill_leader),
        Fault("kill-all", faults.kill_all, rank=4),
        Fault("pause", faults.pause),
        Fault("pause-leader", faults.pause_leader),
        Fault("restart", faults.rolling_restart, rank=4),
        Fault("halves", faults.halves),
        Fault("isolate-leader", faults.isolate_leader),
        Fault("one-way", faults.one_way),
        Fault("bridge", faults.bridge),
        Fault("ring", faults.ring, least_members=5),
        Fault("slow", faults.slow, rank=3),
        Fault("lossy", faults.lossy, rank=3),
        Fault("replace", faults.replace, rank=0),
        Fault("grow", faults.grow, rank=0),
        Fault("transfer", faults.transfer, rank=5),
        Fault("compact", faults.compact, rank=5),
        Fault("defrag", faults.defragment, rank=5),
        Fault("clock", machine_faults.clock, rank=3),
        Fault("disk-full", machine_faults.disk_full, rank=1),
        Fault("fsync-slow", machine_faults.slow_syncs, rank=3),
        Fault("fsync-fail", machine_faults.failing_syncs, rank=1),
    )
}
