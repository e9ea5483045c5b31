"""Tables in the frames that etcdctl draws: headings in capitals, centred; cells to the right, long ones wrapped."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

_WRAP = 30
"""Columns after which a cell with several words is wrapped."""


def render(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The table, with a newline after each line."""
    titles = [title.upper() for title in heading]
    cells = [[_wrapped(cell) for cell in row] for row in rows]
    widths = [
        max([_width(title), *(_width(line) for row in cells for line in row[column])])
        for column, title in enumerate(titles)
    ]
    rule = "+" + "+".join("-" * (width + 2) for width in widths) + "+"
    lines = [rule, _line(map(_centred, titles, widths)), rule]
    for row in cells:
        for number in range(max(len(cell) for cell in row)):
            texts = [cell[number] if number < len(cell) else "" for cell in row]
            lines.append(_line(map(_right, texts, widths)))
    if rows:
        lines.append(rule)
    return "\n".join(lines) + "\n"


def _line(cells: map[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _centred(text: str, width: int) -> str:
    gap = width - _width(text)
    return " " * (gap // 2) + text + " " * (gap - gap // 2)


def _right(text: str, width: int) -> str:
    return " " * (width - _width(text)) + text


def _width(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)


def _wrapped(cell: str) -> list[str]:
    words = cell.split()
    if _width(cell) <= _WRAP or not words:
        return [cell]
    limit = max(_WRAP, *map(_width, words))
    lines = [words[0]]
    for word in words[1:]:
        if _width(lines[-1]) + 1 + _width(word) <= limit:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines
