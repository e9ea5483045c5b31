"""The state on disk behind its overlay, with both kinds of writers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kvstore.storage import backend as backends
from kvstore.storage.backend import Backend
from kvstore.storage.batch import APPEND, DUP, TableSpec
from kvstore.storage.meta import Position

TABLES = [TableSpec("current"), TableSpec("history", APPEND), TableSpec("past", DUP)]


@pytest.fixture(params=["inline", "process"])
async def backend(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Backend]:
    opened = open_backend(tmp_path, request.param)
    yield opened
    await opened.close()


def open_backend(path: Path, kind: str = "inline") -> Backend:
    return (backends.open_inline if kind == "inline" else backends.open_with_process)(path, TABLES)


async def test_what_was_flushed_is_there_after_opening_again(tmp_path: Path) -> None:
    backend = open_backend(tmp_path, "process")
    backend.table("current").put(b"a", b"1")
    backend.dup_table("past").add(b"a", b"r1")
    backend.meta["revision"] = b"12"
    backend.set_applied(7, 2)
    await backend.flush_all()
    assert backend.flushed_index == 7
    await backend.close()

    backend = open_backend(tmp_path)
    assert backend.table("current").get(b"a") == b"1"
    assert backend.dup_table("past").values(b"a") == [b"r1"]
    assert backend.meta["revision"] == b"12"
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
