"""Starts members from directories that were damaged and says what came of each: `python -m tests.crash.examine`.

Reads lines of JSON (directory, name, peer URL), answers each with one. Every directory has a process of its own, forked
from this one, for LMDB may take a damaged file badly; so this process must not have threads, and no test runs in it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from contextlib import redirect_stdout
from enum import StrEnum
from pathlib import Path

import structlog

from kvstore.server.bootstrap import BootstrapError
from kvstore.server.config import ConfigError
from kvstore.storage.errors import StorageError
from tests.crash.history import History, everything
from tests.crash.observe import difference
from tests.crash.recovery import Recovered

SECONDS = 20


class Outcome(StrEnum):
    """What comes of a damage, the best first."""

    HARMLESS = "harmless"
    """Everything is there: what was damaged holds nothing, or is made anew."""
    LOOKED = "looked"
    """Every answer is true, and a look at all pages says what is damaged."""
    REFUSED = "refused"
    """The member does not start, and says why."""
    STOPPED = "stopped"
    """The member started, found the damage when it read, and gave an error."""
    DIED = "died"
    """The process was killed by what it read. Nothing wrong was served, and nobody was told."""
    SERVED = "served"
    """The member gave answers that are not true."""


def examine(directory: Path, name: str, peer_url: str) -> tuple[Outcome, str]:
    """Start a member and compare everything it holds with the end of the history. The outcome, and what it said."""
    contents = History.of(everything()).contents[-1]
    try:
        with Recovered(directory, name, peer_url) as member:
            try:
                found = difference(member, contents)
            except Exception as error:
                return Outcome.STOPPED, f"{type(error).__name__}: {error}"
    except (StorageError, BootstrapError, ConfigError) as error:
        return Outcome.REFUSED, f"{type(error).__name__}: {error}"
    except Exception as error:
        return Outcome.STOPPED, f"{type(error).__name__}: {error}"
    return (Outcome.HARMLESS, "") if found is None else (Outcome.SERVED, found)


def _in_a_process(directory: Path, name: str, peer_url: str) -> tuple[Outcome, str]:
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        signal.alarm(SECONDS)
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
            with redirect_stdout(nowhere):
                outcome, said = examine(directory, name, peer_url)
        os.write(writing, json.dumps([outcome, said[:2000]]).encode())
        os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:
        answer = pipe.read()
    _, status = os.waitpid(child, 0)
    if answer:
        outcome, said = json.loads(answer)
        return Outcome(outcome), said
    number = os.waitstatus_to_exitcode(status)
    return Outcome.DIED, f"{signal.Signals(-number).name}" if number < 0 else f"exit status {number}"


def main() -> None:
    """Serve until the input ends."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    for line in sys.stdin:
        directory, name, peer_url = json.loads(line)
        print(json.dumps(_in_a_process(Path(directory), name, peer_url)), flush=True)


if __name__ == "__main__":
    main()
