"""Following changes, through everything that can happen to a connection."""

from __future__ import annotations

import asyncio

import pytest

from kvstore.client import Client, Event, EventType, Filter, Get, KeyValue, Put, Watcher, WatchResponse, errors, prefix
from tests.cluster.harness import Cluster, ClusterFactory, Member


async def values(watcher: Watcher, count: int) -> list[bytes]:
    """The values of the next events, at least so many."""
    seen: list[bytes] = []
    async with asyncio.timeout(30):
        while len(seen) < count:
            seen += [event.kv.value for event in (await anext(watcher)).events]
    return seen


async def test_events_arrive_in_order_with_what_was_before(client: Client, key: str) -> None:
    async with client.watch(prefix(key), prev_kv=True) as watcher:
        first = (await client.kv.put(key, "1")).header.revision
        await client.kv.put(key, "2")
        await client.kv.delete(key)
        events: list[Event] = []
        async with asyncio.timeout(10):
            while len(events) < 3:
                events += (await anext(watcher)).events
    assert [event.type for event in events] == [EventType.PUT, EventType.PUT, EventType.DELETE]
    assert [event.kv.mod_revision for event in events] == [first, first + 1, first + 2]
    assert events[0].prev_kv is None
    assert events[2].prev_kv == KeyValue(key.encode(), b"2", first, first + 1, 2)
    assert events[2].kv == KeyValue(key.encode(), mod_revision=first + 2)


async def test_history_is_told_from_the_revision_asked_for(client: Client, key: str) -> None:
    revisions = [(await client.kv.put(key, str(number))).header.revision for number in range(4)]
    async with client.watch(key, start_revision=revisions[1]) as watcher:
        assert await values(watcher, 3) == [b"1", b"2", b"3"]
        assert watcher.next_revision == revisions[3] + 1


async def test_all_events_of_a_revision_arrive_together(client: Client, key: str) -> None:
    big = bytes(650_000)
    ops = [Put(f"{key}{number}", big) for number in range(2)]
    await client.kv.txn().then(*ops).commit()
    async with client.watch(prefix(key), prev_kv=True) as watcher, asyncio.timeout(20):
        # With the values before, that is more than one message holds: it comes in fragments.
        await client.kv.txn().then(*ops).commit()
        response = await anext(watcher)
    assert [event.kv.value for event in response.events] == [big, big]
    assert len({event.kv.mod_revision for event in response.events}) == 1


async def test_filters_leave_events_out(client: Client, key: str) -> None:
    async with client.watch(key, filters=[Filter.NO_PUT]) as watcher, asyncio.timeout(10):
        await client.kv.put(key, "1")
        await client.kv.delete(key)
        assert [event.type for event in (await anext(watcher)).events] == [EventType.DELETE]


async def test_progress_is_told_on_request(client: Client, key: str) -> None:
    async with client.watch(key) as watcher, asyncio.timeout(10):
        revision = (await client.kv.put(key + "other", "v")).header.revision
        await watcher.request_progress()
        response = await anext(watcher)
        assert response.is_progress
        assert response.header.revision >= revision
        assert watcher.next_revision == response.header.revision + 1


async def test_progress_can_be_requested_before_the_watch_stands(client: Client, key: str) -> None:
    watcher = client.watch(key)
    await watcher.request_progress()
    async with asyncio.timeout(10):
        assert (await anext(watcher)).is_progress
    await watcher.close()


async def test_a_compacted_start_ends_the_watch_and_says_how_far(client: Client, key: str) -> None:
    start = (await client.kv.put(key, "1")).header.revision
    compacted = (await client.kv.put(key, "2")).header.revision
    await client.kv.compact(compacted)
    watcher = client.watch(key, start_revision=start)
    with pytest.raises(errors.Compacted) as caught:
        async with asyncio.timeout(10):
            await anext(watcher)
    assert caught.value.compact_revision == compacted
    with pytest.raises(StopAsyncIteration):
        await anext(watcher)


