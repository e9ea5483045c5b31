"""Whether an environment that nobody has open is what LMDB left, looked at before anything in it is believed.

At the start of a member, so it has to be quick: a few microseconds a page. It leaves to reads what they find by
themselves: seals of rows, and with them keys that are out of order within a page. Everything else that structure.py
looks at is looked at here, and one thing more: since nothing changes meanwhile, account is kept of every page. Each is
free or has one that leads to it. A branch that leads to a page which was replaced long ago is found by that, and so are
a list of free pages that would have one in use written over, and a value that says to be longer than it is: what is
behind it would become free with it.

Reads the file without LMDB. Knows pages, not rows.
"""

from __future__ import annotations

import mmap
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Final

from kvstore.storage.batch import TableSpec
from kvstore.storage.errors import WAY_OUT, CorruptStore
from kvstore.storage.leaves import Child, glance
from kvstore.storage.pages import DATA_FILE, FIRST_PAGE, Tree, check_file
from kvstore.storage.walk import DUP_SORT, FREE, INTEGER_KEYS, USED, BadPage, Walk, check_tables

# Leaves that are looked at in the order of the file, which is what disks like.
_LEAVES: Final = 50_000
# What a tree's flags say of its keys and values. Those of the free list are there with flags of the environment.
_KIND: Final = 0x3F


@dataclass(frozen=True, slots=True)
class UnseenTable:
    """A table that has not been looked at. pages, rows: how many it says to have."""

    name: str
    pages: int
    rows: int


@dataclass(frozen=True, slots=True)
class Unseen:
    """What of an environment has not been looked at. used: pages of its other tables, as check_part() gives them."""

    tables: tuple[UnseenTable, ...]
    used: bytes


def check_environment(path: Path, most: int | None = None) -> Unseen | None:
    """Look at the environment in directory `path`: its lists of tables and of free pages, and its tables.

    most: pages of a table; larger ones are left out, and returned, to be looked at elsewhere with check_part() and
    check_whole(). Takes 2 to 4 us a leaf. Raises CorruptStore.
    """
    with _AtRest(path) as rest:
        left = []
        for name, tree in sorted(rest.tables().items()):
            table = UnseenTable(name, tree.pages, tree.entries)
            if most is not None and tree.pages > most:
                left.append(table)
            else:
                _check_rows(path, table, rest.rows(name, tree, _nobody, 0, 1))
        return Unseen(tuple(left), rest.used()) if left else None


def check_tables_of(path: Path, tables: Sequence[TableSpec]) -> None:
    """See that an environment that is sound has these tables and no other, or none at all yet. Raises CorruptStore.

    Whoever opened it would make those that are missing, empty.
    """
    with _AtRest(path) as rest:
        rest.check_tables(tables)


def check_part(
    path: Path, names: Sequence[str], tell: Callable[[int], None], part: int = 0, parts: int = 1
) -> tuple[dict[str, int], bytes]:
    """Look at one of several parts of some tables. Raises CorruptStore.

    tell: called from time to time with how many leaves have been looked at since the last call. Gives how many rows of
    each table are in it, and by the number of a page whether the part has it: then it is not zero.
    """
    with _AtRest(path) as rest:
        tables = rest.tables()
        rows = {name: rest.rows(name, tables[name], tell, part, parts) for name in names}
        return rows, rest.used()


def check_whole(path: Path, unseen: Unseen, parts: Sequence[tuple[dict[str, int], bytes]]) -> None:
    """See that all parts together have as many rows as they should have, and no page twice. Raises CorruptStore."""
    for table in unseen.tables:
        _check_rows(path, table, sum(rows[table.name] for rows, _ in parts))
    seen = 0
    for used in (unseen.used, *(used for _, used in parts)):
        pages = int.from_bytes(used, "little")
        if twice := seen & pages:
            number = (twice.bit_length() - 1) // 8
            raise _damaged(path / DATA_FILE, f"page {number}", BadPage("it is in use twice"))
        seen |= pages


class _AtRest:
    """An environment that nobody has open. Use it in a `with` statement. Everything may raise CorruptStore."""

    def __init__(self, path: Path) -> None:
        self._path = path / DATA_FILE
        self._meta = check_file(self._path)
        self._file = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._map = mmap.mmap(self._file, 0, prot=mmap.PROT_READ)
        except BaseException:
            os.close(self._file)
            raise
        # By the number of a page, what is known of it; and what the lists of tables and of free pages tell of it.
        self._known = bytearray(self._meta.last_page + 1)
        self._listed = bytes(self._known)
        self._walk = Walk(self._file, self._meta, self._known)
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
            if self._meta.main.flags & _KIND or self._meta.free.flags & _KIND != INTEGER_KEYS:
                raise BadPage("it describes trees of another kind")
            what = "the list of free pages"
            for listed in self._walk.free_list():
                self._note_free(listed)
            what = "the list of tables"
            tables = {name.decode(): tree for name, tree in self._walk.tables()}
            if len(tables) != self._meta.main.entries:
                raise _wrong_number(len(tables), self._meta.main.entries)
        except (BadPage, OSError, UnicodeDecodeError) as error:
            raise _damaged(self._path, what, error) from error
        self._listed = bytes(self._known)
        return tables

    def check_tables(self, tables: Sequence[TableSpec]) -> None:
        """See that the tables are these, if there are any."""
        try:
            found = dict(Walk(self._file, self._meta).tables())
            if found:
                check_tables(found, tables)
        except (BadPage, OSError) as error:
            raise _damaged(self._path, "the list of tables", error) from error

    def used(self) -> bytes:
        """By the number of a page, whether one of the tables that were looked at has it: then it is not zero."""
        before, now = (int.from_bytes(known, "little") for known in (self._listed, self._known))
        return (before ^ now).to_bytes(len(self._known), "little")

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
        # Who asks for the values of a key that is not where it should be is not told by the neighbours of it.
        if sys.byteorder == "little" and not tree.flags & DUP_SORT:
            rows, strange = glance(self._pages, self._meta.page_size, leaves, self._known, USED)
        else:
            rows, strange = 0, leaves
        return rows + sum(map(self._walk.count_rows, strange))

    def _note_free(self, listed: Iterable[int]) -> None:
        known = self._known
        for number in listed:
            if not FIRST_PAGE <= number < len(known) or known[number]:
                raise BadPage(f"page {number} cannot be on it")
            known[number] = FREE


def _check_rows(path: Path, table: UnseenTable, rows: int) -> None:
    if rows != table.rows:
        raise _damaged(path / DATA_FILE, f"table {table.name}", _wrong_number(rows, table.rows))


def _damaged(file: Path, what: str, error: Exception) -> CorruptStore:
    return CorruptStore(f"{file}: {what}: {error}; {WAY_OUT}")


def _wrong_number(rows: int, right: int) -> BadPage:
    return BadPage(f"there are {rows} rows, not {right}")


def _nobody(_: int) -> None:
    pass
