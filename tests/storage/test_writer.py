"""Writers: order, atomicity, growth, jobs, and what happens when a process dies."""

from __future__ import annotations

import asyncio
import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import lmdb
import pytest

from kvstore.storage.batch import DUP_CHANGE, PUT, Operation, WriteBatch, WriteStats
from kvstore.storage.engine import Engine, EngineOptions, open_for_reading
from kvstore.storage.errors import JobFailed, StorageError, WriterFailed
from kvstore.storage.pages import DATA_FILE
from kvstore.storage.transaction import ReadTransaction
from kvstore.storage.writer import InlineWriter, WriterEvents
from tests.storage.harness import TABLES, process_writer, put, put_and_wait, rows_of, until

HARNESS = "tests.storage.harness"


async def test_batches_submitted_together_are_committed_together_and_done_in_order(tmp_path: Path) -> None:
    stats: list[WriteStats] = []
    writer = process_writer(tmp_path, WriterEvents(committed=stats.append))
    done: list[int] = []
    for number in range(100):
        put(writer, {b"%03d" % number: b"x"}, partial(done.append, number))
    await until(lambda: len(done) == 100)
    await writer.close()
    assert done == list(range(100))
    assert sum(each.batches for each in stats) == 100
    assert len(stats) < 50
    assert sum(each.rows for each in stats) == 100
    assert len(rows_of(tmp_path)) == 100


async def test_a_batch_larger_than_the_socket_takes_arrives_whole(tmp_path: Path) -> None:
    writer = process_writer(tmp_path)
    rows = {b"%04d" % number: os.urandom(4000) for number in range(3000)}
    waiting = asyncio.create_task(put_and_wait(writer, rows))
    await until(lambda: writer.backlog > 0 or waiting.done())
    put(writer, {b"after": b"x"}, lambda: None)
    await waiting
    assert writer.backlog == 0
    await writer.close()
    assert rows_of(tmp_path) == {**rows, b"after": b"x"}


async def test_what_was_submitted_before_close_is_committed(tmp_path: Path) -> None:
    writer = process_writer(tmp_path)
    done: list[int] = []
    for number in range(50):
        put(writer, {b"%03d" % number: bytes(50_000)}, lambda: done.append(1))
    await writer.close()
    assert len(done) == 50
    assert len(rows_of(tmp_path)) == 50


async def test_the_map_grows_as_needed(tmp_path: Path) -> None:
    stats: list[WriteStats] = []
    writer = process_writer(tmp_path, WriterEvents(committed=stats.append), map_size=1 << 20)
    rows = {b"%05d" % number: os.urandom(300) for number in range(20_000)}
    await put_and_wait(writer, rows)
    await put_and_wait(writer, {b"more": b"x"})
    await writer.close()
    assert stats[-1].map_bytes > 1 << 20
    assert rows_of(tmp_path) == {**rows, b"more": b"x"}


async def test_every_operation_of_a_batch_is_executed_in_order(tmp_path: Path) -> None:
    writer = process_writer(tmp_path)
    await put_and_wait(writer, {b"%d" % number: b"old" for number in range(10)})
    await put_and_wait(writer, {b"x": b"gone"}, "history")
    batch = WriteBatch()
    batch.put("current", [(b"a", b"1"), (b"1", None)])
    batch.delete("current", [b"a", b"not there"])
    batch.delete_range("current", b"2", b"5")
    batch.delete_range("current", b"5", None, 2)
    batch.drop("history")
    batch.change_dups("past", {b"k": [b"2", b"1"]}, {})
    batch.change_dups("past", {b"k": [b"3"]}, {b"k": {b"1"}})
    writer.submit(batch, lambda: None)
    await writer.close()
    assert rows_of(tmp_path) == {b"0": b"old", b"7": b"old", b"8": b"old", b"9": b"old"}
    assert rows_of(tmp_path, "history") == {}
    assert rows_of(tmp_path, "past") == {b"k": b"2"}


