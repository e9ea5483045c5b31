"""The journal of an environment: a file in which a batch is durable before the environment has it.

A commit of LMDB writes several pages in several places and waits for the disk twice. The journal is a file of fixed
size that was filled when it was made, so a record changes nothing but the blocks it lies in, and one synchronous write
is all there is to wait for. It is used as a ring: what the environment has may be overwritten.

    block 0            magic, id, size, whether it is live, checksum
    blocks 1...        records (sectors.py); each begins at a block

The environment's own `journal` row says up to where it has executed the journal (`Mark`): records from there on, with
consecutive sequences, are what is to be executed after a crash. The id is another one after every start, so nothing
that was left from an earlier use can be taken for a record. A live journal is one that an environment counts on: an
environment that does not know of it has lost its last commits. Knows bytes; not what is in them, and no event loop.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from struct import Struct
from struct import error as StructError
from typing import Final, NamedTuple
from zlib import crc32

from kvstore.storage import sectors
from kvstore.storage.durable import BlockingFile, DurableFile, open_asynchronous
from kvstore.storage.engine import MIB, sync_directory
from kvstore.storage.errors import CorruptStore
from kvstore.storage.sectors import BLOCK, Found, blank, encode, size_of

FILE: Final = "journal"
NEW_FILE: Final = "journal.new"
"""A journal that a crash has left before it was whole."""

SIZE: Final = 8 * MIB
"""Bytes of a journal."""

_MAGIC: Final = b"kvjrnl02"
# Of journals without stamps, in which a damaged last record is taken for one that was cut off. They are still read.
_MAGIC_UNSTAMPED: Final = b"kvjrnl01"
_ID_SIZE: Final = 8
# The same in every journal: a build of before finds out by it that nothing is left here for it to execute.
_HEAD: Final = Struct("<8s8sQB")
_CHECKSUM: Final = Struct("<I")
_MARK: Final = Struct("<8sQQI")

_Decode = Callable[[bytes, int], Found | None]
_DECODE: Final[Mapping[bytes, _Decode]] = {_MAGIC: sectors.decode, _MAGIC_UNSTAMPED: sectors.decode_unstamped}

_A_WHILE: Final = 1.0
"""Seconds; how long one look at a write that is waited for takes at most."""

# On these systems a write with O_DSYNC is on the disk when it returns. Elsewhere there is no journal.
SUPPORTED: Final = os.uname().sysname == "Linux"


class Mark(NamedTuple):
    """How far an environment has executed its journal: the next record's sequence, and where it begins."""

    id: bytes
    sequence: int
    offset: int

    def encode(self) -> bytes:
        """As it is stored: with a checksum at its end."""
        return _MARK.pack(*self, self.checksum())

    def closed(self) -> Mark:
        """The mark of an environment that has executed this journal and needs it no more."""
        return Mark(self.id, 0, 0)

    @property
    def is_closed(self) -> bool:
        """Whether nothing in the journal is to be executed."""
        return not self.sequence

    def checksum(self) -> int:
        """Over its fields."""
        return crc32(b"%b%d,%d" % self)


def decode_mark(value: bytes, path: Path) -> Mark:
    """The mark stored. Raises CorruptStore; path is for the message."""
    try:
        *fields, checksum = _MARK.unpack(value)
    except StructError:
        checksum = None
    if checksum is None or Mark(*fields).checksum() != checksum:
        raise CorruptStore(f"{path}: the mark of the journal is damaged; {_WAY_OUT}")
    return Mark(*fields)


@dataclass(frozen=True, slots=True)
class Record:
    """One record: its payload and the mark of what comes after it."""

    payload: bytes
    after: Mark


