"""A worker process: runs one load after another, as its parent asks over a pipe.

Order of messages for one load: the parent sends a Task; the worker connects and sends Ready; the parent, when all are,
sends Go; the worker sends Progress now and then, and in the end a Result or a Failure.
"""

import asyncio
import itertools
import signal
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from time import monotonic, perf_counter, process_time

import uvloop

from kvbench import requests
from kvbench.load import Kind, Load, Result
from kvbench.requests import KeySpace, MakeRequest
from kvbench.streaming import KeepAlives, Watchers
from kvbench.unary import UnaryDriver
from kvstore.pb import rpc_pb2 as pb
from kvstore.rpc import Channel, ChannelOptions, RpcError

PROGRESS_SECONDS = 0.2
CONNECT_SECONDS = 5.0
CONNECTS_A_SECOND = 100
# Begun at once: each has only so long to stand, and thousands would wait for each other until it is over.
CONNECTS_AT_ONCE = 200
GRANTS_AT_ONCE = 50
# How long calls under way may take after the end of the load.
GRACE_SECONDS = 15.0
LARGE_WINDOW = 64 << 20


@dataclass(frozen=True, slots=True)
class Task:
    """A worker's part of a load: it is number `index` of `workers`."""

    load: Load
    index: int
    workers: int


@dataclass(frozen=True, slots=True)
class Ready:
    """The worker's connections stand."""


@dataclass(frozen=True, slots=True)
class Go:
    """All workers are ready."""


@dataclass(frozen=True, slots=True)
class Progress:
    """operations: answered so far. events: delivered so far."""

    operations: int
    events: int


@dataclass(frozen=True, slots=True)
class Failure:
    """The load could not be run."""

    reason: str


def main(pipe: "Connection[object, object]") -> None:
    """Run what the parent asks for, until it sends None or closes the pipe."""
    # Ctrl-C reaches the whole process group; the parent decides what it means, and closes the pipe.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        try:
            task = pipe.recv()
        except EOFError:
            return
        if not isinstance(task, Task):
            return
        try:
            pipe.send(uvloop.run(_Run(task, pipe).measure()))
        except (RpcError, OSError, EOFError, TimeoutError) as error:
            pipe.send(Failure(str(error) or type(error).__name__))


