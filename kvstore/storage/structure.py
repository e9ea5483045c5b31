"""Whether the pages of an environment hang together: read from the file itself, for LMDB believes whatever they say.

Rows are sealed, pages are not. A bit that flips in a page's header, in its table of nodes or in a branch takes rows out
of the way of every read, or ends the process that follows it. But pages tell much of each other: each has its number;
what its nodes take fills it from where they begin to its end, so none can be left out; keys ascend, and lie between
those that the branches above it lead by. All that is looked at here, and the seals of the rows with it.

A look at all of it is taken in steps, each within a read transaction of its own: one that lasted for minutes would keep
every page from being used again that a writer has replaced meanwhile. What is in a file that nobody damaged never looks
wrong, whatever its writer does. Not found is a branch that leads to a page which has long been replaced by a newer one
of the same keys, unless a table is walked in one step: its rows are counted then. What nobody has open is looked at
with knowledge of the free pages, before anything in it is believed: at_rest.py.

Knows LMDB's data format as pages.py does, and seals; not what rows mean.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import lmdb

from kvstore.storage.batch import OPEN, TableSpec
from kvstore.storage.engine import begin_reading, open_for_reading
from kvstore.storage.errors import WAY_OUT, CorruptStore
from kvstore.storage.longkey import LAYERS_SUFFIX
from kvstore.storage.pages import (
    DATA_FILE,
    Meta,
    read_metas,
)
from kvstore.storage.seal import Seal
from kvstore.storage.walk import BadPage, Walk, check_tables


@dataclass(frozen=True, slots=True)
class Place:
    """Where a look at an environment goes on: with the leaf of a table that a key belongs to. number: of the table."""

    number: int = 0
    key: bytes = b""


def check_some(
    env: lmdb.Environment, file: int, tables: Sequence[TableSpec], place: Place, leaves: int
) -> Place | None:
    """Look at about so many leaves, and all that leads to them, from a place on; where to go on, None at the end.

    file: descriptor of the environment's data file. It takes some 20 us a leaf if it is in memory. Raises CorruptStore.
    """
    path = os.path.join(os.fspath(env.path()), DATA_FILE)
    names = [name for spec in tables for name in (spec.name, spec.name + LAYERS_SUFFIX)]
    while True:
        with begin_reading(env) as txn:
            meta = _meta_of(file, txn.id(), path)
            if meta is None:
                # Two commits since the transaction began: there is a newer one to be had.
                continue
            walk = Walk(file, meta)
            what = "the list of tables"
            try:
                roots = dict(walk.tables())
                check_tables(roots, tables)
                number, start = place.number, place.key
                while number < len(names) and walk.leaves < leaves:
                    what, spec = f"table {names[number]}", tables[number // 2]
                    # Of longer keys only parts are in one place, and seals are those of whole keys.
                    whole = not names[number].endswith(LAYERS_SUFFIX)
                    seal = Seal.of(spec, path) if whole and spec.seal != OPEN else None
                    following = walk.table(roots[names[number].encode()], start, seal, leaves)
                    number, start = (number + 1, b"") if following is None else (number, following)
            except (BadPage, OSError) as error:
                raise CorruptStore(f"{path}: {what}: {error}; {WAY_OUT}") from error
            return Place(number, start) if number < len(names) else None


def check(env: lmdb.Environment, tables: Sequence[TableSpec], leaves: int = 1000) -> None:
    """Look at everything at once, while nobody replaces the file. Raises CorruptStore."""
    file = os.open(os.path.join(env.path(), DATA_FILE), os.O_RDONLY | os.O_CLOEXEC)
    try:
        place: Place | None = Place()
        while place is not None:
            place = check_some(env, file, tables, place, leaves)
    finally:
        os.close(file)


def look(path: Path, tables: Sequence[TableSpec], place: Place, leaves: int) -> Place | None:
    """As check_some(), of an environment that another process may have open, and may replace by another file."""
    name = path / DATA_FILE
    while True:
        file = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
        try:
            env, _ = open_for_reading(path, tables)
            try:
                # It was there before the environment was opened and is there still, so it is what was opened.
                if os.fstat(file).st_ino == name.stat().st_ino:
                    return check_some(env, file, tables, place, leaves)
            finally:
                env.close()
        finally:
            os.close(file)


def _meta_of(fd: int, txn_id: int, path: str) -> Meta | None:
    """The meta page of a transaction, unless it has been written over."""
    while True:
        metas = read_metas(fd, path)
        # A commit may just be writing one of them.
        if metas == read_metas(fd, path):
            return next((meta for meta in metas if meta.txn_id == txn_id), None)
