"""Keeping the pages of a mapped file where reading them costs nothing: in memory, and in this process's page table.

The first read of a page through a map costs the kernel some microseconds if the page is in the system's cache, and a
wait for the disk if it is not, and the one who waits is the member's loop. So a thread asks for the pages before they
are read, if there is memory for all of them. They stay the system's to take back, unless they are to be locked. Both
are Linux's; elsewhere nothing is asked for. Knows a file, its size and where it is mapped: nothing of what it holds.
"""

from __future__ import annotations

import ctypes
import logging
import os
import resource
import sys
from contextlib import suppress
from pathlib import Path
from threading import Lock, Thread
from typing import Final

from kvstore.storage.errors import StorageError

_STEP: Final = 8 << 20
"""Bytes asked for at a time: a millisecond if they are cached. Less is left to whoever reads it first."""
# The share of memory that a file may take to be asked for: a larger one would push out what it has just read.
_SHARE: Final = 0.75

_MADV_NORMAL: Final = 0
_MADV_RANDOM: Final = 1
_MADV_POPULATE_READ: Final = 22
_MLOCK_ONFAULT: Final = 1

_CGROUPS: Final = Path("/sys/fs/cgroup")

_log = logging.getLogger(__name__)


class ResidentMap:
    """The map of one file in this process, which something else has made, and makes anew when the file outgrows it.

    Its methods are for one thread, the one that makes the maps.
    """

    def __init__(self, file: Path, *, lock: bool = False) -> None:
        """lock: lock the pages into memory, which the limits of the process must allow."""
        self._file = os.path.realpath(file)
        self._lock = lock
        self._libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
        self._map_size = 0
        self._locked = 0
        self._may_lock = False
        self._told = False
        # Shared with the thread. Bytes from the start of the file that are to be asked for, and that have been.
        self._guard = Lock()
        self._address = 0
        self._wanted = 0
        self._done = 0
        self._thread: Thread | None = None

    def used(self, size: int, map_size: int) -> None:
        """Say that the first `size` bytes of the file are used, and how large its map is: another size, another map.

        Costs next to nothing unless there is more than before. Raises StorageError if the pages of a first map may not
        be locked; of later ones, and of what the file grows by, the log says so.
        """
        if map_size != self._map_size:
            self.replaced()
            with self._guard:
                self._address, self._map_size = self._find(), map_size
        if not self._address:
            return
        if self._lock and size > self._locked:
            self._lock_up_to(size)
        if size - self._wanted < _STEP:
            return
        with self._guard:
            self._wanted = size
            if self._thread is None:
                self._thread = Thread(target=self._ask, name="resident", daemon=True)
                self._thread.start()

    def replaced(self) -> None:
        """Say that there is another map, or none any more: nothing of it has been asked for."""
        with self._guard:
            self._address = self._map_size = self._wanted = self._done = 0
        self._locked = 0

    def wait(self) -> None:
        """Wait until everything has been asked for."""
        thread = self._thread
        if thread is not None:
            thread.join()

    def _ask(self) -> None:
        """The thread."""
        with self._guard:
            address, map_size, wanted = self._address, self._map_size, self._wanted
        fits = wanted <= _SHARE * _memory()
        # What the system reads along with a page takes the place of another page if there is not room for all.
        self._call("madvise", address, map_size, _MADV_NORMAL if fits else _MADV_RANDOM)
        while fits and (part := self._next_part()):
            # Without the interpreter's lock. An address that is not the map's any more does no harm: this reads only.
            self._call("madvise", *part, _MADV_POPULATE_READ)
        with self._guard:
            self._thread = None

    def _next_part(self) -> tuple[int, int] | None:
        with self._guard:
            start, self._done = self._done, min(self._done + _STEP, self._wanted)
            return (self._address + start, self._done - start) if self._done > start else None

    def _lock_up_to(self, end: int) -> None:
        # Pages are locked as they come into memory, so this takes no time.
        code = self._call("mlock2", self._address + self._locked, end - self._locked, _MLOCK_ONFAULT)
        self._locked = end
        if not code:
            self._may_lock = True
            return
        limit, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
        allowed = "unlimited" if limit == resource.RLIM_INFINITY else f"{limit >> 10} KiB"
        message = (
            f"{self._file}: {end >> 10} KiB of it cannot be locked into memory: {os.strerror(code)}; the limit of this "
            f"process is {allowed} (ulimit -l, or LimitMEMLOCK= of its unit)"
        )
        if not self._may_lock:
            raise StorageError(message)
        if not self._told:
            self._told = True
            _log.warning("%s", message)

    def _call(self, name: str, address: int, size: int, how: int) -> int:
        """Call a function of the system; 0 or the number of an error."""
        function = getattr(self._libc, name)
        done = function(ctypes.c_void_p(address), ctypes.c_size_t(size), ctypes.c_int(how))
        return ctypes.get_errno() if done else 0

    def _find(self) -> int:
        """Where the file is mapped from its beginning; 0 if it is not, or nobody says."""
        if self._libc is None:
            return 0
        with (
            suppress(OSError),
            open("/proc/self/maps", encoding=sys.getfilesystemencoding(), errors="surrogateescape") as maps,
        ):
            for line in maps:
                span, _, offset, _, _, *path = line.rstrip("\n").split(None, 5)
                if path == [self._file] and int(offset, 16) == 0:
                    return int(span.partition("-")[0], 16)
        return 0


def _memory() -> float:
    """Bytes that this process could have in memory: what the system has available, within the limit of its group."""
    found = [float("inf")]
    with suppress(OSError, ValueError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        found += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    with suppress(OSError, ValueError):
        groups = [line[3:] for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::")]
        for group in groups:
            place = _CGROUPS / group.strip("/")
            for each in (place, *place.parents):
                if each.is_relative_to(_CGROUPS):
                    found += _limit(each)
    return min(found)


def _limit(group: Path) -> list[int]:
    with suppress(OSError, ValueError):
        return [int((group / "memory.max").read_text())]
    return []
