"""What a run of a tool has started, seen from outside: for tests that nothing is left of it."""

from __future__ import annotations

from pathlib import Path


def mentioning(directory: Path) -> list[int]:
    """The processes whose command line has a directory in it."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(directory).encode() in entry.read_bytes():
                found.append(int(entry.parent.name))
        except OSError:
            continue  # It has ended meanwhile.
    return found


def alive(pid: int) -> bool:
    """Whether a process is there; one that has ended and was not awaited yet is not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