async def test_a_job_runs_in_order_in_a_transaction_of_its_own(tmp_path: Path) -> None:
    writer = process_writer(tmp_path)
    put(writer, {b"a": b"1"}, lambda: None)
    copied = writer.run(f"{HARNESS}:copy_row", (b"a", b"b"))
    put(writer, {b"a": b"2"}, lambda: None)
    failed = writer.run(f"{HARNESS}:put_and_raise", b"c")
    missing = writer.run(f"{HARNESS}:no_such_function", None)
    put(writer, {b"d": b"1"}, lambda: None)
    assert await asyncio.wrap_future(copied) == b"1"
    with pytest.raises(JobFailed, match="ValueError: this job fails"):
        await asyncio.wrap_future(failed)
    with pytest.raises(JobFailed, match="no_such_function"):
        await asyncio.wrap_future(missing)
    await writer.close()
    assert rows_of(tmp_path) == {b"a": b"2", b"b": b"1", b"d": b"1"}


async def test_a_writer_that_is_ended_as_damaged_pages_end_one_says_what_to_do(tmp_path: Path) -> None:
    errors: list[StorageError] = []
    writer = process_writer(tmp_path, WriterEvents(failed=errors.append))
    await put_and_wait(writer, {b"a": b"1"})
    os.kill(writer.pid, signal.SIGABRT)
    await until(lambda: bool(errors))
    assert "was ended by SIGABRT; if that comes of a damaged page that it read, remove this member" in str(errors[0])
    await writer.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_signals_for_the_member_do_not_end_its_writer(tmp_path: Path, number: int) -> None:
    writer = process_writer(tmp_path)
    await put_and_wait(writer, {b"a": b"1"})
    os.kill(writer.pid, number)
    await put_and_wait(writer, {b"b": b"1"})
    await writer.close()
    assert set(rows_of(tmp_path)) == {b"a", b"b"}


async def test_a_writer_that_dies_is_reported_and_what_waited_fails(tmp_path: Path) -> None:
    errors: list[StorageError] = []
    writer = process_writer(tmp_path, WriterEvents(failed=errors.append))
    await put_and_wait(writer, {b"a": b"1"})
    os.kill(writer.pid, signal.SIGSTOP)
    done: list[int] = []
    put(writer, {b"b": b"1"}, lambda: done.append(1))
    job = writer.run(f"{HARNESS}:count_rows", "current")
    os.kill(writer.pid, signal.SIGKILL)
    await until(lambda: bool(errors))
    assert isinstance(errors[0], WriterFailed)
    assert len(errors) == 1
    assert not done
    assert isinstance(job.exception(timeout=0), WriterFailed)
    put(writer, {b"c": b"1"}, lambda: done.append(1))
    await writer.close()
    assert not done


async def test_a_directory_that_cannot_be_opened_is_reported(tmp_path: Path) -> None:
    (tmp_path / "data.mdb").write_bytes(b"something else entirely" * 1000)
    errors: list[StorageError] = []
    writer = process_writer(tmp_path, WriterEvents(failed=errors.append))
    await until(lambda: bool(errors))
    assert "not that of an LMDB file" in str(errors[0])
    await writer.close()


def test_an_inline_writer_is_done_on_return(tmp_path: Path) -> None:
    writer = InlineWriter(Engine(tmp_path, TABLES, EngineOptions(map_size=1 << 20)))
    done: list[int] = []
    rows = {b"%05d" % number: os.urandom(300) for number in range(10_000)}
    put(writer, rows, lambda: done.append(1))
    assert done == [1]
    assert writer.run(f"{HARNESS}:copy_row", (b"00001", b"x")).result(timeout=0) == rows[b"00001"]
    with pytest.raises(JobFailed):
        writer.run(f"{HARNESS}:put_and_raise", b"c").result(timeout=0)
    writer.engine.close()
    assert rows_of(tmp_path) == {**rows, b"x": rows[b"00001"]}


