"""What is wrong with the disk, as those who write to it and read from it find it: no room, damage."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

_MOST_DAMAGES: Final = 1000


class Disk:
    """Whether there is room to write, as the writers of the log and of the state find it, and whether what was read
    from the state was what had been written.

    on_full: called when the first of the writers finds no room.
    """

    def __init__(self) -> None:
        self._full: set[str] = set()
        # Whether something that must be written waits for room. Asked for each request, hence no property.
        self.full = False
        self._damages: set[str] = set()
        self.on_full: Callable[[], None] = lambda: None

    @property
    def damaged(self) -> bool:
        """Whether something was read that is not what was written."""
        return bool(self._damages)

    def note_damage(self, damage: str) -> bool:
        """Something is damaged: whether that is news. The first thousand are remembered."""
        if damage in self._damages or len(self._damages) >= _MOST_DAMAGES:
            return False
        self._damages.add(damage)
        return True

    def set_full(self, name: str) -> None:
        """A writer found no room."""
        first = not self._full
        self._full.add(name)
        self.full = True
        if first:
            self.on_full()

    def set_recovered(self, name: str) -> None:
        """A writer goes on."""
        self._full.discard(name)
        self.full = bool(self._full)
