"""What happens to connections between a client and grpcio's server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

import pytest

from kvstore.api.front import Front
from kvstore.rpc.h2 import PREFACE
from kvstore.server.config import Url
from tests.api.harness import DEADLINE, until

ANY = Url("http", "127.0.0.1", 0)
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Http1(asyncio.Protocol):
    """Answers everything with what it got."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.transport.write(b"http1 " + data)


class Behind:
    """A front, and a server behind it that only notes its connections."""

    def __init__(self) -> None:
        self.front = Front(Http1)
        self.greeting = b""
        self.connections: asyncio.Queue[Streams] = asyncio.Queue()
        self.url = ANY
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        async def arrived(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(self.greeting)
            await self.connections.put((reader, writer))

        self._server = await asyncio.start_unix_server(arrived, self.front.socket)
        (self.url,) = await self.front.open([ANY], reuse_port=False)

    async def connect(self, first: bytes) -> Streams:
        reader, writer = await asyncio.open_connection(self.url.host, self.url.port)
        writer.write(first)
        return reader, writer

    async def accepted(self) -> Streams:
        async with asyncio.timeout(DEADLINE):
            return await self.connections.get()

    def close(self) -> None:
        if self._server is not None:
            self._server.close()
        self.front.close()


@pytest.fixture
async def behind() -> AsyncIterator[Behind]:
    behind = Behind()
    await behind.open()
    yield behind
    behind.close()


async def test_http2_is_passed_on_whole_and_both_ways(behind: Behind) -> None:
    reader, writer = await behind.connect(PREFACE + b"frames")
    server_reader, server_writer = await behind.accepted()
    assert await server_reader.readexactly(len(PREFACE) + 6) == PREFACE + b"frames"
    server_writer.write(b"answer")
    assert await reader.readexactly(6) == b"answer"
    writer.write(b"more")
    assert await server_reader.readexactly(4) == b"more"
    writer.close()
    server_writer.close()


async def test_a_server_that_speaks_first_is_heard(behind: Behind) -> None:
    behind.greeting = b"settings"
    for _ in range(20):
        reader, writer = await behind.connect(PREFACE)
        assert await reader.readexactly(8) == b"settings"
        writer.close()


async def test_a_preface_may_come_in_pieces(behind: Behind) -> None:
    _, writer = await behind.connect(PREFACE[:5])
    # By the time another connection is answered, the first piece has been looked at.
    other_reader, other = await behind.connect(b"GET")
    await other_reader.readexactly(9)
    other.close()
    writer.write(PREFACE[5:])
    server_reader, server_writer = await behind.accepted()
    assert await server_reader.readexactly(len(PREFACE)) == PREFACE
    writer.close()
    server_writer.close()


async def test_anything_else_is_handed_to_http1(behind: Behind) -> None:
    reader, writer = await behind.connect(b"GET / HTTP/1.1\r\n")
    assert await reader.readexactly(22) == b"http1 GET / HTTP/1.1\r\n"
    assert behind.connections.empty()
    writer.close()


async def test_the_end_of_either_side_ends_the_other(behind: Behind) -> None:
    reader, writer = await behind.connect(PREFACE)
    _, server_writer = await behind.accepted()
    server_writer.close()
    assert await reader.read() == b""
    _, other = await behind.connect(PREFACE)
    server_reader, _ = await behind.accepted()
    other.close()
    assert await server_reader.read() == PREFACE
    writer.close()


async def test_a_reader_that_stops_stops_the_sender(behind: Behind) -> None:
    reader, writer = await behind.connect(PREFACE)
    _, server_writer = await behind.accepted()
    sent = 0
    chunk = bytes(1 << 20)

    async def send_for_ever() -> None:
        nonlocal sent
        while True:
            server_writer.write(chunk)
            await server_writer.drain()
            sent += len(chunk)

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(send_for_ever(), 0.5)
    # What fits into the buffers of sockets and transports, and no more.
    assert sent < 32 << 20
    received = 0
    while received < sent:
        received += len(await reader.read(1 << 20))
    writer.close()
    server_writer.close()


async def test_without_a_server_behind_it_a_connection_is_closed() -> None:
    front = Front(Http1)
    (url,) = await front.open([ANY], reuse_port=False)
    reader, writer = await asyncio.open_connection(url.host, url.port)
    writer.write(PREFACE)
    assert await reader.read() == b""
    writer.close()
    front.close()


async def test_closing_leaves_nothing_behind() -> None:
    front = Front(Http1)
    directory = Path(front.socket).parent
    assert directory.stat().st_mode & 0o077 == 0
    front.close()
    await until(lambda: not directory.exists())
