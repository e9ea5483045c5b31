"""Who is calling: the first request's headers of an HTTP/2 connection, read in passing.

Members find each other by one advertised address each, so a proxy in front of a member sees the connections of all
others. Every call between members names its sender; that is enough to tell them apart. Does no I/O.
"""

from kvstore.rpc.h2 import ConnectionFailed, Engine, H2Limits, RequestReceived

_FROM = b"kvstore-from"


class CallerSniffer:
    """Follows the bytes of one connection's client until its first request has said who it is.

    done: whether there is nothing more to learn. caller: the member's id; 0 while it is unknown, and for good when the
    first request names nobody, as that of a member that does not belong to the cluster yet.
    """

    __slots__ = ("_engine", "caller", "done")

    def __init__(self) -> None:
        self._engine = Engine.server(H2Limits())
        self.caller = 0
        self.done = False

    def feed(self, data: bytes) -> None:
        """Take bytes as the client sent them. What is no HTTP/2 comes from nobody."""
        try:
            self._engine.receive(data)
        except ConnectionFailed:
            self.done = True
            return
        for event in self._engine.events():
            if isinstance(event, RequestReceived):
                self.done = True
                for name, value in event.headers:
                    if bytes(name) == _FROM:
                        self.caller = int(bytes(value), 16)
                return
