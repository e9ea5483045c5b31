"""Many connections, held by processes of their own: each has its own limit of descriptors, and addresses of its own.

Run as a program: reads what to do as JSON from its standard input, does it, says so as JSON, holds everything until
asked what is left of it, says that, and ends with its input.
"""

from __future__ import annotations

import json
import os
import resource
import select
import socket
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.limits import frames

PORTS_PER_ADDRESS = 20_000
"""Connections from one source address: well below the ports that a system gives out."""

ANSWER_SECONDS = 30.0

OPENED_AT_ONCE = 100
"""Connections of one process that wait for the server at the same time."""

NICENESS = 10
"""How far a crowd stands back behind the member, with which it shares the cores."""

PAUSE_SECONDS = 0.02
"""Between two rounds over the connections of a flood."""


@dataclass(frozen=True, slots=True)
class Errand:
    """What one process of a crowd does.

    host, port: where it connects. connections: how many. first_address: number of its first source address, as in
    127.1.x.y. window: flow control credit that it gives. calls: header block and payload, both hexadecimal, of each
    call that every connection makes. half_close: whether the calls are ended. reads: whether answers are read.
    floods: whether the calls are made again and again, as fast as the socket takes them. raw: what is said instead of
    HTTP/2, hexadecimal.
    """

    host: str
    port: int
    connections: int
    first_address: int
    window: int = frames.DEFAULT_WINDOW
    calls: tuple[tuple[str, str], ...] = ()
    half_close: bool = True
    reads: bool = True
    floods: bool = False
    raw: str = ""


@dataclass(slots=True)
class Standing:
    """What has become of a crowd. refused: connections that were closed before they could say anything, or at it."""

    opened: int = 0
    refused: int = 0
    alive: int = 0


class Crowd:
    """Connections in several processes."""

    def __init__(self, errand: Errand, processes: int) -> None:
        share, rest = divmod(errand.connections, processes)
        self._processes: list[subprocess.Popen[str]] = []
        for number in range(processes):
            part = {
                **asdict(errand),
                "connections": share + (number < rest),
                "first_address": errand.first_address + number * (share // PORTS_PER_ADDRESS + 1),
            }
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.limits.crowd"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                cwd=Path(__file__).resolve().parents[2],
            )
            self._processes.append(process)
            _write(process, part)
        self.standing = Standing()

    def opened(self) -> Standing:
        """Wait until every process has done its part."""
        self.standing = self._sum()
        return self.standing

    def ask(self) -> Standing:
        """What is left of it now."""
        for process in self._processes:
            _write(process, {})
        return self._sum()

    def close(self) -> None:
        """Close all connections."""
        for process in self._processes:
            process.communicate(timeout=ANSWER_SECONDS)

    def __enter__(self) -> Crowd:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.kill()
                process.communicate(timeout=ANSWER_SECONDS)

    def _sum(self) -> Standing:
        total = Standing()
        for process in self._processes:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, "a process of the crowd has died"
            for name, value in json.loads(line).items():
                setattr(total, name, getattr(total, name) + value)
        return total


def _write(process: subprocess.Popen[str], what: dict[str, Any]) -> None:
    assert process.stdin is not None
    process.stdin.write(json.dumps(what) + "\n")
    process.stdin.flush()


# The program.


def main() -> None:
    """Do one errand."""
    os.nice(NICENESS)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    given = json.loads(sys.stdin.readline())
    given["calls"] = tuple((headers, payload) for headers, payload in given["calls"])
    errand = Errand(**given)
    sockets: list[socket.socket] = []
    refused = 0
    for first in range(0, errand.connections, OPENED_AT_ONCE):
        numbers = range(first, min(errand.connections, first + OPENED_AT_ONCE))
        for connection in [_open(errand, number) for number in numbers]:
            if connection is not None and _is_taken(errand, connection):
                sockets.append(connection)
            else:
                refused += 1
    floods = [Flooding(connection, errand) for connection in sockets] if errand.floods else []
    _say(Standing(len(sockets), refused, sum(_alive(connection, errand.reads) for connection in sockets)))
    while _asked(floods):
        _say(Standing(len(sockets), refused, sum(_alive(connection, errand.reads) for connection in sockets)))


