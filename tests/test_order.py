"""What conftest.py names to be begun first, or to be taken apart, exists."""

from __future__ import annotations

import pytest

from tests.conftest import APART, LONGEST_FIRST, ROOT


@pytest.mark.parametrize("path", sorted({*LONGEST_FIRST, *APART}))
def test_a_long_file_is_where_it_is_said_to_be(path: str) -> None:
    assert (ROOT / path).is_dir() if path.endswith("/") else (ROOT / path).is_file()
