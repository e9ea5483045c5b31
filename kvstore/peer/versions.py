"""The versions of the protocol between members: what each brought, and which of them this build speaks.

A version is used only once every member speaks it: the leader sees to that, and tells by an entry of the log
(kvstore.server.cluster_version).

1: raft messages, copies of the state, calls that are passed on to the leader.
2: batches of raft messages carry a checksum. TCP's own is 16 bits of addition; what it lets pass would be written to
   the log of the receiver, under a checksum that says it is right.

A call that can be done without needs no version: Range and Txn are answered with UNIMPLEMENTED by builds before them,
which is an answer like that of any member that cannot serve the read.
"""

from __future__ import annotations

from typing import Final

LOWEST: Final = 1
"""The lowest version that this build speaks."""

NEWEST: Final = 2
"""The highest version that this build speaks."""

CHECKSUMS: Final = 2
"""The version that brought checksums."""

Versions = tuple[int, int]
"""Lowest and highest version that a member speaks. The lowest is not below what its cluster has agreed on."""
