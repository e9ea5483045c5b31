"""Servers for these tests."""

from tests.client.secure import authority, secure_member
from tests.client.servers import binary, client, key, make_cluster, member, shared_cluster

__all__ = ["authority", "binary", "client", "key", "make_cluster", "member", "secure_member", "shared_cluster"]