def _asked(floods: list[Flooding]) -> bool:
    """Wait, flooding, for a line of the standard input; whether there is one."""
    while floods and not select.select([sys.stdin], [], [], PAUSE_SECONDS)[0]:
        for flooding in floods:
            flooding.go_on()
    return bool(sys.stdin.readline())


def _say(standing: Standing) -> None:
    print(json.dumps(asdict(standing)), flush=True)


class Flooding:
    """Makes an errand's calls over and over on one connection, on streams that were not used yet."""

    def __init__(self, connection: socket.socket, errand: Errand) -> None:
        connection.setblocking(False)
        self._socket = connection
        self._calls = [(bytes.fromhex(headers), bytes.fromhex(payload)) for headers, payload in errand.calls]
        self._half_close = errand.half_close
        self._raw = bytes.fromhex(errand.raw)
        self._stream = 1 + 2 * len(self._calls)
        self._unsent = b""

    def go_on(self) -> None:
        """Hand over what the socket takes, one round of calls at most."""
        if not self._unsent:
            self._unsent = self._raw
            for headers, payload in self._calls:
                self._unsent += frames.call(self._stream, headers, payload, half_close=self._half_close)
                self._stream += 2
        try:
            self._unsent = self._unsent[self._socket.send(self._unsent) :]
        except OSError:
            # It takes nothing now, or nothing any more.
            return


def _open(errand: Errand, number: int) -> socket.socket | None:
    """A connection on which everything is said already; None if that was not possible."""
    address = errand.first_address + number // PORTS_PER_ADDRESS
    said = bytes.fromhex(errand.raw) or frames.opening(errand.window) + frames.SETTINGS_ACK
    for index, (headers, payload) in enumerate(errand.calls):
        request = bytes.fromhex(payload)
        said += frames.call(1 + 2 * index, bytes.fromhex(headers), request, half_close=errand.half_close)
    connection = socket.socket()
    try:
        connection.settimeout(ANSWER_SECONDS)
        # The port is chosen when both ends are known, so that a port may serve several addresses.
        connection.setsockopt(socket.IPPROTO_IP, _BIND_ADDRESS_NO_PORT, 1)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.bind((f"127.1.{address >> 8}.{address & 255}", 0))
        connection.connect((errand.host, errand.port))
        connection.sendall(said)
    except OSError:
        connection.close()
        return None
    return connection


def _is_taken(errand: Errand, connection: socket.socket) -> bool:
    """Whether the server has answered what is to be read."""
    if errand.raw:
        return True
    wanted = {(frames.SETTINGS, 0)}
    if errand.reads and errand.half_close:
        wanted |= {(frames.HEADERS, 1 + 2 * index) for index in range(len(errand.calls))}
    try:
        _settle(connection, wanted)
    except OSError:
        connection.close()
        return False
    return True


_BIND_ADDRESS_NO_PORT = getattr(socket, "IP_BIND_ADDRESS_NO_PORT", 24)


def _settle(connection: socket.socket, wanted: set[tuple[int, int]]) -> None:
    """Read until the server's settings are there, and the end of each of these streams."""
    reader = frames.FrameReader()
    deadline = time.monotonic() + ANSWER_SECONDS
    while wanted and time.monotonic() < deadline:
        data = connection.recv(65_536)
        if not data:
            raise ConnectionResetError
        for kind, flags, stream, _ in reader.feed(data):
            if kind != frames.HEADERS or flags & frames.END_STREAM:
                wanted.discard((kind, stream))
    if wanted:
        raise TimeoutError


def _alive(connection: socket.socket, reads: bool) -> bool:
    connection.settimeout(0)
    if not reads:
        # What has not been read must not be: an error, or the other end's good-bye, shows all the same.
        return connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0 and _established(connection)
    try:
        while data := connection.recv(65_536):
            if any(kind == frames.GOAWAY for kind, _, _, _ in frames.FrameReader().feed(data)):
                return False
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _established(connection: socket.socket) -> bool:
    # The first byte of Linux's struct tcp_info is the state; 1 is ESTABLISHED.
    return connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == 1


if __name__ == "__main__":
    main()
