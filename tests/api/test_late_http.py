"""The HTTP side that is loaded late, over real sockets."""

import asyncio
import subprocess
import sys

import pytest
import structlog

from kvstore.api.http import HttpOptions, HttpServer, http_app
from kvstore.api.late_http import LateHttp
from kvstore.server.metrics import Metrics
from kvstore.server.metrics.export import collector_registry
from tests.api.test_http import Member

REQUEST = b"GET /version HTTP/1.1\r\nHost: here\r\n\r\n"


def make_server() -> HttpServer:
    metrics = Metrics()
    return HttpServer(http_app(Member(), metrics, collector_registry(metrics), structlog.get_logger(), HttpOptions()))


async def test_a_request_that_comes_before_the_server_is_loaded_is_answered_once_it_is() -> None:
    loop = asyncio.get_running_loop()
    http = LateHttp(make_server)
    listener = await loop.create_server(http.protocol, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*listener.sockets[0].getsockname())
    # In two parts: the first reaches whoever waits, the second whoever it was handed to.
    writer.write(REQUEST[:10])
    await asyncio.sleep(0)
    writer.write(REQUEST[10:])
    async with asyncio.timeout(20):
        assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
        again_reader, again_writer = await asyncio.open_connection(*listener.sockets[0].getsockname())
        again_writer.write(REQUEST)
        assert await again_reader.readline() == b"HTTP/1.1 200 OK\r\n"
    writer.close()
    again_writer.close()
    listener.close()
    await http.stop()


async def test_a_connection_that_ends_before_the_server_is_loaded_is_forgotten() -> None:
    loop = asyncio.get_running_loop()
    http = LateHttp(make_server)
    listener = await loop.create_server(http.protocol, "127.0.0.1", 0)
    _, writer = await asyncio.open_connection(*listener.sockets[0].getsockname())
    writer.transport.abort()
    async with asyncio.timeout(20):
        reader, other = await asyncio.open_connection(*listener.sockets[0].getsockname())
        other.write(REQUEST)
        assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
    other.close()
    listener.close()
    await http.stop()


async def test_stopping_waits_for_what_is_being_loaded() -> None:
    made: list[HttpServer] = []

    def make() -> HttpServer:
        made.append(make_server())
        return made[0]

    http = LateHttp(make)
    http.load()
    await http.stop()
    assert len(made) == 1
    with pytest.raises(RuntimeError, match="not running"):
        made[0].protocol()


def test_a_member_that_starts_imports_neither_the_http_server_nor_what_publishes_metrics() -> None:
    code = "import sys, kvstored.main, kvstore.api.serve; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = set(done.stdout.split())
    assert "kvstore.server.start" in modules
    assert not modules & {"aiohttp", "prometheus_client", "yaml", "kvstored.help"}
