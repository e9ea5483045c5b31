"""What a run of a tool has started, seen from outside: for tests that nothing is left of it."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

GIVE_UP_SECONDS = 60.0


def give_up(tool: subprocess.Popen[str]) -> None:
    """End a tool that a failed test has left running: with all that it has started, if it can."""
    if tool.poll() is not None:
        return
    tool.terminate()
    try:
        tool.wait(GIVE_UP_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(tool.pid, signal.SIGKILL)
        tool.wait()


def of_directory(directory: Path) -> list[int]:
    """The processes whose command line has a directory in it, or that work below it."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if _is_of(entry, str(directory)):
                found.append(int(entry.name))
        except OSError:
            continue  # It has ended meanwhile.
    return found


def _is_of(process: Path, directory: str) -> bool:
    return directory.encode() in (process / "cmdline").read_bytes() or directory in str((process / "cwd").readlink())


def alive(pid: int) -> bool:
    """Whether a process is there; one that has ended and was not awaited yet is not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
