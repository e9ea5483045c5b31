"""Catching up: lagging watchers are told of history, in bounded steps, until they have seen everything.

All that is remembered of one is the revision it goes on from. Those whose sinks take nothing are parked at their
streams until these are resumed. Knows what history holds, not what is being applied.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING

from kvstore.mvcc.encoding import key_of_history
from kvstore.mvcc.events import Event, EventBatch, Interest, response
from kvstore.mvcc.watchers import WatchConfig, WatchedStore, Watcher, WatchGroup, WatchGroups
from kvstore.storage.errors import CorruptStore

if TYPE_CHECKING:
    from kvstore.mvcc.watch import WatchStream

Send = Callable[[Watcher, list[EventBatch], dict[int, bytes]], int]
"""Hands events to a watcher's sink and says how many bytes; the headers made for it are kept, by revision."""

_CORRUPT = "etcdserver: corrupt cluster"


class CatchUp:
    """The watchers of a hub that are behind.

    A sweep goes through history from the lowest revision that a watcher waits for to the present and takes along those
    it meets on its way, so that however many there are, each row is read once for all.

    header: gives field 1 of a response for a revision. caught_up: called for each watcher that has seen everything.
    on_behind: called when there is something to do, perhaps again and again.
    """

    def __init__(
        self,
        store: WatchedStore,
        groups: WatchGroups,
        config: WatchConfig,
        *,
        header: Callable[[int], bytes],
        send: Send,
        caught_up: Callable[[Watcher], None],
        on_behind: Callable[[], None],
    ) -> None:
        self._store = store
        self._groups = groups
        self._config = config
        self._header = header
        self._send = send
        self._caught_up = caught_up
        self._on_behind = on_behind
        # Lagging watchers that can be caught up, in heaps by next revision: those the running sweep will still reach,
        # and those that wait for the next. Entries of watchers that have gone, or moved on, are skipped there.
        self._ahead: list[tuple[int, int, Watcher]] = []
        self._behind: list[tuple[int, int, Watcher]] = []
        self._serial = itertools.count()
        self._sweeping: dict[Watcher, None] = {}
        self._sweep = 0

    @property
    def behind(self) -> bool:
        """Whether `step` has something to do."""
        return bool(self._sweeping or self._ahead or self._behind)

    def enqueue(self, watcher: Watcher) -> None:
        """Catch a watcher up from its next revision, now or when its sink can take more."""
        if not watcher.stream.sink.writable:
            watcher.stream.parked[watcher] = None
            return
        self._push(watcher)
        self._on_behind()

    def resume(self, stream: WatchStream) -> None:
        """Go on with those that are parked at a stream: its sink can take more again."""
        for watcher in stream.parked:
            self._push(watcher)
        if stream.parked:
            stream.parked.clear()
            self._on_behind()

    def _push(self, watcher: Watcher) -> None:
        queue = self._ahead if self._sweeping and watcher.next_revision >= self._sweep else self._behind
        heapq.heappush(queue, (watcher.next_revision, next(self._serial), watcher))

    def forget(self, watcher: Watcher) -> None:
        """A watch has ended."""
        if watcher.group.sweeping.pop(watcher, watcher) is None:
            del self._sweeping[watcher]
        watcher.stream.parked.pop(watcher, None)

    def step(self) -> bool:
        """Catch up by one bounded step; whether there is more to do now."""
        store = self._store
        if not self._sweeping:
            self._begin_sweep()
            if not self._sweeping:
                return False
        if self._sweep < store.compact_revision:
            self._restart_above_compaction()
            return self.behind
        try:
            self._sweep_on()
        except CorruptStore:
            # What they wait for cannot be told here. At another member they go on where they are.
            for watcher in list(self._sweeping):
                watcher.stream.cancel(watcher.id, _CORRUPT)
        return self.behind

    def _sweep_on(self) -> None:
        """Tell those in the sweep of the next window of history. Raises CorruptStore if that cannot be read."""
        store = self._store
        rows, last = self._read_window()
        self._join_window(last)
        events: dict[WatchGroup, list[Event]] = {}
        for revision, row in rows:
            key = key_of_history(row)
            event: Event | None = None
            for group in self._groups.on(key):
                if group.sweeping:
                    if event is None:
                        event = Event(revision, row[0], key, row[1:], None)
                    events.setdefault(group, []).append(event)
        self._send_window(events, last)
        if last >= store.revision:
            for watcher in list(self._sweeping):
                self._leave_sweep(watcher, last + 1)
                self._caught_up(watcher)
        else:
            self._sweep = last + 1

    def _begin_sweep(self) -> None:
        """Start over from the lowest revision that a watcher waits for, if there is one."""
        for _ in range(2):
            self._ahead, self._behind = self._behind, self._ahead
            while self._ahead and not self._sweeping:
                # A watcher may wait for a revision that is still to come, after a snapshot took the store back.
                self._sweep = min(self._ahead[0][0], self._store.revision + 1)
                self._join_window(self._ahead[0][0])
            if self._sweeping:
                return

    @staticmethod
    def _is_waiting(entry: tuple[int, int, Watcher]) -> bool:
        next_revision, _, watcher = entry
        return (
            watcher.lagging
            and watcher.next_revision == next_revision
            and watcher not in watcher.group.sweeping
            and watcher not in watcher.stream.parked
        )

    def _join_window(self, last: int) -> None:
        """Take along the watchers whose next revision is at most `last`."""
        queue = self._ahead
        while queue and queue[0][0] <= last:
            entry = heapq.heappop(queue)
            if not self._is_waiting(entry):
                continue
            watcher = entry[2]
            if watcher.next_revision < self._store.compact_revision:
                self._cancel_compacted(watcher)
            elif not watcher.stream.sink.writable:
                self.enqueue(watcher)
            else:
                self._sweeping[watcher] = None
                watcher.group.sweeping[watcher] = None

    def _leave_sweep(self, watcher: Watcher, next_revision: int) -> None:
        del self._sweeping[watcher]
        del watcher.group.sweeping[watcher]
        watcher.next_revision = max(watcher.next_revision, next_revision)

    def _read_window(self) -> tuple[list[tuple[int, bytes]], int]:
        """Some rows of history from where the sweep stands, and the revision that they are complete up to."""
        rows: list[tuple[int, bytes]] = []
        size = 0
        last = -1
        for revision, row in self._store.history(self._sweep):
            if revision != last and (len(rows) >= self._config.step_rows or size >= self._config.step_bytes):
                return rows, last
            last = revision
            rows.append((revision, row))
            size += len(row)
        return rows, self._store.revision

    def _send_window(self, events: dict[WatchGroup, list[Event]], last: int) -> None:
        headers: dict[int, bytes] = {}
        budget = self._config.step_send_bytes
        for group, found in events.items():
            interest = group.interest
            batches: list[EventBatch] | None = None
            for watcher in list(group.sweeping):
                if budget <= 0 or not watcher.stream.sink.writable:
                    self._leave_sweep(watcher, self._sweep)
                    self._enqueue_behind(watcher)
                    continue
                if watcher.next_revision > found[0].revision:
                    later = [event for event in found if event.revision >= watcher.next_revision]
                    own = self._encode_window(interest, later, last)
                else:
                    if batches is None:
                        batches = self._encode_window(interest, found, last)
                    own = batches
                budget -= self._send(watcher, own, headers)

    def _encode_window(self, interest: Interest, events: list[Event], last: int) -> list[EventBatch]:
        batches = interest.encode(events, self._store.row_at)
        if batches and last >= self._store.revision:
            # Nothing is left to tell: the watcher has seen everything up to the present.
            batches[-1].revision = self._store.revision
        return batches

    def _enqueue_behind(self, watcher: Watcher) -> None:
        if not watcher.stream.sink.writable:
            self.enqueue(watcher)
        else:
            heapq.heappush(self._behind, (watcher.next_revision, next(self._serial), watcher))

    def _restart_above_compaction(self) -> None:
        for watcher in list(self._sweeping):
            self._leave_sweep(watcher, self._sweep)
            if watcher.next_revision < self._store.compact_revision:
                self._cancel_compacted(watcher)
            else:
                self._enqueue_behind(watcher)

    def _cancel_compacted(self, watcher: Watcher) -> None:
        message = response(
            self._header(self._store.revision),
            watcher.id,
            canceled=True,
            compact_revision=self._store.compact_revision,
        )
        watcher.stream.sink.send(message)
        watcher.stream.forget(watcher)
