"""What the tests of the durable layer share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kvstore.storage.batch import APPEND, DUP, TableSpec, WriteBatch
from kvstore.storage.engine import Engine, EngineOptions
from kvstore.storage.meta import META
from kvstore.storage.transaction import ReadTransaction, WriteTransaction
from kvstore.storage.writer import ProcessWriter, Writer, WriterEvents

TABLES = [META, TableSpec("current"), TableSpec("history", APPEND), TableSpec("past", DUP)]

SECONDS = 20.0


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition, for SECONDS at most."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        await asyncio.sleep(0.005)


def put(writer: Writer, rows: dict[bytes, bytes], done: Callable[[], None], table: str = "current") -> None:
    batch = WriteBatch()
    batch.put(table, rows)
    writer.submit(batch, done)


async def put_and_wait(writer: Writer, rows: dict[bytes, bytes], table: str = "current") -> None:
    done = asyncio.get_running_loop().create_future()
    put(writer, rows, lambda: done.set_result(None), table)
    async with asyncio.timeout(SECONDS):
        await done


def process_writer(path: Path, events: WriterEvents | None = None, **options: Any) -> ProcessWriter:
    module = options.pop("module", "kvstore.storage.writer_process")
    return ProcessWriter(
        path, TABLES, EngineOptions(**options), loop=asyncio.get_running_loop(), events=events, module=module
    )


def rows_of(path: Path, table: str = "current") -> dict[bytes, bytes]:
    """What is committed in an environment that nobody writes any more."""
    engine = Engine(path, TABLES)
    try:
        with engine.env.begin() as txn:
            return dict(ReadTransaction(txn, engine.handles).items(table))
    finally:
        engine.close()


# Jobs, named by path in the tests.


def count_rows(txn: ReadTransaction, table: str) -> int:
    return txn.count(table)


def copy_row(txn: WriteTransaction, arguments: tuple[bytes, bytes]) -> bytes | None:
    source, target = arguments
    value = txn.get("current", source)
    if value is not None:
        txn.put_rows("current", {target: value})
    return value


def put_and_raise(txn: WriteTransaction, key: bytes) -> None:
    txn.put_rows("current", {key: b"never"})
    raise ValueError("this job fails")
