"""How a member begins."""

import asyncio
import shutil
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from kvstore.mvcc import puts
from kvstore.pb.rpc_pb2 import PutRequest
from kvstore.server.config import Config, Url
from kvstore.server.metrics import Metrics
from kvstore.server.start import RunningMember, start_member
from kvstore.storage import datadir, wal
from kvstore.storage.errors import CorruptStore
from kvstore.storage.meta import Identity
from kvstore.storage.pages import LEAF, PAGE_HEADER


@pytest.fixture
def peer_url() -> Iterator[Url]:
    """A URL whose port stays taken until the test is over: bound here without listening, so the member may listen."""
    with ExitStack() as stack:
        held = stack.enter_context(socket.socket())
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        yield Url("http", "127.0.0.1", held.getsockname()[1])


async def leading(member: RunningMember) -> None:
    async with asyncio.timeout(20):
        while not member.member.is_leader:  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def test_a_member_that_is_alone_leads_without_a_tick_of_its_clock(tmp_path: Path, peer_url: Url) -> None:
    config = Config(data_dir=tmp_path / "data", listen_peer_urls=(peer_url,), initial_advertise_peer_urls=(peer_url,))
    first = await start_member(config, Metrics())
    await leading(first)
    await first.lifecycle.publish()
    await first.stop()
    again = await start_member(config, Metrics())
    timer = again.lifecycle._tick_timer
    assert timer is not None
    timer.cancel()
    await leading(again)
    assert again.member.has_leader
    await again.stop()


async def test_a_state_beside_an_empty_log_is_refused_in_one_line(tmp_path: Path, peer_url: Url) -> None:
    config = Config(data_dir=tmp_path / "data", listen_peer_urls=(peer_url,), initial_advertise_peer_urls=(peer_url,))
    member = await start_member(config, Metrics())
    await leading(member)
    await member.lifecycle.publish()
    await member.stop()
    # As when the directory is deleted and made anew, and the old process then puts its state into it.
    log = tmp_path / "data" / "member" / "wal"
    shutil.rmtree(log)
    log.mkdir()
    begun = wal.open_inline(log)
    await begun.record(Identity(member.member.cluster_id, member.member.id))
    await begun.close()
    with pytest.raises(CorruptStore, match=r"the log is empty.*add it again with an empty data directory") as refused:
        await start_member(config, Metrics())
    assert "\n" not in str(refused.value)


async def test_a_large_table_with_a_damaged_page_is_refused_before_anything_is_served(
    tmp_path: Path, peer_url: Url, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datadir, "MOST_PAGES", 0)
    config = Config(data_dir=tmp_path / "data", listen_peer_urls=(peer_url,), initial_advertise_peer_urls=(peer_url,))
    member = await start_member(config, Metrics())
    await leading(member)
    await member.member.put(puts.decode(PutRequest(key=b"hidden", value=b"x").SerializeToString()))
    await member.stop()
    state = tmp_path / "data" / "member" / "db" / "data.mdb"
    data = bytearray(state.read_bytes())
    for at in range(0, len(data), 4096):
        number, pad, flags, lower, upper = PAGE_HEADER.unpack_from(data, at)
        if flags == LEAF and b"hidden" in data[at : at + 4096]:
            # One node less, and its bytes still there.
            PAGE_HEADER.pack_into(data, at, number, pad, flags, lower - 2, upper)
    state.write_bytes(data)
    with pytest.raises(CorruptStore, match=r"table current: page \d+ .*; remove this member"):
        await start_member(config, Metrics())
