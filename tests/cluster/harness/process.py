"""One server process: started, signalled by its pid, awaited, and never left behind. Knows nothing of etcd."""

import os
import secrets
import select
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.cluster.harness.waiting import wait_until

TAIL_BYTES = 6_000
END_SECONDS = 30.0
MARK = "KVSTORE_TEST_PROCESS"
"""The variable by which all that a process has started is known, also after it has ended itself."""

RUN = "KVSTORE_TEST_RUN"
"""The variable by which all that a run by hand has started is known."""


@contextmanager
def none_left() -> Iterator[None]:
    """End what was started meanwhile and still runs; also what an interruption met between its start and its owner."""
    token = secrets.token_hex(16)
    os.environ[RUN] = token
    mark = f"{RUN}={token}".encode()
    try:
        yield
    finally:
        del os.environ[RUN]
        while left := [pid for pid in _pids() if pid != os.getpid() and _is_marked(pid, mark)]:
            for pid in left:
                _end(pid)


class ManagedProcess:
    """A process with all that it starts, its output in a file that outlives restarts.

    What it starts may have a session of its own, and may outlive it for a moment: it is known by its environment.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: Path, directory: Path) -> None:
        self.command = list(command)
        self.log = log
        self._mark = secrets.token_hex(16)
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                self.command,
                env={**os.environ, **environment, MARK: self._mark},
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process itself, not to what it started."""
        if self.running:
            os.kill(self.pid, number)

    def send_group(self, number: signal.Signals) -> None:
        """Send a signal to the process and all that it started."""
        # To itself first: what cannot run starts nothing more.
        self.send(number)
        for pid in self.started():
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def kill_group(self) -> None:
        """End the process and all that it started, in whatever state, and wait until none of them is left."""
        # All at once: who notices that the process is gone may write what it was last told, or end in order.
        started = self.started()
        self.send(signal.SIGKILL)
        for pid in started:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait(END_SECONDS)
        for pid in started:
            _end(pid)
        while late := self.started():
            for pid in late:
                _end(pid)

    def wait_alone(self, timeout: float = END_SECONDS) -> None:
        """Wait until nothing is left of what an ended process had started. Raises ConditionNotMet."""
        wait_until(lambda: not self.started(), "what the process had started has ended", timeout)

    def started(self) -> list[int]:
        """The pids of what it has started and has not ended; none where there is no /proc."""
        mark = f"{MARK}={self._mark}".encode()
        return [pid for pid in _pids() if pid != self.pid and _is_marked(pid, mark)]

    def wait(self, timeout: float) -> int:
        """The exit status; negative: the signal that ended it. Raises subprocess.TimeoutExpired."""
        return self._process.wait(timeout)

    def tail(self) -> str:
        """The end of what it wrote."""
        return tail(self.log)


def _end(pid: int) -> None:
    """SIGKILL, and wait until the last thread of it is gone and all its files are closed."""
    with suppress(ProcessLookupError):
        handle = os.pidfd_open(pid)
        try:
            signal.pidfd_send_signal(handle, signal.SIGKILL)
            ended, _, _ = select.select([handle], [], [], END_SECONDS)
            assert ended, f"process {pid} is there {END_SECONDS:g} s after SIGKILL"
        finally:
            os.close(handle)


def _pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").glob("[0-9]*")]


def _is_marked(pid: int, mark: bytes) -> bool:
    """Whether a process that has not ended has this in its environment, as it was started with it."""
    try:
        return mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False  # Somebody else's, or it has just ended.


def tail(path: Path) -> str:
    """The end of a file's text; empty if there is no file."""
    if not path.exists():
        return ""
    with path.open("rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, size - TAIL_BYTES))
        return stream.read().decode(errors="replace")
