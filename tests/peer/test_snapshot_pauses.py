"""When a member does not take a copy of the state: how soon the next one is made."""

import asyncio
import gc
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from kvstore.peer import transport as transports
from kvstore.peer.sending import PeerStream
from kvstore.peer.transport import PeerChannel, Transport
from kvstore.rpc import Promise, RpcError, StatusCode
from kvstore.storage.errors import CorruptStore
from raft.messages import ConfState, Message, MessageType, Snapshot, SnapshotMetadata

PEER = 2
METADATA = SnapshotMetadata(ConfState(voters=[1, 2]), 7, 3)
SECONDS = 10.0


class Copy:
    metadata = METADATA

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b"state"


class Stream:
    """A call to the member; answered at once, or never."""

    def __init__(self, answer: Promise[Any]) -> None:
        self._answer = answer
        self.writable = True

    def write(self, message: bytes, /) -> None:
        assert message

    def flush(self) -> None:
        pass

    def drain(self) -> Promise[None]:
        return Promise.resolved(None)

    def half_close(self) -> None:
        pass

    def read(self) -> Promise[Any]:
        return self._answer

    def cancel(self) -> None:
        self._answer.ignore()


class Member:
    """The member at the other end: takes copies or does not."""

    def __init__(self) -> None:
        self.has_room = False
        self.messages: list[Promise[Any]] = []

    def unary(self, method: str, request: bytes, **_: Any) -> Promise[bytes]:
        return Promise()

    def stream(self, method: str, **_: Any) -> PeerStream:
        if method.endswith("Messages"):
            self.messages.append(Promise())
            return cast(PeerStream, Stream(self.messages[-1]))
        if self.has_room:
            return cast(PeerStream, Stream(Promise.resolved(b"")))
        return cast(PeerStream, Stream(Promise.failed(RpcError(StatusCode.UNAVAILABLE, "the disk is full"))))

    async def close(self) -> None:
        pass


class Owner:
    """The leader: like raft, it asks for the next copy when it hears that one has failed."""

    def __init__(self) -> None:
        self.reports: asyncio.Queue[bool] = asyncio.Queue()

    def report_unreachable(self, member: int) -> None:
        assert member == PEER

    def report_snapshot(self, member: int, ok: bool) -> None:
        assert member == PEER
        self.reports.put_nowait(ok)

    def report_removed(self) -> None:
        raise AssertionError("nobody was removed")

    async def copy_state(self) -> Copy:
        return Copy()

    async def outcome(self) -> tuple[bool, float]:
        """What raft is told next, and how long it took."""
        began = asyncio.get_running_loop().time()
        async with asyncio.timeout(SECONDS):
            ok = await self.reports.get()
        return ok, asyncio.get_running_loop().time() - began


def snapshot() -> list[Message]:
    return [Message(type=MessageType.SNAP, to=PEER, from_=1, term=3, snapshot=Snapshot(b"", METADATA))]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    monkeypatch.setattr(transports, "SNAPSHOT_RETRY_SECONDS", 0.02)
    monkeypatch.setattr(transports, "MAX_SNAPSHOT_RETRY_SECONDS", 0.08)
    return SimpleNamespace(owner=Owner(), member=Member())


async def paused(transport: Transport) -> None:
    """Return once a copy was not taken."""
    async with asyncio.timeout(SECONDS):
        while not transport.pausing:  # noqa: ASYNC110 (nothing tells when)
            await asyncio.sleep(0)


async def start(world: SimpleNamespace) -> Transport:
    transport = Transport(1, 1, world.owner, lambda: (1, 1), open_channel=lambda _: cast(PeerChannel, world.member))
    transport.set_member(PEER, ["http://peer"])
    return transport


async def test_each_pause_is_twice_the_last_up_to_a_bound(world: SimpleNamespace) -> None:
    transport = await start(world)
    pauses = []
    for _ in range(5):
        transport.send(PEER, snapshot())
        ok, seconds = await world.owner.outcome()
        assert not ok
        pauses.append(seconds)
    # Only the lower bounds: a busy machine may be late.
    assert all(took >= least for took, least in zip(pauses, (0.02, 0.04, 0.08, 0.08, 0.08), strict=True)), pauses
    assert transport.stats()[PEER].snapshots_failed == 5
    await transport.close()


