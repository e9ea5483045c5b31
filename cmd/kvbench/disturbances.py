"""What may stall a server: heavy or rare work, done while others want answers.

Knows one endpoint and how to ask it for each; what the others see of it is measured by `stall`.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from kvbench import requests
from kvbench.requests import KeySpace
from kvstore.pb import rpc_pb2 as pb
from kvstore.rpc import EOF, Channel, ChannelOptions

COMPACT = "/etcdserverpb.KV/Compact"
DELETE_RANGE = "/etcdserverpb.KV/DeleteRange"
LEASE_REVOKE = "/etcdserverpb.Lease/LeaseRevoke"
DEFRAGMENT = "/etcdserverpb.Maintenance/Defragment"
HASH = "/etcdserverpb.Maintenance/Hash"
HASH_KV = "/etcdserverpb.Maintenance/HashKV"
SNAPSHOT = "/etcdserverpb.Maintenance/Snapshot"

WINDOW = 64 << 20
CALLS_AT_ONCE = 500
PUTS_A_TXN = 100
# Long enough to grant them all, short enough that they expire while it is measured.
SHORT_TTL = 8
# So that the log is cut while it is measured: whenever the state was committed.
CUT_OFTEN = {"snapshot-count": "100", "snapshot-catchup-entries": "100"}
LONG_TTL = 3_600
LEASE = 7_777
BULK = KeySpace(10_000_000, prefix=b"kvbench-bulk/", size=25)


class Server:
    """One member, asked for unusual things. keys: what the store is filled with. bulk: how many of everything."""

    def __init__(self, endpoint: str, keys: KeySpace, bulk: int, value_size: int) -> None:
        options = ChannelOptions(connection_window=WINDOW, stream_window=WINDOW)
        self._channel = Channel(endpoint, options=options)
        self.keys = keys
        self.bulk = bulk
        self._value = requests.value_of(value_size, 1)

    async def close(self) -> None:
        await self._channel.close()

    async def call(self, method: str, request: bytes) -> bytes:
        return await self._channel.unary(method, request)

    async def revision(self) -> int:
        answer = await self.call(requests.RANGE, pb.RangeRequest(key=b"\0", limit=1).SerializeToString())
        return pb.RangeResponse.FromString(answer).header.revision

    async def in_order(self, method: str, encoded: Sequence[bytes]) -> None:
        """Make many calls, some hundred at a time."""
        for first in range(0, len(encoded), CALLS_AT_ONCE):
            for answer in [self._channel.unary(method, each) for each in encoded[first : first + CALLS_AT_ONCE]]:
                await answer

    async def put_bulk(self, lease: int) -> None:
        txns = []
        for first in range(0, self.bulk, PUTS_A_TXN):
            puts = [
                pb.RequestOp(request_put=pb.PutRequest(key=BULK.key(number), value=self._value, lease=lease))
                for number in range(first, min(first + PUTS_A_TXN, self.bulk))
            ]
            txns.append(pb.TxnRequest(success=puts).SerializeToString())
        await self.in_order(requests.TXN, txns)

    async def read_stream(self, method: str, request: bytes) -> int:
        """Read a stream to its end; its bytes."""
        stream = self._channel.stream(method)
        stream.write(request)
        stream.half_close()
        size = 0
        while (message := await stream.read()) is not EOF:
            size += len(message)
        return size

    async def watch_until(self, create: pb.WatchCreateRequest, watchers: int, revision: int) -> None:
        """Watch until every watcher has what happened up to a revision."""
        stream = self._channel.stream(requests.WATCH)
        encoded = pb.WatchRequest(create_request=create).SerializeToString()
        for _ in range(watchers):
            stream.write(encoded)
        behind = watchers
        while behind:
            response = pb.WatchResponse.FromString(await stream.read())
            # A response may be cut off at any revision, but never within one.
            if response.events and response.events[-1].kv.mod_revision >= revision:
                behind -= 1
        stream.cancel()


Step = Callable[[Server], Awaitable[object]]


async def _nothing(server: Server) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Disturbance:
    """One kind of work.

    prepare: done before, unseen. act: done while it is measured; again and again if it `repeats`. flags: what
    kvstored is started with for it, by name; other servers are not asked for it then.
    """

    name: str
    act: Step
    prepare: Step = _nothing
    repeats: bool = False
    flags: Mapping[str, str] = field(default_factory=dict)


async def _read_everything(server: Server) -> None:
    """Have the state in the system's cache after a start."""
    first = server.keys.key(0)
    while first:
        request = pb.RangeRequest(key=first, range_end=server.keys.end, limit=10_000)
        answer = pb.RangeResponse.FromString(await server.call(requests.RANGE, request.SerializeToString()))
        first = answer.kvs[-1].key + b"\0" if answer.more else b""


