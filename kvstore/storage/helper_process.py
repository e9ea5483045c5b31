"""The process behind helper.py: `python -m kvstore.storage.helper_process DESCRIPTOR`.

Reads one request, answers, ends. Opens the environment for reading only.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any, Final

import lmdb

from kvstore.storage import frames, helper, messages
from kvstore.storage.batch import TableSpec
from kvstore.storage.engine import begin_reading, call_reader, open_for_reading
from kvstore.storage.errors import StorageError
from kvstore.storage.meta import META
from kvstore.storage.transaction import ReadTransaction

_READ_SIZE: Final = 256 * 1024


def serve(channel: socket.socket) -> None:
    """Answer the one request."""
    reader = frames.FrameReader()
    requests: list[Any] = []
    while not requests:
        data = channel.recv(_READ_SIZE)
        if not data:
            return
        requests = reader.feed(data)
    kind, path, specs, *rest = requests[0]
    env, handles = open_for_reading(Path(path), [TableSpec(*spec) for spec in specs])
    if kind == helper.CALL:
        try:
            answer = (True, call_reader(rest[0], env, handles, rest[1]))
        except StorageError as error:
            answer = (False, messages.encode_error(error))
        channel.sendall(b"".join(frames.encode(answer)))
    elif kind == helper.COPY:
        raw = begin_reading(env)
        meta = dict(ReadTransaction(raw, handles).items(META.name))
        channel.sendall(b"".join(frames.encode(meta)))
        env.copyfd(channel.fileno(), compact=True, txn=raw)


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
