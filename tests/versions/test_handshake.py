"""What members say to each other of versions, and what they make of it: over real connections to a stand-in."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from kvstore.pb import peer_pb2 as pb
from kvstore.pb.peer_pb2_grpc import PeerServicer, add_PeerServicer_to_server
from kvstore.peer import batches
from kvstore.peer.identity import Caller
from kvstore.peer.service import PeerHost, PeerService, register
from kvstore.peer.transport import SERVICE, Transport, ask_members
from kvstore.peer.versions import Versions
from kvstore.rpc import Channel, RpcError, Server, StatusCode
from raft.messages import Message, MessageType

CLUSTER, HERE, THERE = 0xC1, 0xA1, 0xB2
BEAT = Message(type=MessageType.HEARTBEAT, to=HERE, from_=THERE, term=7, entries=[], commit=3)
SECONDS = 10.0


class Host:
    """A member as its peer service sees it."""

    id = HERE
    cluster_id = CLUSTER
    applied = 0
    snapshot_directory = Path()

    def __init__(self, spoken: Versions) -> None:
        self.spoken = spoken
        self.told: dict[int, Versions] = {}
        self.received: list[Message] = []

    def speaks(self, member: int, versions: Versions, urls: Sequence[str]) -> None:
        self.told[member] = versions

    def is_removed(self, member: int) -> bool:
        return False

    def receive(self, messages: Sequence[Message]) -> None:
        self.received += messages

    def heard_from(self, member: int, received_bytes: int) -> None:
        """Not of interest here."""

    def members(self) -> list[Any]:
        return []


def service(host: Host) -> PeerService:
    """The peer service of a host that has what these tests need of one."""
    return PeerService(cast(PeerHost, host))


class Owner:
    """A member as its transport sees it."""

    def report_unreachable(self, member: int) -> None:
        """Not of interest here."""

    def report_snapshot(self, member: int, ok: bool) -> None:
        """Not of interest here."""

    def report_removed(self) -> None:
        """Not of interest here."""

    async def copy_state(self) -> Any:
        raise AssertionError("nobody asks for a copy")


class RawPeer(PeerServicer):
    """Keeps the batches as they come."""

    def __init__(self) -> None:
        self.batches: list[pb.MessageBatch] = []
        self.metadata: list[tuple[str, str | bytes]] = []

    async def Messages(self, request_iterator: AsyncIterator[pb.MessageBatch], context: Any) -> pb.MessagesResponse:
        self.metadata = list(context.invocation_metadata())
        async for batch in request_iterator:
            self.batches.append(batch)
        return pb.MessagesResponse()


@asynccontextmanager
async def serving(servicer: PeerServicer) -> AsyncIterator[str]:
    """The URL of a server of peers."""
    server = Server()
    if isinstance(servicer, RawPeer):
        add_PeerServicer_to_server(servicer, server)  # type: ignore[no-untyped-call]
    else:
        register(servicer, server)
    port = await server.listen("127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        await server.stop()


async def eventually(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        await asyncio.sleep(0.005)


async def send(host: Host, *encoded: bytes, versions: Versions = (1, 2)) -> None:
    """Send batches to a member and end the stream. Raises what the member answers."""
    async with serving(service(host)) as url:
        channel = Channel(url.removeprefix("http://"))
        try:
            caller = Caller(CLUSTER, THERE, HERE, versions)
            stream = channel.stream(SERVICE + "Messages", metadata=caller.metadata(), timeout=SECONDS)
            for batch in encoded:
                stream.write(batch)
            stream.half_close()
            while await stream.read():
                pass
        finally:
            await channel.close()


@pytest.mark.parametrize("sealed", [False, True])
async def test_a_member_of_both_versions_takes_batches_with_and_without_a_checksum(sealed: bool) -> None:
    host = Host((1, 2))
    plain = batches.encode_batch([BEAT])
    await send(host, batches.seal(plain) if sealed else plain)
    assert host.received == [BEAT]
    assert host.told == {THERE: (1, 2)}


@pytest.mark.parametrize("position", [0, 7, -6])
async def test_what_was_damaged_on_the_way_is_not_taken(position: int) -> None:
    host = Host((2, 2))
    sealed = bytearray(batches.seal(batches.encode_batch([BEAT, BEAT])))
    # The first bytes are the field's tag and length, the last five the checksum and its tag.
    sealed[position + 2 if position >= 0 else position] ^= 0x10
    with pytest.raises(RpcError) as refused:
        await send(host, bytes(sealed))
    assert refused.value.code is StatusCode.DATA_LOSS
    assert "their checksum is wrong" in refused.value.message
    assert host.received == []


async def test_a_wrong_checksum_is_noticed() -> None:
    host = Host((2, 2))
    sealed = bytearray(batches.seal(batches.encode_batch([BEAT])))
    sealed[-1] ^= 1
    with pytest.raises(RpcError, match="checksum is wrong"):
        await send(host, bytes(sealed))
    assert host.received == []


@pytest.mark.parametrize("bit", range(8))
async def test_a_batch_that_has_lost_its_seal_is_not_taken(bit: int) -> None:
    host = Host((2, 2))
    sealed = bytearray(batches.seal(batches.encode_batch([BEAT])))
    sealed[0] ^= 1 << bit
    with pytest.raises(RpcError, match="lost their checksum") as refused:
        await send(host, bytes(sealed), versions=(2, 2))
    assert refused.value.code is StatusCode.DATA_LOSS
    assert host.received == []


async def test_after_the_first_batch_with_a_checksum_none_is_taken_without() -> None:
    host = Host((1, 2))
    plain = batches.encode_batch([BEAT])
    with pytest.raises(RpcError, match="lost their checksum"):
        await send(host, plain, batches.seal(plain), plain)
    assert host.received == [BEAT, BEAT]


async def test_a_member_of_the_first_version_does_not_take_what_it_cannot_read() -> None:
    host = Host((1, 1))
    with pytest.raises(RpcError, match="not of version 1"):
        await send(host, batches.seal(batches.encode_batch([BEAT])))
    assert host.received == []


async def test_who_speaks_less_than_the_cluster_is_turned_away() -> None:
    host = Host((2, 2))
    with pytest.raises(RpcError, match=r"the cluster speaks version 2 .* the caller only up to 1; install") as refused:
        await send(host, batches.encode_batch([BEAT]), versions=(1, 1))
    assert refused.value.code is StatusCode.FAILED_PRECONDITION
    assert host.received == []
    assert host.told == {}


async def test_a_member_left_behind_turns_its_cluster_away() -> None:
    host = Host((1, 1))
    with pytest.raises(RpcError, match=r"the caller's cluster speaks version 2 .* this member only up to 1; install"):
        await send(host, batches.encode_batch([BEAT]), versions=(2, 2))
    assert host.received == []


async def test_checksums_are_sent_from_the_moment_on_that_the_cluster_speaks_version_2() -> None:
    spoken = [1, 2]
    peer = RawPeer()
    async with serving(peer) as url:
        transport = Transport(CLUSTER, HERE, Owner(), lambda: (spoken[0], spoken[1]))
        transport.set_member(THERE, [url])
        await eventually(lambda: transport.send(THERE, [BEAT]) or peer.batches)  # type: ignore[func-returns-value]
        assert not any(batch.sealed for batch in peer.batches)
        assert dict(peer.metadata)["kvstore-peer-versions"] == "1-2"
        spoken[0] = 2
        transport.send(THERE, [BEAT])
        await eventually(lambda: peer.batches[-1].sealed)
        assert batches.decode_batch(batches.unseal(peer.batches[-1].SerializeToString())) == [BEAT]
        await transport.close()


@pytest.mark.parametrize(("cluster", "asks", "welcome"), [(1, 1, True), (1, 2, True), (2, 2, True), (2, 1, False)])
async def test_who_wants_to_join_must_speak_what_the_cluster_speaks(cluster: int, asks: int, welcome: bool) -> None:
    async with serving(service(Host((cluster, 2)))) as url:
        if welcome:
            assert (await ask_members(url, (1, asks))).cluster_id == CLUSTER
        else:
            with pytest.raises(RpcError, match="the cluster speaks version 2"):
                await ask_members(url, (1, asks))


@pytest.mark.parametrize("cluster", [1, 2])
async def test_who_says_nothing_speaks_the_first_version(cluster: int) -> None:
    """The first builds gave no versions when they asked who belongs to a cluster."""
    async with serving(service(Host((cluster, 2)))) as url:
        channel = Channel(url.removeprefix("http://"))
        call = channel.unary(SERVICE + "Members", b"", timeout=SECONDS)
        if cluster == 1:
            assert pb.MembersResponse.FromString(await call).cluster_id == CLUSTER
        else:
            with pytest.raises(RpcError, match="only up to 1"):
                await call
        await channel.close()
