"""Crash points: a history is gone through again and again, and each time the member is killed at another operation.

An operation is whatever may outlive the process: a write, a sync, a rename, a new file. The member is killed before or
after it, alone or with its writers, comes back, must hold everything that was acknowledged, and goes on to the end of
the history, where it must be as if nothing had happened.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

from tests.crash.history import History
from tests.crash.observe import Lost
from tests.crash.victim import Victim
from tests.faultfs import trace

_AGAIN_SECONDS = 0.2
"""Between two attempts to end a member that a run may just be starting again."""


@dataclass(frozen=True, slots=True)
class Point:
    """Where a member is killed: see FaultFs.kill_at."""

    operation: int
    kind: int = 0
    after: bool = False
    everyone: bool = True

    def __str__(self) -> str:
        """As a reader of a failure wants it."""
        what = f"{trace.NAMES[self.kind] if self.kind else 'operation'} {self.operation}"
        return f"{'after' if self.after else 'before'} {what}, {'all' if self.everyone else 'one'} of its processes"


@dataclass(frozen=True, slots=True)
class Undisturbed:
    """A run without a fault: the hash at its end, and how many operations of which kind it had.

    described: what each of them was, by number.
    """

    hash: tuple[int, int]
    operations: int
    by_kind: dict[int, int]
    described: Mapping[int, str] = field(default_factory=dict)

    def describe(self, point: Point) -> str:
        """What there was at a point; other runs differ a little, so it may be a neighbour in them."""
        return trace.NAMES[point.kind] if point.kind else self.described.get(point.operation, "")


def undisturbed(directory: Path, history: History) -> Undisturbed:
    """Go through a history without a fault. Raises NoCompiler."""
    with Victim(directory, history, trace=True) as victim:
        found = victim.go_through()
        counts = {kind: victim.faults.count(kind) for kind in range(trace.CREATE, trace.DIRECTORY_SYNCED + 1)}
        path = victim.faults.trace
        assert path is not None
        return Undisturbed(found, victim.faults.operations, counts, trace.describe(trace.read(path)))


def spread(run: Undisturbed, count: int) -> list[Point]:
    """So many points: the first and last of every kind, at most half of all, the others evenly; all ways in turn."""
    ways = list(product((False, True), (True, True, False)))
    rare = [
        (number, kind)
        for kind, found in sorted(run.by_kind.items())
        if found and kind not in (trace.WRITE, trace.MKDIR)
        for number in sorted({1, found})
    ]
    rare = rare[:: max(1, -(-len(rare) * 2 // count))]
    evenly = [(1 + place * run.operations // max(1, count - len(rare)), 0) for place in range(count - len(rare))]
    return [Point(number, kind, *ways[place % len(ways)]) for place, (number, kind) in enumerate([*rare, *evenly])]


def kill_at(
    directory: Path,
    history: History,
    point: Point,
    wanted: tuple[int, int],
    begun: Callable[[Victim], None] = lambda victim: None,
) -> bool:
    """One run. Whether the member was killed at all; runs differ a little in what they write.

    begun: is told who will be killed before it is started. Raises Lost if something acknowledged is not there
    afterwards; the directory is left then.
    """
    with Victim(directory, history) as victim:
        begun(victim)
        victim.faults.kill_at(point.operation, kind=point.kind, after=point.after, everyone=point.everyone)
        try:
            found = victim.go_through()
        except Exception as error:
            raise Lost(f"killed {point}: {error}\nits log:\n{victim.member.log_tail()}") from error
        killed = victim.killed
    if found != wanted:
        raise Lost(f"killed {point}: the hash of its history is {found}, not {wanted}")
    shutil.rmtree(directory)
    return killed


def kill_at_each(
    directory: Path,
    history: History,
    points: Sequence[Point],
    run: Undisturbed,
    jobs: int,
    tell: Callable[[str], None],
) -> tuple[int, list[str]]:
    """All the runs, so many at a time: how many members were killed, and what was lost. run: to compare them with."""

    victims: list[Victim] = []
    broken_off = threading.Event()

    def begun(victim: Victim) -> None:
        victims.append(victim)
        if broken_off.is_set():
            raise Lost("the run was broken off")

    def one(numbered: tuple[int, Point]) -> tuple[bool, str]:
        number, point = numbered
        try:
            killed = kill_at(directory / f"point-{number}", history, point, run.hash, begun)
        except Lost as error:
            if not broken_off.is_set():
                tell(f"LOST  {point}: {str(error).splitlines()[0]}")
            return True, str(error)
        tell(f"{'held' if killed else 'not reached'}  {point} ({run.describe(point)})")
        return killed, ""

    with ThreadPoolExecutor(jobs) as pool:
        runs = [pool.submit(one, numbered) for numbered in enumerate(points)]
        try:
            results = [each.result() for each in runs]
        except BaseException:
            broken_off.set()
            _break_off(runs, victims)
            raise
    return sum(killed for killed, _ in results), [text for _, text in results if text]


def _break_off(runs: Sequence[Future[tuple[bool, str]]], victims: Sequence[Victim]) -> None:
    """End the runs that have begun, whatever they are just doing, and begin no other."""
    for each in runs:
        each.cancel()
    begun = [each for each in runs if not each.cancelled()]
    while wait(begun, _AGAIN_SECONDS).not_done:
        for victim in victims:
            victim.end()
