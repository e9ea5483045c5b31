"""The process behind helper.py: `python -m kvstore.storage.helper_process DESCRIPTOR`.

Reads one request, answers, ends. Opens the environment for reading only.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import lmdb

from kvstore.storage import frames, helper, messages, structure
from kvstore.storage.batch import TableSpec
from kvstore.storage.engine import begin_reading, call_reader, open_for_reading
from kvstore.storage.errors import StorageError
from kvstore.storage.meta import META
from kvstore.storage.transaction import ReadTransaction

# Leaves that are looked at in a step, some 10 ms, and the pause behind it as a multiple of what it took: a look at all
# pages shall take a twentieth of a processor, or of the disk, at most.
_LEAVES: Final = 500
_REST: Final = 19.0
_LOWEST_PRIORITY: Final = 19


def serve(channel: socket.socket) -> None:
    """Answer the one request."""
    request = frames.receive(channel)
    if request is None:
        return
    kind, path, specs, *rest = request
    tables = [TableSpec(*spec) for spec in specs]
    if kind == helper.LOOK:
        _look(channel, Path(path), tables)
        return
    env, handles = open_for_reading(Path(path), tables)
    if kind == helper.CALL:
        try:
            answer = (True, call_reader(rest[0], env, handles, rest[1]))
        except StorageError as error:
            answer = (False, messages.encode_error(error))
        channel.sendall(b"".join(frames.encode(answer)))
    elif kind == helper.COPY:
        raw = begin_reading(env)
        reading = ReadTransaction(raw, handles)
        try:
            # What is hidden here would be hidden in every copy, and the two would be alike.
            reading.check_complete()
            meta = dict(reading.items(META.name))
        except StorageError as error:
            channel.sendall(b"".join(frames.encode((False, messages.encode_error(error)))))
            return
        channel.sendall(b"".join(frames.encode((True, meta))))
        env.copyfd(channel.fileno(), compact=True, txn=raw)


def _look(channel: socket.socket, path: Path, tables: Sequence[TableSpec]) -> None:
    """Look at all pages, a few at a time, as long as somebody waits for it."""
    os.nice(_LOWEST_PRIORITY)
    place: structure.Place | None = structure.Place()
    answer: tuple[bool, Any] = (True, None)
    gone = select.poll()
    gone.register(channel, select.POLLIN)
    while place is not None:
        began = time.perf_counter()
        try:
            place = structure.look(path, tables, place, _LEAVES)
        except StorageError as error:
            place, answer = None, (False, messages.encode_error(error))
        # poll and not select, which knows descriptors below 1,024 alone.
        if place is not None and gone.poll(1000 * _REST * (time.perf_counter() - began)):
            # Nothing more is asked: whoever did has gone.
            return
    channel.sendall(b"".join(frames.encode(answer)))


def main() -> None:
    """Serve the socket whose descriptor is the only argument."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    with socket.socket(fileno=int(sys.argv[1])) as channel:
        try:
            serve(channel)
        except (OSError, lmdb.Error) as error:
            code = error.code if isinstance(error, lmdb.Error) else error.errno
            if code not in (errno.EPIPE, errno.ECONNRESET):
                raise
            # Whoever asked has gone.
            os._exit(1)


if __name__ == "__main__":
    main()
