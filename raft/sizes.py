"""How large entries are in the protobuf encoding of raftpb, and cutting batches by it.

Limits are given in bytes of that encoding so that they mean the same to every implementation. Knows nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence

from raft.messages import NO_LIMIT, Entry

# Tag and value of the type, and the tags of term, index and data: what every entry costs besides its numbers.
_FIXED = 5


def varint_size(value: int) -> int:
    """Bytes that value, not negative, takes as a protobuf varint."""
    return (value.bit_length() + 6) // 7 or 1


def entry_size(entry: Entry) -> int:
    """Bytes of the encoded entry. An empty payload is not encoded at all."""
    size = _FIXED - 1 + varint_size(entry.term) + varint_size(entry.index)
    length = len(entry.data)
    return size + 1 + varint_size(length) + length if length else size


def entries_size(entries: Sequence[Entry]) -> int:
    """Bytes of the encoded entries together."""
    return sum(map(entry_size, entries))


def payloads_size(entries: Sequence[Entry]) -> int:
    """Bytes of the payloads alone; the empty entry of a new leader counts nothing."""
    return sum([len(entry.data) for entry in entries])


def limit_size(entries: Sequence[Entry], max_size: int) -> Sequence[Entry]:
    """The longest prefix whose encoding takes at most max_size bytes, but at least one entry if there is any.

    Costs nothing where there is no limit.
    """
    if max_size >= NO_LIMIT or len(entries) <= 1:
        return entries
    size = 0
    for position, entry in enumerate(entries):
        size += entry_size(entry)
        if size > max_size and position:
            return entries[:position]
    return entries
