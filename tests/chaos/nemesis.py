"""One run: a cluster with its proxies, its clients and its probe, struck again and again, and judged in the end."""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Self

import grpc

from kvstore.pb.rpc_pb2 import RangeRequest
from tests.chaos.arena import Arena, NotNow, ProxiedCluster
from tests.chaos.background import Background
from tests.chaos.catalog import CATALOG
from tests.chaos.clients import WorkerProcess
from tests.chaos.network import Network
from tests.chaos.probe import Probe
from tests.chaos.schedule import Strike
from tests.chaos.traffic import EVERYTHING
from tests.chaos.verdict import Verdict, compare_hashes, join
from tests.chaos.worker import Orders
from tests.cluster.harness import Binary, Member
from tests.cluster.harness.waiting import ConditionNotMet
from tests.history import Recorder
from tests.history.model import History

Say = Callable[[str], None]

FLAGS = {"snapshot-count": "1000", "snapshot-catchup-entries": "100"}
"""A log that is cut early: a member that was away for some seconds is sent the state."""

PROGRESS_SECONDS = 10.0
LANES = 24
LIBRARY_LANES = 4
LEASES = 6


@dataclass(frozen=True, slots=True)
class Damage:
    """What a strike did. Seconds: without an answered write while it lasted, and after it was made good; until all
    members served again.
    """

    faults: tuple[str, ...]
    told: str
    silent: float
    silent_after: float
    recovered: float


