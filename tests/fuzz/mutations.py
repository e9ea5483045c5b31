"""Ways to spoil bytes that were right: bits, lengths, order, repetition."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from hypothesis import strategies as st

Change = tuple[str, float, int, bytes]
"""What to do, where (0 to 1), a number and bytes for it."""

KINDS: Final = ("flip", "set", "cut", "drop", "repeat", "insert")


def changes(most: int = 4) -> st.SearchStrategy[list[Change]]:
    """Some changes to be made one after the other."""
    return st.lists(
        st.tuples(
            st.sampled_from(KINDS),
            st.floats(min_value=0, max_value=1, exclude_max=True),
            st.integers(0, 255),
            st.binary(max_size=8),
        ),
        max_size=most,
    )


def spoil(data: bytes, made: Sequence[Change]) -> bytes:
    """The bytes after all changes."""
    for kind, where, number, more in made:
        at = int(where * len(data))
        if kind == "flip" and data:
            data = data[:at] + bytes((data[at] ^ 1 << number % 8,)) + data[at + 1 :]
        elif kind == "set" and data:
            data = data[:at] + bytes((number,)) + data[at + 1 :]
        elif kind == "cut":
            data = data[:at]
        elif kind == "drop":
            data = data[:at] + data[at + number % 16 :]
        elif kind == "repeat":
            data = data[:at] + data[at : at + number] * 3 + data[at + number :]
        elif kind == "insert":
            data = data[:at] + more + data[at:]
    return data


def pieces(data: bytes, size: int) -> list[bytes]:
    """The bytes as they arrive in reads of that size."""
    return [data[start : start + size] for start in range(0, len(data), size)]
