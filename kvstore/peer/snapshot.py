"""Copies of the state on their way between members: one stream of chunks, checked by size and SHA-256 at its end."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from kvstore.pb import peer_pb2 as pb
from kvstore.peer.codec import decode_message, encode_message
from kvstore.rpc import RpcError, StatusCode
from kvstore.storage import pace
from kvstore.storage.pace import SyncedFile
from raft.messages import Message, MessageType, Snapshot, SnapshotMetadata

FORMAT_VERSION: Final = 2
"""Version of the state's format in a copy. 2: rows are sealed. One of version 1 is converted when it is installed."""


class Copy(Protocol):
    """A consistent copy of the state, being read. metadata: what it covers."""

    metadata: SnapshotMetadata

    def __aiter__(self) -> AsyncIterator[bytes]: ...


@dataclass(slots=True)
class ReceivedSnapshot:
    """A copy that arrived whole and is on disk: its raft message, its file, and how long its syncs took together."""

    message: Message
    path: Path
    sync_seconds: float


async def outgoing(message: Message, copy: Copy) -> AsyncIterator[bytes]:
    """The encoded chunks of a copy for the peer that `message` (a MsgSnap) is meant for.

    The copy is newer than what raft asked for, or as new; raft takes any index from which replication can go on.
    """
    message = Message(
        type=message.type,
        to=message.to,
        from_=message.from_,
        term=message.term,
        snapshot=Snapshot(b"", copy.metadata),
    )
    header = pb.SnapshotHeader(message=encode_message(message), format_version=FORMAT_VERSION)
    yield pb.SnapshotChunk(header=header).SerializeToString()
    digest = hashlib.sha256()
    size = 0
    async for data in copy:
        digest.update(data)
        size += len(data)
        yield pb.SnapshotChunk(data=data).SerializeToString()
    trailer = pb.SnapshotTrailer(size=size, sha256=digest.digest())
    yield pb.SnapshotChunk(trailer=trailer).SerializeToString()


async def receive(chunks: AsyncIterator[pb.SnapshotChunk], directory: Path) -> ReceivedSnapshot:
    """Store a copy in `directory`, synced.

    Raises RpcError for a stream that is not a whole, right copy; nothing of it is left then.
    """
    first = await anext(chunks, None)
    if first is None or not first.HasField("header"):
        raise RpcError(StatusCode.INVALID_ARGUMENT, "a snapshot begins with its header")
    if first.header.format_version > FORMAT_VERSION:
        text = f"snapshot of format {first.header.format_version}; this member reads up to {FORMAT_VERSION}"
        raise RpcError(StatusCode.FAILED_PRECONDITION, text)
    message = decode_message(first.header.message)
    if message.type is not MessageType.SNAP or message.snapshot is None:
        raise RpcError(StatusCode.INVALID_ARGUMENT, "a snapshot's header holds a MsgSnap")
    path = directory / f"incoming-{message.snapshot.metadata.index:016x}-{message.from_:016x}.tmp"
    try:
        sync_seconds = await _store(chunks, path)
    except BaseException as error:
        pace.remove(path)
        if isinstance(error, OSError):
            # Most likely there is no room; the sender is told so, and tries again later.
            raise RpcError(StatusCode.UNAVAILABLE, f"cannot store the snapshot: {error}") from error
        raise
    return ReceivedSnapshot(message, path, sync_seconds)


async def _store(chunks: AsyncIterator[pb.SnapshotChunk], path: Path) -> float:
    digest = hashlib.sha256()
    size = 0

    with path.open("wb", buffering=0) as target:
        file = SyncedFile(target.fileno())

        def write(data: bytes) -> None:
            digest.update(data)
            file.write(data)

        async for chunk in chunks:
            if chunk.HasField("data"):
                size += len(chunk.data)
                await asyncio.to_thread(write, chunk.data)
            elif chunk.HasField("trailer"):
                if chunk.trailer.size != size or chunk.trailer.sha256 != digest.digest():
                    raise RpcError(StatusCode.DATA_LOSS, "the snapshot's checksum is wrong")
                await asyncio.to_thread(file.finish)
                return file.sync_seconds
            else:
                raise RpcError(StatusCode.INVALID_ARGUMENT, "unknown chunk in a snapshot")
    raise RpcError(StatusCode.DATA_LOSS, "the snapshot ended before its checksum")
