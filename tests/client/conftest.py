"""Servers for these tests."""

from tests.client.servers import binary, client, key, make_cluster, member, shared_cluster

__all__ = ["binary", "client", "key", "make_cluster", "member", "shared_cluster"]
