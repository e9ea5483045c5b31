"""Watches: who is told of which changes, at once or, when behind, from history.

A watcher is *synced* when every event up to the last notification has been handed to its sink, otherwise it *lags* and
is caught up from the store's history in bounded steps. All that is remembered of a lagging watcher is the revision it
goes on from, so neither a slow reader nor a watch from long ago costs memory. Knows nothing of gRPC: responses leave
as bytes.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from kvstore.mvcc.encoding import key_of_history
from kvstore.mvcc.events import Event, EventBatch, Interest, fragment_responses, response, watch_prefix
from kvstore.mvcc.intervals import IntervalIndex, end_of
from kvstore.pb import rpc_pb2
from kvstore.storage.errors import CorruptStore

NO_WATCH = -1
"""Watch id of a response that is about no watch of the stream, or about all."""

_EMPTY_RANGE = "mvcc: watcher range is empty"
_DUPLICATE_ID = "mvcc: duplicate watch ID provided on the WatchStream"
_COMPACTED = "etcdserver: mvcc: required revision has been compacted"
_CORRUPT = "etcdserver: corrupt cluster"


def _nothing() -> None:
    pass


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


class WatchHub:
    """All watches of a member.

    header: gives field 1 of a response, encoded, for a revision. on_behind: set by whoever runs `sync`; called when
    there is something for it to do, perhaps again and again.
    """

    def __init__(self, store: WatchedStore, header: Callable[[int], bytes], config: WatchConfig | None = None) -> None:
        self._store = store
        self.header = header
        self.config = config or WatchConfig()
        self._groups = WatchGroups()
        self._streams: dict[WatchStream, None] = {}
        self._progress: dict[Watcher, None] = {}
        # Lagging watchers that can be caught up, in heaps by next revision: those the running sweep will still reach,
        # and those that wait for the next. Entries of watchers that have gone, or moved on, are skipped there.
        self._ahead: list[tuple[int, int, Watcher]] = []
        self._behind: list[tuple[int, int, Watcher]] = []
        self._serial = itertools.count()
        self._sweeping: dict[Watcher, None] = {}
        self._sweep = 0
        self._blocked: dict[WatchStream, None] = {}
        # Streams that want to know of progress and have a watch whose first revision is still to come.
        self._early: dict[WatchStream, None] = {}
        self.on_behind: Callable[[], None] = _nothing
        self.notified_revision = store.revision
        self.watchers = 0
        self.slow_watchers = 0
        self.events_sent = 0
        self.events_seen = 0
        self.pending_events = 0

    @property
    def streams(self) -> int:
        """Number of open streams."""
        return len(self._streams)

    @property
    def behind(self) -> bool:
        """Whether `sync` has something to do."""
        return bool(self._sweeping or self._ahead or self._behind)

    def open(self, sink: WatchSink) -> WatchStream:
        """Begin a stream of watches whose responses go to a sink."""
        stream = WatchStream(self, sink)
        self._streams[stream] = None
        return stream

    def revision(self) -> int:
        """The store's."""
        return self._store.revision

    # At once.

    def notify(self) -> None:
        """Tell synced watchers of what was applied since the last call. Once per turn of the loop."""
        events = self._store.take_events()
        self.notified_revision = self._store.revision
        if not events:
            return
        self.events_seen += len(events)
        wanted: dict[WatchGroup, list[Event]] = {}
        on = self._groups.on
        for event in events:
            for group in on(event.key):
                if group.synced:
                    found = wanted.get(group)
                    if found is None:
                        wanted[group] = [event]
                    else:
                        found.append(event)
        headers: dict[int, bytes] = {}
        budget = self.config.notify_send_bytes
        for group, found in wanted.items():
            budget -= self._notify_group(group, found, headers, budget)
        self._answer_early()

    def _answer_early(self) -> None:
        if self._early:
            early, self._early = self._early, {}
            for stream in early:
                stream.answer_progress()

    def reached(self, watcher: Watcher) -> bool:
        """Whether a watch may be told of progress.

        Not before its first revision is the next: a client takes up a watch that broke off after the revision it was
        told last, and would get events from before the one it asked for.
        """
        return watcher.next_revision <= self.notified_revision + 1

    def answer_later(self, stream: WatchStream) -> None:
        """Have a stream answer its request for progress when there is something new."""
        self._early[stream] = None

    def _notify_group(self, group: WatchGroup, events: list[Event], headers: dict[int, bytes], budget: int) -> int:
        """Tell a group as far as the budget goes; the bytes of events that were handed to sinks."""
        batches = group.interest.encode(events, self._store.row_at)
        if not batches:
            return 0
        first = batches[0].first_revision
        late: list[Watcher] = []
        size = 0
        for watcher in group.synced:
            if size >= budget or not watcher.stream.sink.writable:
                late.append(watcher)
            elif watcher.next_revision <= first:
                size += self._send(watcher, batches, headers)
            else:
                later = [event for event in events if event.revision >= watcher.next_revision]
                size += self._send(watcher, group.interest.encode(later, self._store.row_at), headers)
        for watcher in late:
            self._fall_behind(watcher, max(watcher.next_revision, first))
        return size

    def _send(self, watcher: Watcher, batches: list[EventBatch], headers: dict[int, bytes]) -> int:
        """Hand responses to a sink; the bytes of events in them."""
        size = 0
        send = watcher.stream.sink.send
        for batch in batches:
            header = headers.get(batch.revision)
            if header is None:
                header = headers[batch.revision] = self.header(batch.revision)
            if watcher.fragment and batch.size >= self.config.fragment_bytes:
                for message in fragment_responses(header, watcher.prefix, batch.fragments(self.config.fragment_bytes)):
                    send(message)
            else:
                send(header + watcher.prefix + batch.payload())
            size += batch.size
            self.events_sent += len(batch.blobs)
            watcher.notified = True
        return size

    # Later.

    def _fall_behind(self, watcher: Watcher, next_revision: int) -> None:
        watcher.next_revision = next_revision
        if not watcher.lagging:
            watcher.lagging = True
            watcher.group.synced.pop(watcher, None)
            watcher.stream.lagging += 1
            self.slow_watchers += 1
        self._enqueue(watcher)

    def _enqueue(self, watcher: Watcher) -> None:
        if not watcher.stream.sink.writable:
            watcher.stream.parked[watcher] = None
            self._blocked[watcher.stream] = None
            return
        queue = self._ahead if self._sweeping and watcher.next_revision >= self._sweep else self._behind
        heapq.heappush(queue, (watcher.next_revision, next(self._serial), watcher))
        self.on_behind()

    def _catch_up_done(self, watcher: Watcher) -> None:
        watcher.lagging = False
        watcher.group.synced[watcher] = None
        self.slow_watchers -= 1
        stream = watcher.stream
        stream.lagging -= 1
        stream.answer_progress()

    def unblock(self) -> None:
        """Go on with streams whose sinks can take more again, if nobody told that they can."""
        for stream in [stream for stream in self._blocked if stream.sink.writable]:
            stream.resume()

    def _unpark(self, stream: WatchStream) -> None:
        self._blocked.pop(stream, None)
        for watcher in stream.parked:
            queue = self._ahead if self._sweeping and watcher.next_revision >= self._sweep else self._behind
            heapq.heappush(queue, (watcher.next_revision, next(self._serial), watcher))
        if stream.parked:
            stream.parked.clear()
            self.on_behind()

    def sync(self) -> bool:
        """Catch lagging watchers up by one bounded step; whether there is more to do now.

        A sweep goes through history from the lowest revision that a watcher waits for to the present and takes along
        those it meets on its way, so that however many there are, each row is read once for all.
        """
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
                self._catch_up_done(watcher)
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
                self._enqueue(watcher)
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
            if revision != last and (len(rows) >= self.config.step_rows or size >= self.config.step_bytes):
                return rows, last
            last = revision
            rows.append((revision, row))
            size += len(row)
        return rows, self._store.revision

    def _send_window(self, events: dict[WatchGroup, list[Event]], last: int) -> None:
        headers: dict[int, bytes] = {}
        budget = self.config.step_send_bytes
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
            self._enqueue(watcher)
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
            self.header(self._store.revision),
            watcher.id,
            canceled=True,
            compact_revision=self._store.compact_revision,
        )
        watcher.stream.sink.send(message)
        watcher.stream.forget(watcher)

    # Coming and going.

    def add(self, watcher: Watcher) -> None:
        """Start a watch, from history if its first revision is past."""
        self.watchers += 1
        if watcher.progress:
            self._progress[watcher] = None
        if watcher.next_revision > self._store.revision:
            watcher.group.synced[watcher] = None
        else:
            self._fall_behind(watcher, watcher.next_revision)

    def group(self, interest: Interest) -> WatchGroup:
        """The group that a new watcher joins."""
        return self._groups.join(interest)

    def remove(self, watcher: Watcher) -> None:
        """End a watch."""
        self.watchers -= 1
        self._progress.pop(watcher, None)
        watcher.group.synced.pop(watcher, None)
        if watcher.group.sweeping.pop(watcher, watcher) is None:
            del self._sweeping[watcher]
        if watcher.lagging:
            watcher.lagging = False
            watcher.stream.lagging -= 1
            watcher.stream.parked.pop(watcher, None)
            self.slow_watchers -= 1
        self._groups.leave(watcher.group)

    def close(self, stream: WatchStream) -> None:
        """Forget a stream that has no watches any more."""
        self._streams.pop(stream, None)
        self._blocked.pop(stream, None)
        self._early.pop(stream, None)

    def report_progress(self) -> None:
        """Tell idle watchers that asked for it up to where they have seen everything. At the notify interval."""
        for watcher in list(self._progress):
            if watcher.notified:
                watcher.notified = False
            elif not watcher.lagging and self.reached(watcher) and watcher.stream.sink.writable:
                watcher.stream.sink.send(response(self.header(self.notified_revision), watcher.id))

    def reload(self) -> None:
        """Go on from history after a snapshot has replaced the state: events in between were never applied here."""
        self._store.take_events()
        for stream in list(self._streams):
            for watcher in list(stream.watchers()):
                if not watcher.lagging and watcher.next_revision <= self._store.revision:
                    self._fall_behind(watcher, max(watcher.next_revision, self.notified_revision + 1))
        self.notified_revision = self._store.revision
        self._answer_early()


