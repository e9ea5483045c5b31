"""Telling at a glance which leaves of a table are sound: what every page of an environment goes through at a start.

Nothing is served before, so this decides how long a start takes: 1 to 2 us a leaf where it is compiled, 3 to 4 where it
is not. What is not sound at a glance may still be: values on pages of their own, lists of values. That is for
structure.py to say.

Knows LMDB's data format as pages.py does, on machines of little-endian byte order, where four halves make a word.
"""

from __future__ import annotations

from operator import lt
from typing import Final

_BRANCH: Final = 1
_LEAF: Final = 2
# Halves of a page's header.
_HEADER_HALVES: Final = 8
_NODE_HEADER: Final = 8
_KEY_SIZE_HALF: Final = 3

Child = tuple[int, bytes, bytes | None]
"""A page that a branch leads to: its number, and what its keys are not below and are below of."""


def glance(
    pages: memoryview, page_size: int, leaves: list[Child], known: bytearray, used: int
) -> tuple[int, list[Child]]:
    """How many rows sound leaves have in all, and the leaves that are not sound at a glance.

    pages: whole pages, from the beginning of the file. known: by the number of a page, what is known of it; all leaves
    are among them, and those that are sound become `used`. A leaf is sound if nothing was known of it, it has the
    number that led to it, its nodes are plain ones that fill it without a gap, and its first and last keys are within
    their bounds. What is in between, the order of the keys among them, is not looked at.
    """
    rows = 0
    strange: list[Child] = []
    size = len(pages)
    halves: memoryview = pages.cast("H")
    # Nodes begin at even places: a word that begins at any of them, by the place's last three bits.
    words: list[memoryview] = [
        pages[shift : shift + (size - shift) // 8 * 8].cast("Q") for shift in (0, 0, 2, 2, 4, 4, 6, 6)
    ]
    aligned = words[0]
    words_a_page = page_size >> 3
    halves_a_page = page_size >> 1
    for leaf in leaves:
        number, low, high = leaf
        begin = number * words_a_page
        if known[number] or begin >= len(aligned) or aligned[begin] != number:
            strange.append(leaf)
            continue
        # A pad, flags, where the free space begins and ends.
        header: int = aligned[begin + 1]
        half = number * halves_a_page
        stop = half + (header >> 33 & 0x7FFF)
        offsets: list[int] = halves[half + _HEADER_HALVES : stop].tolist()
        ordered: list[int] = sorted(offsets)
        if (
            header >> 16 & 0xFFFF != _LEAF
            or not ordered
            or header >> 32 & 1
            or header >> 32 & 0xFFFF > header >> 48
            or ordered[0] != header >> 48
            or ordered[-1] > page_size - _NODE_HEADER
        ):
            strange.append(leaf)
            continue
        end = page_size
        while ordered:
            at = ordered.pop()
            node: int = words[at & 7][begin + (at >> 3)]
            # The size of the data, with the flags above it, which are none; then that of the key.
            if (node & 0xFFFFFFFFFFFF) + (node >> 48) + _NODE_HEADER + 1 & -2 != end - at:
                break
            end = at
        # Not there if the loop was left before it had come by all of them.
        if end != header >> 48 or not _within(pages, halves, half, offsets, low, high):
            strange.append(leaf)
            continue
        known[number] = used
        rows += len(offsets)
    return rows, strange


def descend(pages: memoryview, page_size: int, branch: Child) -> list[Child]:
    """The pages that a branch leads to; none if it is not sound at a glance. pages: as for glance()."""
    number, low, high = branch
    begin = number * page_size
    page = pages[begin : begin + page_size]
    if len(page) < page_size:
        return []
    halves: memoryview = page.cast("H")
    words: list[memoryview] = [page[shift : shift + (page_size - shift) // 8 * 8].cast("Q") for shift in (0, 2, 4, 6)]
    if words[0][0] != number or halves[5] != _BRANCH or halves[6] & 1 or halves[6] > halves[7]:
        return []
    offsets: list[int] = halves[_HEADER_HALVES : halves[6] >> 1].tolist()
    ordered: list[int] = sorted(offsets)
    # A page of two nodes at least: what one leads to is a matter for a closer look.
    if len(ordered) < 2 or ordered[0] != halves[7] or ordered[-1] > page_size - _NODE_HEADER:
        return []
    children: list[int] = []
    bounds: list[bytes] = []
    filled = 0
    places = 0
    for at in offsets:
        places |= at
        node: int = words[at >> 1 & 3][at >> 3]
        key_size = node >> 48
        filled += key_size + _NODE_HEADER + 1 & -2
        children.append(node & 0xFFFFFFFFFFFF)
        # The first of them leads to all that is below the second: its key says nothing.
        bounds.append(page[at + _NODE_HEADER : at + _NODE_HEADER + key_size].tobytes() if bounds else low)
    ends: list[bytes | None] = [*bounds[1:], high]
    if places & 1 or filled != page_size - halves[7] or not all(map(lt, bounds, bounds[1:])):
        return []
    if high is not None and bounds[-1] >= high:
        return []
    return list(zip(children, bounds, ends, strict=True))


def _within(
    pages: memoryview, halves: memoryview, half: int, offsets: list[int], low: bytes, high: bytes | None
) -> bool:
    """Whether the first and the last key of a leaf are within its bounds. half: where it begins, in halves."""
    place = half + (offsets[0] >> 1)
    key_size: int = halves[place + _KEY_SIZE_HALF]
    key = 2 * place + _NODE_HEADER
    if pages[key : key + key_size].tobytes() < low:
        return False
    if high is None:
        return True
    place = half + (offsets[-1] >> 1)
    key_size = halves[place + _KEY_SIZE_HALF]
    key = 2 * place + _NODE_HEADER
    return pages[key : key + key_size].tobytes() < high
