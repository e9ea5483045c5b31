"""The process that writes one environment: `python -m kvstore.storage.writer_process DESCRIPTOR`.

It reads messages from a socket, commits what has arrived in one transaction, answers, and ends with its socket. It
never decides anything: what it is told it does, in order, or it says that it cannot. Signals that end a member are not
for it; the member closes the socket.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

from kvstore.storage import frames, messages
from kvstore.storage.batch import Operation, WriteStats
from kvstore.storage.engine import MIB, Engine
from kvstore.storage.errors import CorruptStore, DiskFull, JobFailed, StorageError
from kvstore.storage.pace import Retired

_READ_SIZE: Final = 1 * MIB
_MAX_READ_AHEAD: Final = 32 * MIB
_SECONDS_BETWEEN_RETRIES: Final = 0.5

T = TypeVar("T")


class SocketClosed(Exception):
    """The member is gone or has ended the writer, and there is nothing left to do."""


class Server:
    """Serves one socket until it ends."""

    def __init__(self, channel: socket.socket) -> None:
        """Serve `channel`, in blocking mode."""
        self._channel = channel
        self._frames = frames.FrameReader()
        self._queue: deque[tuple[Any, ...]] = deque()
        self._queued_bytes = 0
        self._parts: list[Operation] = []
        self._ended = False
        self._retry = False

    def serve(self) -> int:
        """Open the environment that the first message names and serve it. Returns the exit status."""
        try:
            engine = Engine(*messages.decode_open(self._next()))
        except StorageError as error:
            self._send((messages.FAILED, *messages.encode_error(error)))
            return 1
        engine.retire = Retired.give_back
        try:
            while True:
                self._serve_one(engine)
        except SocketClosed:
            return 0
        except StorageError as error:
            self._send((messages.FAILED, *messages.encode_error(error)))
            return 1
        finally:
            engine.close()

    def _serve_one(self, engine: Engine) -> None:
        message = self._next()
        kind = message[0]
        if kind == messages.BATCH:
            batches: list[list[Operation]] = [message[1]]
            queue = self._queue
            while queue and queue[0][0] == messages.BATCH:
                batches.append(queue.popleft()[1])
            stats = self._until_there_is_room(lambda: engine.commit(batches))
            self._send((messages.COMMITTED, len(batches), stats.as_tuple()))
        elif kind == messages.JOB:
            self._answer(lambda: self._until_there_is_room(lambda: engine.run(message[1], message[2])))
        elif kind == messages.COMPACT:
            self._answer(lambda: (None, engine.compact()))
        elif kind == messages.SWAP_IN:
            self._answer(lambda: (None, engine.swap_in(Path(message[1]), message[2])))

    def _answer(self, action: Callable[[], tuple[Any, WriteStats]]) -> None:
        try:
            result, stats = action()
        except (JobFailed, DiskFull, CorruptStore) as error:
            self._send((messages.ERROR, *messages.encode_error(error)))
        else:
            self._send((messages.RESULT, result, stats.as_tuple()))

    def _until_there_is_room(self, action: Callable[[], T]) -> T:
        full = False
        while True:
            try:
                result = action()
            except DiskFull as error:
                if self._ended:
                    raise
                if not full:
                    full = True
                    self._send((messages.FULL, str(error)))
                self._wait_to_retry()
            else:
                if full:
                    self._send((messages.RECOVERED,))
                return result

    def _wait_to_retry(self) -> None:
        """Wait for the next try: half a second, RETRY, or the end of the socket."""
        self._retry = False
        deadline = time.monotonic() + _SECONDS_BETWEEN_RETRIES
        while not (self._retry or self._ended) and (left := deadline - time.monotonic()) > 0:
            if self._queued_bytes > _MAX_READ_AHEAD:
                time.sleep(left)
            elif select.select([self._channel], [], [], left)[0]:
                self._read(0)

    def _next(self) -> tuple[Any, ...]:
        """The next message, with what else has arrived already behind it in the queue. Raises SocketClosed."""
        while not self._queue:
            if self._ended:
                raise SocketClosed
            self._queued_bytes = 0
            self._read(0)
        while not self._ended and self._queued_bytes < _MAX_READ_AHEAD and self._read(socket.MSG_DONTWAIT):
            pass
        return self._queue.popleft()

    def _read(self, flags: int) -> bool:
        try:
            data = self._channel.recv(_READ_SIZE, flags)
        except BlockingIOError:
            return False
        except ConnectionError:
            data = b""
        if not data:
            self._ended = True
            return False
        self._queued_bytes += len(data)
        for message in self._frames.feed(data):
            if message[0] == messages.RETRY:
                self._retry = True
            elif message[0] == messages.PART:
                self._parts += message[1]
            elif message[0] == messages.BATCH and self._parts:
                self._queue.append((messages.BATCH, [*self._parts, *message[1]]))
                self._parts = []
            else:
                self._queue.append(message)
        return True

    def _send(self, message: tuple[Any, ...]) -> None:
        try:
            self._channel.sendall(b"".join(frames.encode(message)))
        except OSError:
            # Nobody listens any more. What was read is still carried out.
            self._ended = True


def main() -> None:
    """Serve the socket whose descriptor is the only argument."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    with socket.socket(fileno=int(sys.argv[1])) as channel:
        status = Server(channel).serve()
        sys.stderr.flush()
        # Leaves the socket to the kernel, which closes it when everything else is gone: the member may then wait.
        os._exit(status)


if __name__ == "__main__":
    main()
