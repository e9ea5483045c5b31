"""What members publish moves with what they do: one alone behind each gRPC server, and two that exchange a snapshot."""

from __future__ import annotations

import asyncio
import re
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
import structlog
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs

from kvstore.api.serve import serve
from kvstore.errors import LearnerNotReady
from kvstore.mvcc.puts import for_the_log
from kvstore.pb import peer_pb2, rpc_pb2_grpc
from kvstore.pb import rpc_pb2 as pb
from kvstore.peer.identity import Caller
from kvstore.rpc import Channel, RpcError
from kvstore.server.config import Config, GrpcServer, Url
from kvstore.server.metrics import Metrics
from kvstore.server.metrics.export import collector_registry, exposition
from kvstore.server.start import RunningMember, start_member
from tests.server.test_metrics import ETCD_NAMES, MEANINGLESS_HERE

SECONDS = 30.0
VERSION = (("client-api-version", "3.6"),)

NEEDS_PEERS = {
    "etcd_network_active_peers",
    "etcd_network_disconnected_peers_total",
    "etcd_network_known_peers",
    "etcd_network_peer_received_bytes_total",
    "etcd_network_peer_received_failures_total",
    "etcd_network_peer_round_trip_time_seconds",
    "etcd_network_peer_sent_bytes_total",
    "etcd_network_peer_sent_failures_total",
    "etcd_network_snapshot_receive_failures",
    "etcd_network_snapshot_receive_inflights_total",
    "etcd_network_snapshot_receive_success",
    "etcd_network_snapshot_receive_total_duration_seconds",
    "etcd_network_snapshot_send_failures",
    "etcd_network_snapshot_send_inflights_total",
    "etcd_network_snapshot_send_success",
    "etcd_network_snapshot_send_total_duration_seconds",
    "etcd_server_heartbeat_send_failures_total",
    "etcd_server_is_learner",
    "etcd_server_learner_promote_successes",
    "etcd_snap_db_fsync_duration_seconds",
    "etcd_snap_db_save_total_duration_seconds",
}
STILL_ZERO = {
    # What must not happen to a healthy member of one that has nothing under way when it is scraped.
    "etcd_debugging_mvcc_pending_events_total",
    "etcd_debugging_mvcc_slow_watcher_total",
    "etcd_disk_defrag_inflight",
    "etcd_server_health_failures",
    "etcd_server_proposals_failed_total",
    "etcd_server_proposals_pending",
    "etcd_server_read_indexes_failed_total",
    "etcd_server_slow_read_indexes_total",
    "etcd_server_snapshot_apply_in_progress_total",
}


def free_url() -> Url:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return Url("http", "127.0.0.1", taken.getsockname()[1])


def sums(text: str) -> dict[str, float]:
    """The sum over all labels of each metric's value, of a histogram its number of observations."""
    found: dict[str, float] = {}
    declared = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
    for name, kind in declared.items():
        raw = f"{name}_count" if kind == "histogram" else name
        values = re.findall(rf"^{raw}(?:{{.*}})? (\S+)$", text, re.MULTILINE)
        if values:
            found[name] = sum(map(float, values))
    return found


async def get(url: Url, path: str) -> str:
    async with aiohttp.ClientSession() as session, session.get(f"{url}{path}") as response:
        return await response.text()


async def eventually(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.01)


