"""Runs worlds: one seed to its end, or many in several processes."""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from multiprocessing import get_context

import structlog

from tests.member_simulation.timeline import Trace
from tests.member_simulation.world import TROUBLE_SECONDS, World


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a seed.

    failure: the traceback and the end of the trace, empty if everything held. virtual_seconds: of the world. seconds:
    of a processor that it took. calls, answers: of clients. undecided: whether the history checker gave up. hash: of
    everything that happened.
    """

    seed: int
    failure: str
    virtual_seconds: float
    seconds: float
    calls: int
    answers: int
    revision: int
    undecided: bool
    hash: str


def run_seed(
    seed: int,
    members: int = 0,
    seconds: float = TROUBLE_SECONDS,
    told: Callable[[str], None] | None = None,
    lines: int = 60,
) -> Outcome:
    """Run the world of a seed. told: given each line of the trace. lines: of it that a failure ends with."""
    began = time.process_time()
    trace = Trace(told)
    failure = ""
    with _silence(), World(seed, members, trace) as world:
        try:
            world.run(seconds)
        except Exception:
            failure = traceback.format_exc() + "\n" + "\n".join(list(trace.lines)[-lines:])
        return Outcome(
            seed,
            failure,
            world.timeline.now,
            time.process_time() - began,
            world.book.calls,
            world.book.answers,
            world.truth.revision,
            world.undecided,
            trace.hash(),
        )


class _silence:
    """The members' own log lines cost more than the members."""

    def __enter__(self) -> None:
        self._config = structlog.get_config()
        structlog.configure(
            wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL), cache_logger_on_first_use=False
        )

    def __exit__(self, *_: object) -> None:
        structlog.configure(**self._config)


def run_seeds(
    seeds: Iterable[int], members: int = 0, seconds: float = TROUBLE_SECONDS, jobs: int = 1
) -> Iterator[Outcome]:
    """Run many seeds; outcomes as they come. jobs: processes to share the work; with 1 it is done here."""
    run = partial(run_seed, members=members, seconds=seconds)
    if jobs == 1:
        yield from map(run, seeds)
        return
    pending = iter(seeds)
    with ProcessPoolExecutor(jobs, get_context("spawn"), max_tasks_per_child=50) as pool:
        # In portions, so that stopping early does not leave thousands of tasks behind.
        while portion := list(islice(pending, 8 * jobs)):
            yield from pool.map(run, portion)


def run_for(budget: float, first: int, members: int = 0) -> Iterator[Outcome]:
    """Run seeds from `first` on until so many real seconds are over."""
    end = time.monotonic() + budget
    seed = first
    while time.monotonic() < end:
        yield run_seed(seed, members)
        seed += 1
