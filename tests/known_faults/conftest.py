"""Clusters for these tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.harness import Cluster, ClusterFactory, from_environment


@pytest.fixture(scope="package")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three members for all tests that leave them as they were."""
    with Cluster(from_environment(), tmp_path_factory.mktemp("known-faults")) as cluster:
        yield cluster


@pytest.fixture
def make_cluster(tmp_path: Path) -> Iterator[ClusterFactory]:
    """Clusters for one test alone."""
    factory = ClusterFactory(from_environment(), tmp_path)
    yield factory
    factory.close()
