"""Reads that wait for proof that their leader still leads.

Each read has a position in the order of arrival. A heartbeat carries the position of the last read that was waiting
when it left; its answer proves leadership for that read and all before it. One round so serves any number of reads.
"""

from __future__ import annotations

from collections import deque

from raft.messages import Message, ReadOnlyOption
from raft.quorum import JointConfig

_CONTEXT_BYTES = 8


class ReadOnly:
    """The unconfirmed reads of one leadership and the heartbeat answers that will confirm them."""

    def __init__(self, option: ReadOnlyOption) -> None:
        self.option = option
        self._waiting: deque[tuple[Message, int]] = deque()
        # How many reads were confirmed already: the position of the last of them.
        self._confirmed = 0
        self._acked: dict[int, int] = {}

    def add(self, request: Message, commit: int) -> None:
        """Take a read that arrived while the commit index was `commit`."""
        self._waiting.append((request, commit))

    def heartbeat_context(self) -> bytes:
        """What heartbeats carry to confirm every read waiting now; empty if there is none."""
        if not self._waiting:
            return b""
        return (self._confirmed + len(self._waiting)).to_bytes(_CONTEXT_BYTES, "little")

    def receive_ack(self, id: int, context: bytes) -> None:
        """Note that member `id` answered a heartbeat that carried `context`."""
        if context:
            self._acked[id] = max(self._acked.get(id, 0), int.from_bytes(context, "little"))

    def confirm(self, voters: JointConfig) -> list[tuple[Message, int]]:
        """Take out the reads that a quorum of `voters` has confirmed, each with the commit index it arrived at."""
        position = min(voters.committed(self._acked.get), self._confirmed + len(self._waiting))
        count = position - self._confirmed
        if count <= 0:
            return []
        self._confirmed = position
        return [self._waiting.popleft() for _ in range(count)]
