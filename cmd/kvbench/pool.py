"""The parent's side of the worker processes: one pool runs many loads."""

import multiprocessing
import os
import time
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from types import TracebackType

from kvbench import worker
from kvbench.load import Load, Result
from kvbench.worker import Failure, Go, Progress, Ready, part_of

START_SECONDS = 180.0
# A worker ends its load by itself; this is for one that does not.
SILENCE_SECONDS = 60.0
EXIT_SECONDS = 5.0

Watch = Callable[[int, int], None]
"""Told the number of answered calls, and of delivered events, now and then."""


class LoadFailed(Exception):
    """A load could not be run to its end; the text says why."""


def automatic_processes() -> int:
    """How many workers a machine of this size can spare: on few processors one, since the server needs the rest."""
    return max(1, min(4, (os.cpu_count() or 1) // 4))


class Pool:
    """Worker processes. A context manager: they end with it."""

    def __init__(self, processes: int) -> None:
        # Not forked: a copy of this process would have its sockets and signal handlers.
        context = multiprocessing.get_context("spawn")
        self._pipes: list[Connection[object, object]] = []
        self._processes = []
        for number in range(processes):
            ours, theirs = context.Pipe()
            process = context.Process(target=worker.main, args=(theirs,), name=f"kvbench-{number}", daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def __enter__(self) -> "Pool":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the workers."""
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join(EXIT_SECONDS)
            if process.is_alive():
                process.kill()
                process.join()

    def run(self, load: Load, watch: Watch | None = None, started: Callable[[], None] | None = None) -> Result:
        """Run a load to its end. started: called once everything is connected, before the first call is made.

        Raises LoadFailed.
        """
        tasks = part_of(load, len(self._pipes))
        pipes = self._pipes[: len(tasks)]
        for pipe, task in zip(pipes, tasks, strict=True):
            pipe.send(task)
        for pipe in pipes:
            answer = self._receive(pipe, START_SECONDS)
            if not isinstance(answer, Ready):
                self._give_up(pipes, answer)
        if started is not None:
            started()
        for pipe in pipes:
            pipe.send(Go())
        return self._collect(pipes, watch)

    def _collect(self, pipes: "list[Connection[object, object]]", watch: Watch | None) -> Result:
        results: list[Result] = []
        told: dict[int, Progress] = {}
        running = list(pipes)
        while running:
            ready = wait(running, SILENCE_SECONDS)
            if not ready:
                self._give_up(pipes, Failure("a worker process says nothing any more"))
            for pipe in ready:
                assert isinstance(pipe, Connection)
                answer = self._receive(pipe, 0)
                if isinstance(answer, Progress):
                    told[pipe.fileno()] = answer
                    if watch is not None:
                        watch(sum(p.operations for p in told.values()), sum(p.events for p in told.values()))
                elif isinstance(answer, Result):
                    results.append(answer)
                    running.remove(pipe)
                else:
                    self._give_up(pipes, answer)
        whole = results[0]
        for part in results[1:]:
            whole.merge(part)
        return whole

    def _receive(self, pipe: "Connection[object, object]", timeout: float) -> object:
        try:
            return pipe.recv() if pipe.poll(timeout) else Failure("a worker process does not start")
        except (EOFError, ConnectionError):
            return Failure("a worker process has died")

    def _give_up(self, pipes: "list[Connection[object, object]]", answer: object) -> None:
        """After a failure the others may wait for a Go that never comes: only a fresh pool is sure to work."""
        for process in self._processes:
            process.terminate()
        deadline = time.monotonic() + EXIT_SECONDS
        for process in self._processes:
            process.join(max(0.0, deadline - time.monotonic()))
        raise LoadFailed(answer.reason if isinstance(answer, Failure) else f"unexpected {answer!r}")
