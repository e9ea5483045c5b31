"""Copies of the state between members: what arrives, and what does not."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kvstore.pb import peer_pb2 as pb
from kvstore.peer.snapshot import outgoing, receive
from kvstore.rpc import RpcError, StatusCode
from raft.messages import ConfState, Message, MessageType, SnapshotMetadata


class Copy:
    """A copy of a state of two chunks."""

    metadata = SnapshotMetadata(ConfState(voters=[1, 2]), 7, 3)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b"one"
        yield b"two"


async def chunks() -> AsyncIterator[pb.SnapshotChunk]:
    async for chunk in outgoing(Message(type=MessageType.SNAP, to=2, from_=1, term=3), Copy()):
        yield pb.SnapshotChunk.FromString(chunk)


async def test_a_copy_arrives_as_it_was_sent(tmp_path: Path) -> None:
    received = await receive(chunks(), tmp_path)
    assert received.path.read_bytes() == b"onetwo"
    assert received.message.snapshot is not None
    assert received.message.snapshot.metadata == Copy.metadata


async def test_a_member_that_cannot_store_a_copy_says_so(tmp_path: Path) -> None:
    with pytest.raises(RpcError, match="cannot store the snapshot") as caught:
        await receive(chunks(), tmp_path / "not there")
    assert caught.value.code is StatusCode.UNAVAILABLE
    assert os.listdir(tmp_path) == []
