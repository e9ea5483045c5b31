"""Going through the pages of one commit of an environment, and seeing that they hang together.

What pages tell of each other is told in structure.py. Knows LMDB's data format as pages.py does, and seals. Reads the
file without LMDB.
"""

from __future__ import annotations

import os
import sys
from array import array
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from operator import lt
from typing import Final
from zlib import crc32

from kvstore.storage.batch import DUP, TableSpec
from kvstore.storage.leaves import Child, descend
from kvstore.storage.longkey import CHUNK, LAYERS_SUFFIX
from kvstore.storage.pages import (
    BIG_DATA,
    BRANCH,
    FIRST_PAGE,
    LEAF,
    NO_PAGE,
    NODE,
    NUMBER,
    OVERFLOW,
    PAGE_HEADER,
    PAGE_HEADER_SIZE,
    TREE_SIZE,
    Meta,
    Tree,
    parse_tree,
)
from kvstore.storage.seal import INTACT, Seal

_SUB_DATA: Final = 2
_DUP_DATA: Final = 4
_DIRTY: Final = 0x10
_SUB_PAGE: Final = 0x40
# Of the flags that a table is stored with, the only one that is used here.
DUP_SORT: Final = 4
INTEGER_KEYS: Final = 8
"""The flag of the list of free pages, whose keys are numbers in native byte order."""

FREE: Final = 1
USED: Final = 2
"""What a page is known to be: on the list of free pages, or led to by another."""

_USED: Final = bytes((USED,))
_MAX_DEPTH: Final = 32

Node = tuple[bytes, int, int, int]
"""A node of a leaf: its key, its flags, where in the page its data begins, how many bytes that has."""


class BadPage(Exception):
    """A page is not what it should be. Its text says how."""


def check_tables(found: Mapping[bytes, Tree], tables: Sequence[TableSpec]) -> None:
    """See that an environment has these tables, each of its kind, and no other. Raises BadPage."""
    kinds = {
        name.encode(): DUP_SORT if spec.kind == DUP else 0
        for spec in tables
        for name in (spec.name, spec.name + LAYERS_SUFFIX)
    }
    for name, flags in kinds.items():
        if name not in found:
            raise BadPage(f"{name.decode()} is not there")
        if found[name].flags != flags:
            raise BadPage(f"{name.decode()} is stored as another kind of table")
    if strangers := found.keys() - kinds.keys():
        raise BadPage(f"{min(strangers)!r} is none that belongs there")


