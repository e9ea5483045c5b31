"""A store whose writer is a process of its own, as in a member."""

from __future__ import annotations

import asyncio
from pathlib import Path

from kvstore.lease.lessor import Lessor
from kvstore.mvcc.compaction import CompactionConfig
from kvstore.mvcc.puts import of_message
from kvstore.mvcc.store import Store
from kvstore.pb import rpc_pb2
from kvstore.storage.backend import open_with_process
from tests.mvcc.harness import TABLES


async def test_compaction_and_hashes_run_beside_the_loop(tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    backend = open_with_process(tmp_path, TABLES)
    try:
        lessor = Lessor(backend)
        compaction = CompactionConfig(batch_limit=10, sleep_interval=0.001)
        store = Store(backend, lessor, later=loop.call_later, compaction=compaction)
        for number in range(100):
            store.put(of_message(rpc_pb2.PutRequest(key=b"key%d" % (number % 10), value=b"%d" % number)))
        before = await store.hash_kv(0)
        store.compact(store.revision)
        finished: asyncio.Future[None] = loop.create_future()
        store.compactor.when_finished(store.revision, lambda: finished.set_result(None))
        store.put(of_message(rpc_pb2.PutRequest(key=b"key0", value=b"last")))
        assert not finished.done()
        logical = await store.hash_kv(store.revision)
        await asyncio.wait_for(finished, 30)
        # The last put may be committed before a step sees what it replaced, and must then be able to find it.
        assert store.compactor.removed in (98, 99)
        assert await store.hash_kv(store.revision) == logical
        assert logical.hash != before.hash
        old = rpc_pb2.RangeRequest(key=b"key0", revision=store.revision - 1)
        assert rpc_pb2.RangeResponse.FromString(store.range(old)).kvs[0].value == b"90"
    finally:
        await backend.close()