async def test_a_copy_that_is_taken_is_told_at_once_and_ends_the_pauses(
    world: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transports, "MAX_SNAPSHOT_RETRY_SECONDS", 1_000.0)
    transport = await start(world)
    for _ in range(3):
        transport.send(PEER, snapshot())
        assert not (await world.owner.outcome())[0]
    world.member.has_room = True
    monkeypatch.setattr(transports, "SNAPSHOT_RETRY_SECONDS", 1_000.0)
    transport.send(PEER, snapshot())
    assert (await world.owner.outcome())[0]
    assert not transport.pausing
    world.member.has_room = False
    monkeypatch.setattr(transports, "SNAPSHOT_RETRY_SECONDS", 0.02)
    transport.send(PEER, snapshot())
    ok, _ = await world.owner.outcome()
    assert not ok
    await transport.close()


async def test_no_copy_is_made_during_a_pause(world: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transports, "SNAPSHOT_RETRY_SECONDS", 1_000.0)
    monkeypatch.setattr(transports, "MAX_SNAPSHOT_RETRY_SECONDS", 1_000.0)
    transport = await start(world)
    transport.send(PEER, snapshot())
    await paused(transport)
    transport.send(PEER, snapshot())
    await asyncio.sleep(0)
    assert transport.stats()[PEER].snapshots_failed == 1
    # The member has stored something: it has room now, or may have.
    transport.has_stored(PEER)
    assert not transport.pausing
    assert not (await world.owner.outcome())[0]
    world.member.has_room = True
    transport.send(PEER, snapshot())
    assert (await world.owner.outcome())[0]
    await transport.close()


async def test_a_member_that_comes_back_is_not_made_to_wait(
    world: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transports, "SNAPSHOT_RETRY_SECONDS", 1_000.0)
    monkeypatch.setattr(transports, "MAX_SNAPSHOT_RETRY_SECONDS", 1_000.0)
    transport = await start(world)
    transport.send(PEER, snapshot())
    await paused(transport)
    world.member.messages[0].set_exception(RpcError(StatusCode.UNAVAILABLE, "the member has ended"))
    assert not (await world.owner.outcome())[0]
    assert not transport.pausing
    await transport.close()


async def test_a_state_that_cannot_be_copied_is_said_and_pauses_as_well(
    world: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    unheard: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unheard.append(context))

    async def fail() -> Copy:
        raise CorruptStore("some rows are damaged")

    monkeypatch.setattr(world.owner, "copy_state", fail)
    transport = await start(world)
    with capture_logs() as logs:
        transport.send(PEER, snapshot())
        assert not (await world.owner.outcome())[0]
    assert [entry["reason"] for entry in logs] == ["some rows are damaged"]
    await transport.close()
    gc.collect()
    assert not unheard


async def test_what_a_copy_reaches_is_told_until_the_member_has_had_time_to_go_on_from_it(
    world: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = asyncio.Event()

    async def copy() -> Copy:
        await made.wait()
        return Copy()

    monkeypatch.setattr(world.owner, "copy_state", copy)
    world.member.has_room = True
    transport = await start(world)
    assert transport.copies() == {}
    transport.send(PEER, snapshot())
    assert transport.copies() == {PEER: METADATA.index}
    made.set()
    assert (await world.owner.outcome())[0]
    assert transport.copies() == {PEER: METADATA.index}
    monkeypatch.setattr(transports, "CATCH_UP_SECONDS", 0.0)
    transport.send(PEER, snapshot())
    assert (await world.owner.outcome())[0]
    assert transport.copies() == {}
    await transport.close()


async def test_of_a_copy_that_was_not_taken_nothing_is_told(world: SimpleNamespace) -> None:
    transport = await start(world)
    transport.send(PEER, snapshot())
    await paused(transport)
    assert transport.copies() == {}
    await transport.close()