class Served:
    """serve() in a task, for a member of one whose every threshold is passed, and clients of it."""

    def __init__(self, directory: Path, server: GrpcServer) -> None:
        peer, self.url = free_url(), free_url()
        config = Config(
            name="m1",
            data_dir=directory,
            listen_peer_urls=(peer,),
            initial_advertise_peer_urls=(peer,),
            listen_client_urls=(self.url,),
            advertise_client_urls=(self.url,),
            heartbeat_interval=10,
            election_timeout=100,
            grpc_server=server,
            metrics="extensive",
            warning_apply_duration=1e-9,
            warning_unary_request_duration=1e-9,
        )
        self._stop, self.ready = asyncio.Event(), asyncio.Event()
        self.task = asyncio.ensure_future(serve(config, structlog.get_logger(), self._stop, self.ready.set))
        # Its stubs want arguments that it does not.
        self.channel: Any = grpc.aio.insecure_channel(self.url.address)
        stubs: Any = rpc_pb2_grpc  # generated code has no types
        self.kv = stubs.KVStub(self.channel)
        self.lease = stubs.LeaseStub(self.channel)
        self.watch = stubs.WatchStub(self.channel)
        self.cluster = stubs.ClusterStub(self.channel)
        self.maintenance = stubs.MaintenanceStub(self.channel)

    async def stop(self) -> None:
        await self.channel.close()
        self._stop.set()
        await self.task

    async def work(self) -> None:
        """Something of everything that a client can ask for."""
        watching = self.watch.Watch()
        await watching.write(pb.WatchRequest(create_request=pb.WatchCreateRequest(key=b"k")))
        assert (await watching.read()).created
        for _ in range(3):
            await self.kv.Put(pb.PutRequest(key=b"k", value=b"v"), metadata=VERSION)
        assert (await watching.read()).events
        await self.kv.Range(pb.RangeRequest(key=b"k"))
        put = pb.RequestOp(request_put=pb.PutRequest(key=b"t"))
        await self.kv.Txn(pb.TxnRequest(success=[put]))
        deleted = await self.kv.DeleteRange(pb.DeleteRangeRequest(key=b"t"))
        with pytest.raises(grpc.RpcError):
            await self.kv.Put(pb.PutRequest(key=b"k", ignore_value=True, lease=99))
        await self.kv.Compact(pb.CompactionRequest(revision=deleted.header.revision, physical=True))
        await self._leases()
        await self.maintenance.Hash(pb.HashRequest())
        await self.maintenance.HashKV(pb.HashKVRequest())
        await self.maintenance.Defragment(pb.DefragmentRequest())
        assert [chunk async for chunk in self.maintenance.Snapshot(pb.SnapshotRequest())]
        with pytest.raises(grpc.RpcError):
            await self.cluster.MemberPromote(pb.MemberPromoteRequest(ID=1))
        alarm = pb.AlarmRequest(action=pb.AlarmRequest.ACTIVATE, alarm=pb.AlarmType.CORRUPT, memberID=1)
        await self.maintenance.Alarm(alarm)
        broken = self.channel.stream_stream("/etcdserverpb.Watch/Watch")()
        await broken.write(b"\xff")
        with pytest.raises(grpc.RpcError):
            await broken.read()
        await get(self.url, "/livez")
        await get(self.url, "/health?exclude=CORRUPT")

    async def _leases(self) -> None:
        await self.lease.LeaseGrant(pb.LeaseGrantRequest(ID=5, TTL=100))
        alive = self.lease.LeaseKeepAlive()
        await alive.write(pb.LeaseKeepAliveRequest(ID=5))
        assert (await alive.read()).TTL == 100
        await alive.done_writing()
        await self.lease.LeaseRevoke(pb.LeaseRevokeRequest(ID=5))
        await self.lease.LeaseGrant(pb.LeaseGrantRequest(ID=6, TTL=1))
        expired = pb.LeaseTimeToLiveRequest(ID=6)
        deadline = time.monotonic() + SECONDS
        while (await self.lease.LeaseTimeToLive(expired)).TTL != -1:
            assert time.monotonic() < deadline, "the lease did not expire"
            await asyncio.sleep(0.05)


@pytest.fixture(scope="module", params=["ngh2", "grpcio"])
def scraped(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[Any]]:
    """/metrics after something of everything, and what was logged on the way."""

    async def run() -> str:
        served = Served(tmp_path_factory.mktemp("member"), request.param)
        async with asyncio.timeout(2 * SECONDS):
            await served.ready.wait()
            await served.work()
            # The duration of a watch is known once it has ended; the one that was broken has.
            text = await get(served.url, "/metrics")
            await served.stop()
        return text

    with capture_logs() as logs:
        return asyncio.run(run()), list(logs)


Scraped = tuple[str, list[Any]]


