"""How a member begins."""

import asyncio
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from kvstore.mvcc import puts
from kvstore.pb.rpc_pb2 import PutRequest
from kvstore.server import start
from kvstore.server.config import Config, Url
from kvstore.server.member_storage import MemberStorage
from kvstore.server.metrics import Metrics
from kvstore.server.start import RunningMember, start_member
from kvstore.server.surroundings import Surroundings
from kvstore.storage import datadir, wal
from kvstore.storage.backend import Backend
from kvstore.storage.errors import CorruptStore
from kvstore.storage.meta import Identity, Position
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
    assert state.read_bytes() == data


async def stopped_member(config: Config) -> None:
    """Leave what a member leaves that has stored a key."""
    member = await start_member(config, Metrics())
    await leading(member)
    await member.member.put(puts.decode(PutRequest(key=b"hidden", value=b"x").SerializeToString()))
    await member.stop()


async def test_a_table_whose_name_is_damaged_is_not_taken_for_an_empty_one(tmp_path: Path, peer_url: Url) -> None:
    config = Config(data_dir=tmp_path / "data", listen_peer_urls=(peer_url,), initial_advertise_peer_urls=(peer_url,))
    await stopped_member(config)
    for environment, name, other in (("db", b"current", b"curRent"), ("wal", b"entries", b"enTries")):
        data = tmp_path / "data" / "member" / environment / "data.mdb"
        whole = data.read_bytes()
        data.write_bytes(whole.replace(name + b"\0", other + b"\0"))
        with pytest.raises(CorruptStore, match=f"the list of tables: {name.decode()} is not there; remove this member"):
            await start_member(config, Metrics())
        data.write_bytes(whole)
    await (await start_member(config, Metrics())).stop()


async def test_nothing_is_changed_before_all_of_the_state_has_been_looked_at(
    tmp_path: Path, peer_url: Url, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datadir, "MOST_PAGES", 0)
    config = Config(data_dir=tmp_path / "data", listen_peer_urls=(peer_url,), initial_advertise_peer_urls=(peer_url,))
    await stopped_member(config)
    order: list[str] = []

    class Looking(MemberStorage):
        async def looked_at(self) -> None:
            await super().looked_at()
            order.append("looked at")

    reconcile = wal.Wal.reconcile

    def noted(log: wal.Wal, applied: Position, done: Callable[[], None]) -> None:
        order.append("reconciled")
        reconcile(log, applied, done)

    monkeypatch.setattr(start, "MemberStorage", Looking)
    monkeypatch.setattr(wal.Wal, "reconcile", noted)
    await (await start_member(config, Metrics())).stop()
    assert order == ["looked at", "reconciled"]


async def test_a_log_does_not_stay_open_if_the_state_cannot_be_opened(tmp_path: Path, peer_url: Url) -> None:
    config = Config(data_dir=tmp_path / "data", listen_peer_urls=(peer_url,), initial_advertise_peer_urls=(peer_url,))
    opened = []

    def open_log(*arguments: Any) -> wal.Wal:
        opened.append(wal.open_with_process(*arguments))
        return opened[-1]

    def open_state(*_: Any) -> Backend:
        raise CorruptStore("not this one")

    with pytest.raises(CorruptStore, match="not this one"):
        await start_member(config, Metrics(), Surroundings(open_log=open_log, open_state=open_state))
    # Its writer has the lock as long as it runs.
    assert opened
    datadir.DataDirectory.open(tmp_path / "data", lock_timeout=0).close()
