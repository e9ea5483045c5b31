"""Clusters to measure: real processes on loopback, started with the same flags, and ended whatever happens.

Knows nothing of loads.
"""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from kvstore.pb import rpc_pb2 as pb
from kvstore.rpc import Channel, ChannelOptions, RpcError

START_SECONDS = 60.0
STOP_SECONDS = 15.0
PROBE_SECONDS = 1.0
POLL_SECONDS = 0.005
QUOTA_BYTES = 8 << 30
TAIL_BYTES = 3_000
OWN_NAME = "kvstored"

_RANGE = "/etcdserverpb.KV/Range"
_STATUS = "/etcdserverpb.Maintenance/Status"


class ServerFailed(Exception):
    """A server did not start or has ended; the text holds the end of its log."""


@dataclass(frozen=True, slots=True)
class Program:
    """A server program. version: what it says of itself, in one line."""

    name: str
    command: tuple[str, ...]
    version: str


def kvstored() -> Program:
    """The daemon of this installation."""
    # -P: not what lies in the current directory, where sources would hide compiled modules.
    command = (sys.executable, "-P", "-m", "kvstored")
    # All of it: the interpreter and whether modules are compiled decide how fast it is.
    return Program(OWN_NAME, command, ", ".join(_about(command)))


def etcd() -> Program | None:
    """The etcd on the PATH, if there is one."""
    path = shutil.which("etcd")
    return Program("etcd", (path,), _about((path,))[0]) if path is not None else None


def _about(command: tuple[str, ...]) -> list[str]:
    said = subprocess.run([*command, "--version"], capture_output=True, text=True, timeout=60, check=False)
    return (said.stdout or said.stderr).strip().splitlines() or ["unknown"]


class _Member:
    """One member: a name, two ports that are held for it, a directory, and a process while it runs."""

    def __init__(self, name: str, directory: Path) -> None:
        self.name = name
        self.directory = directory
        self.log = directory / "log"
        self._held = [_hold_port(), _hold_port()]
        self.peer_port, self.client_port = (held.getsockname()[1] for held in self._held)
        self._process: subprocess.Popen[bytes] | None = None
        directory.mkdir(parents=True)

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self.client_port}"

    @property
    def peer_url(self) -> str:
        return f"http://127.0.0.1:{self.peer_port}"

    def start(self, program: Program, initial_cluster: str, further: Mapping[str, str]) -> None:
        client_url = f"http://{self.endpoint}"
        flags = {
            "name": self.name,
            "data-dir": str(self.directory / "data"),
            "listen-peer-urls": self.peer_url,
            "initial-advertise-peer-urls": self.peer_url,
            "listen-client-urls": client_url,
            "advertise-client-urls": client_url,
            "initial-cluster": initial_cluster,
            "initial-cluster-token": "kvbench",
            "quota-backend-bytes": str(QUOTA_BYTES),
            "log-level": "error",
            **further,
        }
        with self.log.open("ab") as log, _signals_deferred():
            self._process = subprocess.Popen(
                [*program.command, *(f"--{name}={value}" for name, value in flags.items())],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def signal(self, number: int) -> None:
        if self._process is not None and self.running:
            self._process.send_signal(number)

    def end(self, grace: float) -> None:
        """Wait for the process to end, and then end it and its children by force."""
        if self._process is None:
            return
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(grace)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def anonymous_bytes(self) -> Iterator[tuple[str, int]]:
        """Each process, itself and its children, with what it holds beyond files that the system caches."""
        if self._process is not None and self.running:
            for pid in _tree(self._process.pid):
                yield f"{self.name} {_command(pid)} {pid}", _anonymous_bytes(pid)

    def processor_seconds(self) -> float:
        """Processor time that the process and its children have taken."""
        if self._process is None or not self.running:
            return 0.0
        return sum(_processor_seconds(pid) for pid in _tree(self._process.pid))

    def tail(self) -> str:
        if not self.log.exists():
            return ""
        return self.log.read_bytes()[-TAIL_BYTES:].decode(errors="replace")

    def close(self) -> None:
        self.signal(signal.SIGTERM)
        self.end(STOP_SECONDS)
        for held in self._held:
            held.close()


class Cluster:
    """Members of one program on fresh data. A context manager: no process outlives it, and its data is deleted."""

    def __init__(self, program: Program, size: int, directory: Path) -> None:
        self.program = program
        self.directory = directory
        self._members = [_Member(f"m{number}", directory / f"m{number}") for number in range(1, size + 1)]
        self._initial = ",".join(f"{member.name}={member.peer_url}" for member in self._members)
        self._flags: Mapping[str, str] = {}
        self._leader = ""

    @property
    def endpoints(self) -> tuple[str, ...]:
        """Where clients reach the members. Last the one that led when they had started: a load of a single connection
        goes through a follower at every server, and not at one of them by chance.
        """
        return tuple(sorted((member.endpoint for member in self._members), key=lambda each: each == self._leader))

    def __enter__(self) -> "Cluster":
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> float:
        """Start the members that do not run; seconds until the first linearizable read was answered.

        Returns when every member answers. Raises ServerFailed.
        """
        begun = time.perf_counter()
        for member in self._members:
            if not member.running:
                member.start(self.program, self._initial, self._flags)
        asyncio.run(_first_answer(self.endpoints, self._check))
        elapsed = time.perf_counter() - begun
        for member in self._members:
            asyncio.run(_first_answer((member.endpoint,), self._check))
        self._leader = asyncio.run(_leader(self.endpoints))
        return elapsed

    def run_with(self, flags: Mapping[str, str]) -> None:
        """Have all members run with these flags besides the usual ones; they are started again if they do not.

        Raises ServerFailed.
        """
        if dict(flags) != dict(self._flags):
            self.stop()
            self._flags = flags
            self.start()

    def _check(self) -> None:
        for member in self._members:
            if not member.running:
                raise ServerFailed(f"{self.program.name} ended by itself; its log:\n{member.tail()}")

    def stop(self) -> None:
        """End all members in good order."""
        for member in self._members:
            member.signal(signal.SIGTERM)
        for member in self._members:
            member.end(STOP_SECONDS)

    def kill_leader(self) -> None:
        """SIGKILL to the process of the leader; `start` brings it back."""
        leader = asyncio.run(_leader(self.endpoints))
        for member in self._members:
            if member.endpoint == leader:
                member.signal(signal.SIGKILL)
                member.end(STOP_SECONDS)

    def anonymous_bytes(self) -> dict[str, int]:
        """Anonymous memory of every process of every member, by a name: member, program and process id."""
        return {name: size for member in self._members for name, size in member.anonymous_bytes()}

    def processor_seconds(self) -> float:
        """Processor time that all members have taken since they were started, with their children that still run."""
        return sum(member.processor_seconds() for member in self._members)

    def close(self) -> None:
        for member in self._members:
            member.signal(signal.SIGTERM)
        for member in self._members:
            member.close()
        shutil.rmtree(self.directory, ignore_errors=True)


@contextmanager
def _signals_deferred() -> Iterator[None]:
    """Let SIGINT and SIGTERM take effect at the end: an exception halfway through starting a process would orphan it.

    Blocking them would not do, for the new process would inherit that.
    """
    arrived: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    handlers = [signal.signal(number, lambda number, frame: arrived.append(number)) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, handlers, strict=True):
            signal.signal(number, handler)
        if arrived:
            signal.raise_signal(arrived[0])


def _hold_port() -> socket.socket:
    """A free port, bound but not listening: nobody else gets it, and a server with SO_REUSEADDR may listen there."""
    held = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("127.0.0.1", 0))
    return held


