"""The Python client of kvstore and of every other server of the etcd v3 API, for asyncio.

::

    from kvstore.client import Client, Compare, Get, Put, prefix

    async with Client("127.0.0.1:2379") as client:
        await client.kv.put("jobs/1", b"todo")
        jobs = await client.kv.get(prefix("jobs/"))
        taken = await (
            client.kv.txn()
            .when(Compare.value("jobs/1", "=", "todo"))
            .then(Put("jobs/1", "mine"))
            .otherwise(Get("jobs/1"))
            .commit()
        )
        lease = await client.lease.grant(ttl=10)
        async with client.lease.keep_alive(lease.id):
            await client.kv.put("workers/me", b"", lease=lease.id)
            async with client.watch(prefix("jobs/")) as changes:
                async for response in changes:
                    print(response.events)

It stands on grpcio and the generated messages alone, and imports nothing of the server.
"""

from kvstore.client import errors
from kvstore.client.client import Client
from kvstore.client.keys import Key, KeyRange, Target, from_key, key_range, prefix
from kvstore.client.ops import Compare, Delete, Get, Op, Put, SortOrder, SortTarget, TxnOp
from kvstore.client.results import Alarm, AlarmType, Event, EventType, KeyValue, Lease, Member, Status, WatchResponse
from kvstore.client.tls import TLSConfig
from kvstore.client.watch import Filter, Watcher

__all__ = [
    "Alarm",
    "AlarmType",
    "Client",
    "Compare",
    "Delete",
    "Event",
    "EventType",
    "Filter",
    "Get",
    "Key",
    "KeyRange",
    "KeyValue",
    "Lease",
    "Member",
    "Op",
    "Put",
    "SortOrder",
    "SortTarget",
    "Status",
    "TLSConfig",
    "Target",
    "TxnOp",
    "WatchResponse",
    "Watcher",
    "errors",
    "from_key",
    "key_range",
    "prefix",
]
