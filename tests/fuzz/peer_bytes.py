"""Targets: what other members, or who pretends to be one, send: raft messages, identities, copies of the state."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from google.protobuf.message import DecodeError
from hypothesis import strategies as st

from kvstore.pb import peer_pb2 as pb
from kvstore.peer import identity, snapshot
from kvstore.peer.batches import decode_batch, encode_batch
from kvstore.peer.codec import MalformedMessage, decode_message, encode_message
from kvstore.rpc import RpcError
from raft.messages import MessageType
from tests.fuzz.messages import encoded
from tests.fuzz.target import Check, Target, by_itself

LOCAL: Final = frozenset(
    kind for kind in MessageType if kind.name.startswith("STORAGE") or kind.name in ("HUP", "BEAT", "CHECK_QUORUM")
)
"""Some of what no peer may send."""


def batches() -> st.SearchStrategy[Any]:
    """Encoded MessageBatches with types of every kind."""
    return encoded(pb.MessageBatch.DESCRIPTOR)


def check_batch(value: bytes) -> None:
    """A batch is refused, or says the same when it is encoded again; nothing in it is for the member itself."""
    try:
        messages = decode_batch(value)
    except MalformedMessage:
        return
    batch = pb.MessageBatch.FromString(value)
    assert not LOCAL & {message.type for message in messages}
    assert all(message.type == given.type for message, given in zip(messages, batch.messages, strict=True))
    for message, given in zip(messages, batch.messages, strict=True):
        assert [entry.type for entry in message.entries] == [entry.type for entry in given.entries]
    assert decode_batch(encode_batch(messages)) == messages


# Identities

_NUMBERS: Final = ("0", "1", "ff", "-1", "1_0", " 1", "١", "0x1", "1" * 16, "1" * 17, "f" * 40, "", "g")


def identities() -> st.SearchStrategy[Any]:
    """Metadata of a call."""
    names = ("kvstore-cluster-id", "kvstore-from", "kvstore-to")
    value = st.one_of(st.sampled_from(_NUMBERS), st.text(max_size=5), st.binary(max_size=5))
    versions = st.one_of(
        st.sampled_from(("1-1", "1-2", "0-0", "2-3", "1", "-1-1", "1--1", "9" * 5000)), st.text(max_size=5)
    )
    return st.tuples(
        st.lists(st.tuples(st.sampled_from(names), value), max_size=2), st.tuples(value, value, value), versions
    )


def check_identity(value: Any) -> None:
    """A caller is refused, or has ids that a member can have."""
    more, (cluster, from_, to), versions = value
    metadata = [
        ("kvstore-cluster-id", cluster),
        ("kvstore-from", from_),
        ("kvstore-to", to),
        ("kvstore-peer-versions", versions),
        *more,
    ]
    try:
        caller = identity.Caller.parse(metadata)
    except RpcError:
        return
    assert all(0 <= number < 1 << 64 for number in (caller.cluster_id, caller.from_, caller.to))
    assert all(number >= 0 for number in caller.versions)
    assert identity.Caller.parse(caller.metadata()) == caller


# Copies of the state


def copies() -> st.SearchStrategy[Any]:
    """Encoded chunks of a copy: right ones in their order, some lost, doubled or strange."""
    chunk = st.one_of(
        st.binary(max_size=30).map(lambda data: ("data", data)),
        encoded(pb.SnapshotChunk.DESCRIPTOR).map(lambda data: ("chunk", data)),
        st.sampled_from((("header", b""), ("trailer", b""), ("header", b""), ("empty", b""))),
    )
    right = st.lists(st.binary(max_size=30), max_size=3).map(
        lambda parts: [("header", b""), *(("data", part) for part in parts), ("trailer", b"")]
    )
    return st.one_of(
        right,
        st.lists(chunk, max_size=6),
        st.tuples(right, st.lists(chunk, max_size=2)).map(lambda two: two[0][:-1] + two[1] + two[0][-1:]),
    )


def _header() -> pb.SnapshotChunk:
    message = pb.RaftMessage(type=MessageType.SNAP, to=1, term=2)
    message.snapshot.index, message.snapshot.term = 7, 2
    return pb.SnapshotChunk(header=pb.SnapshotHeader(message=message, format_version=1))


def _chunks(value: Sequence[tuple[str, bytes]]) -> tuple[list[pb.SnapshotChunk], bytes]:
    """The chunks, and the data in those that come before the first trailer."""
    chunks: list[pb.SnapshotChunk] = []
    data = b""
    for kind, content in value:
        match kind:
            case "header":
                chunks.append(_header())
            case "data":
                chunks.append(pb.SnapshotChunk(data=content))
                data += content
            case "trailer":
                digest = hashlib.sha256(data).digest()
                chunks.append(pb.SnapshotChunk(trailer=pb.SnapshotTrailer(size=len(data), sha256=digest)))
            case "empty":
                chunks.append(pb.SnapshotChunk())
            case _:
                with contextlib.suppress(DecodeError):
                    chunks.append(pb.SnapshotChunk.FromString(content))
    return chunks, data


async def _receive(chunks: Sequence[pb.SnapshotChunk], directory: Path) -> snapshot.ReceivedSnapshot | None:
    async def stream() -> AsyncIterator[pb.SnapshotChunk]:
        for chunk in chunks:
            yield chunk

    try:
        return await snapshot.receive(stream(), directory)
    except (RpcError, MalformedMessage):
        return None


@contextlib.contextmanager
def _open_copies() -> Iterator[Check]:
    with asyncio.Runner() as runner, tempfile.TemporaryDirectory(prefix="kvstore-fuzz-") as name:
        directory = Path(name)

        def check(value: Any) -> None:
            """A copy that is whole is stored as it was; of any other nothing is left."""
            chunks, data = _chunks(value)
            received = runner.run(_receive(chunks, directory))
            if received is not None:
                assert received.message == decode_message(encode_message(received.message))
                stored = received.path.read_bytes()
                trailer = next(chunk.trailer for chunk in chunks if chunk.HasField("trailer"))
                assert (len(stored), hashlib.sha256(stored).digest()) == (trailer.size, trailer.sha256)
                received.path.unlink()
            whole = [kind for kind, _ in value] == ["header", *["data"] * (len(value) - 2), "trailer"]
            assert received is not None or not whole
            assert whole is False or stored == data
            assert not list(directory.iterdir())

        yield check


TARGETS: Final = (
    Target("peer-messages", batches, by_itself(check_batch), examples=100),
    Target("peer-identities", identities, by_itself(check_identity), examples=120),
    Target("peer-copies", copies, _open_copies, examples=50),
)