class WatchStream:
    """The watches of one client stream. Requests come in by methods, responses leave through the sink."""

    __slots__ = ("_hub", "_next_id", "_progress_wanted", "_watchers", "lagging", "parked", "sink")

    def __init__(self, hub: WatchHub, sink: WatchSink) -> None:
        self._hub = hub
        self.sink = sink
        self._watchers: dict[int, Watcher] = {}
        self._next_id = 0
        self._progress_wanted = False
        self.lagging = 0
        self.parked: dict[Watcher, None] = {}

    def watchers(self) -> Iterator[Watcher]:
        """All watches of the stream."""
        return iter(self._watchers.values())

    def create(self, request: rpc_pb2.WatchCreateRequest) -> int | None:
        """Start a watch and say so; its id, or None if it was refused."""
        key = request.key or b"\0"
        end = end_of(key, request.range_end)
        if request.start_revision < 0:
            self.refuse(_COMPACTED)
            return None
        if end is not None and key >= end:
            self.refuse(_EMPTY_RANGE)
            return None
        watch_id = request.watch_id
        if watch_id == 0:
            while self._next_id in self._watchers:
                self._next_id += 1
            watch_id = self._next_id
            self._next_id += 1
        elif watch_id in self._watchers:
            self.refuse(_DUPLICATE_ID)
            return None
        filters = request.filters
        interest = Interest(
            key,
            end,
            no_put=rpc_pb2.WatchCreateRequest.NOPUT in filters,
            no_delete=rpc_pb2.WatchCreateRequest.NODELETE in filters,
            prev_kv=request.prev_kv,
        )
        hub = self._hub
        revision = hub.revision()
        watcher = Watcher(self, watch_id, hub.group(interest), request.start_revision or revision + 1)
        watcher.fragment = request.fragment
        watcher.progress = request.progress_notify
        self._watchers[watch_id] = watcher
        self.sink.send(response(hub.header(revision), watch_id, created=True))
        hub.add(watcher)
        return watch_id

    def refuse(self, reason: str) -> None:
        """Answer a request for a watch that is not started, saying why."""
        header = self._hub.header(self._hub.revision())
        self.sink.send(response(header, NO_WATCH, created=True, canceled=True, cancel_reason=reason))

    def cancel(self, watch_id: int, reason: str = "") -> bool:
        """End a watch and say so; False, and no answer, if there is none of this id."""
        watcher = self._watchers.get(watch_id)
        if watcher is None:
            return False
        self.forget(watcher)
        header = self._hub.header(self._hub.revision())
        self.sink.send(response(header, watch_id, canceled=True, cancel_reason=reason))
        return True

    def forget(self, watcher: Watcher) -> None:
        """End a watch without a word."""
        del self._watchers[watcher.id]
        self._hub.remove(watcher)
        self.answer_progress()

    def request_progress(self) -> None:
        """Say up to where all watches of the stream have seen everything, once all have begun and caught up."""
        self._progress_wanted = True
        self.answer_progress()

    def answer_progress(self) -> None:
        """Answer a request for progress if there is one and it can be answered."""
        if self._progress_wanted and not self.lagging and self.sink.writable:
            if not all(map(self._hub.reached, self._watchers.values())):
                self._hub.answer_later(self)
                return
            self._progress_wanted = False
            self.sink.send(response(self._hub.header(self._hub.notified_revision), NO_WATCH))

    def resume(self) -> None:
        """Go on sending: the sink can take more again."""
        if self.sink.writable:
            self._hub._unpark(self)
            self.answer_progress()

    def close(self) -> None:
        """End all watches of the stream without a word."""
        for watcher in self._watchers.values():
            self._hub.remove(watcher)
        self._watchers.clear()
        self._hub.close(self)
