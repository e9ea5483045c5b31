"""The trace: every change below the root in one order, with what the test itself marked in between.

The layout of a record is that of shim.c. What a disk makes of the records is the business of disk.py.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

CREATE, MKDIR, UNLINK, RMDIR, RENAME, WRITE, TRUNCATE, ALLOCATE, SYNC_BEGIN, SYNC_END, DIRECTORY_SYNCED = range(1, 12)
MARK: Final = 100
"""What the test wrote: FaultFs.mark."""

NAMES: Final = {
    CREATE: "create",
    MKDIR: "mkdir",
    UNLINK: "unlink",
    RMDIR: "rmdir",
    RENAME: "rename",
    WRITE: "write",
    TRUNCATE: "truncate",
    ALLOCATE: "allocate",
    SYNC_BEGIN: "begin to sync",
    SYNC_END: "synced",
    DIRECTORY_SYNCED: "directory synced",
    MARK: "mark",
}

_HEAD: Final = struct.Struct("=IIIIQQQq")


@dataclass(frozen=True, slots=True)
class Record:
    """One change.

    path: below the root, without a slash in front; of an open file, as it was when it was opened. A write has none: the
    inode says which file it was. to: of a rename, the new path. length of a SYNC_END: 0 if all that was written before
    the SYNC_BEGIN is synced, otherwise the bytes of the synchronous write it ends. operation: its number, as
    FaultFs.operations counts; 0 for marks.
    """

    kind: int
    pid: int
    inode: int
    offset: int
    length: int
    operation: int
    path: str
    to: str
    data: bytes

    def __str__(self) -> str:
        """As a line for whoever reads a failure."""
        what = f"{self.operation} {NAMES[self.kind]} {self.path}{' -> ' + self.to if self.to else ''}"
        if self.kind == MARK:
            return f"mark {self.data!r}"
        return f"{what} inode {self.inode} at {self.offset} for {self.length} (process {self.pid})"


def describe(records: Iterable[Record]) -> dict[int, str]:
    """What each operation was, by its number: the kind and the file, as "write wal/journal"."""
    paths: dict[int, str] = {}
    described: dict[int, str] = {}
    for record in records:
        if record.path:
            paths[record.inode] = record.to or record.path
        if record.kind != MARK:
            what = f"{record.path} -> {record.to}" if record.to else paths.get(record.inode, "")
            described.setdefault(record.operation, f"{NAMES[record.kind]} {what}")
    return described


def encode(kind: int, data: bytes) -> bytes:
    """A record that has nothing but data."""
    return _HEAD.pack(_HEAD.size + len(data), kind, os.getpid(), 0, 0, 0, len(data), 0) + data


def read(path: Path) -> Iterator[Record]:
    """The records of a trace, in their order. One that a killed process did not finish ends it."""
    data = path.read_bytes()
    at = 0
    while at + _HEAD.size <= len(data):
        size, kind, pid, path_size, inode, offset, length, operation = _HEAD.unpack_from(data, at)
        if at + size > len(data):
            return
        start = at + _HEAD.size
        old, _, new = data[start : start + path_size].decode().partition("\0")
        body = data[start + path_size : at + size]
        yield Record(kind, pid, inode, offset, length, operation, old.lstrip("/"), new.lstrip("/"), body)
        at += size
