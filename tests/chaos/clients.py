"""The worker processes, from outside: started with their orders, told to stop, and their histories fetched."""

import json
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.chaos.worker import CATCH_UP_SECONDS, Orders
from tests.cluster.harness.binary import REPOSITORY
from tests.history.model import History

PATIENCE_SECONDS = 60.0


class WorkerFailed(AssertionError):
    """A worker ended by itself, or does not answer: an error of the test, not of what it tests."""


class WorkerProcess:
    """One process full of clients. A context manager: it is gone afterwards."""

    def __init__(self, orders: Orders, log: Path) -> None:
        self.orders = orders
        self.log = log
        self.tally: Mapping[str, int] = {}
        self.late: list[str] = []
        self.errors: dict[str, int] = {}
        self._stopped = threading.Event()
        self._finished = threading.Event()
        self._over = False
        path = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        with log.open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.chaos.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**os.environ, "PYTHONPATH": path, "GRPC_ENABLE_FORK_SUPPORT": "0"},
                start_new_session=True,
            )
        threading.Thread(target=self._listen, name=orders.name, daemon=True).start()
        self._tell(orders.encode())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def require_running(self) -> None:
        """Raise WorkerFailed if it has ended."""
        if self._process.poll() is not None and not self._over:
            raise WorkerFailed(f"a worker ended by itself:\n{self.log.read_text()[-4_000:]}")

    def stop(self) -> None:
        """Have it make no more calls."""
        self._tell("stop")

    def wait_stopped(self) -> None:
        self._wait(self._stopped)

    def finish(self, revision: int, endpoints: Iterable[str]) -> None:
        """Have its watches come up to a revision, as far as the members at these endpoints are left; then it ends."""
        self._tell(f"finish {revision} {' '.join(endpoints)}")

    def wait_finished(self) -> History:
        """All that it recorded. `late` then tells which watches did not come as far as they were to."""
        self._wait(self._finished)
        with Path(self.orders.output).open("rb") as file:
            history: History = pickle.load(file)
        return history

    def _wait(self, event: threading.Event) -> None:
        if not event.wait(CATCH_UP_SECONDS + PATIENCE_SECONDS):
            raise WorkerFailed(f"a worker does not answer:\n{self.log.read_text()[-4_000:]}")
        self.require_running()

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise WorkerFailed(f"a worker ended by itself:\n{self.log.read_text()[-4_000:]}") from None

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            said: dict[str, Any] = json.loads(line)
            if "answered" in said:
                self.tally = said
            elif "stopped" in said:
                self._stopped.set()
            else:
                self.late, self.errors = said["late"], said["errors"]
                self._over = True
        # However it ended, nobody shall wait for it any longer.
        self._process.wait()
        self._stopped.set()
        self._finished.set()
