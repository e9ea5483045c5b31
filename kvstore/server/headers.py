"""The header of responses, encoded."""

from __future__ import annotations

from kvstore.wire import SHORT, varint


class ResponseHeaders:
    """The encoded header of responses: one for each revision and term."""

    __slots__ = ("_heads", "_ids", "_tail", "_term")

    def __init__(self, cluster_id: int, member_id: int) -> None:
        self._ids = b"\x08" + varint(cluster_id) + b"\x10" + varint(member_id) + b"\x18"
        self._term = 0
        self._tail = b""
        self._heads = self._made_heads()

    def set_term(self, term: int) -> None:
        """Take note of raft's term."""
        if term != self._term:
            self._term = term
            self._tail = b"\x20" + varint(term)
            self._heads = self._made_heads()

    def encode(self, revision: int) -> bytes:
        """Field 1 of a response: tag, length, ResponseHeader."""
        number = varint(revision)
        return self._heads[len(number)] + number + self._tail

    def _made_heads(self) -> list[bytes]:
        """What stands before a revision of so many bytes, ten at most. The length of the whole always takes one."""
        return [b"\n" + SHORT[len(self._ids) + size + len(self._tail)] + self._ids for size in range(11)]
