"""Raft's messages from one member to another over a real connection."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import cast

import pytest

from kvstore.pb import rpc_pb2
from kvstore.peer import service
from kvstore.peer.service import PeerHost
from kvstore.peer.transport import Transport, TransportOwner
from kvstore.peer.versions import Versions
from kvstore.rpc import Server, ServerOptions
from kvstore.server.surroundings import PEER_SERVER
from raft.messages import Entry, Message, MessageType

SENDER, RECEIVER, CLUSTER = 1, 2, 7
SECONDS = 60.0
LATEST: Versions = (2, 2)


class Host:
    """The member that receives."""

    id = RECEIVER
    cluster_id = CLUSTER
    spoken = LATEST

    def __init__(self) -> None:
        self.received: list[Message] = []
        self.asked = 0

    def is_removed(self, member: int) -> bool:
        return False

    def heard_from(self, member: int, received_bytes: int) -> None:
        pass

    def speaks(self, member: int, versions: Versions, urls: Sequence[str]) -> None:
        pass

    def receive(self, messages: list[Message]) -> None:
        self.received += messages

    async def answer_lease_keep_alive(self, lease_id: int) -> rpc_pb2.LeaseKeepAliveResponse:
        self.asked += 1
        await asyncio.Event().wait()
        raise AssertionError("nobody sets it")


class Owner:
    """The member that sends. unreachable: how often it was told that something was lost."""

    def __init__(self) -> None:
        self.unreachable = 0

    def report_unreachable(self, member: int) -> None:
        self.unreachable += 1


class Pair:
    """A transport, and the server of the one member that it knows."""

    def __init__(self, transport: Transport, owner: Owner, host: Host, server: Server) -> None:
        self.transport = transport
        self.owner = owner
        self.host = host
        self.server = server


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    host, owner = Host(), Owner()
    server = Server(PEER_SERVER)
    service.register(service.PeerService(cast(PeerHost, host)), server)
    port = await server.listen("127.0.0.1", 0)
    transport = Transport(CLUSTER, SENDER, cast(TransportOwner, owner), lambda: LATEST)
    transport.set_member(RECEIVER, [f"http://127.0.0.1:{port}"])
    yield Pair(transport, owner, host, server)
    await transport.close()
    await server.stop(0)


async def connected(pair: Pair) -> None:
    async with asyncio.timeout(SECONDS):
        while not pair.transport.reaches(RECEIVER):  # noqa: ASYNC110 (nothing tells when)
            await asyncio.sleep(0.001)


def append(index: int, size: int) -> Message:
    entries = [Entry(3, index + 1, data=bytes(size))]
    return Message(MessageType.APP, to=RECEIVER, from_=SENDER, term=3, index=index, entries=entries)


async def test_what_a_member_that_was_away_is_owed_arrives_on_one_stream_however_much_it_is(pair: Pair) -> None:
    await connected(pair)
    # More than a connection may make the other side hold of what is not whole.
    count = 2 + (ServerOptions().max_partial_bytes >> 20)
    pair.transport.send(RECEIVER, [append(index, 1 << 20) for index in range(count)])
    async with asyncio.timeout(SECONDS):
        while len(pair.host.received) < count and not pair.owner.unreachable:  # noqa: ASYNC110 (nothing tells when)
            await asyncio.sleep(0.001)
    assert pair.owner.unreachable == 0
    assert [message.index for message in pair.host.received] == list(range(count))


async def test_a_member_is_reached_while_there_is_a_connection_to_it(pair: Pair) -> None:
    assert not pair.transport.reaches(RECEIVER)
    await connected(pair)
    assert not pair.transport.reaches(SENDER)
    await pair.server.stop(0)
    async with asyncio.timeout(SECONDS):
        while not pair.owner.unreachable:  # noqa: ASYNC110 (nothing tells when)
            await asyncio.sleep(0.001)
    assert not pair.transport.reaches(RECEIVER)


async def test_messages_do_not_wait_for_calls_that_are_not_answered(pair: Pair) -> None:
    await connected(pair)
    count = 2 * ServerOptions().max_concurrent_streams
    request = rpc_pb2.LeaseKeepAliveRequest(ID=1).SerializeToString()
    calls = [pair.transport.call(RECEIVER, "LeaseKeepAlive", request, SECONDS) for _ in range(count)]
    async with asyncio.timeout(SECONDS):
        while pair.host.asked < count:  # noqa: ASYNC110 (nothing tells when)
            await asyncio.sleep(0.001)
    # The stream ends, and another one begins beside the calls.
    stream = pair.transport._links[RECEIVER]._sender.stream
    assert stream is not None
    stream.cancel()
    assert not pair.transport.reaches(RECEIVER)
    await connected(pair)
    pair.transport.send(RECEIVER, [append(1, 1)])
    async with asyncio.timeout(SECONDS):
        while not pair.host.received:  # noqa: ASYNC110 (nothing tells when)
            await asyncio.sleep(0.001)
    for call in calls:
        call.ignore()
