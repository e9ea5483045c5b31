"""Where members of these tests live."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash.place import fast_place


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A directory in memory if there is room: what a disk does to a member is worked out here, not waited for."""
    directory = Path(tempfile.mkdtemp(prefix="kvstore-crash-", dir=fast_place(tmp_path)))
    yield directory
    shutil.rmtree(directory, ignore_errors=True)
