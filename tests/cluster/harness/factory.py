"""Clusters on demand, all taken down together."""

from pathlib import Path

from tests.cluster.harness.binary import Binary
from tests.cluster.harness.cluster import Cluster


class ClusterFactory:
    """Makes clusters that are taken down after the test."""

    def __init__(self, binary: Binary, directory: Path) -> None:
        self.made: list[Cluster] = []
        self._binary = binary
        self._directory = directory

    def prepare(self, size: int = 3, flags: dict[str, str] | None = None, token: str = "test") -> Cluster:
        """A cluster that is not started yet."""
        cluster = Cluster(self._binary, self._directory / f"cluster{len(self.made)}", size, flags, token)
        self.made.append(cluster)
        return cluster

    def __call__(self, size: int = 3, flags: dict[str, str] | None = None, token: str = "test") -> Cluster:
        """A cluster that serves."""
        cluster = self.prepare(size, flags, token)
        cluster.start()
        return cluster

    def close(self) -> None:
        for cluster in self.made:
            cluster.close()
