"""Probes, scrapers and scripts find at a member's HTTP side what they know from etcd."""

import asyncio
import gzip
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
import structlog
from aiohttp import ClientSession
from aiohttp.test_utils import TestClient, TestServer

from kvstore import errors
from kvstore.api.http import HttpOptions, HttpServer, http_app
from kvstore.server.config import Url
from kvstore.server.metrics import Metrics
from kvstore.server.metrics.export import collector_registry

VERSIONS = {"etcdserver": "3.6.0", "etcdcluster": "3.6.0", "storage": "3.6.0"}


class Member:
    """A member whose health is what the test says."""

    def __init__(self) -> None:
        self.raised: list[str] = []
        self.leader = True
        self.learner = False
        self.failures: dict[bool, BaseException] = {}
        self.stuck = False

    def alarms(self) -> list[str]:
        return self.raised

    def has_leader(self) -> bool:
        return self.leader

    def is_learner(self) -> bool:
        return self.learner

    async def read(self, *, serializable: bool) -> None:
        if self.stuck:
            await asyncio.Event().wait()
        if serializable in self.failures:
            raise self.failures[serializable]

    def versions(self) -> Mapping[str, str]:
        return VERSIONS


@pytest.fixture
def member() -> Member:
    return Member()


@pytest.fixture
async def client(member: Member) -> AsyncIterator[TestClient[Any, Any]]:
    metrics = Metrics()
    logger = structlog.get_logger(processors=[structlog.processors.LogfmtRenderer()])
    app = http_app(member, metrics, collector_registry(metrics), logger, HttpOptions(read_timeout=0.05))
    async with TestClient(TestServer(app), auto_decompress=False) as client:
        yield client


async def get(client: TestClient[Any, Any], path: str) -> tuple[int, str]:
    async with client.get(path, headers={"Accept-Encoding": "identity"}) as response:
        return response.status, await response.text()


async def test_a_healthy_member_says_so(client: TestClient[Any, Any]) -> None:
    async with client.get("/health") as response:
        assert response.status == 200
        assert await response.text() == '{"health":"true","reason":""}'
        assert response.headers["Content-Type"] == "text/plain; charset=utf-8"
        assert response.headers["Access-Control-Allow-Origin"] == "*"


@pytest.mark.parametrize("alarm", ["NOSPACE", "CORRUPT"])
async def test_an_alarm_is_unhealthy_unless_excluded(client: TestClient[Any, Any], member: Member, alarm: str) -> None:
    member.raised = [alarm]
    assert await get(client, "/health") == (503, f'{{"health":"false","reason":"ALARM {alarm}"}}\n')
    assert (await get(client, f"/health?exclude={alarm}"))[0] == 200
    assert (await get(client, "/health?exclude=NOSPACE&exclude=CORRUPT"))[0] == 200
    assert (await get(client, "/health?exclude="))[0] == 503


async def test_without_a_leader_only_the_member_itself_is_healthy(client: TestClient[Any, Any], member: Member) -> None:
    member.leader = False
    assert await get(client, "/health") == (503, '{"health":"false","reason":"RAFT NO LEADER"}\n')
    assert (await get(client, "/health?serializable=true"))[0] == 200


async def test_a_failed_read_is_unhealthy_and_named(client: TestClient[Any, Any], member: Member) -> None:
    member.failures[False] = errors.RequestTimeout()
    assert await get(client, "/health") == (
        503,
        '{"health":"false","reason":"RANGE ERROR:etcdserver: request timed out"}\n',
    )
    assert (await get(client, "/health?serializable=true"))[0] == 200
    member.failures[True] = RuntimeError("torn page")
    assert "RuntimeError: torn page" in (await get(client, "/health?serializable=true"))[1]


async def test_a_read_that_hangs_is_given_up(client: TestClient[Any, Any], member: Member) -> None:
    member.stuck = True
    assert await get(client, "/livez") == (503, "[-]serializable_read failed: context deadline exceeded\n\n")


async def test_livez_asks_only_for_a_local_read(client: TestClient[Any, Any], member: Member) -> None:
    member.raised, member.leader = ["CORRUPT", "NOSPACE"], False
    member.failures[False] = errors.NoLeader()
    assert await get(client, "/livez") == (200, "ok\n")
    assert await get(client, "/livez?verbose") == (200, "[+]serializable_read ok\nok\n")
    assert await get(client, "/livez/serializable_read") == (200, "ok\n")
    assert (await get(client, "/livez/linearizable_read"))[0] == 404


async def test_readyz_lists_its_checks(client: TestClient[Any, Any]) -> None:
    assert await get(client, "/readyz") == (200, "ok\n")
    assert await get(client, "/readyz?verbose") == (
        200,
        "[+]data_corruption ok\n[+]serializable_read ok\n[+]linearizable_read ok\n[+]non_learner ok\nok\n",
    )