async def _compact(server: Server) -> None:
    request = pb.CompactionRequest(revision=await server.revision(), physical=True)
    await server.call(COMPACT, request.SerializeToString())


async def _defragment(server: Server) -> None:
    await server.call(DEFRAGMENT, b"")


async def _snapshot(server: Server) -> None:
    await server.read_stream(SNAPSHOT, b"")


async def _hash(server: Server) -> None:
    await server.call(HASH_KV, b"")


async def _large_ranges(server: Server) -> None:
    keys = server.keys
    start, end = keys.key(0), keys.end
    for request in (
        pb.RangeRequest(key=start, range_end=end, limit=10_000),
        pb.RangeRequest(key=start, range_end=end, count_only=True),
        pb.RangeRequest(key=start, range_end=end, limit=100_000, keys_only=True),
        pb.RangeRequest(key=start, range_end=end, limit=100_000),
        pb.RangeRequest(key=start, range_end=end, count_only=True, revision=await server.revision()),
    ):
        await server.call(requests.RANGE, request.SerializeToString())


async def _put_bulk(server: Server) -> None:
    await server.put_bulk(0)


async def _delete_bulk(server: Server) -> None:
    request = pb.DeleteRangeRequest(key=BULK.key(0), range_end=BULK.end)
    await server.call(DELETE_RANGE, request.SerializeToString())


async def _put_bulk_on_a_lease(server: Server) -> None:
    await server.call(requests.LEASE_GRANT, pb.LeaseGrantRequest(ID=LEASE, TTL=LONG_TTL).SerializeToString())
    await server.put_bulk(LEASE)


async def _revoke(server: Server) -> None:
    await server.call(LEASE_REVOKE, pb.LeaseRevokeRequest(ID=LEASE).SerializeToString())


async def _grant_short_leases(server: Server) -> None:
    grant = pb.LeaseGrantRequest(TTL=SHORT_TTL).SerializeToString()
    await server.in_order(requests.LEASE_GRANT, [grant] * server.bulk)


async def _read_everything_and_grant(server: Server) -> None:
    await _read_everything(server)
    await _grant_short_leases(server)


async def _compact_defragment_and_copy(server: Server) -> None:
    await asyncio.gather(_compact(server), _defragment(server), _snapshot(server))


async def _watch_history(server: Server) -> None:
    revision = await server.revision()
    create = pb.WatchCreateRequest(key=BULK.key(0), range_end=BULK.end, start_revision=max(2, revision - 20_000))
    marker = pb.PutRequest(key=BULK.key(0), value=b"end")
    answer = pb.PutResponse.FromString(await server.call(requests.PUT, marker.SerializeToString()))
    await server.watch_until(create, 100, answer.header.revision)


async def _open_watches(server: Server) -> None:
    marker = pb.PutRequest(key=b"kvbench-watched", value=b"1")
    answer = pb.PutResponse.FromString(await server.call(requests.PUT, marker.SerializeToString()))
    create = pb.WatchCreateRequest(key=b"kvbench-watched", start_revision=answer.header.revision)
    await server.watch_until(create, 10_000, answer.header.revision)


def table() -> tuple[Disturbance, ...]:
    """All of them; the first is none, to compare with, and the last what goes on in a busy member at any time:
    compaction, log truncation, defragmentation, snapshots and the expiry of leases.
    """
    return (
        Disturbance("nothing", _nothing),
        Disturbance("compaction", _compact, repeats=True),
        Disturbance("log truncation", _nothing, prepare=_read_everything, flags=CUT_OFTEN),
        Disturbance("defragmentation", _defragment, repeats=True),
        Disturbance("snapshot", _snapshot, repeats=True),
        Disturbance("hash", _hash, repeats=True),
        Disturbance("large ranges", _large_ranges, repeats=True),
        Disturbance("10,000 watches", _open_watches),
        Disturbance("watches from history", _watch_history, prepare=_put_bulk, repeats=True),
        Disturbance("deletion of a range", _delete_bulk, prepare=_put_bulk),
        Disturbance("revocation of a lease", _revoke, prepare=_put_bulk_on_a_lease),
        Disturbance("expiry of leases", _nothing, prepare=_grant_short_leases),
        Disturbance(
            "five at once",
            _compact_defragment_and_copy,
            prepare=_read_everything_and_grant,
            repeats=True,
            flags=CUT_OFTEN,
        ),
    )


async def act(disturbance: Disturbance, server: Server, until: Callable[[], bool], pause: float = 1.0) -> int:
    """Do it, once or until it is time to end, with a pause in seconds between two; how often it was done."""
    times = 0
    while not times or (disturbance.repeats and not until()):
        await disturbance.act(server)
        times += 1
        await asyncio.sleep(pause)
    return times
