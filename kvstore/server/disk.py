"""Whether there is room on the disk, as those who write to it find it."""

from __future__ import annotations

from collections.abc import Callable


class Disk:
    """Whether there is room to write, as the writers of the log and of the state find it.

    on_full: called when the first of them finds none.
    """

    def __init__(self) -> None:
        self._full: set[str] = set()
        self.on_full: Callable[[], None] = lambda: None

    @property
    def full(self) -> bool:
        """Whether something that must be written waits for room."""
        return bool(self._full)

    def set_full(self, name: str) -> None:
        """A writer found no room."""
        first = not self._full
        self._full.add(name)
        if first:
            self.on_full()

    def set_recovered(self, name: str) -> None:
        """A writer goes on."""
        self._full.discard(name)
