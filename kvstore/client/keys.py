"""Keys, and the ranges of keys that a call can be about."""

from __future__ import annotations

from dataclasses import dataclass

Key = bytes | str
"""A key or value as callers may give it; a str is taken as UTF-8, with bytes that came from a command line kept."""

OPEN_END = b"\x00"
"""As the end of a range: there is none."""


def as_bytes(key: Key) -> bytes:
    return key.encode("utf-8", "surrogateescape") if isinstance(key, str) else key


@dataclass(slots=True, frozen=True)
class KeyRange:
    """All keys from `key` up to, and without, `end`. An empty `end` is the one key; `OPEN_END` is everything after."""

    key: bytes
    end: bytes = b""


Target = Key | KeyRange
"""What a read, a deletion or a watch is about: one key or a range."""


def as_range(target: Target) -> KeyRange:
    return target if isinstance(target, KeyRange) else KeyRange(as_bytes(target))


def key_range(start: Key, end: Key) -> KeyRange:
    """The keys `start <= key < end`."""
    return KeyRange(as_bytes(start), as_bytes(end))


def from_key(start: Key) -> KeyRange:
    """The keys `start <= key`; every key if `start` is empty."""
    return KeyRange(as_bytes(start) or b"\x00", OPEN_END)


def prefix(start: Key) -> KeyRange:
    """The keys that begin with `start`; every key if it is empty."""
    key = as_bytes(start)
    return KeyRange(key, prefix_end(key)) if key else from_key(b"")


def prefix_end(key: bytes) -> bytes:
    """The first key after all that begin with `key`: its last byte below 0xff raised by one, the rest cut."""
    stem = key.rstrip(b"\xff")
    return stem[:-1] + bytes((stem[-1] + 1,)) if stem else OPEN_END
