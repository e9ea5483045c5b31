"""All mutations, in the order in which they are tried and printed."""

from __future__ import annotations

from typing import Final

from tests.raft.mutations.elections import ELECTIONS
from tests.raft.mutations.membership import MEMBERSHIP
from tests.raft.mutations.reads import READS
from tests.raft.mutations.replication import REPLICATION
from tests.raft.mutations.storage import STORAGE

CATALOGUE: Final = (*ELECTIONS, *REPLICATION, *STORAGE, *MEMBERSHIP, *READS)
