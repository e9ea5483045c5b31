"""Generated stubs on our channels."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from kvstore.rpc import EOF, Channel, RpcError, StatusCode
from kvstore.rpc.stub import StubChannel
from tests.rpc.harness import Text, pb2_grpc, serving
from tests.rpc.test_handlers import Servicer


@pytest.fixture
async def stub() -> AsyncIterator[Any]:
    async with serving(Servicer()) as (_, port):
        channel = Channel(f"127.0.0.1:{port}")
        yield pb2_grpc.EchoStub(StubChannel(channel))
        await channel.close()


async def test_a_unary_method_takes_and_gives_messages(stub: Any) -> None:
    assert (await stub.Unary(Text(text="plain", number=1), timeout=5)).number == 2
    with pytest.raises(RpcError) as caught:
        await stub.Unary(Text(text="abort"))
    assert caught.value.code is StatusCode.NOT_FOUND


async def test_streams_take_and_give_messages(stub: Any) -> None:
    expanding = stub.Expand(Text(text="generator", number=3))
    assert [message.number async for message in expanding] == [0, 1, 2]
    collecting = stub.Collect()
    for word in ("a", "b"):
        collecting.write(Text(text=word))
    await collecting.drain()
    collecting.half_close()
    assert (await collecting.read()).text == "a,b"
    assert await collecting.read() is EOF
    chatting = stub.Chat(timeout=5)
    chatting.write(Text(text="word"))
    assert (await chatting.read()).text == "WORD"
    assert chatting.cancel()
    with pytest.raises(RpcError):
        await chatting.read()
