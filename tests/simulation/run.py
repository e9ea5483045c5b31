"""Runs worlds: one seed to its end, or many on all cores."""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import islice, repeat
from multiprocessing import get_context

from tests.simulation.world import World

STEPS = 4_000
"""Steps of a world before its trouble ends and it must recover."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a seed. failure: the traceback, empty if everything held."""

    seed: int
    steps: int
    failure: str


def run_seed(seed: int, steps: int = STEPS) -> Outcome:
    """Run the world of a seed."""
    world = World(seed)
    try:
        for _ in range(steps):
            world.step()
        if not world.weights.change:
            # With changes of membership a group may lose itself by right: of two members, the one that removed the
            # other and was not heard of again cannot be elected without it.
            world.recover()
    except Exception:
        return Outcome(seed, world.steps, traceback.format_exc())
    return Outcome(seed, world.steps, "")


def run_seeds(seeds: Iterable[int], steps: int = STEPS, processes: int | None = None) -> Iterator[Outcome]:
    """Run many seeds, on all cores unless told otherwise; outcomes as they come.

    processes: how many to share the work; with 1 it is done here.
    """
    if processes == 1:
        yield from map(run_seed, seeds, repeat(steps))
        return
    pending = iter(seeds)
    processes = processes or os.cpu_count() or 1
    # Spawned, not forked: a child of a process with many objects would look through all of them for garbage.
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        # In portions, so that stopping early does not leave a million tasks behind.
        while portion := list(islice(pending, 8 * processes)):
            yield from pool.map(run_seed, portion, [steps] * len(portion))


def run_for(seconds: float, first: int, steps: int = STEPS, processes: int | None = None) -> Iterator[Outcome]:
    """Run seeds from `first` on until the time is over."""
    end = time.monotonic() + seconds

    def until_then() -> Iterator[int]:
        seed = first
        while time.monotonic() < end:
            yield seed
            seed += 1

    yield from run_seeds(until_then(), steps, processes)