class Journal:
    """A journal that is written. Made by prepare()."""

    def __init__(self, head: BlockingFile, file: DurableFile, identifier: bytes, size: int) -> None:
        """Made by prepare(). The same file twice: head to write the first block through, file the records."""
        self._head = head
        self._file = file
        self._size = size
        self._next = Mark(identifier, 1, BLOCK)
        # Where the oldest record begins that may not be overwritten; None while there is none.
        self._oldest: int | None = None
        # Offset and length of the record that is being written.
        self._begun: tuple[int, int] | None = None

    @property
    def mark(self) -> Mark:
        """The mark of what is written next."""
        return self._next

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self._size

    @property
    def used(self) -> int:
        """Bytes that may not be overwritten."""
        if self._oldest is None:
            return 0
        behind = self._next.offset - self._oldest
        return behind if behind > 0 else behind + self._size - BLOCK

    def fits(self, length: int) -> bool:
        """Whether a payload of so many bytes finds room."""
        return self._place(length) is not None

    def append(self, payload: bytes) -> None:
        """Write a record; it is durable on return. The caller has asked fits(). Raises OSError if it is not."""
        self.begin(payload)
        while not self.finish(_A_WHILE):
            pass

    def begin(self, payload: bytes) -> None:
        """Begin to write a record; the one before is finished. The caller has asked fits(). Raises OSError."""
        offset = self._place(len(payload))
        assert offset is not None, "a record was appended that does not fit"
        assert self._begun is None, "a record was begun while another is under way"
        identifier, sequence, _ = self._next
        parts = encode(identifier, sequence, payload)
        # The mark does not change yet: an environment that stores it meanwhile will look here for this record.
        self._begun = (offset, size_of(len(payload)))
        try:
            self._file.begin(parts, offset)
        except OSError:
            self._give_up()
            raise

    def finish(self, patience: float) -> bool:
        """Whether the record begun is durable within `patience` seconds. Raises OSError if it failed."""
        assert self._begun is not None, "no record was begun"
        offset, length = self._begun
        try:
            written = self._file.finish(patience)
            if written is not None and written != length:
                raise OSError(errno.EIO, f"only {written} of {length} bytes were written")
        except OSError:
            self._give_up()
            raise
        if written is None:
            return False
        self._begun = None
        self._next = Mark(self._next.id, self._next.sequence + 1, offset + length)
        if self._oldest is None:
            self._oldest = offset
        return True

    def fileno(self) -> int:
        """What becomes readable once a record is written that finish() has just said is not."""
        return self._file.fileno()

    def set_live(self) -> None:
        """Say durably that an environment counts on it: after that has stored the mark. Raises OSError."""
        self._head.begin((_head(self._next.id, self._size, live=True),), 0)

    def release(self, mark: Mark) -> None:
        """The environment has executed everything before `mark`, durably: that may be overwritten."""
        self._oldest = None if mark.offset == self._next.offset else mark.offset

    def close(self) -> None:
        """Close the file, once the record begun is written. Closing twice is fine."""
        self._file.close()
        self._head.close()

    def _give_up(self) -> None:
        # A sequence is used once: what a write that failed has left behind must not continue the next one.
        identifier, sequence, offset = self._next
        self._next = Mark(identifier, sequence + 1, offset)
        self._begun = None

    def _place(self, length: int) -> int | None:
        """Where a payload of this length would go; None if there is no room."""
        need = size_of(length)
        head, oldest = self._next.offset, self._oldest
        # Past the end of a journal of which nothing is in use it goes on at the beginning, but not to where the
        # environment's mark is, or soon will be. And the ring is never filled to the last block: that it is full could
        # not be told from that it is empty.
        if oldest is None or head > oldest:
            if head + need <= self._size:
                return head
            return BLOCK if BLOCK + need < (head if oldest is None else oldest) else None
        return head if head + need < oldest else None


def prepare(path: Path, size: int = SIZE, *, durable: bool = True) -> Journal:
    """Make the journal of the environment in directory `path`, or make an old one new: nothing in it counts any more.

    The environment must have executed what was in it, and must store the mark before anything is appended. durable:
    whether an append waits for the disk. Raises OSError, ENOSPC among others.
    """
    file = path / FILE
    if not _is_stamped(file, size):
        new = path / NEW_FILE
        with open(new, "wb", opener=_open_private) as stream:
            for _ in range(0, size, MIB):
                stream.write(blank(min(MIB, size)))
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(new, file)
        sync_directory(path)
    identifier = os.urandom(_ID_SIZE)
    block = _head(identifier, size, live=False)
    head = BlockingFile(file, os.O_DSYNC if durable else 0)
    try:
        head.begin((block,), 0)
        beside = _opened_beside(file, size, block) if durable else None
    except BaseException:
        head.close()
        raise
    return Journal(head, beside or head, identifier, size)


def _opened_beside(file: Path, size: int, head: bytes) -> DurableFile | None:
    """The journal for asynchronous writes, if one of them, of its head, is done."""
    beside = open_asynchronous(file, size)
    if beside is None:
        return None
    try:
        beside.begin((head,), 0)
        while (written := beside.finish(_A_WHILE)) is None:
            pass
        if written == len(head):
            return beside
    except OSError:
        # What has promised it does not do it.
        pass
    beside.close()
    return None