class Walk:
    """Goes through the pages of one commit, of which none changes meanwhile. leaves: how many it has come by."""

    def __init__(self, fd: int, meta: Meta, known: bytearray | None = None) -> None:
        """known: by the number of a page, whether it is FREE or USED; pages that it comes by become USED.

        Nothing may lead to a page that is either. None if nobody keeps account of them.
        """
        self._fd = fd
        self._meta = meta
        self._size = meta.page_size
        self._known = known
        self.leaves = 0

    def free_list(self) -> Iterator[array[int]]:
        """The numbers of free pages, by the transactions that freed them. Raises BadPage or OSError, as all."""
        records = 0
        for number, page, nodes, _ in self._leaves(self._meta.free, b""):
            for key, flags, at, size in nodes:
                if flags & ~BIG_DATA or len(key) != NUMBER.size or size < NUMBER.size or size % NUMBER.size:
                    raise BadPage(f"page {number} does not list free pages")
                # LMDB gives an environment up that has freed pages in a transaction to come.
                if not 0 < NUMBER.unpack(key)[0] <= self._meta.txn_id:
                    raise BadPage(f"page {number} lists the free pages of no transaction")
                value = self._overflow(NUMBER.unpack_from(page, at)[0], size) if flags else page[at : at + size]
                listed = array("Q", value)
                count = listed.pop(0)
                if count != len(listed):
                    raise BadPage(f"page {number} lists {len(listed)} free pages, not {count}")
                records += 1
                yield listed
        if records != self._meta.free.entries:
            raise BadPage(f"there are {records} rows, not {self._meta.free.entries}")

    def tables(self) -> Iterator[tuple[bytes, Tree]]:
        """The environment's tables. Raises BadPage or OSError, as all that follows."""
        for number, page, nodes, _ in self._leaves(self._meta.main, b""):
            for name, flags, at, size in nodes:
                if flags != _SUB_DATA or size != TREE_SIZE:
                    raise BadPage(f"page {number} does not list tables")
                pad, tree = parse_tree(page, at)
                if pad or tree.flags & ~DUP_SORT:
                    raise BadPage(f"page {number} has a table of no kind")
                yield name, tree

    def table(self, tree: Tree, start: bytes, seal: Seal | None, leaves: int) -> bytes | None:
        """Look at a table from the leaf of a key on until so many leaves have been looked at in all.

        Where to go on, None at the end. seal: of its rows, if they are to be looked at.
        """
        rows = 0
        for number, page, nodes, following in self._leaves(tree, start):
            rows += self._rows(number, page, nodes, seal)
            if self.leaves >= leaves and following is not None:
                return following
        if not start and rows != tree.entries:
            raise BadPage(f"there are {rows} rows, not {tree.entries}")
        return None

    def _leaves(self, tree: Tree, start: bytes) -> Iterator[tuple[int, bytes, list[Node], bytes | None]]:
        """Leaves from that of a key on: number, page, nodes, and what the keys of the next one are not below."""
        if tree.root == NO_PAGE:
            return
        depth = tree.depth
        if not 0 < depth <= _MAX_DEPTH:
            raise BadPage(f"a depth of {depth}")
        pending: list[tuple[int, Child]] = [(1, (tree.root, b"", None))]
        while pending:
            level, (number, low, high) = pending.pop()
            if level < depth:
                children = self._children(number, self._page(number, BRANCH), low, high, tree)
                pending += [(level + 1, child) for child in reversed(children) if child[2] is None or child[2] > start]
                continue
            page = self._page(number, LEAF)
            self.leaves += 1
            nodes = _nodes(number, page)
            _check_order(number, _sortable([node[0] for node in nodes], tree), low, high)
            yield number, page, nodes, high

    def branches(self, tree: Tree, pages: memoryview, most: int, part: int, parts: int) -> Iterator[list[Child]]:
        """A part of the leaves of a table, about so many at a time, in no order; the way to them has been looked at.

        pages: as leaves.descend() wants them. part: of those that the leaves are dealt out to, branch by branch. Needs
        to know which pages are free.
        """
        known = self._known
        if tree.root == NO_PAGE or known is None:
            return
        if not 0 < tree.depth <= _MAX_DEPTH:
            raise BadPage(f"a depth of {tree.depth}")
        pending: list[tuple[int, Child]] = [(1, (tree.root, b"", None))]
        leaves: list[Child] = []
        dealt = 0
        while pending:
            level, child = pending.pop()
            if level == tree.depth:
                # The root, and nothing else.
                leaves += [child] if part == 0 else []
                continue
            last = level + 1 == tree.depth
            if last:
                dealt += 1
                if dealt % parts != part:
                    continue
            number, low, high = child
            children: list[Child] = []
            if number < len(known) and not known[number] and sys.byteorder == "little":
                children = descend(pages, self._size, child)
            if children:
                known[number] = USED
            else:
                children = self._children(number, self._page(number, BRANCH), low, high, tree)
            if not last:
                # All parts come by it, and one says so.
                known[number] = USED if part == 0 else 0
                pending += [(level + 1, each) for each in reversed(children)]
                continue
            leaves += children
            if len(leaves) >= most:
                yield leaves
                leaves = []
        if leaves:
            yield leaves

    def count_rows(self, leaf: Child) -> int:
        """Look at a leaf and all that its nodes lead to, but not at values; how many rows it has."""
        number, low, high = leaf
        page = self._page(number, LEAF)
        rows = 0
        nodes = _nodes(number, page)
        _check_order(number, [node[0] for node in nodes], low, high)
        for node in nodes:
            _, flags, at, size = node
            if flags == BIG_DATA:
                self._overflow_header(NUMBER.unpack_from(page, at)[0], size)
                rows += 1
            else:
                rows += self._rows(number, page, [node], None)
        return rows

    def _page(self, number: int, kind: int) -> bytes:
        page = b""
        if FIRST_PAGE <= number <= self._meta.last_page:
            page = os.pread(self._fd, self._size, number * self._size)
        if len(page) < self._size:
            raise BadPage(f"page {number} is not there")
        found, _, flags, _, _ = PAGE_HEADER.unpack_from(page)
        if found != number or flags != kind:
            raise BadPage(f"page {number} is page {found} of kind {flags:#x}, not {kind}")
        self._use(number, 1)
        return page

    def _use(self, number: int, pages: int) -> None:
        """Note that pages are led to; nothing else may lead to them."""
        known = self._known
        if known is None:
            return
        span = known[number : number + pages]
        if any(span):
            again = "and on the list of free pages" if FREE in span else "twice"
            raise BadPage(f"page {number} is in use {again}")
        known[number : number + pages] = _USED * pages

    def _children(self, number: int, page: bytes, low: bytes, high: bytes | None, tree: Tree) -> list[Child]:
        upper, offsets = _offsets(number, page)
        filled = 0
        bounds: list[bytes] = []
        children = []
        for at in offsets:
            if at < upper or at + NODE.size > len(page):
                raise BadPage(f"page {number} has a node out of place")
            first, second, third, key_size = NODE.unpack_from(page, at)
            # The first of them leads to all that is below the second: its key says nothing.
            bounds.append(page[at + NODE.size : at + NODE.size + key_size])
            children.append(first | second << 16 | third << 32)
            filled += NODE.size + key_size + 1 & ~1
        bounds = [low, *_sortable(bounds[1:], tree)]
        _check_order(number, bounds, low, high)
        if filled != len(page) - upper:
            raise BadPage(f"page {number} is not filled by its nodes")
        return list(zip(children, bounds, [*bounds[1:], high], strict=True))

    def _rows(self, number: int, page: bytes, nodes: list[Node], seal: Seal | None) -> int:
        """Look at the values of a leaf; how many they are."""
        rows = 0
        for key, flags, at, size in nodes:
            if not flags:
                values = [page[at : at + size]]
            elif flags == BIG_DATA:
                values = [self._overflow(NUMBER.unpack_from(page, at)[0], size)]
            elif flags == _DUP_DATA:
                sub_page = page[at : at + size]
                if size < PAGE_HEADER_SIZE or PAGE_HEADER.unpack_from(sub_page)[2] & ~_DIRTY != LEAF | _SUB_PAGE:
                    raise BadPage(f"page {number} has a list of values that is none")
                values = _values(number, _nodes(number, sub_page))
                _check_order(number, values, b"", None)
            elif flags == _DUP_DATA | _SUB_DATA and size == TREE_SIZE:
                pad, tree = parse_tree(page, at)
                if pad or tree.flags:
                    raise BadPage(f"page {number} has a list of values that is none")
                values = [value for found, _, listed, _ in self._leaves(tree, b"") for value in _values(found, listed)]
                if len(values) != tree.entries:
                    raise BadPage(f"page {number} has a key of {len(values)} values, not {tree.entries}")
            else:
                raise BadPage(f"page {number} has a node of no kind")
            rows += len(values)
            if seal is not None and len(key) <= CHUNK:
                seed = crc32(key, seal.seed)
                for value in values:
                    if crc32(value, seed) != INTACT:
                        seal.take_off(key, value)
        return rows

    def _overflow(self, number: int, size: int) -> bytes:
        self._overflow_header(number, size)
        value = os.pread(self._fd, size, number * self._size + PAGE_HEADER_SIZE)
        if len(value) < size:
            raise BadPage(f"page {number} is not there, or not all of it")
        return value

    def _overflow_header(self, number: int, size: int) -> None:
        header = b""
        if FIRST_PAGE <= number <= self._meta.last_page:
            header = os.pread(self._fd, PAGE_HEADER_SIZE, number * self._size)
        if len(header) < PAGE_HEADER_SIZE:
            raise BadPage(f"page {number} is not there")
        found, _, flags, low, high = PAGE_HEADER.unpack(header)
        pages = low | high << 16
        # It may be longer than its value, which has replaced a longer one of the same transaction then.
        if found != number or flags != OVERFLOW or pages * self._size < PAGE_HEADER_SIZE + size:
            raise BadPage(f"page {number} is page {found} of kind {flags:#x}, not a value of {size} bytes")
        if number + pages - 1 > self._meta.last_page:
            raise BadPage(f"page {number} is not there, or not all of it")
        # All that it says are its own become free with it.
        self._use(number, pages)


