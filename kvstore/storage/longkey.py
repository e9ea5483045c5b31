"""Keys longer than LMDB takes, in order, in layers.

A key of at most CHUNK bytes is a row of the table under its own name. Of a longer one the first CHUNK bytes and a zero
byte make a *pointer* row, which sorts right behind the key that is exactly those bytes and before everything else that
does not begin with them. Its value is the number of a layer: eight bytes that begin the keys of the rows which hold
the rest, in a second table named after the first, and so on for the rest of the rest. A row is a pointer exactly if
its key, after the layer number, has CHUNK + 1 bytes.

Layer numbers are given by whoever writes and mean nothing beyond one environment. Empty layers are removed with the
last row in them. Knows LMDB transactions; what the keys mean is the callers' business.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import lmdb

CHUNK: Final = 480
"""Longest key, in bytes, that is stored as it is."""

LAYERS_SUFFIX: Final = ".layers"
"""The table of the layers is named like the table with this behind it."""

_POINTER: Final = CHUNK + 1
_NUMBER: Final = 8


def locate(txn: lmdb.Transaction[bytes], main: Any, layers: Any, key: bytes) -> tuple[Any, bytes] | None:
    """Table and row key under which a key longer than CHUNK would be; None if no layer reaches so far.

    The row itself need not exist.
    """
    pointer = txn.get(key[:CHUNK] + b"\0", None, main)
    position = CHUNK
    while pointer is not None:
        if len(key) - position <= CHUNK:
            return layers, pointer + key[position:]
        pointer = txn.get(pointer + key[position : position + CHUNK] + b"\0", None, layers)
        position += CHUNK
    return None


def reach(txn: lmdb.Transaction[bytes], main: Any, layers: Any, key: bytes) -> tuple[Any, bytes]:
    """As locate(), making the layers that are missing. Needs a write transaction."""
    table, row = main, key[:CHUNK] + b"\0"
    layer = bytes(_NUMBER)
    position = CHUNK
    while True:
        pointer = txn.get(row, None, table)
        if pointer is None:
            pointer = _unused_layer(txn, layers, layer)
            txn.put(row, pointer, db=table)
        if len(key) - position <= CHUNK:
            return layers, pointer + key[position:]
        table, row = layers, pointer + key[position : position + CHUNK] + b"\0"
        layer = pointer
        position += CHUNK


def prune(txn: lmdb.Transaction[bytes], main: Any, layers: Any, key: bytes) -> None:
    """Remove the layers on the way to a key longer than CHUNK that have become empty."""
    path = []
    table, row = main, key[:CHUNK] + b"\0"
    position = CHUNK
    while (pointer := txn.get(row, None, table)) is not None:
        path.append((table, row, pointer))
        if len(key) - position <= CHUNK:
            break
        table, row = layers, pointer + key[position : position + CHUNK] + b"\0"
        position += CHUNK
    with txn.cursor(layers) as cursor:
        for table, row, pointer in reversed(path):
            if cursor.set_range(pointer) and cursor.key()[:_NUMBER] == pointer:
                return
            txn.delete(row, db=table)


def _unused_layer(txn: lmdb.Transaction[bytes], layers: Any, parent: bytes) -> bytes:
    """The number after the highest in use. The parent's counts too: it may be new and without a row yet."""
    with txn.cursor(layers) as cursor:
        last = cursor.key()[:_NUMBER] if cursor.last() else parent
    return (int.from_bytes(max(last, parent), "big") + 1).to_bytes(_NUMBER, "big")


@dataclass(slots=True)
class _Level:
    """Where a walk stands in the table or in one layer of it. `layer` is empty for the table itself."""

    cursor: lmdb.Cursor[bytes]
    layer: bytes
    chunk: bytes
    positioned: bool

    def local_key(self) -> bytes | None:
        """The key within the layer; None if the walk has left it."""
        if not self.positioned:
            return None
        key = self.cursor.key()
        layer = self.layer
        return key[len(layer) :] if key.startswith(layer) else None


def walk(
    txn: lmdb.Transaction[bytes], main: Any, layers: Any, start: bytes
) -> Iterator[tuple[bytes, lmdb.Cursor[bytes]]]:
    """Every key from start on, ascending, with a cursor on its (first) value. The cursor may move among duplicates."""
    cursor = txn.cursor(main)
    levels = [_Level(cursor, b"", b"", cursor.set_range(start[: CHUNK + 1]))]
    rest = start
    while len(rest) > CHUNK:
        level = levels[-1]
        pointer = rest[:CHUNK] + b"\0"
        level.positioned = level.cursor.set_range(level.layer + pointer)
        if level.local_key() != pointer:
            break
        rest = rest[CHUNK:]
        layer = level.cursor.value()
        cursor = txn.cursor(layers)
        levels.append(_Level(cursor, layer, pointer[:CHUNK], cursor.set_range(layer + rest[: CHUNK + 1])))
    while levels:
        level = levels[-1]
        local = level.local_key()
        if local is None:
            levels.pop()
            if levels:
                level = levels[-1]
                level.positioned = level.cursor.next_nodup()
        elif len(local) == _POINTER:
            layer = level.cursor.value()
            cursor = txn.cursor(layers)
            levels.append(_Level(cursor, layer, local[:CHUNK], cursor.set_range(layer)))
        else:
            yield b"".join([*(each.chunk for each in levels), local]), level.cursor
            level.positioned = level.cursor.next_nodup()


def walk_back(
    txn: lmdb.Transaction[bytes], main: Any, layers: Any, end: bytes | None
) -> Iterator[tuple[bytes, lmdb.Cursor[bytes]]]:
    """Every key below end (None: every key), descending, with a cursor on its (last) value."""
    cursor = txn.cursor(main)
    levels = [_Level(cursor, b"", b"", _step_below(cursor, end) if end is not None else cursor.last())]
    rest = end if end is not None else b""
    while len(rest) > CHUNK:
        level = levels[-1]
        pointer = rest[:CHUNK] + b"\0"
        if not (level.cursor.set_range(level.layer + pointer) and level.cursor.key() == level.layer + pointer):
            level.positioned = _step_below(level.cursor, level.layer + pointer)
            break
        level.positioned = True
        rest = rest[CHUNK:]
        layer = level.cursor.value()
        cursor = txn.cursor(layers)
        levels.append(_Level(cursor, layer, pointer[:CHUNK], _step_below(cursor, layer + rest[:CHUNK])))
    while levels:
        level = levels[-1]
        local = level.local_key()
        if local is None:
            levels.pop()
            if levels:
                level = levels[-1]
                level.positioned = level.cursor.prev_nodup()
        elif len(local) == _POINTER:
            layer = level.cursor.value()
            after = (int.from_bytes(layer, "big") + 1).to_bytes(_NUMBER, "big")
            cursor = txn.cursor(layers)
            levels.append(_Level(cursor, layer, local[:CHUNK], _step_below(cursor, after)))
        else:
            yield b"".join([*(each.chunk for each in levels), local]), level.cursor
            level.positioned = level.cursor.prev_nodup()


def _step_below(cursor: lmdb.Cursor[bytes], bound: bytes) -> bool:
    """Go to the last row whose key is below bound. False if there is none."""
    return cursor.prev_nodup() if cursor.set_range(bound[: CHUNK + _NUMBER + 1]) else cursor.last()
