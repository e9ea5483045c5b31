"""Fixtures that start servers of both kinds. A kind that this machine cannot run is skipped, with the reason."""

from __future__ import annotations

import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from kvstore.client import Client
from tests.cluster.harness import Binary, Cluster, ClusterFactory, Member
from tests.cluster.harness.binary import kvstored, reference


def _find(name: str) -> Binary:
    if name == "etcd":
        try:
            return reference("etcd")
        except FileNotFoundError as error:
            pytest.skip(str(error))
    binary = kvstored()
    probe = subprocess.run(
        [*binary.command, "--version"], env=os.environ | binary.environment, capture_output=True, timeout=60
    )
    if probe.returncode != 0:
        pytest.skip(f"kvstored cannot be run: {probe.stderr.decode().strip().splitlines()[-1]}")
    return binary


@pytest.fixture(scope="session", params=["etcd", "kvstored"])
def binary(request: pytest.FixtureRequest) -> Binary:
    """The server program."""
    return _find(request.param)


@pytest.fixture(scope="session")
def shared_cluster(binary: Binary, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One member, for tests that leave it running and tell their keys apart."""
    with Cluster(binary, tmp_path_factory.mktemp("member"), size=1) as cluster:
        yield cluster


@pytest.fixture
def member(shared_cluster: Cluster) -> Member:
    return shared_cluster.members[0]


@pytest.fixture
def make_cluster(binary: Binary, tmp_path: Path) -> Iterator[ClusterFactory]:
    """Clusters for one test alone, to be killed and changed."""
    factory = ClusterFactory(binary, tmp_path)
    yield factory
    factory.close()


@pytest.fixture
async def client(member: Member) -> AsyncIterator[Client]:
    async with Client(member.endpoint) as client:
        yield client


@pytest.fixture
def key(request: pytest.FixtureRequest) -> str:
    """A key that no other test uses; with something after it, many."""
    return f"{request.node.name}/"