def _offsets(number: int, page: bytes) -> tuple[int, list[int]]:
    """Where the nodes of a page begin, and where each of them is, in the order of their keys."""
    _, _, _, lower, upper = PAGE_HEADER.unpack_from(page)
    if not PAGE_HEADER_SIZE < lower <= upper <= len(page) or lower % 2:
        raise BadPage(f"page {number} has no sound header")
    return upper, memoryview(page)[PAGE_HEADER_SIZE:lower].cast("H").tolist()


def _nodes(number: int, page: bytes) -> list[Node]:
    """The nodes of a leaf, or of a list of values in one; their order has not been looked at."""
    end = len(page)
    upper, offsets = _offsets(number, page)
    head = NODE.size
    filled = 0
    nodes: list[Node] = []
    for at in offsets:
        if at < upper or at + head > end:
            raise BadPage(f"page {number} has a node out of place")
        small, large, flags, key_size = NODE.unpack_from(page, at)
        data = at + head + key_size
        size = small | large << 16
        stop = data + (NUMBER.size if flags & BIG_DATA else size)
        if stop > end:
            raise BadPage(f"page {number} has a node that reaches beyond it")
        nodes.append((page[at + head : data], flags, data, size))
        # Nodes begin at even places.
        filled += stop - at + 1 & ~1
    if filled != end - upper:
        raise BadPage(f"page {number} is not filled by its nodes")
    return nodes


def _values(number: int, nodes: list[Node]) -> list[bytes]:
    """The values of a key, which are keys themselves, of nothing."""
    # LMDB follows what flags say of them.
    for _, flags, _, size in nodes:
        if flags or size:
            raise BadPage(f"page {number} has a node of no kind in a list of values")
    return [node[0] for node in nodes]


def _sortable(keys: list[bytes], tree: Tree) -> list[bytes]:
    """Keys of a tree as bytes that sort as they do in it."""
    return [key[::-1] for key in keys] if tree.flags & INTEGER_KEYS and sys.byteorder == "little" else keys


def _check_order(number: int, keys: list[bytes], low: bytes, high: bytes | None) -> None:
    if not all(map(lt, keys, islice(keys, 1, None))):
        raise BadPage(f"page {number} has keys out of order")
    if keys and (keys[0] < low or (high is not None and keys[-1] >= high)):
        raise BadPage(f"page {number} has keys of another")
