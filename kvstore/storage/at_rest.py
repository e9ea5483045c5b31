"""Whether an environment that nobody has open is what LMDB left, looked at before anything in it is believed.

At the start of a member, so it has to be quick: a few microseconds a page. It leaves to reads what they find by
themselves: seals of rows, and with them keys that are out of order within a page. Everything else that structure.py
looks at is looked at here, and one thing more: since nothing changes meanwhile, it is known which pages are free. A
branch that leads to a page which was replaced long ago is found by that, and so is a list of free pages that would have
one in use written over.

Reads the file without LMDB. Knows pages, not rows.
"""

from __future__ import annotations

import mmap
import os
import sys
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Final

from kvstore.storage.errors import WAY_OUT, CorruptStore
from kvstore.storage.leaves import Child, glance
from kvstore.storage.pages import DATA_FILE, FIRST_PAGE, NUMBER, Tree, check_file, free_records
from kvstore.storage.walk import DUP_SORT, BadPage, Walk

# Leaves that are looked at in the order of the file, which is what disks like.
_LEAVES: Final = 50_000
# What a tree's flags say of its keys and values. Those of the free list are there with flags of the environment.
_KIND: Final = 0x3F
_INTEGER_KEYS: Final = 8


@dataclass(frozen=True, slots=True)
class Unseen:
    """A table that has not been looked at. pages, rows: how many it says to have."""

    name: str
    pages: int
    rows: int


def check_environment(path: Path, most: int | None = None) -> list[Unseen]:
    """Look at the environment in directory `path`: its lists of tables and of free pages, and its tables.

    most: pages of a table; a larger one is left out, and returned, to be looked at elsewhere with check_part() and
    check_rows(). Takes 2 to 4 us a leaf. Raises CorruptStore.
    """
    with _AtRest(path) as rest:
        tables = rest.tables()
        left = {name for name, tree in tables.items() if most is not None and tree.pages > most}
        for name, tree in tables.items():
            if name not in left:
                check_rows(path, Unseen(name, tree.pages, tree.entries), rest.rows(name, tree, _nobody, 0, 1))
        return [Unseen(name, tables[name].pages, tables[name].entries) for name in sorted(left)]


def check_part(
    path: Path, names: Sequence[str], tell: Callable[[int], None], part: int = 0, parts: int = 1
) -> dict[str, int]:
    """Look at one of several parts of some tables; how many rows of each are in it. Raises CorruptStore.

    tell: called from time to time with how many leaves have been looked at since the last call.
    """
    with _AtRest(path) as rest:
        tables = rest.tables()
        return {name: rest.rows(name, tables[name], tell, part, parts) for name in names}


def check_rows(path: Path, table: Unseen, rows: int) -> None:
    """See that all parts of a table have so many rows together as it should have. Raises CorruptStore."""
    if rows != table.rows:
        raise _damaged(path / DATA_FILE, f"table {table.name}", _wrong_number(rows, table.rows))


class _AtRest:
    """An environment that nobody has open. Use it in a `with` statement. Everything may raise CorruptStore."""

    def __init__(self, path: Path) -> None:
        self._path = path / DATA_FILE
        self._meta = check_file(self._path)
        self._file = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        self._map = mmap.mmap(self._file, 0, prot=mmap.PROT_READ)
        size = self._meta.page_size
        # Of a page that is not whole nothing is read: it is free, or missed.
        self._pages = memoryview(self._map)[: len(self._map) // size * size]

    def __enter__(self) -> _AtRest:
        return self

    def __exit__(self, *_: object) -> None:
        self._pages.release()
        self._map.close()
        os.close(self._file)

    def tables(self) -> dict[str, Tree]:
        """The tables by name."""
        what = "the header"
        try:
            if self._meta.main.flags & _KIND or self._meta.free.flags & _KIND != _INTEGER_KEYS:
                raise BadPage("it describes trees of another kind")
            what = "the list of free pages"
            self._free = self._free_pages()
            self._walk = Walk(self._file, self._meta, self._free)
            what = "the list of tables"
            tables = {name.decode(): tree for name, tree in self._walk.tables()}
            if len(tables) != self._meta.main.entries:
                raise _wrong_number(len(tables), self._meta.main.entries)
        except (BadPage, OSError, UnicodeDecodeError) as error:
            raise _damaged(self._path, what, error) from error
        return tables

    def rows(self, name: str, tree: Tree, tell: Callable[[int], None], part: int, parts: int) -> int:
        """Look at a part of a table; how many rows it has."""
        rows = 0
        try:
            for leaves in self._walk.branches(tree, self._pages, _LEAVES, part, parts):
                rows += self._look_at(leaves, tree)
                tell(len(leaves))
        except (BadPage, OSError) as error:
            raise _damaged(self._path, f"table {name}", error) from error
        return rows

    def _look_at(self, leaves: list[Child], tree: Tree) -> int:
        leaves.sort(key=itemgetter(0))
        if leaves[-1][0] > self._meta.last_page:
            raise BadPage(f"page {leaves[-1][0]} is not there")
        if any(map(self._free.__getitem__, map(itemgetter(0), leaves))):
            raise BadPage("a page is in use and on the list of free pages")
        # Who asks for the values of a key that is not where it should be is not told by the neighbours of it.
        if sys.byteorder == "little" and not tree.flags & DUP_SORT:
            rows, strange = glance(self._pages, self._meta.page_size, leaves)
        else:
            rows, strange = 0, leaves
        return rows + sum(map(self._walk.count_rows, strange))

    def _free_pages(self) -> bytearray:
        """By the number of a page, whether it is free."""
        free = bytearray(self._meta.last_page + 1)
        try:
            records = list(free_records(self._file, self._meta, self._path))
        except CorruptStore as error:
            raise CorruptStore(f"{error}; {WAY_OUT}") from error
        for count, position, _ in records:
            listed = array("Q", os.pread(self._file, count * NUMBER.size, position + NUMBER.size))
            for number in listed:
                if not FIRST_PAGE <= number < len(free) or free[number]:
                    raise BadPage(f"page {number} cannot be on it")
                free[number] = 1
        return free


def _damaged(file: Path, what: str, error: Exception) -> CorruptStore:
    return CorruptStore(f"{file}: {what}: {error}; {WAY_OUT}")


def _wrong_number(rows: int, right: int) -> BadPage:
    return BadPage(f"there are {rows} rows, not {right}")


def _nobody(_: int) -> None:
    pass
