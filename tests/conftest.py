"""The order in which files are run.

Of several workers each takes the next file that is left, and one ahead: who takes a long one last is waited for.
"""

from __future__ import annotations

from pathlib import Path

import pytest

HERE = Path(__file__).parent

LONGEST_FIRST = ("crash", "member_simulation", "limits", "versions", "chaos", "simulation", "cluster", "history")
"""Packages whose files take longest: they start processes, wait for what these do, or have a budget to use up."""


def _place(item: pytest.Item) -> int:
    package = item.path.relative_to(HERE).parts[0]
    return LONGEST_FIRST.index(package) if package in LONGEST_FIRST else len(LONGEST_FIRST)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put long files first; those that are alike, and the tests of a file, stay as they are."""
    items.sort(key=_place)
