"""Whether a member is connected to one that has nothing to tell it, as a follower to another."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import pytest

from kvstore.peer import transport as transports
from kvstore.peer.sending import PeerStream
from kvstore.peer.transport import PeerChannel, Transport
from kvstore.rpc import Promise, RpcError, StatusCode
from tests.peer.test_snapshot_pauses import Owner, Stream

PEER = 2
SECONDS = 10.0
GONE = RpcError(StatusCode.UNAVAILABLE, "it is gone")


class Member:
    """The member at the other end, which sends no messages. asked: calls that it has not answered yet."""

    def __init__(self) -> None:
        self.streams: list[Promise[Any]] = []
        self.asked: asyncio.Queue[Promise[bytes]] = asyncio.Queue()

    def unary(self, method: str, request: bytes, **_: Any) -> Promise[bytes]:
        self.asked.put_nowait(call := Promise[bytes]())
        return call

    def stream(self, method: str, **_: Any) -> PeerStream:
        self.streams.append(Promise())
        return cast(PeerStream, Stream(self.streams[-1]))

    async def close(self) -> None:
        pass

    async def next_call(self) -> Promise[bytes]:
        async with asyncio.timeout(SECONDS):
            return await self.asked.get()


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(SECONDS):
        while not condition():  # noqa: ASYNC110 (nothing tells when)
            await asyncio.sleep(0)


@pytest.fixture
def member() -> Member:
    return Member()


@pytest.fixture
async def transport(member: Member, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Transport]:
    monkeypatch.setattr(transports, "PROBE_SECONDS", 0.001)
    monkeypatch.setattr(transports, "RETRY_SECONDS", 0.001)
    made = Transport(7, 1, Owner(), lambda: (1, 1), None, lambda _: cast(PeerChannel, member))
    made.set_member(PEER, ["http://127.0.0.1:1"])
    yield made
    await made.close()


async def test_one_that_answers_is_connected(transport: Transport, member: Member) -> None:
    call = await member.next_call()
    assert transport.active_since(PEER) is None
    call.set_result(b"")
    await eventually(lambda: transport.active_since(PEER) is not None)
    since = transport.active_since(PEER)
    for _ in range(3):
        (await member.next_call()).set_result(b"")
    assert transport.active_since(PEER) == since


async def test_one_that_does_not_answer_is_not(transport: Transport, member: Member) -> None:
    for _ in range(3):
        (await member.next_call()).set_exception(GONE)
        assert transport.active_since(PEER) is None


async def test_an_answer_from_before_the_connection_was_lost_counts_for_nothing(
    transport: Transport, member: Member
) -> None:
    call = await member.next_call()
    member.streams[0].set_exception(GONE)
    await eventually(lambda: len(member.streams) == 2)
    call.set_result(b"")
    later = await member.next_call()
    assert transport.active_since(PEER) is None
    later.set_result(b"")
    await eventually(lambda: transport.active_since(PEER) is not None)
    member.streams[1].set_exception(GONE)
    await eventually(lambda: transport.active_since(PEER) is None)
