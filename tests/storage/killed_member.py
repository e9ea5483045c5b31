"""A member that writes batch after batch and prints what is acknowledged, until it kills itself at a given moment."""

import asyncio
import os
import signal
import socket
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from kvstore.storage import backend as backends
from kvstore.storage import environment, frames
from kvstore.storage import wal as wals
from kvstore.storage.datadir import DataDirectory
from kvstore.storage.meta import Identity
from kvstore.storage.writer import ProcessWriter
from tests.storage.harness import TABLES

MOMENT = sys.argv[2]
LAST = 20


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class DyingWriter(ProcessWriter):
    """Dies when the last message is sent, before any of it, in the middle of it, or behind it."""

    batches = 0

    def _send(self, message: tuple[Any, ...]) -> None:
        DyingWriter.batches += 1
        if DyingWriter.batches == LAST:
            if MOMENT == "before_send":
                die()
            if MOMENT == "mid_frame":
                self._socket.setblocking(True)
                data = b"".join(frames.encode(message))
                self._socket.sendall(data[: len(data) // 2])
                self._socket.shutdown(socket.SHUT_WR)
                die()
            super()._send(message)
            if MOMENT == "at_once":
                die()
        else:
            super()._send(message)


async def main() -> None:
    setattr(environment, "ProcessWriter", DyingWriter)  # noqa: B010
    directory = DataDirectory.open(Path(sys.argv[1]))
    backend = backends.open_with_process(directory.db, TABLES[1:], keep_open=directory.descriptors)
    stores = SimpleNamespace(wal=wals.open_inline(directory.wal), backend=backend)
    await directory.record(stores, Identity(1, 1))
    DyingWriter.batches = 0
    table = backend.table("current")
    number = 0
    while True:
        number += 1
        for row in range(100):
            table.put(b"%03d" % row, number.to_bytes(8, "big"))
        await backend.flush_all()
        print(number, flush=True)
        if MOMENT == "after_acknowledgement" and number == LAST:
            die()


asyncio.run(main())
