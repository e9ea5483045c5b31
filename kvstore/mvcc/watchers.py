"""Watchers: who watches what, and to whom that is told.

An index of watches by the keys that they are about, and what all parts of watching have in common. Tells nobody
anything; that is done in watch.py and, of those behind, in catch_up.py.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from kvstore.mvcc.events import Event, Interest, watch_prefix
from kvstore.mvcc.intervals import IntervalIndex

if TYPE_CHECKING:
    from kvstore.mvcc.watch import WatchStream


class WatchSink(Protocol):
    """Where the responses of a stream go.

    `send` never blocks: what cannot leave is kept by the sink, which then says that it is not `writable`. Then only
    answers to the client's own requests are still sent. Who owns the sink calls `WatchStream.resume` when it can take
    more again.
    """

    @property
    def writable(self) -> bool: ...
    def send(self, message: bytes, /) -> None: ...


class WatchedStore(Protocol):
    """What watches need of the store."""

    @property
    def revision(self) -> int: ...
    @property
    def compact_revision(self) -> int: ...
    def take_events(self) -> Sequence[Event]: ...
    def history(self, first: int) -> Iterator[tuple[int, bytes]]:
        """History rows from a main revision on, with it."""
        ...

    def row_at(self, key: bytes, revision: int) -> bytes | None:
        """The `current` row of a key at a revision; None if there was none or it is compacted."""
        ...


@dataclass(frozen=True, slots=True)
class WatchConfig:
    """Limits of watching.

    fragment_bytes: a response of at least this size is sent in parts to who asked for that. step_rows, step_bytes: how
    much history one step reads. step_send_bytes: how much one step hands to sinks before it stops. notify_send_bytes:
    the same of telling at once; who is not told then is caught up in steps, between which sinks can get rid of theirs.
    """

    fragment_bytes: int = 2 * 1024 * 1024
    step_rows: int = 1000
    step_bytes: int = 512 * 1024
    step_send_bytes: int = 8 * 1024 * 1024
    notify_send_bytes: int = 16 * 1024 * 1024


class Watcher:
    """One watch of a stream. `next_revision`: of the first event it has not been handed, or an earlier one."""

    __slots__ = ("fragment", "group", "id", "lagging", "next_revision", "notified", "prefix", "progress", "stream")

    def __init__(self, stream: WatchStream, watch_id: int, group: WatchGroup, next_revision: int) -> None:
        self.stream = stream
        self.id = watch_id
        self.group = group
        self.next_revision = next_revision
        self.prefix = watch_prefix(watch_id)
        self.fragment = False
        self.progress = False
        self.notified = False
        self.lagging = False


class WatchGroup:
    """Watchers that want the same: their events are encoded once.

    synced: those told at once. sweeping: lagging ones that the running sweep through history has reached.
    """

    __slots__ = ("interest", "members", "sweeping", "synced")

    def __init__(self, interest: Interest) -> None:
        self.interest = interest
        self.members = 0
        self.synced: dict[Watcher, None] = {}
        self.sweeping: dict[Watcher, None] = {}


class WatchGroups:
    """All groups by what they watch."""

    def __init__(self) -> None:
        self._groups: dict[Interest, WatchGroup] = {}
        self._keys: dict[bytes, list[WatchGroup]] = {}
        self._ranges: IntervalIndex[list[WatchGroup]] = IntervalIndex()

    def join(self, interest: Interest) -> WatchGroup:
        """The group of this interest, which gets a member more."""
        group = self._groups.get(interest)
        if group is None:
            group = self._groups[interest] = WatchGroup(interest)
            if self._is_key(interest):
                self._keys.setdefault(interest.key, []).append(group)
            else:
                alike = self._ranges.get(interest.key, interest.end)
                if alike is None:
                    self._ranges.add(interest.key, interest.end, [group])
                else:
                    alike.append(group)
        group.members += 1
        return group

    def leave(self, group: WatchGroup) -> None:
        """Take a member off a group."""
        group.members -= 1
        if group.members:
            return
        interest = group.interest
        del self._groups[interest]
        if self._is_key(interest):
            alike = self._keys[interest.key]
            alike.remove(group)
            if not alike:
                del self._keys[interest.key]
        else:
            ranges = self._ranges.get(interest.key, interest.end)
            assert ranges is not None
            ranges.remove(group)
            if not ranges:
                self._ranges.remove(interest.key, interest.end)

    def on(self, key: bytes) -> Sequence[WatchGroup]:
        """The groups that watch a key."""
        found = self._keys.get(key, ())
        if not len(self._ranges):
            return found
        ranges = self._ranges.stab(key)
        if not ranges:
            return found
        if len(ranges) == 1 and not found:
            return ranges[0]
        return [*found, *itertools.chain.from_iterable(ranges)]

    @staticmethod
    def _is_key(interest: Interest) -> bool:
        return interest.end is not None and interest.end == interest.key + b"\0"
