"""The file of a log's journal: a real one, whose writes are on it when the simulated disk is done with them.

A write that the loop waits for keeps it from its next turn; one that goes on beside the loop is on the file at its
moment and not before. If the power fails meanwhile, each of its sectors was written or was not. Knows bytes and
moments; not what is written.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.member_simulation.timeline import ProcessLoop, Timeline

SECTOR: Final = 512
"""Bytes that a disk writes whole or not at all."""

# Of writes while the disk is full, on a file system that writes nothing in place.
_REFUSED: Final = 0.02


@dataclass(slots=True)
class DiskHabits:
    """How a member's disk behaves; changed while it runs.

    slow: factor on what everything takes. full: nothing more can be written. strike: to be done once, while a write is
    under way that nobody waits for.
    """

    seconds: float = 0.001
    slow: float = 1.0
    full: bool = False
    strike: Callable[[], None] | None = field(default=None, repr=False)


class WorkClock:
    """How late it is for one who works within a turn: the world's time, and what was waited for since it began."""

    def __init__(self, timeline: Timeline, loop: ProcessLoop) -> None:
        self._timeline = timeline
        self._loop = loop
        self._late = 0.0

    def __call__(self) -> float:
        """Seconds of the world."""
        self._late = max(self._late, self._timeline.now)
        return self._late

    def wait(self, seconds: float) -> None:
        """Have the process wait: its next turn is that much later."""
        self._late = self() + seconds
        self._loop.pause(self._late - self._timeline.now)


class BlockingFile:
    """A DurableFile that is written when the call returns, of a system that cannot write beside a program."""

    def __init__(self, path: Path, timeline: Timeline, clock: WorkClock, habits: DiskHabits) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self._chance = timeline.chance
        self._clock = clock
        self._habits = habits
        self._written = 0

    def begin(self, pieces: Sequence[bytes], offset: int) -> None:
        """As DurableFile.begin."""
        _check_room(self._habits, self._chance.random())
        self._clock.wait(_seconds(self._habits, self._chance.expovariate(1.0)))
        self._written = os.pwritev(self._fd, pieces, offset)

    def finish(self, patience: float) -> int | None:
        """As DurableFile.finish."""
        return self._written

    def fileno(self) -> int:
        """As DurableFile.fileno."""
        raise NotImplementedError

    def close(self) -> None:
        """As DurableFile.close."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def lose(self) -> None:
        """The process dies: between two turns, so nothing is under way."""
        self.close()


class LaterFile:
    """A DurableFile that is written beside the program."""

    def __init__(self, path: Path, timeline: Timeline, loop: ProcessLoop, clock: WorkClock, habits: DiskHabits) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self._told_by = loop.new_descriptor()
        self._timeline = timeline
        self._loop = loop
        self._clock = clock
        self._habits = habits
        self._data: bytes | None = None
        self._offset = 0
        self._done_at = 0.0
        self._refusal: OSError | None = None
        self._said_late = False

    def begin(self, pieces: Sequence[bytes], offset: int) -> None:
        """As DurableFile.begin."""
        assert self._data is None, "a write was begun while another is under way"
        chance, habits = self._timeline.chance, self._habits
        self._data, self._offset = b"".join(pieces), offset
        self._done_at = self._clock() + _seconds(habits, chance.expovariate(1.0))
        self._refusal = None
        self._said_late = False
        try:
            _check_room(habits, chance.random())
        except OSError as error:
            # The disk has the last word, and that comes at the end.
            self._refusal = error

    def finish(self, patience: float) -> int | None:
        """As DurableFile.finish."""
        data = self._data
        assert data is not None, "no write was begun"
        left = self._done_at - self._clock()
        if left > patience:
            self._clock.wait(patience)
            if not self._said_late:
                self._said_late = True
                self._goes_on(left - patience)
            return None
        self._clock.wait(max(left, 0.0))
        self._data = None
        if self._refusal is not None:
            raise self._refusal
        return os.pwrite(self._fd, data, self._offset)

    def fileno(self) -> int:
        """As DurableFile.fileno. A number that only loops of a world know."""
        assert self._said_late, "waiting for a write that is done, or was never asked for"
        return self._told_by

    def close(self) -> None:
        """As DurableFile.close: the system waits for a write under way."""
        if self._fd >= 0:
            if self._data is not None and self._refusal is None:
                os.pwrite(self._fd, self._data, self._offset)
            self._data = None
            os.close(self._fd)
            self._fd = -1

    def lose(self) -> None:
        """The process dies, or the machine: of a write under way everything is written, or nothing, or some sectors."""
        data, self._data = self._data, None
        if data is not None:
            chance = self._timeline.chance
            how = chance.choice(("all", "nothing", "first", "some"))
            sectors = range(0, len(data), SECTOR)
            first = chance.randrange(len(sectors) + 1)
            for number, start in enumerate(sectors):
                if how == "all" or (how == "first" and number < first) or (how == "some" and chance.random() < 0.5):
                    os.pwrite(self._fd, data[start : start + SECTOR], self._offset + start)
            self._timeline.note(f"a write of {len(sectors)} sectors is cut off: {how} written")
        self.close()

    def _goes_on(self, seconds: float) -> None:
        timeline, habits = self._timeline, self._habits
        timeline.at(self._done_at, self._tell)
        if timeline.chance.random() < 0.2:
            # What an earlier write has left there.
            timeline.at(self._done_at - seconds * timeline.chance.random(), self._tell)
        if habits.strike is not None:
            strike, habits.strike = habits.strike, None
            timeline.at(self._done_at - seconds * timeline.chance.random(), strike)

    def _tell(self) -> None:
        self._loop.readable(self._told_by)


def _seconds(habits: DiskHabits, chance: float) -> float:
    return habits.seconds * habits.slow * chance


def _check_room(habits: DiskHabits, chance: float) -> None:
    if habits.full and chance < _REFUSED:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
