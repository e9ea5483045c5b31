"""A file whose writes are on the disk when they are done, begun without waiting for it.

Linux can write beside a program (io_submit) what goes past its cache (O_DIRECT). That is one call into the kernel and
no thread, which would get the interpreter lock late from a busy loop. The standard library has no function for it, and
packages that have one take `bytes` alone, whose place in memory O_DIRECT refuses; hence ctypes and a buffer. Where the
system does not offer it, a write is done when the call that begins it returns.

Knows bytes and places; not what they mean, and no event loop.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import platform
import struct
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final, Protocol

_SYSCALLS: Final = {"x86_64": (206, 207, 208, 209), "aarch64": (0, 1, 4, 2)}
"""Numbers of io_setup, io_destroy, io_getevents and io_submit, by machine."""

# struct iocb of linux/aio_abi.h: data, key, flags of the write, operation, priority, file, buffer, length, offset,
# reserved, flags, eventfd. And struct io_event: data, object, result, second result.
_CONTROL: Final = struct.Struct("<QIIHhIQQqQII")
_EVENT: Final = struct.Struct("<QQqq")
_SECONDS: Final = struct.Struct("<qq")
_WRITE: Final = 1
_TELLS_EVENTFD: Final = 1


class DurableFile(Protocol):
    """A file that is written one piece after the other."""

    def begin(self, pieces: Sequence[bytes], offset: int) -> None:
        """Begin to write; the write before is done. Raises OSError."""

    def finish(self, patience: float) -> int | None:
        """Bytes that the write begun has put on the disk; None if it is not done within `patience` seconds.

        Raises OSError if it failed.
        """

    def fileno(self) -> int:
        """What becomes readable once a write is done that finish() has just said is not."""

    def close(self) -> None:
        """Close it, once the write begun is done. Closing twice is fine."""


def open_asynchronous(path: Path, size: int) -> DurableFile | None:
    """Open a file for writes of whole blocks of 4 KiB, `size` bytes at most; None where there is no such thing.

    That is so on other systems, and where a sandbox forbids it, the file system insists on its cache, or all programs
    together use too many.
    """
    if platform.machine() not in _SYSCALLS or ctypes.sizeof(ctypes.c_long) != 8:
        return None
    try:
        return AsynchronousFile(path, size)
    except OSError:
        return None


class BlockingFile:
    """A file whose writes are done when they are begun. flags: O_DSYNC, or 0 if nothing is to be durable."""

    def __init__(self, path: Path, flags: int) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | flags)
        self._written = 0

    def begin(self, pieces: Sequence[bytes], offset: int) -> None:
        """See DurableFile."""
        self._written = os.pwritev(self._fd, pieces, offset)

    def finish(self, patience: float) -> int | None:
        """See DurableFile."""
        return self._written

    def fileno(self) -> int:
        """See DurableFile. Never asked for: a write is always done."""
        raise NotImplementedError

    def close(self) -> None:
        """See DurableFile."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class AsynchronousFile:
    """A file that the kernel writes beside the program, straight from a buffer of `size` bytes."""

    def __init__(self, path: Path, size: int) -> None:
        """Raises OSError where the system, the file system or a sandbox refuses it."""
        self._system = _System()
        with ExitStack() as opened:
            self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_DSYNC | os.O_DIRECT)
            opened.callback(os.close, self._fd)
            self._done = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            opened.callback(os.close, self._done)
            self._context = self._system.setup()
            opened.pop_all()
        # Its pages are real once something was written through them.
        self._buffer = mmap.mmap(-1, size)
        self._address = ctypes.addressof(ctypes.c_char.from_buffer(self._buffer))
        self._under_way = False

    def begin(self, pieces: Sequence[bytes], offset: int) -> None:
        """See DurableFile."""
        assert not self._under_way, "a write was begun while another is under way"
        length = 0
        buffer = self._buffer
        for piece in pieces:
            end = length + len(piece)
            buffer[length:end] = piece
            length = end
        self._system.submit(self._context, self._fd, self._address, length, offset, self._done)
        self._under_way = True

    def finish(self, patience: float) -> int | None:
        """See DurableFile."""
        assert self._under_way, "no write was begun"
        result = self._system.result(self._context, patience)
        if result is None:
            # What earlier writes have left here goes. The kernel tells a result before it writes here: if there is none
            # now, what it will write makes this readable.
            with suppress(BlockingIOError):
                os.eventfd_read(self._done)
            result = self._system.result(self._context, 0.0)
            if result is None:
                return None
        self._under_way = False
        if result < 0:
            raise OSError(-result, os.strerror(-result))
        return result

    def fileno(self) -> int:
        """See DurableFile."""
        return self._done

    def close(self) -> None:
        """See DurableFile."""
        if self._fd >= 0:
            self._system.destroy(self._context)
            os.close(self._fd)
            os.close(self._done)
            self._fd = -1


class _System:
    """The calls into the kernel, with what they take laid out once."""

    def __init__(self) -> None:
        self._setup, self._destroy, self._get_events, self._submit = map(ctypes.c_long, _SYSCALLS[platform.machine()])
        self._call = ctypes.CDLL(None, use_errno=True).syscall
        self._call.restype = ctypes.c_long
        self._control = ctypes.create_string_buffer(_CONTROL.size)
        self._controls = (ctypes.c_void_p * 1)(ctypes.addressof(self._control))
        self._event = ctypes.create_string_buffer(_EVENT.size)
        self._patience = ctypes.create_string_buffer(_SECONDS.size)
        self._one = ctypes.c_long(1)

    def setup(self) -> ctypes.c_ulong:
        """A context for one write at a time. Raises OSError."""
        context = ctypes.c_ulong(0)
        self._checked(self._call(self._setup, self._one, ctypes.byref(context)))
        return context

    def destroy(self, context: ctypes.c_ulong) -> None:
        """End a context, once its write is done."""
        self._call(self._destroy, context)

    def submit(self, context: ctypes.c_ulong, fd: int, address: int, length: int, offset: int, eventfd: int) -> None:
        """Begin a write of memory. Raises OSError."""
        control = (0, 0, 0, _WRITE, 0, fd, address, length, offset, 0, _TELLS_EVENTFD, eventfd)
        _CONTROL.pack_into(self._control, 0, *control)
        self._checked(self._call(self._submit, context, self._one, self._controls))

    def result(self, context: ctypes.c_ulong, patience: float) -> int | None:
        """What became of the write: bytes, or an errno below zero; None if it is not done within so many seconds."""
        _SECONDS.pack_into(self._patience, 0, int(patience), int(patience % 1 * 1e9))
        got = self._call(self._get_events, context, self._one, self._one, self._event, self._patience)
        if got < 0 and ctypes.get_errno() == errno.EINTR:
            return None
        self._checked(got)
        if not got:
            return None
        result: int = _EVENT.unpack(self._event)[2]
        return result

    @staticmethod
    def _checked(result: int) -> None:
        if result < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
