"""The clusters of these tests, and what is printed when one of them fails: those of tests/cluster."""

from tests.cluster.conftest import binary, make_cluster, pytest_runtest_makereport

__all__ = ["binary", "make_cluster", "pytest_runtest_makereport"]
