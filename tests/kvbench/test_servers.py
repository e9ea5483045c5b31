"""The servers that are measured."""

from __future__ import annotations

import asyncio
from pathlib import Path

from kvbench.servers import Cluster, kvstored
from kvstore.pb.rpc_pb2 import StatusRequest, StatusResponse
from kvstore.rpc import Channel


async def status(endpoint: str) -> StatusResponse:
    channel = Channel(endpoint)
    try:
        request = StatusRequest().SerializeToString()
        return StatusResponse.FromString(await channel.unary("/etcdserverpb.Maintenance/Status", request, timeout=10))
    finally:
        await channel.close()


def test_a_load_of_one_connection_goes_through_a_follower(tmp_path: Path) -> None:
    with Cluster(kvstored(), 3, tmp_path) as cluster:
        *others, last = [asyncio.run(status(endpoint)) for endpoint in cluster.endpoints]
        assert last.leader == last.header.member_id
        assert len({each.header.member_id for each in (*others, last)}) == 3
        # Whoever leads, and not the third by chance.
        for endpoint in cluster.endpoints:
            cluster._leader = endpoint
            assert cluster.endpoints[-1] == endpoint