async def _first_answer(endpoints: tuple[str, ...], check: Callable[[], None]) -> None:
    """Return when any endpoint has answered a linearizable read. check: raises if waiting is in vain."""
    options = ChannelOptions(backoff_initial=POLL_SECONDS, backoff_max=4 * POLL_SECONDS)
    channels = [Channel(endpoint, options=options) for endpoint in endpoints]
    request = pb.RangeRequest(key=b"\0", limit=1, keys_only=True).SerializeToString()
    deadline = time.monotonic() + START_SECONDS
    waiting = {asyncio.ensure_future(_answer(channel, request)) for channel in channels}
    try:
        while time.monotonic() < deadline:
            check()
            done, _ = await asyncio.wait(waiting, timeout=0.1, return_when=asyncio.FIRST_COMPLETED)
            if done:
                return
        raise ServerFailed(f"no answer within {START_SECONDS:g} s of the start")
    finally:
        for task in waiting:
            task.cancel()
        for channel in channels:
            await channel.close()


async def _answer(channel: Channel, request: bytes) -> None:
    while True:
        try:
            await channel.unary(_RANGE, request, timeout=PROBE_SECONDS, wait_for_ready=True)
        except RpcError:
            await asyncio.sleep(POLL_SECONDS)
        else:
            return


async def _leader(endpoints: tuple[str, ...]) -> str:
    """The endpoint of the member that says it leads. Raises ServerFailed if none does before long."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        for endpoint in endpoints:
            channel = Channel(endpoint)
            try:
                answer = await channel.unary(_STATUS, b"", timeout=PROBE_SECONDS)
            except RpcError:
                continue
            finally:
                await channel.close()
            status = pb.StatusResponse.FromString(answer)
            if status.leader and status.leader == status.header.member_id:
                return endpoint
        await asyncio.sleep(POLL_SECONDS)
    raise ServerFailed("no member says that it leads")


def _tree(pid: int) -> Iterator[int]:
    yield pid
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in task.read_text().split():
                yield from _tree(int(child))


def _command(pid: int) -> str:
    """The program of a process, or the Python module that it runs."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return "ended"
    return words[words.index("-m") + 1] if "-m" in words[:-1] else os.path.basename(words[0])


def _anonymous_bytes(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        # It has just ended, or this is not Linux.
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Anonymous:")), 0)


def _processor_seconds(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
