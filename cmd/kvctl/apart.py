"""Work in a process of its own, because what it reads may end the process that reads it.

A database is read through a map, so a number in it that is wrong becomes an address that is wrong.
"""

from __future__ import annotations

import multiprocessing
import resource
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import TypeVar

from kvctl.failure import CommandFailed, Exit

T = TypeVar("T")

_FAULTS = frozenset({signal.SIGBUS, signal.SIGSEGV, signal.SIGABRT, signal.SIGILL, signal.SIGFPE})


class Died(Exception):
    """The process was ended by a fault of its own. signal: its name. pid: which process it was."""

    def __init__(self, name: str, pid: int) -> None:
        super().__init__(name)
        self.signal = name
        self.pid = pid


def run(work: Callable[[], T]) -> T:
    """What work() returns in a process that is a copy of this one.

    Raises CommandFailed if it does, Died if the process did, RuntimeError if it ended in another way.
    """
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(theirs, work))
    process.start()
    theirs.close()
    try:
        done, *outcome = ours.recv()
    except EOFError:
        process.join()
        code = process.exitcode or 0
        if -code in _FAULTS:
            raise Died(signal.Signals(-code).name, process.pid or 0) from None
        raise RuntimeError(f"the process that worked apart ended with {code}") from None
    process.join()
    if not done:
        raise CommandFailed(Exit(outcome[0]), outcome[1])
    result: T = outcome[0]
    return result


def _answer(channel: Connection, work: Callable[[], T]) -> None:
    # An interrupt from the terminal reaches both; what is to be said of it the other one says.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    try:
        channel.send((True, work()))
    except CommandFailed as failure:
        channel.send((False, failure.code.value, str(failure)))
