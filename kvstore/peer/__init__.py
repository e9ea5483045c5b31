"""Raft messages and snapshots between the members of a cluster, over gRPC streams.

Knows messages, peers and copies of the state; not what is replicated, nor how a message is decided upon.
"""
