"""Where members that need no real disk live: in memory, where a busy disk cannot hold them up."""

from __future__ import annotations

import shutil
from pathlib import Path

_MEMORY = Path("/dev/shm")
_ROOM = 1 << 30


def fast_place(otherwise: Path) -> Path:
    """A file system in memory if there is one with some room, or `otherwise`."""
    return _MEMORY if _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free >= _ROOM else otherwise
