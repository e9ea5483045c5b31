"""Giving space back, and what it waits for."""

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kvstore.mvcc import puts
from kvstore.pb import rpc_pb2 as pb
from kvstore.server import member as members
from kvstore.server.config import Config, Url
from kvstore.server.member import Member
from kvstore.server.metrics import Metrics
from kvstore.server.start import start_member

VERSIONS = 100
VALUE_BYTES = 10_000
SECONDS = 60.0


@pytest.fixture
async def member(tmp_path: Path) -> AsyncIterator[Member]:
    """A member that leads, and frees what is compacted one version after the other."""
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        url = Url("http", "127.0.0.1", held.getsockname()[1])
        config = Config(
            data_dir=tmp_path / "data",
            listen_peer_urls=(url,),
            initial_advertise_peer_urls=(url,),
            compaction_batch_limit=1,
        )
        running = await start_member(config, Metrics())
        async with asyncio.timeout(SECONDS):
            await running.lifecycle.publish()
        yield running.member
        await running.stop()


async def fill(member: Member) -> None:
    """Write many versions of one key, and compact all but the last."""
    request = pb.PutRequest(key=b"k", value=bytes(VALUE_BYTES)).SerializeToString()
    await asyncio.gather(*(member.put(puts.decode(request)) for _ in range(VERSIONS)))
    await member.compact(pb.CompactionRequest(revision=member.store.revision))


async def test_it_follows_the_compaction_that_was_answered_before(member: Member) -> None:
    await fill(member)
    assert member.store.compactor.finished < member.store.compact_revision
    async with asyncio.timeout(SECONDS):
        await member.defragment()
    assert member.store.compactor.finished == member.store.compact_revision
    assert member.state.backend.size < VERSIONS * VALUE_BYTES / 10


async def test_a_compaction_that_does_not_end_keeps_it_waiting_for_a_while_only(
    member: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(members, "FREEING_SECONDS", 0.01)
    monkeypatch.setattr(member.store.compactor, "_later", lambda delay, function: None)
    await fill(member)
    async with asyncio.timeout(SECONDS):
        await member.defragment()
    assert member.store.compactor.finished < member.store.compact_revision


async def test_it_is_done_though_the_caller_has_given_up(member: Member) -> None:
    await fill(member)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.001):
            await member.defragment()
    assert member.store.compactor.finished < member.store.compact_revision
    async with asyncio.timeout(SECONDS):
        await asyncio.gather(*member._defragmentations)
    assert member.store.compactor.finished == member.store.compact_revision
    assert member.state.backend.size < VERSIONS * VALUE_BYTES / 10


async def test_one_that_waits_does_not_outlive_its_member(member: Member, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(member.store.compactor, "_later", lambda delay, function: None)
    await fill(member)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.001):
            await member.defragment()
    (task,) = member._defragmentations
    await member.stop()
    assert task.cancelled()
