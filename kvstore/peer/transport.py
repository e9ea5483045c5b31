"""Connections to the other members: one stream of raft messages to each, calls, and copies of the state.

A message that cannot be sent now is dropped, as on any network; raft is told when a member cannot be reached.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Final, Protocol
from urllib.parse import urlsplit

import structlog

from kvstore.pb import peer_pb2 as pb
from kvstore.peer.identity import Caller
from kvstore.peer.observer import PeerObserver, Unobserved
from kvstore.peer.sending import PeerStats, PeerStream, Sender
from kvstore.peer.snapshot import Copy, outgoing
from kvstore.peer.versions import CHECKSUMS, Versions
from kvstore.rpc import Channel, ChannelOptions, Metadata, Promise, RpcError, StatusCode
from kvstore.storage.errors import StorageError
from raft.messages import Message

SERVICE: Final = "/kvstorepb.Peer/"

CALL_SECONDS: Final = 5.0

PROBE_SECONDS: Final = 2.0
"""Between two measurements of how long a member takes to answer."""

SILENT_SECONDS: Final = 2.0
DEAD_SECONDS: Final = 5.0
"""A member that has sent nothing for so long is asked for a sign of life, and given up after so long without one:
together no longer than a client waits for a request that was passed on.
"""

RETRY_SECONDS: Final = 0.1

SNAPSHOT_RETRY_SECONDS: Final = 0.5
MAX_SNAPSHOT_RETRY_SECONDS: Final = 16.0
"""After a copy that a member could not take the next one waits, each time twice as long: a full disk stays full for a
while, and every copy costs the sender a walk through the whole state.
"""

CATCH_UP_SECONDS: Final = 120.0
"""How long a member that took a copy may need to install it and to fetch what came after it."""

REFUSED_RETRY_SECONDS: Final = 2.0
"""A member that turns this one away will most likely do so again."""

_REFUSALS: Final = frozenset(
    {StatusCode.FAILED_PRECONDITION, StatusCode.PERMISSION_DENIED, StatusCode.INVALID_ARGUMENT}
)


class PeerChannel(Protocol):
    """What is used of a Channel."""

    def unary(
        self, method: str, request: bytes, *, metadata: Metadata = ..., timeout: float | None = ...
    ) -> Promise[bytes]: ...
    def stream(self, method: str, *, metadata: Metadata = ...) -> PeerStream: ...
    async def close(self) -> None: ...


OpenChannel = Callable[[str], PeerChannel]
"""Opens a channel to the member at a peer URL."""


def open_channel(url: str) -> Channel:
    """A channel to the member at a peer URL; connects when it is used."""
    return Channel(
        urlsplit(url).netloc,
        options=ChannelOptions(
            connect_timeout=CALL_SECONDS,
            backoff_initial=0.1,
            backoff_max=1.0,
            keepalive_interval=SILENT_SECONDS,
            keepalive_timeout=DEAD_SECONDS,
            # Nothing is kept for the end of the turn: the peer is to have it while this member works on.
            socket_buffer_bytes=0,
        ),
    )


class TransportOwner(Protocol):
    """The member whose transport it is."""

    def report_unreachable(self, member: int) -> None:
        """Messages to a member were lost."""

    def report_snapshot(self, member: int, ok: bool) -> None:
        """A copy of the state arrived, or did not."""

    def report_removed(self) -> None:
        """Another member says that this one was removed from the cluster."""

    async def copy_state(self) -> Copy:
        """A consistent copy of the state, made now."""


class Link:
    """The way to one member. Reconnects for as long as it lives; tries the member's URLs in turn."""

    def __init__(
        self,
        member: int,
        urls: Sequence[str],
        caller: Callable[[], Caller],
        versions: Callable[[], Versions],
        owner: TransportOwner,
        observer: PeerObserver,
        open_channel: OpenChannel,
    ) -> None:
        self.member = member
        self.urls = tuple(urls)
        self.stats = PeerStats()
        self._caller = caller
        self._versions = versions
        self._owner = owner
        self._observer = observer
        self._open_channel = open_channel
        self._loop = asyncio.get_running_loop()
        self._sender = Sender(self, self.stats)
        self._sending_snapshot = False
        # What the last copy reaches at least, and until when the member may be expected to go on from there.
        self._copied = 0
        self._copied_until = 0.0
        # Until when the failure of the last copy is kept from raft, which would ask for the next one at once.
        self._pause: asyncio.TimerHandle | None = None
        self._failed_snapshots = 0
        self._next_url = 0
        self._reason = ""
        self._closed = False
        self._log = structlog.get_logger("kvstore.peer")
        self._channel = self._next_channel()
        self._tasks: set[asyncio.Task[None]] = set()
        self._spawn(self._run())
        self._spawn(self._probe())

    def send(self, messages: list[Message]) -> None:
        """Send raft messages, together as far as they are small; a MsgSnap begins the sending of a copy."""
        self._sender.send(messages)

    @property
    def connected(self) -> bool:
        """Whether a message sent now is on its way, not dropped for want of a connection."""
        return self._sender.connected

    def call(self, method: str, request: bytes, timeout: float) -> Promise[bytes]:
        """Call a method of the member's Peer service."""
        return self._channel.unary(SERVICE + method, request, metadata=self._caller().metadata(), timeout=timeout)

    def knock(self) -> None:
        """Send nothing, in a message of its own."""
        self._sender.knock()

    def heard(self, received_bytes: int) -> None:
        """The member has sent something: it is alive."""
        self.stats.received_bytes += received_bytes
        if self.stats.active_since is None and self._sender.stream is not None:
            self.stats.active_since = self._loop.time()

    @property
    def pausing(self) -> bool:
        """Whether a copy was not taken, and the next one waits."""
        return self._pause is not None

    @property
    def copied(self) -> int:
        """The index that a copy reaches at least which is on its way, or arrived a short while ago; 0 without one."""
        return self._copied if self._loop.time() < self._copied_until else 0

    def has_changed(self) -> None:
        """The member has stored something, or is another process: it may take a copy now."""
        self._failed_snapshots = 0
        if self._pause is not None:
            self._end_pause()

    async def close(self) -> None:
        """End it; what is not sent is dropped."""
        self._closed = True
        if self._pause is not None:
            self._pause.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._channel.close()

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _next_channel(self) -> PeerChannel:
        url = self.urls[self._next_url % len(self.urls)]
        self._next_url += 1
        return self._open_channel(url)

    async def _run(self) -> None:
        while not self._closed:
            stream = self._channel.stream(SERVICE + "Messages", metadata=self._caller().metadata())
            self._sender.stream = stream
            ended: RpcError | None = None
            try:
                # Nothing ever comes but the end.
                await stream.read()
            except RpcError as error:
                ended = error
            finally:
                stream.cancel()
                self._sender.end()
            self._disconnected(ended)
            refused = ended is not None and ended.code in _REFUSALS
            await asyncio.sleep(REFUSED_RETRY_SECONDS if refused else RETRY_SECONDS)
            if len(self.urls) > 1:
                await self._channel.close()
                self._channel = self._next_channel()

    async def _probe(self) -> None:
        while not self._closed:
            await asyncio.sleep(PROBE_SECONDS)
            stream = self._sender.stream
            if stream is None:
                continue
            began = time.perf_counter()
            try:
                # The smallest question that every member answers. It passes both loops, as raft's messages do.
                await self.call("Members", b"", CALL_SECONDS)
            except RpcError:
                # The stream of messages finds out by itself, and says so.
                continue
            if stream is not self._sender.stream:
                continue
            # Two that follow have nothing to say to each other, and are to know that they could.
            self.heard(0)
            self._observer.round_trip(self.member, time.perf_counter() - began)

    # What the sender asks of it.

    @property
    def seals(self) -> bool:
        """Whether the cluster speaks the version that has checksums."""
        return self._versions()[0] >= CHECKSUMS

    def send_snapshot(self, message: Message) -> None:
        """Begin to send the copy that a MsgSnap stands for, unless one is on its way."""
        if self._sending_snapshot or self._pause is not None:
            # Raft asks again when this one is reported.
            return
        self._sending_snapshot = True
        if message.snapshot is not None:
            self._copied, self._copied_until = message.snapshot.metadata.index, math.inf
        self._spawn(self._snapshot(message))

    def is_full(self, stream: PeerStream) -> None:
        """Tell the sender once the stream takes messages again."""
        self._spawn(self._drain(stream))

    def report_lost(self) -> None:
        """Raft is to find out what the member has."""
        self._owner.report_unreachable(self.member)

    async def _drain(self, stream: PeerStream) -> None:
        try:
            await stream.drain()
        except RpcError:
            # Whoever reads the stream sees the same and takes care of what is held.
            return
        self._sender.drained(stream)

    def _disconnected(self, error: RpcError | None) -> None:
        reason = str(error) if error is not None else "the member ended the stream"
        if self.stats.active_since is not None:
            self.stats.active_since = None
            self.stats.disconnects += 1
            self._log.warning("lost the connection to a member", member=f"{self.member:x}", reason=reason)
        elif reason != self._reason:
            # Told once, however often it is tried.
            self._log.warning("cannot connect to a member", member=f"{self.member:x}", reason=reason)
        self._reason = reason
        self._owner.report_unreachable(self.member)
        self.has_changed()
        if error is not None and error.code is StatusCode.PERMISSION_DENIED:
            self._owner.report_removed()

    # Snapshots.

    async def _snapshot(self, message: Message) -> None:
        ok = False
        started = self._loop.time()
        try:
            with self._observer.sending_snapshot(self.member):
                copy = await self._owner.copy_state()
                await self._stream_chunks(outgoing(message, copy))
            ok = True
            self._log.info(
                "sent a snapshot",
                member=f"{self.member:x}",
                index=copy.metadata.index,
                seconds=round(self._loop.time() - started, 3),
            )
        except (RpcError, OSError, StorageError) as error:
            self._log.warning("could not send a snapshot", member=f"{self.member:x}", reason=str(error))
        finally:
            self._sending_snapshot = False
            self._copied_until = self._loop.time() + CATCH_UP_SECONDS if ok else 0.0
            if ok:
                self.stats.snapshots_sent += 1
                self._failed_snapshots = 0
                self._owner.report_snapshot(self.member, ok=True)
            else:
                self._snapshot_failed()

    def _snapshot_failed(self) -> None:
        self.stats.snapshots_failed += 1
        if self._closed:
            return
        seconds = min(SNAPSHOT_RETRY_SECONDS * 2**self._failed_snapshots, MAX_SNAPSHOT_RETRY_SECONDS)
        self._failed_snapshots += 1
        self._pause = self._loop.call_later(seconds, self._end_pause)

    def _end_pause(self) -> None:
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        self._owner.report_snapshot(self.member, ok=False)

    async def _stream_chunks(self, chunks: AsyncIterator[bytes]) -> None:
        stream = self._channel.stream(SERVICE + "SendSnapshot", metadata=self._caller().metadata())
        try:
            async for chunk in chunks:
                stream.write(chunk)
                await stream.drain()
            stream.half_close()
            await stream.read()
        finally:
            stream.cancel()


