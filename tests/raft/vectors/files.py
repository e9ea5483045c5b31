"""Which files are vectors, and which commands each of them uses."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tests.raft.vectors import quorum
from tests.raft.vectors.confchange import ConfChangeEnvironment
from tests.raft.vectors.datadriven import Command, Handler, parse
from tests.raft.vectors.interaction import InteractionEnvironment

_CONFCHANGE = {"simple", "enter-joint", "leave-joint"}
_QUORUM = {"committed", "vote"}


def vector_files(paths: Iterable[Path]) -> list[Path]:
    """Every vector in the folders and below them, in order."""
    files: list[Path] = []
    for path in paths:
        files += sorted(path.rglob("*.txt")) if path.is_dir() else [path]
    return files


def environment_for(path: Path) -> Handler:
    """A fresh handler for the commands the file uses, told by the first of them."""
    first = next((item.name for item in parse(path.read_text()) if isinstance(item, Command)), "")
    if first in _QUORUM:
        return quorum.handle
    return ConfChangeEnvironment().handle if first in _CONFCHANGE else InteractionEnvironment().handle
