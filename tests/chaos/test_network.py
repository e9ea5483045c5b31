"""The proxies: what a link does to the bytes between two members, whoever opened the connection."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from kvstore.rpc import Channel, ChannelOptions, RpcError
from tests.chaos.network import Condition, Network
from tests.chaos.sniff import CallerSniffer
from tests.rpc.harness import EchoServicer, serving
from tests.rpc.proto import modules

pb2, _ = modules()
METHOD = "/rpctest.Echo/Unary"
TEXT = pb2.Text(text="hello").SerializeToString()
CALLER, TARGET = "m1", "m2"
CALLER_ID = 0x1A2B
AWAY = [(CALLER, TARGET)]
BACK = [(TARGET, CALLER)]
SHORT = 0.4
"""Long enough for a call that is not held up, on a busy machine."""


class Echo(EchoServicer):  # type: ignore[misc]
    def Unary(self, request: object, context: object) -> object:
        return request


class Wire:
    """A caller and a server with a proxy between them."""

    def __init__(self, network: Network, port: int) -> None:
        self.network = network
        self.channel = Channel(f"127.0.0.1:{port}", options=ChannelOptions(backoff_initial=0.01, backoff_max=0.05))

    async def call(self, timeout: float = 10.0, caller: int = CALLER_ID) -> bytes:
        metadata = (("kvstore-from", f"{caller:x}"),)
        return await self.channel.unary(METHOD, TEXT, metadata=metadata, timeout=timeout, wait_for_ready=True)

    async def passes(self) -> bool:
        with suppress(RpcError):
            return bool(await self.call(SHORT) == TEXT)
        return False


@asynccontextmanager
async def wired() -> AsyncIterator[Wire]:
    network = Network(seed=1)
    network.know({CALLER_ID: CALLER})
    async with serving(Echo()) as (_, port):
        wire = Wire(network, await network.listen(TARGET, port))
        try:
            yield wire
        finally:
            await wire.channel.close()
            await network.close()


async def test_a_healthy_link_carries_calls_and_knows_who_makes_them() -> None:
    async with wired() as wire:
        assert await wire.call() == TEXT
        assert wire.network.link(CALLER, TARGET).carried >= len(TEXT)
        assert wire.network.link(TARGET, CALLER).carried >= len(TEXT)


@pytest.mark.parametrize("pairs", [AWAY, BACK])
async def test_what_a_cut_link_holds_back_arrives_when_it_is_healed(pairs: list[tuple[str, str]]) -> None:
    async with wired() as wire:
        await wire.call()
        wire.network.set(pairs, Condition(cut=True))
        assert not await wire.passes()
        held = asyncio.ensure_future(wire.call())
        await asyncio.sleep(0)
        assert not held.done()
        wire.network.heal()
        assert await held == TEXT


async def test_a_cut_holds_from_the_first_request_of_a_new_connection_on() -> None:
    async with wired() as wire:
        wire.network.set(AWAY, Condition(cut=True))
        assert not await wire.passes()
        wire.network.heal()
        assert await wire.call() == TEXT


async def test_others_do_not_feel_that_two_members_are_cut_off() -> None:
    async with wired() as wire:
        wire.network.know({0x3C: "m3"})
        wire.network.set([*AWAY, *BACK], Condition(cut=True))
        assert await wire.call(caller=0x3C) == TEXT


async def test_a_caller_that_nobody_knows_always_passes() -> None:
    async with wired() as wire:
        wire.network.set([*AWAY, *BACK], Condition(cut=True))
        assert await wire.call(caller=0x4D) == TEXT


async def test_a_refusing_link_resets_what_is_open_and_what_is_opened() -> None:
    async with wired() as wire:
        await wire.call()
        wire.network.set(BACK, Condition(refused=True))
        for _ in range(2):
            with pytest.raises(RpcError):
                await wire.call(SHORT)
        wire.network.heal()
        assert await wire.call() == TEXT


async def test_a_slow_link_delays_in_its_direction_and_keeps_the_order() -> None:
    async with wired() as wire:
        await wire.call()
        wire.network.set(AWAY, Condition(delay=0.1, jitter=0.05))
        began = time.monotonic()
        answers = await asyncio.gather(*(wire.call() for _ in range(20)))
        assert time.monotonic() - began >= 0.1
        assert answers == [TEXT] * 20


async def test_what_a_lossy_link_loses_is_late() -> None:
    async with wired() as wire:
        await wire.call()
        wire.network.set(AWAY, Condition(loss=1.0))
        began = time.monotonic()
        assert await wire.call() == TEXT
        assert time.monotonic() - began >= 0.2


async def test_a_link_may_break_connections() -> None:
    async with wired() as wire:
        await wire.call()
        wire.network.set(AWAY, Condition(reset=1.0))
        with pytest.raises(RpcError):
            await wire.call(SHORT)


async def test_a_narrow_link_takes_as_long_as_its_rate_says() -> None:
    async with wired() as wire:
        await wire.call()
        wire.network.set(AWAY, Condition(rate=100_000.0))
        big = pb2.Text(data=bytes(30_000)).SerializeToString()
        began = time.monotonic()
        metadata = (("kvstore-from", f"{CALLER_ID:x}"),)
        await wire.channel.unary(METHOD, big, metadata=metadata, timeout=10.0)
        assert time.monotonic() - began >= 0.25


async def test_a_member_that_is_down_is_down_through_its_proxy() -> None:
    network = Network(seed=1)
    channel = Channel(f"127.0.0.1:{await network.listen(TARGET, 1)}")
    with pytest.raises(RpcError):
        await channel.unary(METHOD, TEXT, timeout=5.0)
    await channel.close()
    await network.close()


def test_bytes_that_are_no_http2_come_from_nobody() -> None:
    sniffer = CallerSniffer()
    sniffer.feed(b"GET / HTTP/1.1\r\nHost: somewhere\r\n\r\n")
    assert sniffer.done
    assert sniffer.caller == 0
