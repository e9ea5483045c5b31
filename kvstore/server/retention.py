"""How far the log may be cut while members that were sent a copy of the state still need what comes after it.

Without this a log that is cut faster than a copy travels would send one copy after the other, none of which the member
can go on from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from raft.rawnode import RawNode


class Retention:
    """Keeps a leader's log for those that catch up.

    copies: for each member that is being sent a copy, or was a short while ago, the index that the copy reaches at
    least.
    """

    def __init__(self, node: RawNode, copies: Callable[[], Mapping[int, int]]) -> None:
        self._node = node
        self._copies = copies

    def limit(self, cut: int) -> int:
        """The index, `cut` at most, up to which nobody needs the log."""
        copies = self._copies()
        if not copies:
            return cut
        # Only a leader knows how far the others are, and only it can send them anything.
        for member, peer in self._node.status().progress.items():
            if member in copies:
                cut = min(cut, max(copies[member], peer.match))
        return cut
