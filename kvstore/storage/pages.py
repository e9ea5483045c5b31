"""What an LMDB data file says of itself: its meta pages, its length and its free pages, read without LMDB.

Three things need this. A file that is shorter than its meta page claims kills the process that reads beyond the end of
it through the map, so it must be found before it is opened; how many pages are free is what LMDB's Python binding does
not tell; and whether pages hang together (structure.py) is what LMDB takes for granted. Knows LMDB's data format 1 (all
of LMDB 0.9) on 64-bit machines; the layout is that of lmdb's mdb.c.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from struct import Struct
from typing import Final

from kvstore.storage.errors import CorruptStore, FormatTooNew

DATA_FILE: Final = "data.mdb"
LOCK_FILE: Final = "lock.mdb"

_MAGIC: Final = 0xBEEFC0DE
_VERSION: Final = 1
PAGE_HEADER_SIZE: Final = 16
FIRST_PAGE: Final = 2
_MAX_DEPTH: Final = 32
NO_PAGE: Final = (1 << 64) - 1
BRANCH, LEAF, OVERFLOW, _META = 1, 2, 4, 8
BIG_DATA: Final = 1

# Two pages of header, and what the transaction that makes the tables writes before the first sync.
_MOST_BEFORE_COMMIT: Final = 64 * 1024

# Page number, pad, flags, lower and upper bound of the free space; native byte order, as LMDB writes.
PAGE_HEADER: Final = Struct("=QHHHH")
# Magic, version, address, map size; two trees; last page, transaction.
_META_HEAD: Final = Struct("=IIQQ")
_TREE: Final = Struct("=IHHQQQQQ")
TREE_SIZE: Final = _TREE.size
_META_TAIL: Final = Struct("=QQ")
_META_SIZE: Final = PAGE_HEADER_SIZE + _META_HEAD.size + 2 * TREE_SIZE + _META_TAIL.size
# Low and high half of a data size or page number, flags, key size.
NODE: Final = Struct("=HHHH")
NUMBER: Final = Struct("=Q")

META_BYTES: Final = _META_SIZE
"""How much of the beginning of a meta page parse_meta() needs."""


@dataclass(frozen=True, slots=True)
class Tree:
    """A B+tree as a meta page describes it: page counts, rows, the number of its root page, and what kind it is."""

    depth: int
    pages: int
    entries: int
    root: int
    flags: int


@dataclass(frozen=True, slots=True)
class Meta:
    """One meta page. Sizes are bytes; last_page is the number of the last page that the file may have."""

    page_size: int
    map_size: int
    free: Tree
    main: Tree
    last_page: int
    txn_id: int

    @property
    def file_size(self) -> int:
        """Bytes of the file up to its last page. The real file may be shorter where the last pages are free."""
        return (self.last_page + 1) * self.page_size


def parse_meta(page: bytes, path: str | Path) -> Meta:
    """Read a meta page from its first bytes. Raises CorruptStore or FormatTooNew; path is for the message."""
    if len(page) < _META_SIZE:
        raise CorruptStore(f"{path}: the file ends within its header")
    _, _, flags, _, _ = PAGE_HEADER.unpack_from(page)
    magic, version, _, map_size = _META_HEAD.unpack_from(page, PAGE_HEADER_SIZE)
    if magic != _MAGIC or not flags & _META:
        raise CorruptStore(f"{path}: the header is not that of an LMDB file")
    if version != _VERSION:
        raise FormatTooNew(f"{path}: LMDB data format {version}; this version of kvstore reads format {_VERSION}")
    position = PAGE_HEADER_SIZE + _META_HEAD.size
    page_size, free = parse_tree(page, position)
    _, main = parse_tree(page, position + TREE_SIZE)
    last_page, txn_id = _META_TAIL.unpack_from(page, position + 2 * TREE_SIZE)
    if page_size < 512 or page_size > 65536 or page_size & (page_size - 1):
        raise CorruptStore(f"{path}: the header gives an impossible page size of {page_size} bytes")
    return Meta(page_size, map_size, free, main, last_page, txn_id)


def parse_tree(page: bytes, position: int) -> tuple[int, Tree]:
    """A tree as it is described at a place of a page, and what stands before it: in a header, the size of a page."""
    pad, flags, depth, branch, leaf, overflow, entries, root = _TREE.unpack_from(page, position)
    return pad, Tree(depth, branch + leaf + overflow, entries, root, flags)


def read_meta(fd: int, path: str | Path) -> Meta:
    """The newer of the two meta pages of an open file: the last commit. Raises CorruptStore or FormatTooNew."""
    first, second = read_metas(fd, path)
    return first if first.txn_id > second.txn_id else second


def read_metas(fd: int, path: str | Path) -> tuple[Meta, Meta]:
    """Both meta pages of an open file. Raises CorruptStore or FormatTooNew."""
    first = parse_meta(os.pread(fd, _META_SIZE, 0), path)
    return first, parse_meta(os.pread(fd, _META_SIZE, first.page_size), path)


def count_free_pages(fd: int, meta: Meta, path: str | Path) -> int:
    """How many pages of the file hold nothing. Reads the list of free pages only, a few pages.

    The caller makes sure that nobody commits meanwhile. Raises CorruptStore.
    """
    return sum(count for count, _, _ in free_records(fd, meta, path))


def check_file(path: Path) -> Meta:
    """See that a data file is one and is whole, without reading all of it.

    Raises CorruptStore naming what is broken, FormatTooNew, or OSError if it cannot be read.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        meta = read_meta(fd, path)
        size = os.fstat(fd).st_size
        if size < meta.file_size:
            _check_tail_is_free(fd, meta, size, path)
        return meta
    finally:
        os.close(fd)