def test_free_pages_are_counted(tmp_path: Path) -> None:
    engine = Engine(tmp_path, TABLES, EngineOptions(count_free=True))
    engine.commit([[(1, "current", {b"%05d" % number: bytes(1000) for number in range(4000)})]])
    full = engine.measure()
    engine.commit([[(3, "current", (b"", None, 0))]])
    stats = engine.commit([[(1, "current", {b"a": b"1"})]])
    assert stats.file_bytes >= full.file_bytes
    assert stats.free_bytes > full.file_bytes * 0.95
    after = engine.compact()
    assert after.file_bytes < full.file_bytes * 0.05
    assert after.free_bytes == 0
    with engine.env.begin() as txn:
        assert ReadTransaction(txn, engine.handles).get("current", b"a") == b"1"
    engine.close()


def test_the_parts_of_a_batch_are_small_and_do_the_same_together(tmp_path: Path) -> None:
    def change(number: int) -> WriteBatch:
        batch = WriteBatch()
        batch.put("current", {b"%d" % key: b"%d" % number for key in range(0, 90, number)})
        batch.put("history", [(b"%04d" % key, None if key % 3 else b"h") for key in range(41)])
        batch.delete_range("current", b"3", b"4")
        batch.put("current", [(b"35", b"after")])
        added = {b"k%02d" % key: [b"v%d" % number, b"w"] for key in range(30)}
        batch.change_dups("past", added, {b"k03": {b"v1"}, b"k29": {b"w"}, b"k11": {b"v1", b"w"}})
        batch.drop("meta")
        return batch

    engines = []
    for name in ("whole", "parted"):
        (tmp_path / name).mkdir()
        engines.append(Engine(tmp_path / name, TABLES))
    whole, parted = engines
    for number in (1, 2):
        whole.commit([change(number).operations])
        parts = list(change(number).parts(7))
        assert len(parts) > 15
        assert max(sum(rows_in(operation) for operation in part) for part in parts) <= 7
        parted.commit([[operation for part in parts for operation in part]])
    whole.close()
    parted.close()
    for spec in TABLES:
        assert rows_of(tmp_path / "whole", spec.name) == rows_of(tmp_path / "parted", spec.name)
    assert list(WriteBatch().parts(7)) == [[]]


def rows_in(operation: Operation) -> int:
    kind, _, payload = operation
    return len(payload[0]) if kind == DUP_CHANGE else len(payload) if kind == PUT else 1


async def test_a_batch_of_many_rows_leaves_the_loop_to_others_and_is_committed_whole(tmp_path: Path) -> None:
    writer = process_writer(tmp_path)
    turns = 0
    order: list[int] = []

    def turn() -> None:
        nonlocal turns
        turns += 1
        if len(order) < 2:
            asyncio.get_running_loop().call_soon(turn)

    rows = {b"%08d" % number: bytes(50) for number in range(30_000)}
    stats: list[WriteStats] = []
    writer.events.committed = stats.append
    put(writer, rows, lambda: order.append(1))
    put(writer, {b"later": b"v", b"%08d" % 7: b"new"}, lambda: order.append(2))
    turn()
    await until(lambda: len(order) == 2)
    assert order == [1, 2]
    assert turns >= 15
    assert stats[0].rows >= len(rows)
    put(writer, rows, lambda: order.append(3))
    await writer.close()
    assert order[-1] == 3
    assert rows_of(tmp_path) == {**rows, b"later": b"v"}


def test_a_file_that_is_replaced_while_it_is_opened_for_reading_is_opened_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(tmp_path, TABLES)
    engine.commit([[(1, "current", {b"a": b"1"})]])
    engine.close()
    opened: list[int] = []
    real = lmdb.open

    def replacing(*arguments: Any, **options: Any) -> lmdb.Environment:
        env = real(*arguments, **options)
        if options.get("readonly"):
            opened.append((tmp_path / DATA_FILE).stat().st_ino)
            if len(opened) == 1:
                os.replace(tmp_path / "new", tmp_path / DATA_FILE)
        return env

    (tmp_path / "new").write_bytes((tmp_path / DATA_FILE).read_bytes())
    monkeypatch.setattr(lmdb, "open", replacing)
    env, _ = open_for_reading(tmp_path, TABLES)
    assert opened[1] != opened[0]
    assert len(opened) == 2
    env.close()
