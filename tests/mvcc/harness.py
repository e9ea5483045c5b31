"""A store on a backend of its own, whose flushes, crashes and background work happen when a test says so."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Generator
from pathlib import Path

from kvstore.lease import lessor
from kvstore.lease.lessor import Lessor
from kvstore.mvcc import store
from kvstore.mvcc.compaction import CompactionConfig
from kvstore.mvcc.store import Store
from kvstore.mvcc.watchers import WatchConfig
from kvstore.pb import rpc_pb2
from kvstore.storage.backend import Backend, BackendOptions, open_inline
from kvstore.storage.batch import WriteBatch
from kvstore.storage.engine import EngineOptions
from kvstore.storage.overlay import Remains

TABLES = (*store.TABLES, *lessor.TABLES)


class Harness:
    """A store that can be flushed, closed, crashed and opened again.

    acknowledge: the backend learns of its commits only then, as if a writer process had not answered yet.
    work: one piece of what was put off (steps of compaction).
    """

    def __init__(self, batch_limit: int = 2, watch: WatchConfig | None = None) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="kvstore-mvcc-"))
        self._batch_limit = batch_limit
        self._watch = watch
        self.later: deque[Callable[[], None]] = deque()
        self.answers: deque[Callable[[], None]] = deque()
        self.hold_answers = False
        self.flushes = 0
        self.open()

    def open(self) -> None:
        self.later.clear()
        self.answers.clear()
        options = BackendOptions(engine=EngineOptions(map_size=1 << 22, unsafe_no_fsync=True))
        self.backend: Backend = open_inline(self.path, TABLES, options, schedule=self._schedule)
        submit = self.backend._writer.submit

        def count(batch: WriteBatch, done: Callable[[], None], stored: Callable[[], None] | None = None) -> None:
            self.flushes += 1
            submit(batch, done, stored)

        self.backend._writer.submit = count  # type: ignore[method-assign]
        self.lessor = Lessor(self.backend)
        self.store = Store(
            self.backend,
            self.lessor,
            header=encode_header,
            later=lambda _, function: self.later.append(function),
            compaction=CompactionConfig(batch_limit=self._batch_limit),
            watch=self._watch,
        )

    def _schedule(self, callback: Callable[[], None]) -> None:
        self.answers.append(callback)
        if not self.hold_answers:
            self.acknowledge()

    def acknowledge(self) -> None:
        while self.answers:
            self.answers.popleft()()

    def work(self) -> None:
        if self.later:
            self.later.popleft()()

    def settle(self) -> None:
        """Let everything that was put off happen."""
        self.hold_answers = False
        while self.later or self.answers:
            self.acknowledge()
            self.work()

    def crash(self) -> None:
        """Lose what was not flushed, and open again."""
        for spec in TABLES:
            kind = self.backend.dup_table if spec.name == "past" else self.backend.table
            kind(spec.name).discard(Remains())
        self.backend.table("meta").discard(Remains())
        self.close()
        self.open()

    def close(self) -> None:
        self.hold_answers = False
        self.acknowledge()
        asyncio.run(self.backend.close())

    def destroy(self) -> None:
        self.close()
        shutil.rmtree(self.path)


def finish(
    steps: Generator[None, None, bytes], between: Callable[[int], object] = lambda number: None
) -> tuple[rpc_pb2.RangeResponse, int]:
    """Run a read to its end; its answer and how many steps it took more than one. between: called after each step."""
    number = 0
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            return rpc_pb2.RangeResponse.FromString(stop.value), number
        number += 1
        between(number)


def encode_header(revision: int) -> bytes:
    header = rpc_pb2.ResponseHeader(cluster_id=1, member_id=2, revision=revision, raft_term=3).SerializeToString()
    return b"\x0a" + bytes([len(header)]) + header


class Sink:
    """Collects the responses of a watch stream; takes `room` of them, then says it is full until `drain`."""

    def __init__(self, room: int | None = None) -> None:
        self.room = room
        self.held = 0
        self.received: list[rpc_pb2.WatchResponse] = []

    @property
    def writable(self) -> bool:
        return self.room is None or self.held < self.room

    def send(self, message: bytes, /) -> None:
        self.held += 1
        self.received.append(rpc_pb2.WatchResponse.FromString(message))

    def drain(self) -> None:
        self.held = 0