class _Run:
    """One load in this process."""

    def __init__(self, task: Task, pipe: "Connection[object, object]") -> None:
        self._load = task.load
        self._index = task.index
        self._workers = task.workers
        self._pipe = pipe
        self._keys = KeySpace(task.load.keys, task.load.key_size)
        self._channels: list[Channel] = []

    async def measure(self) -> Result:
        await self._connect()
        try:
            kind = self._load.kind
            if kind is Kind.WATCH:
                result = await self._watch()
            elif kind is Kind.LEASE:
                result = await self._keep_alive()
            elif kind is Kind.FILL:
                result = await self._fill()
            else:
                result = await self._unary(self._make_request(), Result())
        finally:
            for channel in self._channels:
                await channel.close()
        result.latencies.fold()
        result.event_latencies.fold()
        return result

    # Connecting and starting together

    async def _connect(self) -> None:
        options = ChannelOptions(
            connection_window=LARGE_WINDOW, stream_window=LARGE_WINDOW, backoff_initial=0.05, backoff_max=0.5
        )
        endpoints = self._load.endpoints
        mine = range(self._index, self._load.connections, self._workers)
        seconds = CONNECT_SECONDS + len(mine) / CONNECTS_A_SECOND
        try:
            async with asyncio.timeout(seconds):
                for first in range(0, len(mine), CONNECTS_AT_ONCE):
                    step = mine[first : first + CONNECTS_AT_ONCE]
                    made = [Channel(endpoints[number % len(endpoints)], options=options) for number in step]
                    self._channels += made
                    for standing in [channel.ready() for channel in made]:
                        await standing
        except TimeoutError:
            where = ", ".join(endpoints)
            raise TimeoutError(f"not connected to all of {where} within {seconds:g} s") from None

    async def _start_together(self) -> None:
        self._pipe.send(Ready())
        # In a thread: a loop that watched the pipe itself would leave it in non-blocking mode.
        if not isinstance(await asyncio.to_thread(self._pipe.recv), Go):
            raise TimeoutError("the parent gave up")

    def _share(self, amount: int) -> int:
        """This worker's part of an amount."""
        return amount // self._workers + (self._index < amount % self._workers)

    # Unary loads

    def _make_request(self) -> MakeRequest:
        load, keys = self._load, self._keys
        seed = load.seed * 1_000 + self._index
        following = requests.numbers(
            keys.count, sequential=load.sequential, seed=seed, first=self._index, step=self._workers
        )
        value = requests.value_of(load.value_size, load.seed)
        if load.kind is Kind.PUT:
            return requests.puts(keys, value, following)
        if load.kind is Kind.TXN:
            return requests.transactions(keys, value, following, conflicts=load.conflicts, seed=seed)
        if load.kind is Kind.RANGE:
            return requests.ranges(
                keys,
                following,
                limit=load.limit,
                keys_only=load.keys_only,
                count_only=load.count_only,
                serializable=load.serializable,
            )
        gets = requests.gets(keys, following, serializable=load.serializable)
        if load.kind is Kind.GET:
            return gets
        return requests.mixed(gets, requests.puts(keys, value, following), share=load.read_share, seed=seed)

    async def _unary(self, make: MakeRequest, into: Result, total: int | None = None) -> Result:
        load = self._load
        if total is None and load.total is not None:
            total = self._share(load.total)
        driver = UnaryDriver(self._channels, load.streams, make, total=total, timeout=load.timeout, result=into)
        await self._start_together()
        cpu = process_time()
        if load.rate is None:
            driver.start_closed()
        else:
            driver.start_open(load.rate / self._workers)
        await self._until_done(driver, None if total is not None else load.duration)
        into.cpu = process_time() - cpu
        return into

    async def _until_done(self, driver: UnaryDriver, duration: float | None) -> None:
        end = monotonic() + duration if duration is not None else None
        while not driver.done.done() and (end is None or monotonic() < end):
            wait = PROGRESS_SECONDS if end is None else max(0.0, min(PROGRESS_SECONDS, end - monotonic()))
            await asyncio.wait([driver.done], timeout=wait)
            self._pipe.send(Progress(driver.result.operations, driver.result.events))
        driver.stop()
        _, late = await asyncio.wait([driver.done], timeout=GRACE_SECONDS)
        if late:
            raise TimeoutError(f"calls were not answered within {GRACE_SECONDS:g} s of the end of the load")

    # Other loads

    async def _watch(self) -> Result:
        load, result = self._load, Result()
        # Watchers have connections of their own, as clients that only watch would.
        options = self._channels[0].options
        endpoints = load.endpoints
        streams = max(1, self._share(load.watch_streams))
        watching = [Channel(endpoints[number % len(endpoints)], options=options) for number in range(streams)]
        own = list(self._channels)
        self._channels.extend(watching)
        if load.watch_each:
            ranges = requests.keys_of_their_own(self._keys, range(self._index, load.watchers, self._workers))
        else:
            ranges = [(self._keys.prefix, self._keys.end)] * self._share(load.watchers)
        watchers = Watchers(watching, streams, ranges, self._keys.prefix, result)
        await _within(CONNECT_SECONDS + load.watchers / CONNECTS_A_SECOND, [watchers.ready])
        self._channels = own
        following = requests.numbers(self._keys.count, sequential=False, seed=load.seed * 1_000 + self._index)
        try:
            await self._unary(requests.stamped_puts(self._keys, load.value_size, following), result)
        finally:
            watchers.close()
            self._channels.extend(watching)
        return result

    async def _keep_alive(self) -> Result:
        load, result = self._load, Result()
        channel = self._channels[0]
        grant = pb.LeaseGrantRequest(TTL=load.lease_ttl).SerializeToString()
        leases: list[int] = []
        # A server refuses whom it finds asking for too much at once.
        while (wanted := min(GRANTS_AT_ONCE, self._share(load.leases) - len(leases))) > 0:
            answers = [channel.unary(requests.LEASE_GRANT, grant) for _ in range(wanted)]
            leases += [pb.LeaseGrantResponse.FromString(await answer).ID for answer in answers]
        await self._start_together()
        cpu, end = process_time(), perf_counter() + load.duration
        keeping = KeepAlives(self._channels, max(1, self._share(load.lease_streams)), leases, result)
        while perf_counter() < end:
            await asyncio.sleep(max(0.0, min(PROGRESS_SECONDS, end - perf_counter())))
            self._pipe.send(Progress(result.operations, 0))
        keeping.stop()
        result.cpu = process_time() - cpu
        return result

    async def _fill(self) -> Result:
        load, keys = self._load, self._keys
        value = requests.value_of(load.value_size, load.seed)
        firsts = range(load.first + self._index * load.batch, keys.count, self._workers * load.batch)
        batches, count = itertools.cycle(firsts), len(firsts) * load.times

        def make() -> tuple[str, bytes]:
            return requests.TXN, requests.fill(keys, value, next(batches), load.batch)

        return await self._unary(make, Result(), count)


async def _within(seconds: float, all_of: Sequence[Awaitable[object]]) -> None:
    async with asyncio.timeout(seconds):
        for each in all_of:
            await each


def part_of(load: Load, workers: int) -> list[Task]:
    """The parts of a load for so many workers: none gets no connection."""
    used = max(1, min(workers, load.connections))
    return [Task(load, index, used) for index in range(used)]
