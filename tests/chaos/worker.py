"""A process full of clients: `python -m tests.chaos.worker` with its orders as JSON on the first line of its input.

Every second it says how it goes, one line of JSON. `stop` on its input ends the calls, `finish REVISION ENDPOINT...`
lets the watches come up to a revision, as far as these members are left, and ends the process; so does the end of the
input, without waiting: whoever started it is gone. What it recorded is left in a file.
"""

import asyncio
import gc
import json
import pickle
import random
import sys
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path

import uvloop

from kvstore.client import rpcs
from kvstore.pb.rpc_pb2 import CompactionRequest
from kvstore.rpc import Channel
from tests.chaos.leasing import live_on_leases
from tests.chaos.library import LibraryFollower, LibrarySession
from tests.chaos.session import Ledger, Session, options
from tests.chaos.traffic import EVERYTHING, Traffic, hot
from tests.chaos.watching import Follower, Interest
from tests.history import Recorder

CATCH_UP_SECONDS = 40.0
CATCH_UP_ROUNDS = 400
COMPACTION_SECONDS = 6.0
KEPT_REVISIONS = 3_000


@dataclass(frozen=True, slots=True)
class Orders:
    """What a worker shall do.

    name: of the process, part of its clients' names. endpoints: of the members. lanes: clients that call one request
    after the other, of which `library` use the client library; rate: requests a second of all of them together.
    leases: clients that live on leases. watches: whether to keep up watches; compactions: whether to compact.
    output: the file to leave the history in.
    """

    name: str
    endpoints: tuple[str, ...]
    seed: int
    output: str
    rate: float
    lanes: int
    library: int = 0
    leases: int = 0
    watches: bool = False
    compactions: bool = False

    def encode(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def decode(cls, line: str) -> "Orders":
        values = json.loads(line)
        return cls(**{**values, "endpoints": tuple(values["endpoints"])})


class Worker:
    """The clients of one process."""

    def __init__(self, orders: Orders) -> None:
        self.orders = orders
        self.ledger = Ledger(Recorder())
        self._chance = random.Random(f"{orders.name} {orders.seed}")
        self._channels = [Channel(endpoint, options=options()) for endpoint in orders.endpoints]
        self.followers: list[Follower | LibraryFollower] = self._make_followers() if orders.watches else []
        self.calling: list[asyncio.Task[None]] = []
        self.following: list[asyncio.Task[None]] = []

    def _chances(self) -> random.Random:
        return random.Random(self._chance.getrandbits(64))

    def _session(self, name: str) -> Session:
        return Session(f"{self.orders.name}-{name}", self._channels, self.ledger, self._chances())

    def start(self, group: asyncio.TaskGroup) -> None:
        """Begin to call and to watch. What fails that must not fails the group."""
        orders = self.orders
        for number in range(orders.lanes):
            if number < orders.library:
                name = f"{orders.name}-library-{number}"
                session: Session | LibrarySession = LibrarySession(name, orders.endpoints, self.ledger)
            else:
                session = self._session(f"direct-{number}")
            self.calling.append(group.create_task(self._call_on(session)))
        for number in range(orders.leases):
            self.calling.append(group.create_task(live_on_leases(self._session(f"lease-{number}"), self._chances())))
        if orders.compactions:
            self.calling.append(group.create_task(self._compact(self._session("compactor"))))
        self.following += [group.create_task(follower.run()) for follower in self.followers]

    async def _call_on(self, session: Session | LibrarySession) -> None:
        """One request after the other, at this client's share of the rate."""
        traffic = Traffic(session.name, self._chances())
        chance = self._chances()
        loop = asyncio.get_running_loop()
        interval = self.orders.lanes / self.orders.rate
        due = loop.time() + chance.random() * interval
        while True:
            if (wait := due - loop.time()) > 0:
                await asyncio.sleep(wait)
            # What could not be asked for while nobody answered is not made up for.
            due = max(due, loop.time() - interval) + interval * chance.uniform(0.5, 1.5)
            rpc, request = traffic.next()
            response = await session.call(rpc, request)
            if response is not None:
                traffic.learn(request, response)

    async def _compact(self, session: Session) -> None:
        while True:
            await asyncio.sleep(COMPACTION_SECONDS * self._chance.uniform(0.5, 1.5))
            revision = max((follower.reached for follower in self.followers), default=0) - KEPT_REVISIONS
            if revision > 0:
                physical = self._chance.random() < 0.5
                await session.call(rpcs.COMPACT, CompactionRequest(revision=revision, physical=physical))

    def _make_followers(self) -> list[Follower | LibraryFollower]:
        """Watches of everything at every member, and of parts, in every way a watch can be asked for, on the move."""
        name, recorder = self.orders.name, self.ledger.recorder
        everything = Interest(*EVERYTHING, start=1)
        followers: list[Follower | LibraryFollower] = [
            Follower(f"{name}-all-{number}", [channel], recorder, [everything], self._chances(), roams=False)
            for number, channel in enumerate(self._channels)
        ]
        parts = [
            [Interest(b"hot/", b"hot0", start=1, prev_kv=True, fragment=True)],
            [
                Interest(hot(0)),
                Interest(hot(1), prev_kv=True),
                Interest(b"wide/", b"wide0", no_put=True),
                Interest(b"lease/", b"lease0", no_delete=True),
                Interest(hot(2), hot(5), start=1),
            ],
        ]
        followers += [
            Follower(f"{name}-part-{number}", self._channels, recorder, part, self._chances(), roams=True)
            for number, part in enumerate(parts)
        ]
        followers.append(
            LibraryFollower(f"{name}-library-watch", self.orders.endpoints, recorder, b"lease/", b"lease0")
        )
        return followers

    def stop_calling(self) -> None:
        """Make no more calls; of those under way nobody will know what came of them."""
        for task in self.calling:
            task.cancel()

    async def finish(self, revision: int, endpoints: Collection[str]) -> list[str]:
        """Let the watches come up to a revision, and end them: what is to be said of those that did not in time.

        endpoints: of the members that are left; a watch that holds on to another one has seen all that it ever will.
        """
        expected = [each for each in self.followers if each.can_finish(endpoints)]
        for _ in range(CATCH_UP_ROUNDS):
            await asyncio.sleep(CATCH_UP_SECONDS / CATCH_UP_ROUNDS)
            late = [each for each in expected if each.reached < revision]
            if not late:
                break
        for task in self.following:
            task.cancel()
        return [f"{each.name} was told everything up to {each.reached} only, of {revision}" for each in late]

    def save(self) -> None:
        with Path(self.orders.output).open("wb") as file:
            pickle.dump(self.ledger.recorder.history(), file, protocol=5)


def _say(**fields: object) -> None:
    print(json.dumps(fields), flush=True)


async def _report(ledger: Ledger) -> None:
    while True:
        await asyncio.sleep(1.0)
        tally = ledger.tally
        _say(answered=tally.answered, refused=tally.refused, unknown=tally.unknown)


async def _input() -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    return reader


async def serve() -> None:
    """Do as the input says."""
    orders_from = await _input()
    worker = Worker(Orders.decode((await orders_from.readline()).decode()))
    async with asyncio.TaskGroup() as group:
        worker.start(group)
        reporting = group.create_task(_report(worker.ledger))
        late: list[str] = []
        while line := (await orders_from.readline()).decode().split():
            if line[0] == "stop":
                worker.stop_calling()
                _say(stopped=True)
            else:
                late = await worker.finish(int(line[1]), line[2:])
                break
        reporting.cancel()
        for task in (*worker.calling, *worker.following):
            task.cancel()
    worker.save()
    _say(late=late, errors=dict(worker.ledger.tally.errors))


def main() -> None:
    # What is recorded is never garbage: looking through it again and again would take most of the time.
    gc.disable()
    uvloop.run(serve())


if __name__ == "__main__":
    main()