def never_committed(path: Path) -> bool:
    """Whether a power cut came while LMDB was making this file: its header had not reached the disk.

    No commit can have come of it, because the first one waits for the header. Only a file as small as LMDB makes it is
    taken for one: zeros in a larger one are damage.
    """
    with path.open("rb") as file:
        first = file.read(_MOST_BEFORE_COMMIT + 1)
    if len(first) > _MOST_BEFORE_COMMIT:
        return False
    if not any(first[:_META_SIZE]):
        return True
    try:
        second = parse_meta(first, path).page_size
    except (CorruptStore, FormatTooNew):
        return False
    return not any(first[second : second + _META_SIZE])


def _check_tail_is_free(fd: int, meta: Meta, size: int, path: Path) -> None:
    first_missing = size // meta.page_size
    missing = meta.last_page + 1 - first_missing
    for count, position, _ in free_records(fd, meta, path):
        listed = os.pread(fd, count * NUMBER.size, position + NUMBER.size)
        if len(listed) < count * NUMBER.size:
            raise CorruptStore(f"{path}: the list of free pages reaches beyond the end of the file")
        missing -= sum(number >= first_missing for (number,) in NUMBER.iter_unpack(listed))
    if missing:
        raise CorruptStore(
            f"{path}: the file has {size} bytes where its header speaks of {meta.file_size}, "
            f"and {missing} of the pages cut off hold data"
        )


def free_records(fd: int, meta: Meta, path: str | Path) -> Iterator[tuple[int, int, int]]:
    """Each record of the list of free pages: how many it lists, where in the file it begins, how many bytes it has.

    A record is the number of pages that it lists, then their numbers. Raises CorruptStore.
    """
    if meta.free.root == NO_PAGE:
        return
    pending = [(meta.free.root, 1)]
    visited = 0
    while pending:
        number, depth = pending.pop()
        visited += 1
        if visited > meta.free.pages or depth > _MAX_DEPTH:
            raise CorruptStore(f"{path}: the list of free pages has no end")
        page = _page(fd, meta, number, path)
        _, _, flags, lower, _ = PAGE_HEADER.unpack_from(page)
        keys = (lower - PAGE_HEADER_SIZE) // 2
        if flags & (BRANCH | LEAF) not in (BRANCH, LEAF) or keys < 0 or lower > meta.page_size:
            raise CorruptStore(f"{path}: page {number} of the list of free pages is damaged")
        for index in range(keys):
            offset = int.from_bytes(page[PAGE_HEADER_SIZE + 2 * index : PAGE_HEADER_SIZE + 2 * index + 2], _ORDER)
            if offset + NODE.size > meta.page_size:
                raise CorruptStore(f"{path}: page {number} of the list of free pages is damaged")
            low, high, node_flags, key_size = NODE.unpack_from(page, offset)
            if flags & BRANCH:
                pending.append((low | high << 16 | node_flags << 32, depth + 1))
                continue
            size = low | high << 16
            position = number * meta.page_size + offset + NODE.size + key_size
            if node_flags & BIG_DATA:
                first = _number_at(fd, position, path)
                if not FIRST_PAGE <= first <= meta.last_page:
                    raise CorruptStore(f"{path}: page {first} of the list of free pages is missing")
                position = first * meta.page_size + PAGE_HEADER_SIZE
            count = _number_at(fd, position, path)
            # So many are not there to be free: they are not read.
            if (count + 1) * NUMBER.size != size or count > meta.last_page:
                raise CorruptStore(f"{path}: page {number} of the list of free pages is damaged")
            yield count, position, size


_ORDER: Final = "little" if NUMBER.pack(1)[0] else "big"


def _page(fd: int, meta: Meta, number: int, path: str | Path) -> bytes:
    page = os.pread(fd, meta.page_size, number * meta.page_size) if number <= meta.last_page else b""
    if len(page) < meta.page_size or number < FIRST_PAGE:
        raise CorruptStore(f"{path}: page {number} of the list of free pages is missing")
    if PAGE_HEADER.unpack_from(page)[0] != number:
        raise CorruptStore(f"{path}: page {number} of the list of free pages is another page")
    return page


def _number_at(fd: int, position: int, path: str | Path) -> int:
    data = os.pread(fd, NUMBER.size, position)
    if len(data) < NUMBER.size:
        raise CorruptStore(f"{path}: the list of free pages reaches beyond the end of the file")
    number: int = NUMBER.unpack(data)[0]
    return number
