"""The links between the members: a proxy before each one's peer address, and what each link does to what it carries.

A link goes from one member to another and carries all bytes in that direction, whoever opened the connection. It may
hold them back without a word (`cut`), break connections (`refused`), be late, narrow or lossy. What TCP promises still
holds: a byte that was lost comes later, and nothing comes out of order. Knows nothing of raft, and of members only
their names, ids and addresses.
"""

import asyncio
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tests.chaos.sniff import CallerSniffer

_Held = asyncio.Queue[tuple[float, bytes]]

CHUNK_BYTES = 64 << 10
RETRANSMISSION_SECONDS = (0.2, 0.45)
"""How late a segment is that had to be sent again: Linux waits 200 ms at least."""

HELD_CHUNKS = 64
"""Chunks in flight on a slow link; then the sender is made to wait, as by a full window."""


@dataclass(frozen=True, slots=True)
class Condition:
    """What a link does.

    cut: nothing passes, and nobody is told. refused: connections are reset as soon as they are known to use the link.
    delay, jitter: seconds, and up to how many more. loss: probability that a chunk is lost once and sent again.
    reset: probability that a chunk ends the connection. rate: bytes a second, 0 is unlimited.
    """

    cut: bool = False
    refused: bool = False
    delay: float = 0.0
    jitter: float = 0.0
    loss: float = 0.0
    reset: float = 0.0
    rate: float = 0.0

    @property
    def prompt(self) -> bool:
        """Whether what may pass does so at once."""
        return not (self.delay or self.jitter or self.loss or self.rate)


HEALTHY = Condition()


class LinkReset(Exception):
    """The link has ended a connection."""


class Link:
    """One direction between two members. Belongs to the network's loop."""

    def __init__(self, chance: random.Random) -> None:
        self.condition = HEALTHY
        self.carried = 0
        self._chance = chance
        self._open = asyncio.Event()
        self._open.set()
        self._free_at = 0.0

    def set(self, condition: Condition) -> None:
        self.condition = condition
        if condition.cut:
            self._open.clear()
        else:
            self._open.set()

    def due(self, size: int, now: float) -> float:
        """When a chunk that is sent now arrives. Raises LinkReset if it is the last straw."""
        condition = self.condition
        if condition.reset and self._chance.random() < condition.reset:
            raise LinkReset
        if condition.prompt:
            return now
        due = now + condition.delay + self._chance.random() * condition.jitter
        if condition.loss and self._chance.random() < condition.loss:
            due += self._chance.uniform(*RETRANSMISSION_SECONDS)
        if condition.rate:
            self._free_at = max(self._free_at, now) + size / condition.rate
            due = max(due, self._free_at)
        return due

    async def pass_when_open(self, size: int) -> None:
        """Wait until the link lets something through. Raises LinkReset."""
        await self._open.wait()
        if self.condition.refused:
            raise LinkReset
        self.carried += size


class _Connection:
    """One connection through a proxy: two pipes, and who is at either end."""

    def __init__(
        self, network: "Network", target: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.target = target
        self.caller = ""
        self._network = network
        self._reader, self._writer = reader, writer
        self._sniffer = CallerSniffer()
        self._ends: list[asyncio.StreamWriter] = [writer]

    def uses(self, pair: tuple[str, str]) -> bool:
        return {self.caller, self.target} == set(pair)

    def abort(self) -> None:
        for end in self._ends:
            end.transport.abort()

    async def run(self, port: int) -> None:
        """Carry bytes both ways until either end is done."""
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=CHUNK_BYTES * 4)
        except OSError:
            self.abort()
            return
        self._ends.append(writer)
        try:
            async with asyncio.TaskGroup() as pipes:
                pipes.create_task(self._pipe(self._reader, writer, forward=True))
                pipes.create_task(self._pipe(reader, self._writer, forward=False))
        except* (LinkReset, OSError):
            pass  # The other end learns it from the reset.
        finally:
            self.abort()

    async def _pipe(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, forward: bool) -> None:
        held: _Held = asyncio.Queue(HELD_CHUNKS)
        async with asyncio.TaskGroup() as ends:
            ends.create_task(self._take(reader, held, forward=forward))
            ends.create_task(self._give(held, writer, forward=forward))

    async def _take(self, reader: asyncio.StreamReader, held: _Held, *, forward: bool) -> None:
        now = asyncio.get_running_loop().time
        while data := await reader.read(CHUNK_BYTES):
            if forward and not self._sniffer.done:
                self._sniff(data)
            await held.put((self._link(forward).due(len(data), now()), data))
        await held.put((now(), b""))

    async def _give(self, held: _Held, writer: asyncio.StreamWriter, *, forward: bool) -> None:
        now = asyncio.get_running_loop().time
        while True:
            due, data = await held.get()
            if (wait := due - now()) > 0:
                await asyncio.sleep(wait)
            # Asked only now: while the chunk waited the caller may have become known, or the link have been cut.
            await self._link(forward).pass_when_open(len(data))
            if writer.is_closing():
                raise LinkReset
            if not data:
                writer.write_eof()
                return
            writer.write(data)
            await writer.drain()

    def _sniff(self, data: bytes) -> None:
        self._sniffer.feed(data)
        self.caller = self._network.name_of(self._sniffer.caller)

    def _link(self, forward: bool) -> Link:
        source, target = (self.caller, self.target) if forward else (self.target, self.caller)
        return self._network.link(source, target)


class Network:
    """All links of a cluster, and the proxies. Belongs to one loop, which is not the members'.

    seed: of what slow and lossy links do.
    """

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self._links: dict[tuple[str, str], Link] = {}
        self._names: dict[int, str] = {}
        self._servers: dict[str, asyncio.Server] = {}
        self._connections: dict[_Connection, asyncio.Task[None]] = {}

    async def listen(self, name: str, port: int) -> int:
        """Put a proxy before the member whose own peer port is `port`: the port at which others shall find it."""

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            connection = _Connection(self, name, reader, writer)
            task = asyncio.current_task()
            assert task is not None
            self._connections[connection] = task
            try:
                await connection.run(port)
            finally:
                del self._connections[connection]

        server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=CHUNK_BYTES * 4)
        self._servers[name] = server
        taken: int = server.sockets[0].getsockname()[1]
        return taken

    def know(self, names: Mapping[int, str]) -> None:
        """The names of members by their ids. A member that is added again has a new id and its old name."""
        self._names.update(names)

    def name_of(self, member_id: int) -> str:
        """A member's name; empty for one that nobody knows: its bytes always pass."""
        return self._names.get(member_id, "")

    def link(self, source: str, target: str) -> Link:
        link = self._links.get((source, target))
        if link is None:
            link = self._links[source, target] = Link(random.Random(self._chance.getrandbits(64)))
        return link

    def set(self, pairs: Iterable[tuple[str, str]], condition: Condition) -> None:
        """Have these links, from one member to another each, do something else from now on."""
        for pair in pairs:
            self.link(*pair).set(condition)
            if condition.refused:
                for connection in list(self._connections):
                    if connection.uses(pair):
                        connection.abort()

    def heal(self) -> None:
        """Let all links work; what was held back arrives now."""
        for link in self._links.values():
            link.set(HEALTHY)

    async def close(self) -> None:
        for server in self._servers.values():
            server.close()
        tasks = list(self._connections.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
