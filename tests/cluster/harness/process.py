"""One server process: started, signalled by its pid, awaited, and never left behind. Knows nothing of etcd."""

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

TAIL_BYTES = 6_000


class ManagedProcess:
    """A process in a group of its own, its output in a file that outlives restarts."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: Path, directory: Path) -> None:
        self.command = list(command)
        self.log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                self.command,
                env={**os.environ, **environment},
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
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def wait(self, timeout: float) -> int:
        """The exit status; negative: the signal that ended it. Raises subprocess.TimeoutExpired."""
        return self._process.wait(timeout)

    def destroy(self) -> None:
        """End it and all that it started, whatever state they are in."""
        # A stopped process takes SIGKILL too, so one signal is enough.
        self.send_group(signal.SIGKILL)
        self._process.wait(30)

    def tail(self) -> str:
        """The end of what it wrote."""
        return tail(self.log)


def tail(path: Path) -> str:
    """The end of a file's text; empty if there is no file."""
    if not path.exists():
        return ""
    with path.open("rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, size - TAIL_BYTES))
        return stream.read().decode(errors="replace")