class Transport:
    """The links of one member.

    versions: what it speaks, and the cluster with it; may rise with time. urls: where it is reached.
    """

    def __init__(
        self,
        cluster_id: int,
        member_id: int,
        owner: TransportOwner,
        versions: Callable[[], Versions],
        observer: PeerObserver | None = None,
        open_channel: OpenChannel = open_channel,
        urls: Callable[[], Sequence[str]] = tuple,
    ) -> None:
        self._cluster_id = cluster_id
        self._member_id = member_id
        self._owner = owner
        self._versions = versions
        self._urls = urls
        self._observer = observer or Unobserved()
        self._open_channel = open_channel
        self._links: dict[int, Link] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def set_member(self, member: int, urls: Sequence[str]) -> None:
        """Reach a member at these URLs from now on."""
        link = self._links.get(member)
        if member == self._member_id or not urls or (link is not None and link.urls == tuple(urls)):
            return
        if link is not None:
            self.remove_member(member)

        def caller() -> Caller:
            return Caller(self._cluster_id, self._member_id, member, self._versions(), tuple(self._urls()))

        self._links[member] = Link(
            member, urls, caller, self._versions, self._owner, self._observer, self._open_channel
        )

    def remove_member(self, member: int) -> None:
        """Send nothing more to a member."""
        link = self._links.pop(member, None)
        if link is not None:
            task = asyncio.get_running_loop().create_task(link.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    def send(self, to: int, messages: list[Message]) -> None:
        """Send raft messages to one member. To an unknown one they are lost."""
        link = self._links.get(to)
        if link is not None:
            link.send(messages)

    def reaches(self, member: int) -> bool:
        """Whether a message sent to a member now is on its way, as far as can be told here."""
        link = self._links.get(member)
        return link is not None and link.connected

    def call(self, member: int, method: str, request: bytes, timeout: float) -> Promise[bytes]:
        """Call a method of a member's Peer service. Fails with RpcError."""
        link = self._links.get(member)
        if link is None:
            return Promise.failed(RpcError(StatusCode.UNAVAILABLE, f"member {member:x} is not known here"))
        return link.call(method, request, timeout)

    def knock(self) -> None:
        """Have every member look whether this one still belongs to the cluster: who knows better turns it away."""
        for link in self._links.values():
            link.knock()

    def heard_from(self, member: int, received_bytes: int) -> None:
        """A member is alive."""
        link = self._links.get(member)
        if link is not None:
            link.heard(received_bytes)

    def copies(self) -> dict[int, int]:
        """For each member that is being sent a copy, or was a short while ago, the index that it reaches at least."""
        return {member: link.copied for member, link in self._links.items() if link.copied}

    @property
    def pausing(self) -> bool:
        """Whether a member did not take a copy, and the next one waits."""
        return any(link.pausing for link in self._links.values())

    def has_stored(self, member: int) -> None:
        """A member has stored something: it may take a copy now."""
        link = self._links.get(member)
        if link is not None:
            link.has_changed()

    def active_since(self, member: int) -> float | None:
        """Since when a member has been heard without a break."""
        link = self._links.get(member)
        return link.stats.active_since if link is not None else None

    def stats(self) -> dict[int, PeerStats]:
        """What was exchanged with each member."""
        return {member: link.stats for member, link in self._links.items()}

    async def close(self) -> None:
        """End all links."""
        links, self._links = list(self._links.values()), {}
        await asyncio.gather(*(link.close() for link in links), *self._closing)


async def ask_members(url: str, versions: Versions, open_channel: OpenChannel = open_channel) -> pb.MembersResponse:
    """Ask the member at a peer URL who belongs to its cluster. versions: what the one that asks speaks.

    Raises RpcError, FAILED_PRECONDITION if the cluster speaks another version.
    """
    encoded = await ask(url, "Members", b"", Caller(0, 0, 0, versions), CALL_SECONDS, open_channel)
    return pb.MembersResponse.FromString(encoded)


async def ask(
    url: str, method: str, request: bytes, caller: Caller, timeout: float, open_channel: OpenChannel = open_channel
) -> bytes:
    """Call a method of the Peer service at a peer URL, by one that has no links to members yet. Raises RpcError."""
    channel = open_channel(url)
    try:
        return await channel.unary(SERVICE + method, request, metadata=caller.metadata(), timeout=timeout)
    finally:
        await channel.close()