def test_a_member_alone_publishes_and_moves_every_metric_that_needs_no_peers(scraped: Scraped) -> None:
    moved = sums(scraped[0])
    expected = {line.split()[0] for line in ETCD_NAMES} - MEANINGLESS_HERE - NEEDS_PEERS
    assert expected - moved.keys() == set()
    assert {name for name in expected if not moved[name]} == STILL_ZERO


def test_applies_are_timed_by_operation_and_outcome(scraped: Scraped) -> None:
    name = "etcd_server_apply_duration_seconds_count"
    found = dict(re.findall(rf"^{name}({{.*}}) (\S+)$", scraped[0], re.MULTILINE))
    assert found['{op="Put",success="true",version="v3"}'] == "3"
    assert found['{op="Put",success="false",version="v3"}'] == "1"
    operations = {"Txn", "DeleteRange", "Compaction", "LeaseGrant", "LeaseRevoke", "Alarm", "ClusterMemberAttrSet"}
    assert operations <= {labels.split('"')[1] for labels in found}


def test_calls_are_timed_and_told_apart_by_the_version_of_their_client(scraped: Scraped) -> None:
    text = scraped[0]
    for line in (
        'grpc_server_handling_seconds_count{grpc_method="Put",grpc_service="etcdserverpb.KV",grpc_type="unary"} 4',
        'etcd_server_request_duration_seconds_count{success="true",type="Put"} 3',
        'etcd_server_request_duration_seconds_count{success="false",type="Put"} 1',
        'etcd_server_client_requests_total{client_api_version="3.6",type="unary"} 3',
        'etcd_network_server_stream_failures_total{API="watch",Type="receive"} 1',
        'etcd_network_server_stream_failures_total{API="lease-keepalive",Type="receive"} 0',
    ):
        assert f"\n{line}\n" in text
    assert 'etcd_server_client_requests_total{client_api_version="unknown",type="stream"} ' in text


def test_values_are_numbers_and_labels_in_the_order_of_go(scraped: Scraped) -> None:
    for line in scraped[0].splitlines():
        if line.startswith("#"):
            continue
        labels, value = re.fullmatch(r"[a-z_0-9]+(?:{(.*)})? (\S+)", line).groups()  # type: ignore[union-attr]
        float(value)
        names = re.findall(r'([A-Za-z_]+)="', labels or "")
        assert names == sorted(names, key=lambda name: (name == "le", name)), line
    assert list(text_string_to_metric_families(scraped[0]))


def test_slow_applies_and_slow_calls_are_warned_of(scraped: Scraped) -> None:
    logs = [entry for entry in scraped[1] if entry["log_level"] == "warning"]
    applies = [entry for entry in logs if entry["event"] == "apply took too long"]
    assert len(applies) == sums(scraped[0])["etcd_server_slow_apply_total"]
    assert {"put": 1} in [entry["requests"] for entry in applies]
    calls = [entry for entry in logs if entry["event"] == "request took too long"]
    first = next(entry for entry in calls if entry["method"] == "/etcdserverpb.KV/Put")
    assert (first["code"], first["unreported"]) == ("OK", 0)
    # Behind the listener that shares its port with HTTP, grpcio's server sees a socket of this machine.
    assert first["remote"].startswith(("ipv4:127.0.0.1:", "unix:"))
    assert not [entry for entry in calls if entry["method"].endswith("/Watch")]


# Peers


def config(directory: Path, name: str, url: Url, **fields: Any) -> Config:
    return Config(
        name=name,
        data_dir=directory / name,
        listen_peer_urls=(url,),
        initial_advertise_peer_urls=(url,),
        snapshot_count=1,
        snapshot_catchup_entries=0,
        **fields,
    )


