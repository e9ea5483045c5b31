"""Loopback ports that stay ours while a cluster lives.

A port that is only looked up may be taken by any outgoing connection while its member is down. So each is kept bound,
without listening, with SO_REUSEADDR: a server that sets it too, as servers do, can bind and listen beside that, and the
kernel gives the port to nobody else.
"""

import socket
from types import TracebackType


class PortReservation:
    """Free ports of 127.0.0.1, held until close()."""

    def __init__(self) -> None:
        self._sockets: list[socket.socket] = []

    def take(self) -> int:
        """One more port."""
        held = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        self._sockets.append(held)
        port: int = held.getsockname()[1]
        return port

    def close(self) -> None:
        for held in self._sockets:
            held.close()
        self._sockets.clear()

    def __enter__(self) -> "PortReservation":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
