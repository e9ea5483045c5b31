"""What a server counts about its calls, for whoever publishes metrics.

A method's counters are looked up once, when its service is registered; a call only increments attributes and, at its
end, compares how long it took with one number. Only who asks for more pays for more.
"""

import math
from collections.abc import Callable
from typing import Any, Protocol

from kvstore.rpc.status import StatusCode

Report = Callable[[Any, StatusCode, float], None]
"""Told of a call that has ended: its context, its status, and the seconds since its request headers arrived."""


def _nobody(context: Any, code: StatusCode, seconds: float) -> None:
    pass


class MethodStats:
    """Counters of one method since the server was made.

    started: calls whose request headers arrived.
    handled: calls ended, indexed by status code.
    messages_received, messages_sent: gRPC messages.
    bytes_received, bytes_sent: their bytes, without the five of each prefix.
    report: told of every call that took at least `report_from` seconds; what it raises is logged.
    """

    __slots__ = (
        "bytes_received",
        "bytes_sent",
        "handled",
        "messages_received",
        "messages_sent",
        "report",
        "report_from",
        "started",
    )

    def __init__(self, report_from: float = math.inf, report: Report = _nobody) -> None:
        self.started = 0
        self.handled = [0] * len(StatusCode)
        self.messages_received = 0
        self.messages_sent = 0
        self.bytes_received = 0
        self.bytes_sent = 0
        self.report_from = report_from
        self.report = report


class Observer(Protocol):
    """Gives out the counters that a server increments."""

    def method(self, service: str, name: str, kind: str) -> MethodStats:
        """The counters of /service/name. kind: unary, client_stream, server_stream or bidi_stream."""
        ...


class Unobserved:
    """The observer of a server whose numbers nobody reads."""

    def method(self, service: str, name: str, kind: str) -> MethodStats:
        return MethodStats()
