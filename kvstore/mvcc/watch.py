"""Watches: who is told of which changes, at once or, when behind, from history.

A watcher is *synced* when every event up to the last notification has been handed to its sink, otherwise it *lags* and
is caught up from the store's history in bounded steps (catch_up.py). All that is remembered of a lagging watcher is the
revision it goes on from, so neither a slow reader nor a watch from long ago costs memory. Knows nothing of gRPC:
responses leave as bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from kvstore.mvcc.catch_up import CatchUp
from kvstore.mvcc.events import Event, EventBatch, Interest, fragment_responses, response
from kvstore.mvcc.intervals import end_of
from kvstore.mvcc.watchers import WatchConfig, WatchedStore, Watcher, WatchGroup, WatchGroups, WatchSink
from kvstore.pb import rpc_pb2

NO_WATCH = -1
"""Watch id of a response that is about no watch of the stream, or about all."""

_EMPTY_RANGE = "mvcc: watcher range is empty"
_DUPLICATE_ID = "mvcc: duplicate watch ID provided on the WatchStream"
_COMPACTED = "etcdserver: mvcc: required revision has been compacted"


def _nothing() -> None:
    pass


class WatchHub:
    """All watches of a member.

    header: gives field 1 of a response, encoded, for a revision. on_behind: set by whoever runs `sync`; called when
    there is something for it to do, perhaps again and again.
    """

    def __init__(self, store: WatchedStore, header: Callable[[int], bytes], config: WatchConfig | None = None) -> None:
        self._store = store
        self.header = header
        self._config = config or WatchConfig()
        self._groups = WatchGroups()
        self._streams: dict[WatchStream, None] = {}
        self._progress: dict[Watcher, None] = {}
        # Streams that want to know of progress and have a watch whose first revision is still to come.
        self._early: dict[WatchStream, None] = {}
        self.on_behind: Callable[[], None] = _nothing
        self.notified_revision = store.revision
        self.watchers = 0
        self.slow_watchers = 0
        self.events_sent = 0
        self.pending_events = 0
        self._catch_up = CatchUp(
            store,
            self._groups,
            self._config,
            header=header,
            send=self._send,
            caught_up=self._caught_up,
            on_behind=lambda: self.on_behind(),
        )

    @property
    def streams(self) -> int:
        """Number of open streams."""
        return len(self._streams)

    @property
    def behind(self) -> bool:
        """Whether `sync` has something to do."""
        return self._catch_up.behind

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
        budget = self._config.notify_send_bytes
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
            if watcher.fragment and batch.size >= self._config.fragment_bytes:
                for message in fragment_responses(header, watcher.prefix, batch.fragments(self._config.fragment_bytes)):
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
        self._catch_up.enqueue(watcher)

    def _caught_up(self, watcher: Watcher) -> None:
        watcher.lagging = False
        watcher.group.synced[watcher] = None
        self.slow_watchers -= 1
        stream = watcher.stream
        stream.lagging -= 1
        stream.answer_progress()

    def sync(self) -> bool:
        """Catch lagging watchers up by one bounded step; whether there is more to do now."""
        return self._catch_up.step()

    def resume(self, stream: WatchStream) -> None:
        """Go on with the watches of a stream whose sink can take more again."""
        self._catch_up.resume(stream)

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
        self._catch_up.forget(watcher)
        if watcher.lagging:
            watcher.lagging = False
            watcher.stream.lagging -= 1
            self.slow_watchers -= 1
        self._groups.leave(watcher.group)

    def close(self, stream: WatchStream) -> None:
        """Forget a stream that has no watches any more."""
        self._streams.pop(stream, None)
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
            self._hub.resume(self)
            self.answer_progress()

    def close(self) -> None:
        """End all watches of the stream without a word."""
        for watcher in self._watchers.values():
            self._hub.remove(watcher)
        self._watchers.clear()
        self._hub.close(self)
