"""The state on disk behind its overlay, with both kinds of writers."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kvstore.storage import backend as backends
from kvstore.storage.backend import Backend, BackendOptions
from kvstore.storage.engine import EngineOptions
from kvstore.storage.errors import CorruptStore, JobFailed, StorageError, WriterFailed
from kvstore.storage.meta import Identity, Position
from kvstore.storage.writer import ProcessWriter, WriterEvents
from tests.storage.harness import TABLES, until
from tests.storage.older import unseal

HARNESS = "tests.storage.harness"


def open_backend(path: Path, kind: str = "inline", **options: float) -> Backend:
    opened = backends.open_inline if kind == "inline" else backends.open_with_process
    map_size = int(options.pop("map_size", 1 << 30))
    return opened(path, TABLES[1:], BackendOptions(engine=EngineOptions(map_size, count_free=True), **options))  # type: ignore[arg-type]


@pytest.fixture(params=["inline", "process"])
async def backend(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Backend]:
    path = tmp_path / "db"
    path.mkdir()
    opened = open_backend(path, request.param)
    yield opened
    await opened.close()


async def test_what_was_flushed_is_there_after_opening_again(tmp_path: Path) -> None:
    backend = open_backend(tmp_path, "process")
    backend.table("current").put(b"a", b"1")
    backend.dup_table("past").add(b"a", b"r1")
    backend.meta["revision"] = b"12"
    backend.meta["gone"] = b"1"
    del backend.meta["gone"]
    backend.set_applied(7, 2)
    assert backend.flushed_index == 0
    await backend.flush_all()
    assert backend.flushed_index == 7
    await backend.close()

    backend = open_backend(tmp_path)
    assert backend.table("current").get(b"a") == b"1"
    assert backend.dup_table("past").values(b"a") == [b"r1"]
    assert dict(backend.meta) == {"revision": b"12", "applied": Position(7, 2).encode()}
    assert backend.applied == backend.flushed == Position(7, 2)
    await backend.close()


async def test_a_change_is_seen_before_during_and_after_its_flush(backend: Backend) -> None:
    table = backend.table("current")
    table.put(b"a", b"1")
    table.put(b"b", b"1")
    await backend.flush_all()
    table.put(b"a", b"2")
    table.delete(b"b")
    assert (table.get(b"a"), table.get(b"b")) == (b"2", None)
    backend.flush()
    assert (table.get(b"a"), table.get(b"b")) == (b"2", None)
    table.put(b"b", b"3")
    assert table.items(b"", None) == [(b"a", b"2"), (b"b", b"3")]
    await backend.flush_all()
    assert table.items(b"", None) == [(b"a", b"2"), (b"b", b"3")]
    assert backend.overlay_ops == 0


async def test_a_flush_is_due_after_an_interval_or_enough_changes(tmp_path: Path) -> None:
    backend = open_backend(tmp_path, flush_seconds=0.1, flush_operations=10)
    table = backend.table("current")
    backend.maybe_flush(100.0)
    assert backend.flushed_index == 0
    table.put(b"a", b"1")
    backend.set_applied(1, 1)
    backend.maybe_flush(101.0)
    assert backend.flushed_index == 1
    table.put(b"b", b"1")
    backend.set_applied(2, 1)
    backend.maybe_flush(101.05)
    assert (backend.flushed_index, backend.overlay_ops) == (1, 1)
    for number in range(9):
        table.put(b"%d" % number, b"1")
    backend.set_applied(3, 1)
    backend.maybe_flush(101.06)
    assert (backend.flushed_index, backend.overlay_ops) == (3, 0)
    backend.set_applied(4, 1)
    backend.maybe_flush(102.0)
    assert backend.flushed_index == 4
    await backend.close()


async def test_waiting_for_an_index_flushes_it(backend: Backend) -> None:
    backend.table("current").put(b"a", b"1")
    backend.set_applied(5, 1)
    await asyncio.gather(backend.wait_flushed(5), backend.wait_flushed(3))
    assert backend.flushed_index == 5


async def test_closing_flushes(tmp_path: Path) -> None:
    backend = open_backend(tmp_path, "process")
    backend.table("current").put(b"a", b"1")
    backend.set_applied(5, 1)
    await backend.close()
    backend = open_backend(tmp_path)
    assert (backend.table("current").get(b"a"), backend.applied.index) == (b"1", 5)
    await backend.close()


async def test_the_loop_follows_when_the_map_grows(tmp_path: Path) -> None:
    for kind in ("process", "inline"):
        path = tmp_path / kind
        path.mkdir()
        backend = open_backend(path, kind, map_size=1 << 20)
        table = backend.table("current")
        rows = {}
        for number in range(8):
            for key in range(1000):
                rows[b"%d/%04d" % (number, key)] = table.active[b"%d/%04d" % (number, key)] = os.urandom(300)
            await backend.flush_all()
            assert len(table.items(b"", None)) == len(rows)
        assert dict(table.scan(b"", None)) == rows
        assert backend.size > 2 << 20
        await backend.close()


async def test_a_job_sees_what_was_flushed_and_is_seen_when_it_is_done(backend: Backend) -> None:
    table = backend.table("current")
    table.put(b"a", b"1")
    await backend.flush_all()
    table.put(b"a", b"2")
    assert await asyncio.wrap_future(backend.run_job(f"{HARNESS}:copy_row", (b"a", b"b"))) == b"1"
    assert (table.get(b"a"), table.get(b"b")) == (b"2", b"1")
    with pytest.raises(JobFailed, match="this job fails"):
        await asyncio.wrap_future(backend.run_job(f"{HARNESS}:put_and_raise", b"c"))
    assert table.get(b"c") is None


async def test_a_reader_sees_everything_done_before(backend: Backend) -> None:
    for number in range(10):
        backend.table("current").put(b"%d" % number, b"1")
    assert await backend.run_reader(f"{HARNESS}:count_rows", "current") == 10
    with pytest.raises(JobFailed, match="there is no table 'nothing'"):
        await backend.run_reader(f"{HARNESS}:count_rows", "nothing")


async def test_defragmenting_gives_free_pages_back_while_changes_go_on(backend: Backend) -> None:
    table = backend.table("current")
    for number in range(4000):
        table.put(b"%04d" % number, bytes(1000))
    await backend.flush_all()
    for number in range(3900):
        table.delete(b"%04d" % number)
    await backend.flush_all()
    size = backend.size
    assert backend.size_in_use < size / 4
    table.put(b"before", b"1")
    defragmenting = asyncio.create_task(backend.defragment())
    await asyncio.sleep(0)
    table.put(b"during", b"1")
    backend.flush()
    await defragmenting
    assert backend.size < size / 4
    assert len(table.items(b"", None)) == 102
    table.put(b"after", b"1")
    await backend.flush_all()
    assert (table.get(b"before"), table.get(b"during"), table.get(b"after")) == (b"1", b"1", b"1")


async def test_a_defragmentation_that_nobody_waits_for_any_more_is_followed_all_the_same(tmp_path: Path) -> None:
    failures: list[StorageError] = []
    backend = open_backend(tmp_path, "process")
    backend.events = WriterEvents(failed=failures.append)
    table = backend.table("current")
    table.put(b"before", b"1")
    await backend.flush_all()
    defragmenting = asyncio.create_task(backend.defragment())
    await asyncio.sleep(0)
    defragmenting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await defragmenting
    table.put(b"after", b"1")
    await asyncio.wait_for(backend.flush_all(), 20)
    assert failures == []
    assert table.items(b"", None) == [(b"after", b"1"), (b"before", b"1")]
    await backend.close()


async def snapshot_of_another(tmp_path: Path) -> Path:
    (tmp_path / "other").mkdir()
    other = open_backend(tmp_path / "other", "process")
    other.table("current").put(b"theirs", b"1")
    other.meta["revision"] = b"99"
    other.table("meta").active.update(dict(Identity(5, 6).rows()))
    other.set_applied(50, 4)
    received = tmp_path / "received"
    async with await other.snapshot() as copy:
        received.write_bytes(b"".join([chunk async for chunk in copy]))
    await other.close()
    return received


async def test_a_received_snapshot_takes_the_states_place(backend: Backend, tmp_path: Path) -> None:
    received = await snapshot_of_another(tmp_path)
    table = backend.table("current")
    table.put(b"ours", b"1")
    await backend.flush_all()
    table.put(b"not flushed", b"1")
    await backend.replace(received, Identity(5, 7))
    assert table.items(b"", None) == [(b"theirs", b"1")]
    assert backend.applied == backend.flushed == Position(50, 4)
    assert backend.meta["revision"] == b"99"
    assert backend.meta["member_id"] == (7).to_bytes(8, "big")
    assert not received.exists()
    table.put(b"new", b"1")
    backend.set_applied(51, 4)
    await backend.flush_all()
    assert [key for key, _ in table.items(b"", None)] == [b"new", b"theirs"]


async def test_a_snapshot_from_a_member_without_seals_is_converted(backend: Backend, tmp_path: Path) -> None:
    received = await snapshot_of_another(tmp_path)
    unseal(received, subdir=False)
    await backend.replace(received, Identity(5, 7))
    assert backend.table("current").items(b"", None) == [(b"theirs", b"1")]
    assert backend.applied == Position(50, 4)
    assert backend.meta["revision"] == b"99"
    assert backend.meta["member_id"] == (7).to_bytes(8, "big")


async def test_nobody_reads_the_new_state_before_what_is_derived_from_it_is_there(
    backend: Backend, tmp_path: Path
) -> None:
    loop = asyncio.get_running_loop()
    received = await snapshot_of_another(tmp_path)
    backend.table("current").put(b"ours", b"1")
    derived = [b"ours"]
    seen: list[tuple[list[bytes], list[bytes]]] = []

    def look() -> None:
        seen.append(([key for key, _ in backend.table("current").items(b"", None)], list(derived)))
        if derived == [b"ours"]:
            loop.call_soon(look)

    def derive() -> None:
        derived[:] = [key for key, _ in backend.table("current").items(b"", None)]

    look()
    await backend.replace(received, Identity(5, 7), derive)
    look()
    assert derived == [b"theirs"]
    assert [keys for keys, expected in seen if keys != expected] == []


async def test_what_cannot_be_derived_from_the_new_state_is_told(backend: Backend, tmp_path: Path) -> None:
    def fail() -> None:
        raise ValueError("nothing can be made of it")

    with pytest.raises(ValueError, match="nothing can be made of it"):
        await backend.replace(await snapshot_of_another(tmp_path), Identity(5, 7), fail)


async def test_a_damaged_file_does_not_take_the_states_place(backend: Backend, tmp_path: Path) -> None:
    backend.table("current").put(b"ours", b"1")
    received = tmp_path / "received"
    received.write_bytes(b"nothing good" * 1000)
    with pytest.raises(CorruptStore):
        await backend.replace(received, Identity(5, 7))
    backend.table("current").put(b"more", b"1")
    await backend.flush_all()
    assert [key for key, _ in backend.table("current").items(b"", None)] == [b"more", b"ours"]


async def test_who_waits_is_told_when_the_writer_dies(tmp_path: Path) -> None:
    errors: list[StorageError] = []
    backend = backends.open_with_process(tmp_path, TABLES[1:], events=WriterEvents(failed=errors.append))
    await backend.flush_all()
    writer = backend._env.writer
    assert isinstance(writer, ProcessWriter)
    os.kill(writer.pid, signal.SIGSTOP)
    backend.table("current").put(b"a", b"1")
    waiting = asyncio.create_task(backend.flush_all())
    job = backend.run_job(f"{HARNESS}:count_rows", "current")
    await asyncio.sleep(0)
    os.kill(writer.pid, signal.SIGKILL)
    with pytest.raises(WriterFailed):
        await waiting
    with pytest.raises(WriterFailed):
        await asyncio.wrap_future(job)
    await until(lambda: len(errors) == 1)
    with pytest.raises(WriterFailed):
        await backend.flush_all()
    assert backend.table("current").get(b"a") == b"1"
    await backend.close()


async def test_tables_are_asked_for_by_their_kind(backend: Backend) -> None:
    with pytest.raises(StorageError, match="no table 'past' of keys and values"):
        backend.table("past")
    with pytest.raises(StorageError, match="no table 'current' of keys and sets"):
        backend.dup_table("current")


async def test_nothing_is_flushed_after_it_was_abandoned(tmp_path: Path) -> None:
    errors: list[StorageError] = []
    backend = backends.open_with_process(tmp_path, TABLES[1:], events=WriterEvents(failed=errors.append))
    backend.table("current").put(b"a", b"1")
    await backend.flush_all()
    backend.table("current").put(b"a", b"half")
    backend.abandon(WriterFailed("cannot go on"))
    backend.flush()
    backend.maybe_flush(1000.0)
    with pytest.raises(WriterFailed, match="cannot go on"):
        await backend.flush_all()
    await backend.close()
    assert len(errors) == 1
    backend = open_backend(tmp_path)
    assert backend.table("current").get(b"a") == b"1"
    await backend.close()


async def test_a_key_as_long_as_a_request_may_be(backend: Backend) -> None:
    table, past = backend.table("current"), backend.dup_table("past")
    key = b"k" * 1_500_000
    table.put(key, b"1")
    table.put(key[:-1], b"2")
    past.add(key, b"r1")
    await backend.flush_all()
    assert table.get(key) == b"1"
    assert [len(found) for found, _ in table.scan(key[:1000], None)] == [len(key) - 1, len(key)]
    assert [len(found) for found, _ in table.scan(b"", key, reverse=True)] == [len(key) - 1]
    assert past.last_at_most(key, b"r5") == b"r1"
    table.delete(key)
    table.delete(key[:-1])
    past.remove(key, b"r1")
    await backend.flush_all()
    assert table.items(b"", None) == []
    assert await backend.run_reader(f"{HARNESS}:count_rows", "current") == 0
