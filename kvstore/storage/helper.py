"""Short-lived processes that read an environment beside the loop: for copies of it, and for functions over all of it.

A process has its own view of the environment and its own interpreter, so that nothing it does holds up the loop. What
is said to it is one request; what comes back depends on that. The other end is helper_process.py.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from kvstore.storage import frames, messages
from kvstore.storage.at_rest import Unseen, check_whole
from kvstore.storage.batch import TableSpec
from kvstore.storage.errors import WAY_OUT, CorruptStore, JobFailed, StorageError

CALL: Final = 1
"""(CALL, path, tables, function, arguments) -> frame (succeeded, result or class and text of the error)"""
COPY: Final = 2
"""(COPY, path, tables) -> frame (True, the `meta` rows as a dict), then the bytes of a copy of that very state; or a
frame (False, class and text of the error)"""
LOOK: Final = 3
"""(LOOK, path, tables) -> frame (succeeded, None or class and text of the error) once all pages have been looked at"""

FAULTS: Final = frozenset({signal.SIGABRT, signal.SIGBUS, signal.SIGSEGV})
"""What ends a process that LMDB has read a damaged page for: its own assertions, or reading where nothing is."""

_READ_SIZE: Final = 256 * 1024
_PROCESSES: Final = 2
_SECONDS_BETWEEN_NEWS: Final = 5.0


def spawn(module: str, channel: int, keep_open: Sequence[int] = ()) -> subprocess.Popen[bytes]:
    """Start `python -m module CHANNEL` with the descriptors `channel` and `keep_open` inherited.

    In a session of its own: an interrupt from the terminal is for the member, which ends its processes in order.
    """
    root = os.fspath(Path(__file__).resolve().parents[2])
    inherited = os.environ.get("PYTHONPATH")
    return subprocess.Popen(
        [sys.executable, "-P", "-m", module, str(channel)],
        pass_fds=(channel, *keep_open),
        stdin=subprocess.DEVNULL,
        env=dict(os.environ, PYTHONPATH=os.pathsep.join([root, inherited] if inherited else [root])),
        start_new_session=True,
    )


class Helper:
    """One process and the socket to it. Not safe for several tasks at a time."""

    def __init__(self, request: tuple[Any, ...], module: str = "kvstore.storage.helper_process") -> None:
        """Start the process, which is a module's, and send it the request."""
        self._socket, theirs = socket.socketpair()
        try:
            with theirs:
                self._process = spawn(module, theirs.fileno())
        except BaseException:
            self._socket.close()
            raise
        try:
            # A request is small enough for the socket's buffer unless its arguments are huge; then this waits for it.
            self._socket.sendall(b"".join(frames.encode(request)))
            self._socket.setblocking(False)
        except BaseException:
            self.close()
            raise

    async def read(self) -> bytes:
        """The next bytes, empty at the end."""
        try:
            return await asyncio.get_running_loop().sock_recv(self._socket, _READ_SIZE)
        except ConnectionError:
            return b""

    async def read_frame(self) -> tuple[Any, bytes]:
        """The frame that comes first, and the bytes that came behind it. Raises EOFError if the process ends before."""
        data = b""
        while not (whole := frames.split(data)):
            more = await self.read()
            if not more:
                raise EOFError
            data += more
        return whole

    def close(self) -> None:
        """End the process, whatever it is doing."""
        self._process.kill()
        self._process.wait()
        self._socket.close()

    def died(self, path: Path, what: str) -> StorageError:
        """What to raise when it has ended without an answer, after close(). what: it, and what it did in `path`."""
        status = self._process.returncode
        if -status in FAULTS:
            return CorruptStore(f"{path}: {what} was ended by {signal.Signals(-status).name}; {WAY_OUT}")
        return JobFailed(f"{path}: {what} died")


def describe(path: Path, tables: Sequence[TableSpec]) -> tuple[str, list[tuple[Any, ...]]]:
    """The environment as requests name it."""
    return os.fspath(path), [table.fields() for table in tables]


async def call(path: Path, tables: Sequence[TableSpec], function: str, arguments: Any) -> Any:
    """Run "package.module:name"(ReadTransaction, arguments) in a process; give its result.

    Raises CorruptStore if it reads a damaged row or dies of what it reads, JobFailed if it raises anything else or
    the process dies otherwise.
    """
    helper = Helper((CALL, *describe(path, tables), function, arguments))
    return await _answer(helper, path, f"the process that ran {function}")


async def look(path: Path, tables: Sequence[TableSpec]) -> None:
    """Look at every page of the environment in `path`, at leisure: see structure.py. Raises CorruptStore, JobFailed."""
    await _answer(Helper((LOOK, *describe(path, tables))), path, "the process that looked at its pages")


class LookAtRest:
    """A look at tables of an environment in which nothing changes meanwhile, as quick as two processors allow."""

    def __init__(self, path: Path, unseen: Unseen, tell: Callable[[int], None]) -> None:
        """Begin, in processes of their own. tell: called with the share that is done, in percent, every few seconds.

        Close it when done.
        """
        self._path = path
        self._unseen = unseen
        self._total = sum(table.pages for table in unseen.tables)
        self._done = 0
        self._tell = tell
        self._next = time.monotonic() + _SECONDS_BETWEEN_NEWS
        self._helpers: list[Helper] = []
        parts = min(_PROCESSES, os.cpu_count() or 1)
        try:
            for part in range(parts):
                request = (os.fspath(path), [table.name for table in unseen.tables], part, parts)
                self._helpers.append(Helper(request, "kvstore.storage.at_rest_process"))
        except BaseException:
            self.close()
            raise

    async def wait(self) -> None:
        """Until all has been looked at. Raises CorruptStore, or JobFailed if a process dies."""
        answers = [asyncio.ensure_future(self._follow(each)) for each in self._helpers]
        try:
            check_whole(self._path, self._unseen, await asyncio.gather(*answers))
        finally:
            for answer in answers:
                answer.cancel()
            await asyncio.gather(*answers, return_exceptions=True)

    def close(self) -> None:
        """End the processes, whatever they are doing."""
        for each in self._helpers:
            each.close()
        self._helpers.clear()

    async def _follow(self, each: Helper) -> tuple[dict[str, int], bytes]:
        reader = frames.FrameReader()
        while data := await each.read():
            for news in reader.feed(data):
                if isinstance(news, int):
                    self._count(news)
                    continue
                succeeded, result = news
                if not succeeded:
                    raise messages.decode_error(*result)
                found: tuple[dict[str, int], bytes] = result
                return found
        each.close()
        raise each.died(self._path, "the process that looked at its pages")

    def _count(self, pages: int) -> None:
        self._done += pages
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + _SECONDS_BETWEEN_NEWS
            self._tell(min(99, 100 * self._done // self._total))


async def _answer(helper: Helper, path: Path, what: str) -> Any:
    try:
        (succeeded, result), _ = await helper.read_frame()
    except EOFError:
        answered = False
    else:
        answered = True
    finally:
        helper.close()
    if not answered:
        raise helper.died(path, what)
    if not succeeded:
        raise messages.decode_error(*result)
    return result
