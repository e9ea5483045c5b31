"""Requests at a rate of the sender's choosing, whether they are answered or not: an open loop.

A process of its own, with a few connections that each carry any number of calls. What the socket or HTTP/2's flow
control does not take counts as not sent. Run as a program: reads what to do as JSON, says what came of it as JSON.
"""

from __future__ import annotations

import json
import selectors
import socket
import subprocess
import sys
import time
from collections import Counter, deque
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kvstore.pb.rpc_pb2 import PutRequest, RangeRequest
from kvstore.rpc.h2 import Engine, H2Limits, ResponseReceived
from tests.limits import frames

TICK_SECONDS = 0.002
MAX_UNWRITTEN = 1 << 20
"""Bytes that may wait for a socket; a request that finds more there is not sent."""

TIMEOUT_SECONDS = 4
LINGER_SECONDS = TIMEOUT_SECONDS + 2.0


@dataclass(slots=True)
class Flood:
    """What to send: requests a second, or with rate 0 as many as `outstanding` allows on each connection."""

    port: int
    rate: float
    seconds: float
    connections: int = 8
    outstanding: int = 64
    in_flight: int = 4_000
    """Calls that a connection has open at most; one that finds so many is not sent."""


@dataclass(slots=True)
class Outcome:
    """What came of it. latencies: seconds at which 50%, 99% and all of the calls that succeeded were answered."""

    offered: int = 0
    sent: int = 0
    not_sent: int = 0
    answered: int = 0
    unanswered: int = 0
    seconds: float = 0.0
    refused: dict[str, int] = field(default_factory=dict)
    latencies: tuple[float, float, float] = (0.0, 0.0, 0.0)


def run(flood: Flood) -> Outcome:
    """Send a flood from a process of its own."""
    finished = subprocess.run(
        [sys.executable, "-m", "tests.limits.flood"],
        input=json.dumps(asdict(flood)),
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).resolve().parents[2],
        timeout=flood.seconds + 10 * LINGER_SECONDS,
    )
    assert finished.returncode == 0, finished.stderr
    given: dict[str, Any] = json.loads(finished.stdout)
    return Outcome(**{**given, "latencies": tuple(given["latencies"])})


