"""Loads against a server in this process that speaks the methods a load calls, and no more."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from kvbench.latency import Latencies
from kvbench.load import Kind, Load, Result
from kvbench.main import program
from kvbench.pool import LoadFailed, Pool
from kvbench.report import to_json, to_text
from kvbench.unary import UnaryDriver
from kvstore.pb import kv_pb2
from kvstore.pb import rpc_pb2 as pb
from kvstore.pb.rpc_pb2_grpc import add_KVServicer_to_server, add_LeaseServicer_to_server, add_WatchServicer_to_server
from kvstore.rpc import EOF, Channel, RpcError, Server, StatusCode


class Fake:
    """Answers at once; counts what it is asked. stall: puts wait while it is set. refuse: puts fail so many times."""

    def __init__(self) -> None:
        self.keys: set[bytes] = set()
        self.ranges: list[pb.RangeRequest] = []
        self.transactions = 0
        self.stall: asyncio.Event | None = None
        self.refuse = 0
        self.watchers: list[tuple[Any, int]] = []
        self.kept_alive: set[int] = set()
        self.leases = 0

    def Put(self, request: pb.PutRequest, context: Any) -> Any:
        if self.refuse:
            self.refuse -= 1
            raise RpcError(StatusCode.RESOURCE_EXHAUSTED, "too many")
        self.keys.add(request.key)
        event = kv_pb2.Event(kv=kv_pb2.KeyValue(key=request.key, value=request.value))
        for watcher, watch_id in self.watchers:
            watcher.write(pb.WatchResponse(watch_id=watch_id, events=[event]))
        return self._answer(pb.PutResponse()) if self.stall is not None else pb.PutResponse()

    async def _answer(self, response: Any) -> Any:
        assert self.stall is not None
        await self.stall.wait()
        return response

    def Range(self, request: pb.RangeRequest, context: Any) -> pb.RangeResponse:
        self.ranges.append(request)
        return pb.RangeResponse(count=1)

    def Txn(self, request: pb.TxnRequest, context: Any) -> pb.TxnResponse:
        self.transactions += 1
        self.keys.update(operation.request_put.key for operation in request.success)
        return pb.TxnResponse(succeeded=True)

    async def Watch(self, requests: Any, context: Any) -> None:
        while (request := await context.read()) is not EOF:
            self.watchers.append((context, len(self.watchers)))
            assert request.create_request.key == b"kvbench/"
            context.write(pb.WatchResponse(created=True))

    def LeaseGrant(self, request: pb.LeaseGrantRequest, context: Any) -> pb.LeaseGrantResponse:
        self.leases += 1
        return pb.LeaseGrantResponse(ID=self.leases, TTL=request.TTL)

    async def LeaseKeepAlive(self, requests: Any, context: Any) -> None:
        while (request := await context.read()) is not EOF:
            self.kept_alive.add(request.ID)
            context.write(pb.LeaseKeepAliveResponse(ID=request.ID, TTL=10))

    def __getattr__(self, name: str) -> Any:
        # The registration code asks for every method of a service.
        if name[0].isupper():
            return lambda request, context: None
        raise AttributeError(name)


@pytest.fixture
def fake() -> Fake:
    return Fake()


@pytest.fixture
async def endpoint(fake: Fake) -> AsyncIterator[str]:
    server = Server()
    for add in (add_KVServicer_to_server, add_WatchServicer_to_server, add_LeaseServicer_to_server):
        add(fake, server)  # type: ignore[no-untyped-call]
    port = await server.listen("127.0.0.1", 0)
    yield f"127.0.0.1:{port}"
    await server.stop(grace=0)


async def run(load: Load, processes: int = 1) -> Result:
    """A load from worker processes, while the server goes on in this loop."""

    def work() -> Result:
        with Pool(processes) as pool:
            return pool.run(load)

    return await asyncio.to_thread(work)


async def test_a_total_is_made_exactly_and_in_order(fake: Fake, endpoint: str) -> None:
    load = Load(kind=Kind.PUT, endpoints=(endpoint,), connections=2, streams=3, keys=500, total=500, sequential=True)
    result = await run(load)
    assert result.operations == 500
    assert len(fake.keys) == 500
    assert result.latencies.summary().count == 500
    assert not result.errors
    assert result.elapsed > 0
    assert result.cpu > 0


async def test_several_processes_share_a_load(fake: Fake, endpoint: str) -> None:
    load = Load(kind=Kind.PUT, endpoints=(endpoint,), connections=3, streams=2, keys=301, total=301, sequential=True)
    result = await run(load, processes=2)
    assert (result.operations, result.processes) == (301, 2)
    assert len(fake.keys) == 301


async def test_a_duration_ends_a_load(endpoint: str) -> None:
    result = await run(Load(kind=Kind.GET, endpoints=(endpoint,), duration=0.3))
    assert result.operations > 0
    assert 0.1 < result.elapsed < 5


async def test_ranges_ask_for_what_was_wanted(fake: Fake, endpoint: str) -> None:
    await run(Load(kind=Kind.RANGE, endpoints=(endpoint,), total=5, limit=7, keys_only=True, serializable=True))
    assert len(fake.ranges) == 5
    assert {(r.limit, r.keys_only, r.serializable, r.range_end) for r in fake.ranges} == {(7, True, True, b"kvbench0")}


async def test_a_fill_puts_every_key(fake: Fake, endpoint: str) -> None:
    load = Load(kind=Kind.FILL, endpoints=(endpoint,), connections=2, streams=2, keys=1_050, batch=100)
    await run(load, processes=2)
    assert len(fake.keys) == 1_050
    assert fake.transactions == 11


async def test_errors_are_counted_by_code_and_do_not_end_the_load(fake: Fake, endpoint: str) -> None:
    fake.refuse = 3
    result = await run(Load(kind=Kind.PUT, endpoints=(endpoint,), total=10))
    assert result.errors == {"RESOURCE_EXHAUSTED: too many": 3}
    assert result.operations == 7
    assert "RESOURCE_EXHAUSTED: too many" in to_text(Load(kind=Kind.PUT, endpoints=(endpoint,)), result)


async def test_watchers_count_every_event(fake: Fake, endpoint: str) -> None:
    load = Load(kind=Kind.WATCH, endpoints=(endpoint,), total=200, watchers=20, watch_streams=4, keys=100)
    result = await run(load)
    assert result.operations == 200
    assert len(fake.watchers) == 20
    # The last events may still be on their way when the last put is answered.
    assert 20 * 150 < result.events <= 20 * 200
    assert result.event_latencies.summary().minimum >= 0


async def test_every_lease_is_kept_alive(fake: Fake, endpoint: str) -> None:
    load = Load(kind=Kind.LEASE, endpoints=(endpoint,), connections=2, leases=50, lease_streams=5, duration=0.5)
    result = await run(load)
    assert fake.kept_alive == set(range(1, 51))
    assert result.operations >= 50
    assert not result.errors


async def test_a_server_that_is_not_there_is_an_error() -> None:
    load = Load(kind=Kind.PUT, endpoints=("127.0.0.1:1",), total=1)
    with pytest.raises(LoadFailed, match=r"not connected to all of 127\.0\.0\.1:1"):
        await run(load)


class TestOpenLoop:
    async def test_a_stall_is_charged_to_every_call_it_held_up(self, fake: Fake, endpoint: str) -> None:
        fake.stall = asyncio.Event()
        channel = Channel(endpoint)
        await channel.ready()
        result = Result(latencies=Latencies())
        driver = UnaryDriver(
            [channel], 1, lambda: ("/etcdserverpb.KV/Put", b"\x0a\x01k"), total=100, timeout=None, result=result
        )
        loop = asyncio.get_running_loop()
        loop.call_later(0.4, fake.stall.set)
        driver.start_open(1_000.0)
        await asyncio.wait_for(driver.done, 20)
        assert result.operations == 100
        # Due within the first 100 ms, none answered before 400: even the last one waited for 300 ms.
        assert result.latencies.summary().minimum >= 290
        await channel.close()

    async def test_a_closed_loop_would_charge_only_those_under_way(self, fake: Fake, endpoint: str) -> None:
        fake.stall = asyncio.Event()
        channel = Channel(endpoint)
        await channel.ready()
        result = Result(latencies=Latencies())
        driver = UnaryDriver(
            [channel], 1, lambda: ("/etcdserverpb.KV/Put", b"\x0a\x01k"), total=100, timeout=None, result=result
        )
        asyncio.get_running_loop().call_later(0.3, fake.stall.set)
        driver.start_closed()
        await asyncio.wait_for(driver.done, 20)
        summary = result.latencies.summary()
        assert summary.maximum >= 290
        assert summary.quantiles[0.9] < 290
        assert result.longest_gap >= 0.29
        await channel.close()

    async def test_the_rate_is_kept(self, endpoint: str) -> None:
        result = await run(Load(kind=Kind.PUT, endpoints=(endpoint,), streams=8, total=200, rate=400.0))
        assert result.operations == 200
        # The last call is due at 199/400 s.
        assert result.elapsed >= 0.49


class TestCommandLine:
    async def test_a_load_prints_a_summary_and_writes_json(self, endpoint: str, tmp_path: Path) -> None:
        file = tmp_path / "result.json"
        arguments = ["put", "--endpoints", f"http://{endpoint}", "--total", "50", "--keys", "10", "--json", str(file)]
        done = await asyncio.to_thread(CliRunner().invoke, program, arguments)
        assert done.exit_code == 0, done.output
        assert "50 answered" in done.output
        assert "errors: none" in done.output
        report = json.loads(file.read_text())
        assert report["operations"] == 50
        assert report["latency_ms"]["count"] == 50
        assert report["load"]["kind"] == "put"

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (["put", "--key-size", "9"], "need a key size of"),
            (["put", "--duration", "soon"], "is not a duration"),
            (["put", "--processes", "many"], "neither auto nor a positive number"),
            (["get", "--connections", "0"], "x>=1"),
        ],
    )
    def test_nonsense_is_refused_in_words(self, arguments: list[str], said: str) -> None:
        done = CliRunner().invoke(program, arguments)
        assert done.exit_code == 2
        assert said in done.output


def test_json_without_answers_has_no_latencies() -> None:
    report = to_json(Load(kind=Kind.PUT, endpoints=("x:1",)), Result())
    assert report["latency_ms"] is None
    assert report["operations_per_second"] == 0.0
