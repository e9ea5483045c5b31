"""The process behind helper.LookAtRest: `python -m kvstore.storage.at_rest_process DESCRIPTOR`.

Apart from helper_process.py because a member waits for it: it imports next to nothing.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

from kvstore.storage import frames
from kvstore.storage.at_rest import check_part
from kvstore.storage.errors import StorageError


def serve(channel: socket.socket) -> None:
    """Answer the one request: (path, names of tables, part, parts).

    With frames of the number of leaves that have been looked at since the frame before, and at last one of (True, what
    check_part() gives) or (False, class and text of the error).
    """
    request = frames.receive(channel)
    if request is None:
        return
    path, names, part, parts = request

    def tell(leaves: int) -> None:
        channel.sendall(b"".join(frames.encode(leaves)))

    answer: tuple[bool, Any]
    try:
        answer = (True, check_part(Path(path), names, tell, part, parts))
    except StorageError as error:
        answer = (False, (type(error).__name__, str(error)))
    channel.sendall(b"".join(frames.encode(answer)))


def main() -> None:
    """Serve the socket whose descriptor is the only argument."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    # Thousands of leaves live at a time, and none is in a cycle.
    gc.disable()
    with socket.socket(fileno=int(sys.argv[1])) as channel:
        try:
            serve(channel)
        except ConnectionError:
            # Whoever asked has gone.
            os._exit(1)


if __name__ == "__main__":
    main()
