"""Writers: whoever takes batches makes them durable, in order, and says so.

ProcessWriter hands them to a process of its own (writer_process.py), InlineWriter executes them at once in the calling
process. What a batch means is the callers' business; how it is executed, that of engine.py.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from kvstore.storage import frames, messages
from kvstore.storage.batch import TableSpec, WriteBatch, WriteStats
from kvstore.storage.engine import MIB, Engine, EngineOptions
from kvstore.storage.errors import WAY_OUT, CorruptStore, DiskFull, JobFailed, StorageError, WriterFailed
from kvstore.storage.helper import FAULTS, spawn

_READ_SIZE: Final = 256 * 1024
_SEND_BUFFER: Final = 4 * MIB
_SECONDS_TO_EXIT: Final = 30.0
# About a millisecond of encoding.
_ROWS_AT_ONCE: Final = 2000

Done = Callable[[], None]


def _ignore(_: object) -> None:
    pass


def _ignore_nothing() -> None:
    pass


@dataclass(slots=True)
class WriterEvents:
    """Whom a writer tells what happens beside its batches. Called on the loop.

    full: there is no room; called once, what was submitted is kept and tried again. recovered: there is room again;
    called before what waited is done. failed: the writer is dead and what was not done may be lost; called once.
    committed: after each transaction, before its batches are done.
    """

    full: Callable[[DiskFull], None] = _ignore
    recovered: Callable[[], None] = _ignore_nothing
    failed: Callable[[StorageError], None] = _ignore
    committed: Callable[[WriteStats], None] = _ignore


class Writer(Protocol):
    """The single writer of an environment. Everything is carried out in the order of the calls."""

    events: WriterEvents

    def submit(self, batch: WriteBatch, done: Done, stored: Done | None = None) -> None:
        """Make a batch durable; `done` is called on the loop afterwards, in the order of submission.

        stored: called, also in that order and never before `done`, when the environment shows the batch to readers.
        """

    def defer(self, batch: WriteBatch, done: Done) -> None:
        """Execute a batch in its order with the others, when it suits; `done` is called when readers see it.

        A crash before may undo it although what was submitted later is durable.
        """

    def settle(self, done: Done) -> None:
        """Call `done` when readers of the environment see everything submitted before, and will after a crash."""

    def run(self, function: str, arguments: Any) -> Future[Any]:
        """Run "package.module:name"(WriteTransaction, arguments) in a transaction of its own and commit it.

        Arguments and result consist of what marshal knows. The future fails with CorruptStore if the function reads a
        damaged row, with JobFailed if it raises anything else. Keep it short: nothing is committed meanwhile.
        """

    def compact(self) -> Future[None]:
        """Replace the data file by a copy without free pages. The future fails with DiskFull and changes nothing."""

    def swap_in(self, file: Path, changes: WriteBatch) -> Future[None]:
        """Replace the data file by `file`, which must be whole and synced, after making the changes to it.

        The future fails with CorruptStore or DiskFull; the old file is in place then.
        """

    def retry(self) -> None:
        """Try again at once if the disk was full."""

    async def close(self) -> None:
        """Finish what was submitted, then end."""


class InlineWriter:
    """Executes in the calling process, before the call returns; for tests, and for tools without a loop.

    `schedule` takes each callback that says that something is done; by default it is called at once. If the disk is
    full batches are kept until retry().
    """

    def __init__(
        self,
        engine: Engine,
        events: WriterEvents | None = None,
        schedule: Callable[[Done], object] | None = None,
    ) -> None:
        """Write through `engine`, which close() closes."""
        self.engine = engine
        self.events = events or WriterEvents()
        self._schedule = schedule or _call
        self._held: deque[Callable[[], None]] = deque()

    def submit(self, batch: WriteBatch, done: Done, stored: Done | None = None) -> None:
        """As Writer.submit. Raises what the engine raises, except DiskFull."""

        def commit() -> None:
            self.events.committed(self.engine.commit([batch.operations]))
            self._schedule(done if stored is None else _both(done, stored))

        self._do(commit)

    def defer(self, batch: WriteBatch, done: Done) -> None:
        """As Writer.defer."""
        self.submit(batch, done)

    def settle(self, done: Done) -> None:
        """As Writer.settle."""

        def settled() -> None:
            self._schedule(done)

        self._do(settled)

    def run(self, function: str, arguments: Any) -> Future[Any]:
        """As Writer.run."""
        future: Future[Any] = Future()

        def call() -> None:
            try:
                result, stats = self.engine.run(function, arguments)
            except (JobFailed, CorruptStore) as error:
                future.set_exception(error)
                return
            self.events.committed(stats)
            self._schedule(lambda: future.set_result(result))

        self._do(call)
        return future

    def compact(self) -> Future[None]:
        """As Writer.compact."""
        return self._exchange(self.engine.compact)

    def swap_in(self, file: Path, changes: WriteBatch) -> Future[None]:
        """As Writer.swap_in."""
        return self._exchange(lambda: self.engine.swap_in(file, changes.operations))

    def retry(self) -> None:
        """Do what was kept while the disk was full."""
        if not self._held:
            return
        held, self._held = self._held, deque()
        while held:
            self._do(held.popleft())
            if self._held:
                self._held.extend(held)
                return
        self.events.recovered()

    async def close(self) -> None:
        """Close the engine. What is kept because the disk is full is lost, as in a crash."""
        self.engine.close()

    def _do(self, action: Callable[[], None]) -> None:
        if self._held:
            self._held.append(action)
            return
        try:
            action()
        except DiskFull as error:
            self._held.append(action)
            self.events.full(error)

    def _exchange(self, action: Callable[[], WriteStats]) -> Future[None]:
        future: Future[None] = Future()
        try:
            self.events.committed(action())
        except StorageError as error:
            future.set_exception(error)
        else:
            self._schedule(lambda: future.set_result(None))
        return future


def _call(callback: Done) -> None:
    callback()


def _messages_of(batch: WriteBatch) -> Iterator[tuple[Any, ...]]:
    parts = batch.parts(_ROWS_AT_ONCE)
    part = next(parts)
    for following in parts:
        yield messages.PART, part
        part = following
    yield messages.BATCH, part


def _both(first: Done, second: Done) -> Done:
    def call() -> None:
        first()
        second()

    return call


class ProcessWriter:
    """Writes in a process of its own, at the other end of a socket pair.

    The loop only encodes a batch and copies it into the socket. Batches that arrive while the process commits are
    committed together afterwards. The process ends when its socket does, after finishing what it has read whole; it
    inherits the descriptors in `keep_open`, so that a lock held through one of them outlives a member that dies.
    """

    def __init__(
        self,
        path: Path,
        tables: Sequence[TableSpec],
        options: EngineOptions,
        *,
        loop: asyncio.AbstractEventLoop,
        events: WriterEvents | None = None,
        keep_open: Sequence[int] = (),
        module: str = "kvstore.storage.writer_process",
    ) -> None:
        """Start the process for the environment in `path`. Batches may be submitted at once.

        module: what the process runs, as `python -m`.
        """
        self.events = events or WriterEvents()
        self._path = path
        self._loop = loop
        self._pending: deque[Done | Future[Any]] = deque()
        self._backlog: deque[memoryview] = deque()
        self._outbox: deque[Iterator[tuple[Any, ...]]] = deque()
        self._frames = frames.FrameReader()
        self._closing = False
        self._ended: asyncio.Future[None] = loop.create_future()
        ours, theirs = socket.socketpair()
        with theirs:
            ours.setblocking(False)
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
            self._process = spawn(module, theirs.fileno(), keep_open)
        self._socket = ours
        loop.add_reader(ours.fileno(), self._receive)
        self._send(messages.open_environment(path, tables, options))

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    @property
    def backlog(self) -> int:
        """Bytes that the socket has not taken yet."""
        return sum(map(len, self._backlog))

    def submit(self, batch: WriteBatch, done: Done, stored: Done | None = None) -> None:
        """As Writer.submit; a batch of many rows is sent bit by bit and must not be changed until it is done."""
        self._pending.append(done if stored is None else _both(done, stored))
        self._post(_messages_of(batch))

    def defer(self, batch: WriteBatch, done: Done) -> None:
        """As Writer.defer."""
        self.submit(batch, done)

    def settle(self, done: Done) -> None:
        """As Writer.settle."""
        self.submit(WriteBatch(), done)

    def run(self, function: str, arguments: Any) -> Future[Any]:
        """As Writer.run."""
        return self._request((messages.JOB, function, arguments))

    def compact(self) -> Future[None]:
        """As Writer.compact."""
        return self._request((messages.COMPACT,))

    def swap_in(self, file: Path, changes: WriteBatch) -> Future[None]:
        """As Writer.swap_in."""
        return self._request((messages.SWAP_IN, os.fspath(file), changes.operations))

    def retry(self) -> None:
        """As Writer.retry."""
        self._post(iter(((messages.RETRY,),)))

    async def close(self) -> None:
        """Let the process finish and wait until it has ended. Raises WriterFailed if it does not end in time."""
        if not self._closing:
            self._closing = True
            if not self._backlog and not self._outbox:
                self._shut_down()
        try:
            await asyncio.wait_for(asyncio.shield(self._ended), _SECONDS_TO_EXIT)
        except TimeoutError:
            raise WriterFailed(f"{self._path}: the writer process {self.pid} does not end") from None

    def _request(self, message: tuple[Any, ...]) -> Future[Any]:
        future: Future[Any] = Future()
        self._pending.append(future)
        self._post(iter((message,)))
        return future

    def _post(self, stream: Iterator[tuple[Any, ...]]) -> None:
        """Send messages that belong together, after those before."""
        if self._closing:
            return
        self._outbox.append(stream)
        if len(self._outbox) == 1:
            self._post_next()

    def _post_next(self) -> None:
        """Send what is to be sent, but of a batch of many rows only a part in each turn of the loop."""
        outbox = self._outbox
        while outbox:
            message = next(outbox[0])
            self._send(message)
            if message[0] == messages.PART:
                self._loop.call_soon(self._post_next)
                return
            outbox.popleft()
        if self._closing and not self._backlog:
            self._shut_down()

    def _send(self, message: tuple[Any, ...]) -> None:
        if self._ended.done():
            return
        head, body = frames.encode(message)
        sent = 0
        if not self._backlog:
            try:
                sent = self._socket.sendmsg((head, body))
            except BlockingIOError:
                sent = 0
            except OSError:
                # The process is gone: reading from the socket will tell.
                return
            if sent == len(head) + len(body):
                return
            self._loop.add_writer(self._socket.fileno(), self._send_backlog)
        if sent < len(head):
            self._backlog.append(memoryview(head)[sent:])
            sent = len(head)
        self._backlog.append(memoryview(body)[sent - len(head) :])

    def _send_backlog(self) -> None:
        backlog = self._backlog
        try:
            while backlog:
                sent = self._socket.send(backlog[0])
                if sent < len(backlog[0]):
                    backlog[0] = backlog[0][sent:]
                else:
                    backlog.popleft()
        except BlockingIOError:
            return
        except OSError:
            backlog.clear()
        self._loop.remove_writer(self._socket.fileno())
        if self._closing and not self._outbox:
            self._shut_down()

    def _shut_down(self) -> None:
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            # Gone already; the end of the stream is on its way.
            return

    def _receive(self) -> None:
        try:
            data = self._socket.recv(_READ_SIZE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._end()
            return
        try:
            for message in self._frames.feed(data):
                self._handle(message)
        except Exception as error:
            # What follows a commit has failed half-way; nobody knows any more what was done.
            self._fail(WriterFailed(f"{self._path}: what was to follow a commit failed: {error!r}"))
            raise

    def _handle(self, message: tuple[Any, ...]) -> None:
        kind = message[0]
        pending = self._pending
        if kind == messages.COMMITTED:
            self.events.committed(WriteStats(*message[2]))
            for _ in range(message[1]):
                done = pending.popleft()
                assert not isinstance(done, Future)
                done()
        elif kind == messages.RESULT:
            self.events.committed(WriteStats(*message[2]))
            self._future().set_result(message[1])
        elif kind == messages.ERROR:
            self._future().set_exception(messages.decode_error(message[1], message[2]))
        elif kind == messages.FULL:
            self.events.full(DiskFull(message[1]))
        elif kind == messages.RECOVERED:
            self.events.recovered()
        elif kind == messages.FAILED:
            self._fail(messages.decode_error(message[1], message[2]))

    def _future(self) -> Future[Any]:
        future = self._pending.popleft()
        assert isinstance(future, Future)
        return future

    def _end(self) -> None:
        """The process has closed its end."""
        descriptor = self._socket.fileno()
        self._loop.remove_reader(descriptor)
        self._loop.remove_writer(descriptor)
        self._socket.close()
        self._backlog.clear()
        # It closes its end last of all, so that this does not wait.
        status = self._process.wait()
        self._ended.set_result(None)
        if self._pending or status or not self._closing:
            how = f"ended with status {status}"
            if -status in FAULTS:
                fault = signal.Signals(-status).name
                how = f"was ended by {fault}; if that comes of a damaged page that it read, {WAY_OUT}"
            self._fail(WriterFailed(f"{self._path}: the writer process {self.pid} {how}"))

    def _fail(self, error: StorageError) -> None:
        failed, self.events = self.events.failed, WriterEvents()
        pending, self._pending = self._pending, deque()
        failed(error)
        for entry in pending:
            if isinstance(entry, Future):
                entry.set_exception(error)
