"""The clusters that these tests share, and what is printed when one of them fails."""

import os
from collections.abc import Generator, Iterator
from pathlib import Path

# grpcio warns on every fork beside its threads, and servers are started all the time here.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

import pytest

from tests.cluster.harness import Binary, Client, Cluster, ClusterFactory, Member, from_environment


@pytest.fixture(scope="session")
def binary() -> Binary:
    """The program under test."""
    return from_environment()


@pytest.fixture(scope="package")
def shared_cluster(binary: Binary, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three members for tests that only talk to them: who kills, fills or reconfigures makes a cluster of its own.

    They end with the tests of this package: beside the others their heartbeats would take a tenth of a processor.
    """
    with Cluster(binary, tmp_path_factory.mktemp("shared")) as cluster:
        yield cluster


@pytest.fixture
def cluster(shared_cluster: Cluster) -> Cluster:
    for member in shared_cluster.members:
        assert member.running, f"{member.name} has died in an earlier test; its log:\n{member.log_tail()}"
    return shared_cluster


@pytest.fixture
def make_cluster(binary: Binary, tmp_path: Path) -> Iterator[ClusterFactory]:
    factory = ClusterFactory(binary, tmp_path)
    yield factory
    factory.close()


@pytest.fixture
def client(cluster: Cluster) -> Client:
    """A client of a follower: what a test does through it takes the longest way."""
    return cluster.followers()[0].client


@pytest.fixture
def member(cluster: Cluster) -> Member:
    """A follower of the shared cluster."""
    return cluster.followers()[0]


@pytest.fixture
def prefix(request: pytest.FixtureRequest) -> bytes:
    """A part of the shared key space for one test alone."""
    name: str = request.node.name
    return name.encode() + b"/"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed and isinstance(item, pytest.Function):
        for name, value in sorted(item.funcargs.items()):
            clusters = value.made if isinstance(value, ClusterFactory) else [value]
            for cluster in clusters:
                if not isinstance(cluster, Cluster):
                    continue
                report.sections.append((f"what the members of {name} wrote last", cluster.log_tails()))
    return report
