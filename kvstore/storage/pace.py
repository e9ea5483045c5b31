"""Large files, written and given back piece by piece: so that whoever else needs the disk waits for one piece of them.

The log's journal is written on the loop, and each of its writes waits for what the disk was given before: behind the
sync of a copy of the whole state that was a quarter of a second, and as long again where the last one to close a
deleted file gave its blocks back in one go. A piece is as large as takes a few milliseconds, and after each there is a
pause in which others have the disk. Everything here blocks for as long as the disk takes, except remove().
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import lmdb

_KIB: Final = 1024
# Less would only be more syncs, and a copy on a disk that is slow to sync would take for ever.
_SMALLEST: Final = 1024 * _KIB
_LARGEST: Final = 4096 * _KIB
_FIRST: Final = 1024 * _KIB
# Seconds that a piece shall take.
_SHORT: Final = 0.002
_LONG: Final = 0.006
# The pause behind a piece, by how long that took.
_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 0.1

_SECONDS_BETWEEN_LOOKS: Final = 0.1


class Pace:
    """How much to ask of the disk at a time, and how long to leave it alone afterwards.

    piece: bytes of the next piece.
    """

    def __init__(
        self, clock: Callable[[], float] = time.perf_counter, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        """clock and sleep: in seconds."""
        self.piece = _FIRST
        self._clock = clock
        self._sleep = sleep

    def step(self, action: Callable[[], object]) -> None:
        """Have the disk do one piece, and leave it alone for half as long as that took."""
        began = self._clock()
        action()
        seconds = self._clock() - began
        if seconds > _LONG:
            self.piece = max(_SMALLEST, self.piece // 2)
        elif seconds < _SHORT:
            self.piece = min(_LARGEST, 2 * self.piece)
        self._sleep(min(_PAUSE * seconds, _LONGEST_PAUSE))


class SyncedFile:
    """A file that is written from its beginning to its end, and synced on the way."""

    def __init__(self, descriptor: int, pace: Pace | None = None) -> None:
        """descriptor: of an empty file; the caller closes it. sync_seconds: what the syncs have taken so far."""
        self.sync_seconds = 0.0
        self._fd = descriptor
        self._pace = pace or Pace()
        self._unsynced = 0

    def write(self, data: bytes) -> None:
        """Append. Takes as long as the disk does. Raises OSError."""
        rest = memoryview(data)
        while rest:
            written = os.write(self._fd, rest[: self._pace.piece - self._unsynced])
            rest = rest[written:]
            self._unsynced += written
            if self._unsynced >= self._pace.piece:
                self._unsynced = 0
                self._pace.step(self._sync)

    def finish(self) -> None:
        """Make it durable to its end. Raises OSError."""
        self._unsynced = 0
        self._sync()

    def _sync(self) -> None:
        began = time.perf_counter()
        os.fsync(self._fd)
        self.sync_seconds += time.perf_counter() - began


def copy(env: lmdb.Environment, descriptor: int) -> None:
    """Write a copy of an environment without its free pages, durably. Raises lmdb.Error or OSError.

    LMDB writes into a pipe as fast as that is emptied.
    """
    source, sink = os.pipe()
    failures: list[Exception] = []

    def produce() -> None:
        try:
            env.copyfd(sink, compact=True)
        except Exception as error:  # raised below: nobody hears a thread
            failures.append(error)
        finally:
            os.close(sink)

    producer = threading.Thread(target=produce, name="copy")
    producer.start()
    try:
        file = SyncedFile(descriptor)
        while data := os.read(source, _LARGEST):
            file.write(data)
    finally:
        # A producer that still writes is told so by this, and ends.
        os.close(source)
        producer.join()
    if failures:
        raise failures[0]
    file.finish()


def remove(path: Path) -> None:
    """Delete a file at once by its name; its blocks are given back in a thread, which dies with the process.

    It is fine if there is none. Raises OSError.
    """
    with suppress(FileNotFoundError):
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            os.unlink(path)
            _in_a_thread(lambda: _free(descriptor, Pace()))
        except BaseException:
            os.close(descriptor)
            raise


class Retired:
    """An environment's files that others may still read, while new ones take their names."""

    def __init__(self, data: Path, lock: Path) -> None:
        """Take hold of the files. Nobody in this process may have the environment open. Raises OSError."""
        self._data = os.open(data, os.O_RDWR | os.O_CLOEXEC)
        try:
            self._lock = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
        except BaseException:
            os.close(self._data)
            raise

    def close(self) -> None:
        """Let go of the files at once."""
        os.close(self._data)
        os.close(self._lock)

    def give_back(self) -> None:
        """Give the blocks back as soon as no other process reads them; in a thread, which dies with the process.

        The names must be gone. A process that has the environment open holds a shared lock on its lock file.
        """
        _in_a_thread(self._give_back)

    def _give_back(self) -> None:
        while not self._alone():
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        _free(self._data, Pace())
        os.close(self._lock)

    def _alone(self) -> bool:
        try:
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB, 1)
        except OSError:
            return False
        return True


def _free(descriptor: int, pace: Pace) -> None:
    """Shorten a file without a name until nothing is left of it, and close it."""
    left = os.fstat(descriptor).st_size
    while left > pace.piece:
        left -= pace.piece
        pace.step(lambda length=left: os.ftruncate(descriptor, length))  # type: ignore[misc]
    os.close(descriptor)


def _in_a_thread(action: Callable[[], None]) -> None:
    threading.Thread(target=action, name="give back", daemon=True).start()
