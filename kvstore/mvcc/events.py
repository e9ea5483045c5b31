"""Events of the store as watchers get them: which a watch wants, and their bytes.

An event's bytes are made once for all watches that want the same, and are shared by their responses.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from kvstore.mvcc.encoding import CREATE, DELETE, TRAILER_SIZE, version_of
from kvstore.wire import length_prefixed, varint

COMBINE_BYTES = 1 << 20
"""Events of several revisions go into one response while it stays below this many bytes."""

_EVENT_TAG = b"\x5a"
_TYPE_DELETE = b"\x08\x01"


class Event(NamedTuple):
    """One change.

    framed: the KeyValue after the change (of a deletion: key and revision). before: the `current` row that it replaced,
    None if there was none or it is not known here.
    """

    revision: int
    kind: int
    key: bytes
    framed: bytes
    before: bytes | None


PreviousRow = Callable[[bytes, int], bytes | None]
"""The `current` row that a key had at a revision; None if none, or if that is compacted."""


@dataclass(slots=True)
class EventBatch:
    """The encoded events of whole revisions, for one response.

    revision: that of the last event, or a later one before which there are no more. blobs: the events, each as field
    11 of a WatchResponse.
    """

    revision: int
    first_revision: int
    blobs: list[bytes] = field(default_factory=list)
    size: int = 0
    _joined: bytes | None = None

    def payload(self) -> bytes:
        """All events as they stand in a response."""
        if self._joined is None:
            self._joined = self.blobs[0] if len(self.blobs) == 1 else b"".join(self.blobs)
        return self._joined

    def fragments(self, limit: int) -> list[bytes]:
        """The payload in parts of fewer than `limit` bytes; a single larger event is a part of its own."""
        parts: list[bytes] = []
        part: list[bytes] = []
        size = 0
        for blob in self.blobs:
            if part and size + len(blob) >= limit:
                parts.append(b"".join(part))
                part, size = [], 0
            part.append(blob)
            size += len(blob)
        parts.append(b"".join(part))
        return parts


@dataclass(frozen=True, slots=True)
class Interest:
    """What a watch wants: keys in [key, end), of these only puts or only deletions, previous values with them.

    end: None is "from key on".
    """

    key: bytes
    end: bytes | None
    no_put: bool = False
    no_delete: bool = False
    prev_kv: bool = False

    def encode(self, events: Iterable[Event], previous: PreviousRow) -> list[EventBatch]:
        """Encode the wanted ones of events in order of revisions, cut into responses between revisions."""
        batches: list[EventBatch] = []
        batch: EventBatch | None = None
        pending: list[bytes] = []
        pending_size = 0
        revision = -1

        def close_revision() -> None:
            nonlocal batch, pending, pending_size
            if not pending:
                return
            if batch is None or batch.size + pending_size > COMBINE_BYTES:
                batch = EventBatch(revision, revision)
                batches.append(batch)
            batch.blobs += pending
            batch.size += pending_size
            batch.revision = revision
            pending, pending_size = [], 0

        for event in events:
            deleted = event.kind == DELETE
            if self.no_delete if deleted else self.no_put:
                continue
            if event.revision != revision:
                close_revision()
                revision = event.revision
            body = _TYPE_DELETE + event.framed if deleted else event.framed
            if self.prev_kv and event.kind != CREATE:
                row = _row_before(event, previous)
                if row is not None:
                    body = b"".join((body, b"\x1a", row[1:-TRAILER_SIZE]))
            blob = length_prefixed(_EVENT_TAG, body)
            pending.append(blob)
            pending_size += len(blob)
        close_revision()
        return batches


def _row_before(event: Event, previous: PreviousRow) -> bytes | None:
    before = event.before
    # A key that changed twice in one revision: the previous value is that of the revision before.
    if before is None or version_of(before).mod_revision == event.revision:
        return previous(event.key, event.revision - 1)
    return before


def response(
    header: bytes,
    watch_id: int,
    *,
    created: bool = False,
    canceled: bool = False,
    compact_revision: int = 0,
    cancel_reason: str = "",
) -> bytes:
    """Encode a WatchResponse without events. header: field 1, encoded."""
    parts = [header, watch_prefix(watch_id)]
    if created:
        parts.append(b"\x18\x01")
    if canceled:
        parts.append(b"\x20\x01")
    if compact_revision:
        parts.append(b"\x28" + varint(compact_revision))
    if cancel_reason:
        parts.append(length_prefixed(b"\x32", cancel_reason.encode()))
    return b"".join(parts)


def watch_prefix(watch_id: int) -> bytes:
    """Field 2 of a WatchResponse."""
    return b"\x10" + varint(watch_id) if watch_id else b""


def fragment_responses(header: bytes, prefix: bytes, parts: Sequence[bytes]) -> list[bytes]:
    """Encode a response in parts; all but the last say that more follows."""
    last = len(parts) - 1
    return [b"".join((header, prefix, b"" if index == last else b"\x38\x01", part)) for index, part in enumerate(parts)]