async def test_a_timeout_around_the_next_event_loses_nothing(client: Client, key: str) -> None:
    async with client.watch(key) as watcher:
        for number in range(3):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(watcher), 0.02)
            await client.kv.put(key, str(number))
            assert await values(watcher, 1) == [str(number).encode()]


async def test_a_closed_watch_ends(client: Client, key: str) -> None:
    watcher = client.watch(key)
    async with watcher:
        await client.kv.put(key, "v")
        assert await values(watcher, 1) == [b"v"]
    assert [response async for response in watcher] == []


async def test_a_watch_that_another_task_closes_ends(client: Client, key: str) -> None:
    async with client.watch(key) as watcher, asyncio.timeout(10):
        following = asyncio.create_task(collect(watcher))
        await client.kv.put(key, "v")
        await client.kv.get(key)
        await watcher.close()
        assert len(await following) <= 1


async def test_closing_the_client_ends_what_is_in_progress_with_an_error(member: Member, key: str) -> None:
    client = Client(member.endpoint)
    watcher = client.watch(key)
    async with asyncio.timeout(10):
        await watcher.__aenter__()
        following = asyncio.create_task(collect(watcher))
        reading = asyncio.create_task(read_on(client, key))
        await client.kv.put(key, "v")
        await client.close()
        for task in (following, reading):
            with pytest.raises(errors.ClientClosed):
                await task


async def collect(watcher: Watcher) -> list[WatchResponse]:
    return [response async for response in watcher]


async def read_on(client: Client, key: str) -> None:
    while True:
        await client.kv.get(key)


async def test_a_watch_goes_on_after_the_member_was_restarted(make_cluster: ClusterFactory, key: str) -> None:
    member = make_cluster(size=1).members[0]
    async with Client(member.endpoint) as client, client.watch(key) as watcher:
        await client.kv.put(key, "before")
        assert await values(watcher, 1) == [b"before"]
        await asyncio.to_thread(restart, member)
        await client.kv.put(key, "after")
        assert await values(watcher, 1) == [b"after"]


async def test_a_watch_from_now_on_misses_nothing_while_the_member_is_away(
    make_cluster: ClusterFactory, key: str
) -> None:
    member = make_cluster(size=1).members[0]
    async with Client(member.endpoint) as client, client.watch(key) as watcher:
        # No event was seen yet: the revision at which the watch began is all it can go on from.
        await asyncio.to_thread(restart, member)
        await asyncio.to_thread(member.client.put, key.encode(), b"unseen")
        assert await values(watcher, 1) == [b"unseen"]


async def test_a_watch_moves_to_another_member_without_loss_or_repetition(
    make_cluster: ClusterFactory, key: str
) -> None:
    cluster = make_cluster(size=3)
    async with Client([member.endpoint for member in cluster.members]) as client, client.watch(key) as watcher:
        await client.kv.put(key, "0")
        seen = await values(watcher, 1)
        await asyncio.to_thread(member_of(cluster, watcher).kill)
        for number in range(1, 6):
            await put_until_taken(client, key, str(number))
        while seen[-1] != b"5":
            seen += await values(watcher, 1)
    kept = [value for position, value in enumerate(seen) if seen.index(value) == position]
    assert kept == [b"0", b"1", b"2", b"3", b"4", b"5"]


def restart(member: Member) -> None:
    member.terminate()
    member.start()
    member.wait_ready()


def member_of(cluster: Cluster, watcher: Watcher) -> Member:
    return next(member for member in cluster.members if member.id == watcher.header.member_id)


async def put_until_taken(client: Client, key: str, value: str) -> None:
    """Put it again if the answer was lost; what was applied twice is told twice."""
    async with asyncio.timeout(60):
        while True:
            try:
                await client.kv.put(key, value)
            except errors.ClientError:
                await client.kv.read(Get(key))
            else:
                return
