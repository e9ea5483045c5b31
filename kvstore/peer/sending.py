"""Raft's messages on their way to one member: encoded, written while its stream takes them, held while it does not.

Knows neither how the stream comes about nor what a message asks for.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Final, Protocol

from kvstore.peer.batches import encode_batch, seal
from raft.messages import Message, MessageType

MAX_HELD: Final = 4096
"""Messages kept for a peer whose stream is full; more are dropped."""


BATCH_BYTES: Final = 1 << 20
"""Messages go together until their entries have so much. A follower that was away is owed hundreds of megabytes at
once: encoding all of it would hold up the loop, and the other side has to hold what is not whole.
"""


class PeerStream(Protocol):
    """What is used of a ClientStream."""

    @property
    def connected(self) -> bool: ...
    @property
    def writable(self) -> bool: ...
    def write(self, message: bytes, /) -> object: ...
    def flush(self) -> None: ...
    def drain(self) -> Awaitable[None]: ...
    def half_close(self) -> None: ...
    def read(self) -> Awaitable[object]: ...
    def cancel(self) -> object: ...


class PeerStats:
    """What was exchanged with one member, counted for metrics."""

    __slots__ = (
        "active_since",
        "disconnects",
        "received_bytes",
        "sent_bytes",
        "sent_failures",
        "snapshots_failed",
        "snapshots_sent",
    )

    def __init__(self) -> None:
        self.active_since: float | None = None
        self.sent_bytes = 0
        self.sent_failures = 0
        self.received_bytes = 0
        self.disconnects = 0
        self.snapshots_sent = 0
        self.snapshots_failed = 0


class SenderOwner(Protocol):
    """Who sees to the rest."""

    @property
    def seals(self) -> bool:
        """Whether the other side expects checksums."""

    def send_snapshot(self, message: Message) -> None:
        """Begin to send the copy that a MsgSnap stands for."""

    def is_full(self, stream: PeerStream) -> None:
        """A stream takes nothing for now: call drained() once it does again."""

    def report_lost(self) -> None:
        """Entries were lost."""


class Sender:
    """What is sent to one member. stream: the one that leads there now."""

    def __init__(self, owner: SenderOwner, stats: PeerStats) -> None:
        self.stream: PeerStream | None = None
        self._owner = owner
        self._stats = stats
        self._held: list[Message] = []

    @property
    def connected(self) -> bool:
        """Whether what is sent now is on its way at once."""
        stream = self.stream
        return stream is not None and stream.connected

    def send(self, messages: list[Message]) -> None:
        """Send raft messages, together as far as they are small; a MsgSnap begins the sending of a copy."""
        for message in messages:
            if message.type == MessageType.SNAP:
                messages = self._without_snapshots(messages)
                break
        if not messages:
            return
        stream = self.stream
        if stream is None:
            self._lost(messages)
        elif not self._held and stream.writable:
            self._write_all(stream, messages)
        elif len(self._held) < MAX_HELD:
            if not self._held:
                self._owner.is_full(stream)
            self._held += messages
        else:
            self._lost(messages)

    def _without_snapshots(self, messages: list[Message]) -> list[Message]:
        others: list[Message] = []
        for message in messages:
            if message.type == MessageType.SNAP:
                self._owner.send_snapshot(message)
            else:
                others.append(message)
        return others

    def knock(self) -> None:
        """Send nothing, in a message of its own."""
        stream = self.stream
        if stream is not None and not self._held and stream.writable:
            self._write(stream, [])

    def drained(self, stream: PeerStream) -> None:
        """A stream takes messages again."""
        if stream is self.stream:
            held, self._held = self._held, []
            self._write_all(stream, held)

    def end(self) -> None:
        """The stream has ended: what is held is lost."""
        self.stream = None
        held, self._held = self._held, []
        self._lost(held)

    def _write_all(self, stream: PeerStream, messages: list[Message]) -> None:
        """Write messages, in as many batches as it takes; what the stream does not take any more is held."""
        begin = size = 0
        for number, message in enumerate(messages):
            if size >= BATCH_BYTES:
                self._write(stream, messages[begin:number])
                begin, size = number, 0
                if not stream.writable:
                    self._held = messages[begin:]
                    self._owner.is_full(stream)
                    return
            for entry in message.entries:
                size += len(entry.data)
        self._write(stream, messages[begin:] if begin else messages)

    def _write(self, stream: PeerStream, messages: list[Message]) -> None:
        data = encode_batch(messages)
        if self._owner.seals:
            data = seal(data)
        self._stats.sent_bytes += len(data)
        stream.write(data)
        # The member is about to wait for its own disk; the peer is to wait for its at the same time.
        stream.flush()

    def _lost(self, messages: list[Message]) -> None:
        self._stats.sent_failures += len(messages)
        for message in messages:
            if message.type == MessageType.APP:
                self._owner.report_lost()
                return
