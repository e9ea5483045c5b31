"""Where members of these tests live, and the clusters of those that need more than one: those of tests/cluster."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.conftest import binary, make_cluster, pytest_runtest_makereport
from tests.crash.place import fast_place

__all__ = ["binary", "make_cluster", "place", "pytest_runtest_makereport"]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A directory in memory if there is room: what a disk does to a member is worked out here, not waited for."""
    directory = Path(tempfile.mkdtemp(prefix="kvstore-crash-", dir=fast_place(tmp_path)))
    yield directory
    shutil.rmtree(directory, ignore_errors=True)