class Statuses:
    """The gRPC status of a block of response headers. The server is told to use no table, so a block says it all."""

    def __init__(self) -> None:
        self._known: dict[bytes, str] = {}

    def of(self, block: bytes) -> str:
        """Such as `8 etcdserver: too many requests`."""
        status = self._known.get(block)
        if status is None:
            engine = Engine.client(H2Limits())
            stream = engine.send_request([(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/")])
            engine.data_to_send(1 << 20)
            engine.receive(frames.frame(frames.SETTINGS, 0, 0))
            engine.receive(frames.frame(frames.HEADERS, frames.END_HEADERS | frames.END_STREAM, stream, block))
            headers = [event.headers for event in engine.events() if isinstance(event, ResponseReceived)]
            fields = dict(headers[0]) if headers else {}
            status = (fields.get(b"grpc-status", b"?") + b" " + fields.get(b"grpc-message", b"")).decode()
            self._known[block] = status
        return status


class Connection:
    """One connection: frames that wait to be written, calls that wait for their answer."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        no_table = (0x1).to_bytes(2, "big") + (0).to_bytes(4, "big")
        self.unwritten = bytearray(
            frames.opening(frames.LARGEST_WINDOW) + frames.frame(frames.SETTINGS, 0, 0, no_table)
        )
        self.socket.setblocking(False)
        self.reader = frames.FrameReader()
        self.credit = frames.DEFAULT_WINDOW
        self.next_stream = 1
        self.sent_at: dict[int, float] = {}
        self.started: set[int] = set()

    def send(self, headers: bytes, payload: bytes, now: float) -> bool:
        """Send a call, unless neither socket nor flow control take it."""
        size = len(payload) + 5
        if len(self.unwritten) > MAX_UNWRITTEN or self.credit < size:
            return False
        self.unwritten += frames.call(self.next_stream, headers, payload)
        self.sent_at[self.next_stream] = now
        self.next_stream += 2
        self.credit -= size
        return True

    def write(self) -> None:
        """Hand to the socket what it takes."""
        try:
            del self.unwritten[: self.socket.send(self.unwritten)]
        except BlockingIOError:
            return


class Sender:
    """Sends one flood."""

    def __init__(self, flood: Flood) -> None:
        self._flood = flood
        self._connections = [Connection(flood.port) for _ in range(flood.connections)]
        self._selector = selectors.DefaultSelector()
        for connection in self._connections:
            self._selector.register(connection.socket, selectors.EVENT_READ, connection)
        timeout = f"{TIMEOUT_SECONDS}S"
        self._calls = deque(
            [
                (frames.request_headers("/etcdserverpb.KV/Put", timeout), PutRequest(key=b"flood", value=b"x" * 64)),
                (frames.request_headers("/etcdserverpb.KV/Range", timeout), RangeRequest(key=b"flood")),
            ]
        )
        self._encoded = [(headers, request.SerializeToString()) for headers, request in self._calls]
        self._statuses = Statuses()
        self._refused: Counter[str] = Counter()
        self._latencies: list[float] = []
        self.outcome = Outcome()

    def run(self) -> Outcome:
        """Send, then wait for what is on its way."""
        flood, outcome = self._flood, self.outcome
        began = time.monotonic()
        end = began + flood.seconds
        while (now := time.monotonic()) < end:
            self._offer(now - began, now)
            self._turn()
        outcome.seconds = time.monotonic() - began
        end = time.monotonic() + LINGER_SECONDS
        while time.monotonic() < end and any(connection.sent_at for connection in self._connections):
            self._turn()
        outcome.unanswered = sum(len(connection.sent_at) for connection in self._connections)
        outcome.answered = len(self._latencies)
        outcome.refused = dict(self._refused)
        found = sorted(self._latencies) or [0.0]
        outcome.latencies = (found[len(found) // 2], found[int(len(found) * 0.99)], found[-1])
        for connection in self._connections:
            connection.socket.close()
        return outcome

    def _offer(self, passed: float, now: float) -> None:
        flood, outcome = self._flood, self.outcome
        if not flood.rate:
            for connection in self._connections:
                while len(connection.sent_at) < flood.outstanding and self._send(connection, now):
                    outcome.offered += 1
            return
        due = int(flood.rate * passed) - outcome.offered
        outcome.offered += due
        for number in range(due):
            if not self._send(self._connections[number % len(self._connections)], now):
                outcome.not_sent += 1

    def _send(self, connection: Connection, now: float) -> bool:
        if len(connection.sent_at) >= self._flood.in_flight:
            return False
        headers, payload = self._encoded[self.outcome.sent & 1]
        if not connection.send(headers, payload, now):
            return False
        self.outcome.sent += 1
        return True

    def _turn(self) -> None:
        for connection in self._connections:
            if connection.unwritten:
                connection.write()
        for key, _ in self._selector.select(TICK_SECONDS):
            self._receive(key.data)

    def _receive(self, connection: Connection) -> None:
        try:
            data = connection.socket.recv(1 << 18)
        except BlockingIOError:
            return
        assert data, "the server has closed the connection of a flood"
        now = time.monotonic()
        for kind, flags, stream, payload in connection.reader.feed(data):
            if kind == frames.HEADERS:
                self._headers(connection, stream, flags, payload, now)
            elif kind == frames.WINDOW_UPDATE and not stream:
                connection.credit += int.from_bytes(payload, "big")
            elif kind == frames.SETTINGS and not flags & frames.ACK:
                connection.unwritten += frames.SETTINGS_ACK
            elif kind == frames.RST_STREAM and connection.sent_at.pop(stream, None) is not None:
                self._refused["reset"] += 1
            elif kind == frames.GOAWAY:
                raise AssertionError(f"the server says good-bye: {payload!r}")

    def _headers(self, connection: Connection, stream: int, flags: int, block: bytes, now: float) -> None:
        if not flags & frames.END_STREAM:
            connection.started.add(stream)
            return
        sent = connection.sent_at.pop(stream, None)
        if sent is None:
            return
        if stream in connection.started:
            connection.started.discard(stream)
            self._latencies.append(now - sent)
        else:
            self._refused[self._statuses.of(block)] += 1


def main() -> None:
    """Send one flood."""
    print(json.dumps(asdict(Sender(Flood(**json.loads(sys.stdin.read()))).run())))


if __name__ == "__main__":
    main()
