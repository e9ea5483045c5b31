"""Builds the preloaded library, says what a process needs to be under it, and steers it while the process runs.

The layout of the control block is that of shim.c. Knows nothing of what the processes do.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import mmap
import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Final

from tests.faultfs.trace import DIRECTORY_SYNCED, MARK, SYNC_BEGIN, WRITE, encode

SOURCE: Final = Path(__file__).with_name("shim.c")

# Numbers of the fields of the control block, in shim.c's order.
(
    _OPERATIONS,
    _KILL_AT,
    _KILL_AFTER,
    _KILL_ALL,
    _KILLED,
    _SYNC_ERRNO,
    _SYNC_FAILURES,
    _SYNC_DELAY,
    _SYNC_LIE,
    _SYNC_SKIP,
    _SPACE_LEFT,
    _WRITE_ERRNO,
    _WRITE_FAILURES,
    _WRITE_DELAY,
    _CLOCK_OFFSET,
    _KILL_KIND,
    _BY_KIND,
) = range(17)
_FIELDS: Final = 32
_FILTER_SIZE: Final = 256
_MOST_PROCESSES: Final = 256
_SIZE: Final = 8 * (_FIELDS + 1 + _MOST_PROCESSES) + _FILTER_SIZE
_NUMBER: Final = struct.Struct("=q")

FOR_EVER: Final = -1
"""As a number of failures: until told otherwise."""


class NoCompiler(Exception):
    """There is nothing to build the library with; tests that need it skip."""


def build_library() -> Path:
    """The library, built once for each version of its source and kept among temporary files. Raises NoCompiler."""
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if os.uname().sysname != "Linux" or compiler is None:
        raise NoCompiler("the fault layer needs Linux and a C compiler (gcc and libc6-dev)")
    version = hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]
    directory = Path(tempfile.gettempdir()) / f"kvstore-faultfs-{os.getuid()}"
    directory.mkdir(mode=0o700, exist_ok=True)
    library = directory / f"{version}.so"
    if library.exists():
        return library
    made = directory / f"{version}.{os.getpid()}.so"
    command = [compiler, "-O2", "-shared", "-fPIC", "-o", os.fspath(made), os.fspath(SOURCE), "-ldl", "-lpthread"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    if done.returncode:
        raise NoCompiler(f"the fault layer could not be built: {done.stderr.strip()}")
    made.replace(library)
    return library


class FaultFs:
    """Files below one directory, of all processes that are started with `environment`, and what is done to them.

    root: the directory; made if it is not there. Everything else of a test (logs, the trace) lies outside of it. With
    several members give each a FaultFs of its own. trace: a file that is to receive every change, for trace.py. beside:
    whether the system has writes beside a program (io_submit); not all have.

    Processes see it from their start and pass it on to those that they start. In use::

        faults = FaultFs(tmp_path / "m1-data", state=tmp_path / "m1-faults")
        process = subprocess.Popen(command, env={**os.environ, **faults.environment})
        faults.only_below("wal/")           # of the faults below; everything else goes on as usual
        faults.fail_syncs(errno.EIO)        # every fsync, fdatasync and synchronous write from now on
        faults.delay_syncs(0.05)            # seconds
        faults.leave_space(1 << 20)         # bytes that files may still grow; then ENOSPC
        faults.shift_clock(3600)            # the time of day, in seconds; monotonic clocks go on as they did
        faults.heal()                       # all of that is over
        faults.kill_at(faults.operations + 10)

    Operations are what may outlive the process: creating, writing, resizing, syncing, renaming and removing below the
    root. What a mapping of a file changes is not seen. Close it, or use it in a `with` statement.
    """

    def __init__(self, root: Path, state: Path, *, trace: bool = False, beside: bool = True) -> None:
        """state: a directory for the control block, and for the trace if one is wanted. Raises NoCompiler."""
        self.library = build_library()
        root.mkdir(parents=True, exist_ok=True)
        state.mkdir(parents=True, exist_ok=True)
        self.root = root.resolve()
        self.trace = state / "trace" if trace else None
        self._beside = beside
        self._path = state / "control"
        self._path.write_bytes(bytes(_SIZE))
        with self._path.open("r+b") as file:
            self._block = mmap.mmap(file.fileno(), _SIZE)
        self._set(_SPACE_LEFT, -1)

    @property
    def environment(self) -> Mapping[str, str]:
        """What to add to the environment of the processes."""
        preloaded = os.environ.get("LD_PRELOAD")
        variables = {
            "LD_PRELOAD": f"{self.library}:{preloaded}" if preloaded else os.fspath(self.library),
            "FAULTFS_ROOT": os.fspath(self.root),
            "FAULTFS_CONTROL": os.fspath(self._path),
        }
        if self.trace is not None:
            variables["FAULTFS_TRACE"] = os.fspath(self.trace)
        if not self._beside:
            variables["FAULTFS_NOTHING_BESIDE"] = "1"
        return variables

    # What happened.

    @property
    def operations(self) -> int:
        """How many operations there were, of all processes together. The first is number 1."""
        return self._get(_OPERATIONS)

    @property
    def syncs(self) -> int:
        """How many of them were fsync or fdatasync, of files and directories."""
        return self.count(SYNC_BEGIN) + self.count(DIRECTORY_SYNCED)

    @property
    def writes(self) -> int:
        """How many of them were writes."""
        return self.count(WRITE)

    def count(self, kind: int) -> int:
        """How many of them were of a kind, as trace.py names them; a sync is SYNC_BEGIN."""
        return self._get(_BY_KIND + kind)

    @property
    def killed(self) -> int:
        """The operation at which the processes were killed; 0 if they were not."""
        return self._get(_KILLED)

    @property
    def joined(self) -> int:
        """How many processes have come under this layer so far. If none has, the environment did not reach them."""
        return _NUMBER.unpack_from(self._block, 8 * _FIELDS + _FILTER_SIZE)[0]  # type: ignore[no-any-return]

    def mark(self, text: bytes) -> None:
        """Write something of the test's own into the trace, after everything that has happened so far."""
        assert self.trace is not None, "this layer writes no trace"
        with self.trace.open("ab", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.write(encode(MARK, text))

    # What is to happen.

    def kill_at(self, operation: int, *, kind: int = 0, after: bool = False, everyone: bool = True) -> None:
        """SIGKILL before an operation is carried out, or right after it; 0 disarms.

        kind: count only operations of this kind, as trace.py names them. everyone: all processes under this layer;
        otherwise only the one that comes to the operation.
        """
        self._set(_KILL_KIND, kind)
        self._set(_KILLED, 0)
        self._set(_KILL_AFTER, after)
        self._set(_KILL_ALL, everyone)
        self._set(_KILL_AT, operation)

    def disarm(self) -> bool:
        """Kill nobody any more; whether it has come to that."""
        self._set(_KILL_AT, 0)
        return bool(self.killed)

    def only_below(self, part: str) -> None:
        """Confine faults to files whose path below the root, which begins with a slash, contains `part`."""
        encoded = part.encode()
        assert len(encoded) < _FILTER_SIZE
        start = 8 * _FIELDS
        self._block[start : start + _FILTER_SIZE] = encoded.ljust(_FILTER_SIZE, b"\0")

    def fail_syncs(self, number: int = errno.EIO, count: int = FOR_EVER) -> None:
        """Fail the next `count` syncs with an errno. Whether the data reached the disk is open, as it is in earnest.

        A synchronous write is a sync, too; of one that fails nothing is written.
        """
        self._set(_SYNC_FAILURES, count)
        self._set(_SYNC_ERRNO, number)

    def delay_syncs(self, seconds: float) -> None:
        """Let every sync, and every synchronous write, take so much longer."""
        self._set(_SYNC_DELAY, round(seconds * 1e6))

    def lie_about_syncs(self, lie: bool = True) -> None:
        """Let syncs, and writes that are to be synchronous, succeed without doing anything."""
        self._set(_SYNC_LIE, lie)

    def skip_syncs(self, skip: bool = True) -> None:
        """Do not wait for the real disk, but count what was synced as synced: for tests that lose power in theory only.

        Of synchronous writes it holds for files that are opened while it does.
        """
        self._set(_SYNC_SKIP, skip)

    def leave_space(self, size: int | None) -> None:
        """Let files grow by so many bytes together, then fail with ENOSPC; None for no limit."""
        self._set(_SPACE_LEFT, -1 if size is None else size)

    def fail_writes(self, number: int = errno.EIO, count: int = FOR_EVER) -> None:
        """Fail the next `count` writes with an errno; nothing of them is written."""
        self._set(_WRITE_FAILURES, count)
        self._set(_WRITE_ERRNO, number)

    def delay_writes(self, seconds: float) -> None:
        """Let every write take so much longer."""
        self._set(_WRITE_DELAY, round(seconds * 1e6))

    def shift_clock(self, seconds: float) -> None:
        """Move the time of day, forward or back, for all processes at once."""
        self._set(_CLOCK_OFFSET, round(seconds * 1e9))

    def heal(self) -> None:
        """End all faults, and disarm kill_at."""
        self.only_below("")
        self.leave_space(None)
        for field in (_KILL_AT, _SYNC_ERRNO, _SYNC_DELAY, _SYNC_LIE, _SYNC_SKIP):
            self._set(field, 0)
        for field in (_WRITE_ERRNO, _WRITE_DELAY, _CLOCK_OFFSET):
            self._set(field, 0)

    def close(self) -> None:
        """Let go of the control block. Processes that still run keep what they were told last."""
        self._block.close()

    def __enter__(self) -> FaultFs:
        """Nothing but the layer itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    def _get(self, field: int) -> int:
        return _NUMBER.unpack_from(self._block, 8 * field)[0]  # type: ignore[no-any-return]

    def _set(self, field: int, value: int) -> None:
        _NUMBER.pack_into(self._block, 8 * field, value)