class Nemesis:
    """Strikes a cluster under load. A context manager: nothing that it started is left.

    rate: requests a second of all clients together, without the probe's. say: takes lines for people.
    """

    def __init__(self, binary: Binary, directory: Path, size: int, seed: int, rate: float, say: Say) -> None:
        self.seed = seed
        self.size = size
        self.directory = directory
        self.damages: list[Damage] = []
        self.history = History()
        self._rate = rate
        self.say = say
        self._stack = ExitStack()
        self._background = self._stack.enter_context(Background())
        self._network = Network(seed)
        try:
            self.cluster = ProxiedCluster(binary, directory, size, FLAGS, self._background, self._network)
        except BaseException:
            self._stack.close()
            raise
        self._stack.callback(self.cluster.close)
        self.arena = Arena(self.cluster, self._background, self._network)
        self.probe = Probe([member.endpoint for member in self.cluster.members], Recorder())
        self.workers: list[WorkerProcess] = []
        self._began = time.monotonic()
        self._told_at = 0.0
        self._told_answered = 0

    def __enter__(self) -> Self:
        try:
            self.cluster.start()
            self.cluster.introduce()
            self._background.run(self.probe.start())
            self._start_workers()
        except BaseException:
            self._stack.close()
            raise
        self._began = self._told_at = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _start_workers(self) -> None:
        endpoints = tuple(member.endpoint for member in self.cluster.members)
        for number, watches in enumerate((True, False), 1):
            orders = Orders(
                name=f"w{number}",
                endpoints=endpoints,
                seed=self.seed,
                output=str(self.directory / f"worker-{number}.history"),
                rate=self._rate / 2,
                lanes=LANES // 2,
                library=LIBRARY_LANES // 2,
                leases=LEASES // 2,
                watches=watches,
                compactions=watches,
            )
            log = self.directory / f"worker-{number}.log"
            self.workers.append(self._stack.enter_context(WorkerProcess(orders, log)))

    # Striking

    @property
    def elapsed(self) -> float:
        """Seconds since the cluster first served."""
        return time.monotonic() - self._began

    def pass_time(self, seconds: float) -> None:
        """Let the clients go on for a while."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            for worker in self.workers:
                worker.require_running()
            if time.monotonic() - self._told_at >= PROGRESS_SECONDS:
                self._tell_progress()
            time.sleep(min(left, 0.1))

    def strike(self, strike: Strike) -> Damage:
        """Do it, make it good again, and wait until all members serve."""
        began = time.monotonic()
        told: list[str] = []
        try:
            with ExitStack() as struck:
                for name, seed in zip(strike.faults, strike.chances, strict=True):
                    told.append(self._begin(name, Random(seed), struck))
                    self.pass_time(strike.stagger)
                self.pass_time(strike.hold)
                healed = time.monotonic()
            self.arena.settle()
        except AssertionError:
            self.say(f"{self._now()}  {' + '.join(strike.faults)}: {'; '.join(told)} -- not made good again")
            raise
        recovered = time.monotonic() - healed
        self.pass_time(strike.calm)
        damage = Damage(
            faults=strike.faults,
            told="; ".join(told),
            silent=self.probe.longest_silence(began, healed),
            silent_after=self.probe.longest_silence(healed, time.monotonic()),
            recovered=recovered,
        )
        self.damages.append(damage)
        self._tell(damage)
        compare_hashes(self.cluster.members, samples=1)
        return damage

    def _begin(self, name: str, chance: Random, struck: ExitStack) -> str:
        """Let one fault strike: what it did, or why it could not."""
        try:
            return struck.enter_context(CATALOG[name].strike(self.arena, chance))
        except (NotNow, ConditionNotMet, grpc.RpcError) as problem:
            return f"no {name} now ({describe(problem)})"

    def _tell(self, damage: Damage) -> None:
        self.say(
            f"{self._now()}  {' + '.join(damage.faults)}: {damage.told} -- "
            f"no write for {damage.silent:.2f} s, after healing {damage.silent_after:.2f} s; "
            f"all serve after {damage.recovered:.2f} s"
        )

    def _now(self) -> str:
        return f"{time.strftime('%H:%M:%S')} {self.elapsed:6.1f} s"

    def _tell_progress(self) -> None:
        now = time.monotonic()
        tallies = [worker.tally for worker in self.workers if worker.tally]
        answered = sum(tally["answered"] for tally in tallies) + self.probe.ledger.tally.answered
        unknown = sum(tally["unknown"] for tally in tallies) + self.probe.ledger.tally.unknown
        rate = (answered - self._told_answered) / (now - self._told_at)
        self.say(
            f"{time.strftime('%H:%M:%S')} {self.elapsed:6.1f} s  {answered} answered, {rate:.0f}/s, {unknown} open"
        )
        self._told_at, self._told_answered = now, answered

    # Judging

    def finish(self, verdict: Verdict) -> None:
        """End the load, let everything come to rest, and compare what is there. The history is whole afterwards."""
        for worker in self.workers:
            worker.stop()
        for worker in self.workers:
            worker.wait_stopped()
        self._background.run(self.probe.stop())
        if verdict.violations:
            # A scenario that was broken off has left its faults behind.
            self.arena.make_good()
        self.say(f"{self._now()}  the load has ended")
        try:
            self._compare_ends(verdict)
        finally:
            self._gather(verdict)

    def _compare_ends(self, verdict: Verdict) -> None:
        try:
            self.arena.settle()
            self._read_everything()
            self.cluster.wait_agreed()
            self.say(f"{self._now()}  all members have applied as much")
            count = compare_hashes(self.cluster.members)
            self.say(f"{self._now()}  all members hash alike at {count} revisions")
        except (AssertionError, grpc.RpcError) as error:
            verdict.violations.append(describe(error))

    def _read_everything(self) -> None:
        """What is there in the end, once for certain and once from each member by itself."""
        members: Sequence[Member] = self.cluster.members
        for member in members:
            everything = RangeRequest(key=EVERYTHING[0], range_end=EVERYTHING[1])
            self.arena.recorded(member.client.kv.Range, everything, 20.0)
        for member in members:
            alone = RangeRequest(key=EVERYTHING[0], range_end=EVERYTHING[1], serializable=True)
            self.arena.recorded(member.client.kv.Range, alone, 20.0)

    def _gather(self, verdict: Verdict) -> None:
        revision = max(
            (status.header.revision for each in self.cluster.members if (status := each.status())), default=0
        )
        for worker in self.workers:
            worker.finish(revision, [member.endpoint for member in self.cluster.members])
        parts = [self.arena.history, self.probe.ledger.recorder.history()]
        for worker in self.workers:
            parts.append(worker.wait_finished())
            verdict.violations += [f"a watch stopped: {late}" for late in worker.late]
        self.history = join(parts)
        self.say(f"{self._now()}  all watches have come up")


def describe(problem: Exception) -> str:
    """An error in words, in one line where it has but one."""
    if isinstance(problem, grpc.RpcError):
        return f"{problem.code().name}: {problem.details()}"
    return str(problem) or type(problem).__name__
