"""Real clusters for tests: processes, ports, clients and load. Knows the protocol; imports nothing of the server."""

from tests.cluster.harness.binary import Binary, from_environment
from tests.cluster.harness.client import Client, prefix_end, refused
from tests.cluster.harness.cluster import Cluster, Member
from tests.cluster.harness.factory import ClusterFactory
from tests.cluster.harness.load import Load, Record, assert_all_there
from tests.cluster.harness.waiting import wait_until

__all__ = [
    "Binary",
    "Client",
    "Cluster",
    "ClusterFactory",
    "Load",
    "Member",
    "Record",
    "assert_all_there",
    "from_environment",
    "prefix_end",
    "refused",
    "wait_until",
]