async def test_readyz_names_what_failed_and_each_check_has_its_path(
    client: TestClient[Any, Any], member: Member
) -> None:
    member.raised = ["CORRUPT"]
    member.learner = True
    member.failures[False] = errors.LeaderChanged()
    assert await get(client, "/readyz") == (
        503,
        "[-]data_corruption failed: alarm activated: CORRUPT\n"
        "[+]serializable_read ok\n"
        "[-]linearizable_read failed: etcdserver: leader changed\n"
        "[-]non_learner failed: this member is a learner\n\n",
    )
    assert await get(client, "/readyz?exclude=data_corruption&exclude=linearizable_read&exclude=non_learner") == (
        200,
        "ok\n",
    )
    assert (await get(client, "/readyz/linearizable_read"))[0] == 503
    assert (await get(client, "/readyz/serializable_read"))[0] == 200


async def test_a_full_disk_does_not_make_a_member_unready(client: TestClient[Any, Any], member: Member) -> None:
    member.raised = ["NOSPACE"]
    assert (await get(client, "/readyz?exclude=a_check_of_the_future"))[0] == 200


async def test_version(client: TestClient[Any, Any]) -> None:
    async with client.get("/version") as response:
        assert await response.text() == '{"etcdserver":"3.6.0","etcdcluster":"3.6.0","storage":"3.6.0"}'
        assert response.content_type == "application/json"


async def test_checks_are_counted(client: TestClient[Any, Any], member: Member) -> None:
    await get(client, "/health")
    member.leader = False
    await get(client, "/health")
    await get(client, "/readyz")
    member.learner = True
    await get(client, "/readyz")
    text = (await get(client, "/metrics"))[1]
    for line in (
        "etcd_server_health_success 1",
        "etcd_server_health_failures 1",
        'etcd_server_healthcheck{name="non_learner",type="readyz"} 0',
        'etcd_server_healthcheck{name="linearizable_read",type="readyz"} 1',
        'etcd_server_healthchecks_total{name="non_learner",status="success",type="readyz"} 1',
        'etcd_server_healthchecks_total{name="non_learner",status="error",type="readyz"} 1',
    ):
        assert f"\n{line}\n" in text


async def test_metrics_come_in_the_format_and_coding_asked_for(client: TestClient[Any, Any]) -> None:
    async with client.get("/metrics", headers={"Accept-Encoding": "identity"}) as response:
        assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert (await response.text()).startswith("# HELP ")
    async with client.get(
        "/metrics", headers={"Accept": "application/openmetrics-text;version=1.0.0", "Accept-Encoding": "gzip"}
    ) as response:
        assert response.headers["Content-Type"].startswith("application/openmetrics-text")
        assert response.headers["Content-Encoding"] == "gzip"
        assert gzip.decompress(await response.read()).endswith(b"# EOF\n")


@pytest.mark.parametrize("path", ["/health", "/livez", "/readyz", "/version", "/metrics"])
async def test_only_get_is_served(client: TestClient[Any, Any], path: str) -> None:
    async with client.post(path) as response:
        assert (response.status, await response.text()) == (405, "Method Not Allowed\n")
        assert response.headers["Allow"] == "GET"
    async with client.options(path) as response:
        assert response.status == 200


async def test_serves_on_listeners_of_its_own_and_on_connections_handed_over(member: Member) -> None:
    metrics = Metrics()
    app = http_app(member, metrics, collector_registry(metrics), structlog.get_logger(), HttpOptions())
    server = HttpServer(app)
    with pytest.raises(RuntimeError, match="not running"):
        server.protocol()
    await server.start([Url.parse("http://127.0.0.1:0")])
    other = await asyncio.get_running_loop().create_server(server.protocol, "127.0.0.1", 0)
    try:
        async with ClientSession() as session:
            for address in (*server.addresses, other.sockets[0].getsockname()):
                async with session.get(f"http://{address[0]}:{address[1]}/version") as response:
                    assert await response.json() == VERSIONS
    finally:
        other.close()
        await server.stop()
    with pytest.raises(RuntimeError, match="not running"):
        server.protocol()


async def test_what_is_no_http_is_answered_and_not_logged(member: Member, caplog: pytest.LogCaptureFixture) -> None:
    metrics = Metrics()
    server = HttpServer(http_app(member, metrics, collector_registry(metrics), structlog.get_logger(), HttpOptions()))
    await server.start([Url("http", "127.0.0.1", 0)])
    reader, writer = await asyncio.open_connection(*server.addresses[0])
    writer.write(b"GET / HTTP/1.1\r\nbad header\r\n\r\n")
    answer = await asyncio.wait_for(reader.read(1000), 10)
    writer.close()
    await server.stop()
    assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.0 400 "))
    assert caplog.records == []
