"""The member under test: one process with its writers, and what they take of memory and descriptors."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.cluster.harness import Cluster, Member, from_environment

MIB = 1 << 20
SAMPLE_SECONDS = 0.1


@contextmanager
def one_member(directory: Path, **flags: str) -> Iterator[Member]:
    """A cluster of one, that serves."""
    options = {name.replace("_", "-"): value for name, value in flags.items()}
    with Cluster(from_environment(), directory, 1, {"log-level": "warn", **options}) as cluster:
        yield cluster.members[0]


def processes_of(member: Member) -> list[int]:
    """The member's own process and those it has started."""
    assert member.process is not None
    pid = member.process.pid
    found = [pid]
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with suppress(OSError):
                # The parent is the second field after the name, which may hold anything but ends with a bracket.
                stat = Path(f"/proc/{entry}/stat").read_text()
                if int(stat.rpartition(")")[2].split()[1]) == pid:
                    found.append(int(entry))
    return found


def anonymous_bytes(pid: int) -> int:
    """Memory of a process that is its own: not the pages of files that it has mapped."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    # A process that has ended and was not waited for yet.
    return 0


def descriptors(member: Member) -> int:
    """Files and sockets that the member's own process has open."""
    return len(os.listdir(f"/proc/{processes_of(member)[0]}/fd"))


class MemoryWatch:
    """Samples the anonymous memory of a member, its writers' included, from a thread of its own."""

    def __init__(self, member: Member) -> None:
        self._member = member
        self._alone = processes_of(member)[0]
        self._stop = threading.Event()
        self.before = self.now()
        self.peak = self.before
        # Of the member's own process.
        self.peak_alone = 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def now(self) -> int:
        """Bytes at this moment."""
        total = 0
        for pid in processes_of(self._member):
            with suppress(OSError):
                total += anonymous_bytes(pid)
        return total

    def _run(self) -> None:
        while not self._stop.wait(SAMPLE_SECONDS):
            self.peak = max(self.peak, self.now())
            with suppress(OSError):
                self.peak_alone = max(self.peak_alone, anonymous_bytes(self._alone))

    def close(self) -> None:
        """Stop sampling."""
        self._stop.set()
        self._thread.join()
