"""A member without room takes no copy of the state: the old state could not be stored, which comes first."""

import os
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from kvstore.pb import peer_pb2 as pb
from kvstore.peer.identity import Caller
from kvstore.peer.service import PeerHost, PeerService
from kvstore.peer.snapshot import ReceivedSnapshot, outgoing
from kvstore.rpc import RpcError, StatusCode
from raft.messages import ConfState, Message, MessageType, SnapshotMetadata

CALLER = Caller(1, 3, 2, (1, 2))
CONTEXT = SimpleNamespace(invocation_metadata=CALLER.metadata, peer=lambda: "a test")


class Copy:
    metadata = SnapshotMetadata(ConfState(voters=[2, 3]), 7, 3)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b"one"
        yield b"two"


class Host:
    """A member whose disk is full from some copy's chunk on."""

    id = 2
    cluster_id = 1
    spoken = (1, 2)

    def __init__(self, directory: Path) -> None:
        self.snapshot_directory = directory
        self.has_room = True
        self.received: list[ReceivedSnapshot] = []

    def is_removed(self, member: int) -> bool:
        return False

    def receive_snapshot(self, received: ReceivedSnapshot) -> None:
        self.received.append(received)


class Sender:
    """A copy on its way. read: how many of its chunks the member has taken."""

    def __init__(self, host: Host, full_after: int) -> None:
        self.read = 0
        self._host = host
        self._full_after = full_after

    async def __aiter__(self) -> AsyncIterator[pb.SnapshotChunk]:
        async for chunk in outgoing(Message(type=MessageType.SNAP, to=2, from_=3, term=3), Copy()):
            self.read += 1
            self._host.has_room = self.read < self._full_after
            yield pb.SnapshotChunk.FromString(chunk)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


async def send(host: Host, sender: Sender) -> None:
    await PeerService(cast(PeerHost, host)).SendSnapshot(aiter(sender), CONTEXT)


async def test_a_copy_is_taken_where_there_is_room(host: Host) -> None:
    await send(host, Sender(host, full_after=1_000))
    assert [received.path.read_bytes() for received in host.received] == [b"onetwo"]


async def test_a_copy_is_refused_before_it_is_sent(host: Host) -> None:
    host.has_room = False
    sender = Sender(host, full_after=0)
    with pytest.raises(RpcError, match="the disk is full") as caught:
        await send(host, sender)
    assert caught.value.code is StatusCode.UNAVAILABLE
    assert sender.read == 0


async def test_a_copy_on_whose_way_the_disk_fills_is_not_put_in_place(host: Host) -> None:
    with pytest.raises(RpcError, match="the disk is full"):
        await send(host, Sender(host, full_after=3))
    assert not host.received
    assert os.listdir(host.snapshot_directory) == []