def check_unused(path: Path, closed: Mark | None) -> None:
    """For an environment that counts on no journal: raise CorruptStore if there is one that counts on it.

    closed: the mark with which it was closed, if it ever was.
    """
    file = path / FILE
    with suppress(FileNotFoundError), open(file, "rb") as stream:
        head = stream.read(BLOCK)
        # What is no head was never counted on.
        _, identifier, _, live = _HEAD.unpack_from(head) if _is_head(head) else (b"", b"", 0, False)
        if live and (closed is None or identifier != closed.id):
            raise CorruptStore(
                f"{path}: the log knows nothing of its journal: its last commits are lost; put it back as it was, "
                "or remove this member from the cluster and add it again with an empty data directory"
            )


def records(path: Path, mark: Mark) -> Iterator[Record]:
    """The records that the environment in directory `path` has not executed, in their order.

    A last record that a crash has cut off was not acknowledged, and ends them. Raises CorruptStore if the journal is
    missing or another one, or if a record is damaged, which is not one that was cut off.
    """
    file = path / FILE
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        raise CorruptStore(f"{file}: the journal is missing, and what it held was acknowledged; {_WAY_OUT}") from None
    decode = _check_head(file, data, mark)
    while True:
        for offset in (mark.offset, BLOCK):
            found = decode(data, offset)
            if found is not None and (found.id, found.sequence) == (mark.id, mark.sequence):
                break
        else:
            if _goes_on(data, mark, decode) or (decode is sectors.decode and not _is_end(data, mark)):
                raise CorruptStore(f"{file}: record {mark.sequence} of the journal is damaged; {_WAY_OUT}")
            return
        mark = Mark(mark.id, mark.sequence + 1, found.end)
        yield Record(found.payload, mark)


_WAY_OUT: Final = (
    "put it back as it was, or remove this member from the cluster and add it again with an empty data directory"
)


def _head(identifier: bytes, size: int, live: bool) -> bytes:
    head = _HEAD.pack(_MAGIC, identifier, size, live)
    return (head + _CHECKSUM.pack(crc32(head))).ljust(BLOCK, b"\0")


def _is_head(data: bytes) -> bool:
    return len(data) >= BLOCK and _CHECKSUM.unpack_from(data, _HEAD.size)[0] == crc32(data[: _HEAD.size])


def _is_stamped(file: Path, size: int) -> bool:
    """Whether a file is a journal of this size in which every sector has a stamp."""
    try:
        with open(file, "rb") as stream:
            head = stream.read(BLOCK)
            return os.fstat(stream.fileno()).st_size == size and _is_head(head) and head.startswith(_MAGIC)
    except FileNotFoundError:
        return False


def _check_head(file: Path, data: bytes, mark: Mark) -> _Decode:
    """What reads the records. Raises CorruptStore if this is not the journal that the mark is of."""
    if not _is_head(data):
        length = _HEAD.size + _CHECKSUM.size
        raise CorruptStore(f"{file}: the first {length} bytes of the journal are damaged; {_WAY_OUT}")
    magic, identifier, size, _ = _HEAD.unpack_from(data)
    if magic not in _DECODE:
        raise CorruptStore(f"{file}: a journal that this version of kvstore does not read; use the one that wrote it")
    if size != len(data):
        raise CorruptStore(f"{file}: the journal has {len(data)} bytes where it says {size}; {_WAY_OUT}")
    if identifier != mark.id:
        raise CorruptStore(f"{file}: is not the journal that this log was written with; {_WAY_OUT}")
    return _DECODE[magic]


def _is_end(data: bytes, mark: Mark) -> bool:
    """Whether the next record was never written, or not to its end, wherever it would be."""
    places = [offset for offset in (mark.offset, BLOCK) if offset < len(data)]
    return all(sectors.is_unwritten(data, offset, mark.id, mark.sequence) for offset in places)


def _goes_on(data: bytes, mark: Mark, decode: _Decode) -> bool:
    """Whether there are records after the next one."""
    for offset in range(BLOCK, len(data), BLOCK):
        found = decode(data, offset) if data[offset + 16 : offset + 24] == mark.id else None
        if found is not None and found.sequence > mark.sequence:
            return True
    return False


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)