class Pair:
    """A leader that has cut its log, and a learner that was sent a copy of the state."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.urls = free_url(), free_url()
        self.metrics = Metrics(), Metrics()
        self.members: list[RunningMember] = []

    async def start(self) -> None:
        first = config(self._directory, "m1", self.urls[0])
        self.members.append(leader := await start_member(first, self.metrics[0]))
        await leader.lifecycle.publish()
        for number in range(3):
            await leader.member.put(for_the_log(pb.PutRequest(key=b"%d" % number)))
        wal = leader.member.state.wal
        await eventually(lambda: wal.first_index() > 1, "the log was not cut")
        await leader.member.member_add([str(self.urls[1])], is_learner=True)
        initial = {"m1": (self.urls[0],), "m2": (self.urls[1],)}
        second = config(self._directory, "m2", self.urls[1], initial_cluster_state="existing", initial_cluster=initial)
        self.members.append(learner := await start_member(second, self.metrics[1]))
        await eventually(lambda: learner.member.store.keys == 3, "the learner has not got the state")

    async def stop(self) -> None:
        for member in reversed(self.members):
            await member.stop()

    def read(self, member: int) -> dict[str, float]:
        text, _ = exposition(collector_registry(self.metrics[member]), "")
        return sums(text.decode())


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    pair = Pair(tmp_path)
    async with asyncio.timeout(2 * SECONDS):
        await pair.start()
        yield pair
        await pair.stop()


async def test_members_publish_what_they_exchange(pair: Pair) -> None:
    leader, learner = pair.members
    assert pair.read(1)["etcd_server_is_learner"] == 1
    for member in (0, 1):
        await eventually(
            lambda member=member: pair.read(member).get("etcd_network_peer_round_trip_time_seconds", 0) > 0,  # type: ignore[misc]
            "no round trip was measured",
        )
    sent, received = pair.read(0), pair.read(1)
    for name in (
        "etcd_network_snapshot_send_success",
        "etcd_network_snapshot_send_total_duration_seconds",
        "etcd_disk_backend_snapshot_duration_seconds",
        "etcd_network_active_peers",
        "etcd_network_known_peers",
        "etcd_network_peer_sent_bytes_total",
        "etcd_network_peer_received_bytes_total",
    ):
        assert sent[name] > 0, name
    assert sent["etcd_network_snapshot_send_inflights_total"] == 0
    for name in (
        "etcd_network_snapshot_receive_success",
        "etcd_network_snapshot_receive_total_duration_seconds",
        "etcd_snap_db_fsync_duration_seconds",
        "etcd_snap_db_save_total_duration_seconds",
    ):
        assert received[name] == sent["etcd_network_snapshot_send_success"], name
    assert received["etcd_network_snapshot_receive_inflights_total"] == 0
    assert received["etcd_network_snapshot_receive_failures"] == 0
    async with asyncio.timeout(SECONDS):
        while pair.read(0)["etcd_server_learner_promote_successes"] == 0:
            with suppress(LearnerNotReady):
                await leader.member.member_promote(learner.member.id)
            await asyncio.sleep(0.01)
    assert pair.read(0)["etcd_server_learner_promote_successes"] == 1


async def test_what_goes_wrong_between_members_is_counted(pair: Pair) -> None:
    leader, learner = pair.members
    caller = Caller(leader.member.cluster_id, learner.member.id, leader.member.id)
    channel = Channel(pair.urls[0].address)
    unreadable = peer_pb2.MessageBatch(messages=[peer_pb2.RaftMessage(type=250)]).SerializeToString()
    for method, message in (("Messages", unreadable), ("SendSnapshot", peer_pb2.SnapshotChunk().SerializeToString())):
        stream = channel.stream(f"/kvstorepb.Peer/{method}", metadata=caller.metadata())
        stream.write(message)
        with pytest.raises(RpcError):
            await stream.read()
    await channel.close()
    found = pair.read(0)
    assert found["etcd_network_peer_received_failures_total"] == 1
    assert found["etcd_network_snapshot_receive_failures"] == 1
    assert found["etcd_network_snapshot_receive_success"] == 0
    # A busy machine has made some late already.
    late = pair.read(0)["etcd_server_heartbeat_send_failures_total"]
    # Longer than two heartbeats of 100 ms, so that the next one is late.
    time.sleep(0.3)  # noqa: ASYNC251
    await eventually(lambda: pair.read(0)["etcd_server_heartbeat_send_failures_total"] > late, "no heartbeat was late")
