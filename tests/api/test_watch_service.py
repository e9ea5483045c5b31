"""The watch stream, over a real hub of watches."""

from __future__ import annotations

import asyncio
from typing import Any

from kvstore.api.watch import CallSink
from kvstore.pb import rpc_pb2 as pb
from kvstore.rpc import Promise
from tests.api.harness import DEADLINE, Api, FakeMember, until


def create(key: bytes = b"k", **options: Any) -> pb.WatchRequest:
    return pb.WatchRequest(create_request=pb.WatchCreateRequest(key=key, **options))


def cancel(watch_id: int) -> pb.WatchRequest:
    return pb.WatchRequest(cancel_request=pb.WatchCancelRequest(watch_id=watch_id))


PROGRESS = pb.WatchRequest(progress_request=pb.WatchProgressRequest())


async def read(call: Any) -> pb.WatchResponse:
    async with asyncio.timeout(DEADLINE):
        response = await call.read()
    assert isinstance(response, pb.WatchResponse)
    return response


async def test_a_watch_says_created_then_sends_events(api: Api, member: FakeMember) -> None:
    call = api.watch.Watch()
    await call.write(create())
    created = await read(call)
    assert (created.created, created.watch_id, created.header) == (True, 0, member.header_message())
    member.fake_store.put(b"other", b"")
    member.fake_store.put(b"k", b"v")
    told = await read(call)
    assert [(event.kv.key, event.kv.value) for event in told.events] == [(b"k", b"v")]
    assert told.header.revision == 3
    call.cancel()


async def test_many_watches_share_a_stream(api: Api, member: FakeMember) -> None:
    call = api.watch.Watch()
    await call.write(create(b"a"))
    await call.write(create(b"b", watch_id=5))
    assert [(await read(call)).watch_id for _ in range(2)] == [0, 5]
    member.fake_store.put(b"b", b"1")
    member.fake_store.put(b"a", b"2")
    assert [(await read(call)).watch_id for _ in range(2)] == [5, 0]
    call.cancel()


async def test_a_cancelled_watch_says_so_after_its_last_event_and_the_stream_goes_on(
    api: Api, member: FakeMember
) -> None:
    call = api.watch.Watch()
    await call.write(create(watch_id=3))
    assert (await read(call)).created
    member.fake_store.put(b"k", b"last")
    await call.write(cancel(3))
    assert (await read(call)).events[0].kv.value == b"last"
    canceled = await read(call)
    assert (canceled.canceled, canceled.watch_id) == (True, 3)
    member.fake_store.put(b"k", b"unseen")
    await call.write(create(watch_id=4))
    created = await read(call)
    assert (created.created, created.watch_id) == (True, 4)
    call.cancel()


async def test_a_refused_watch_does_not_end_the_stream(api: Api) -> None:
    call = api.watch.Watch()
    await call.write(create(b"b", range_end=b"a"))
    refused = await read(call)
    assert (refused.created, refused.canceled, refused.watch_id) == (True, True, -1)
    await call.write(create())
    assert not (await read(call)).canceled
    call.cancel()


async def test_progress_is_told_when_asked_for(api: Api, member: FakeMember) -> None:
    call = api.watch.Watch()
    await call.write(create())
    assert (await read(call)).created
    member.fake_store.put(b"other", b"")
    await call.write(PROGRESS)
    progress = await read(call)
    assert (progress.watch_id, progress.header.revision, len(progress.events)) == (-1, 2, 0)
    call.cancel()


async def test_an_empty_request_is_passed_over(api: Api) -> None:
    call = api.watch.Watch()
    await call.write(pb.WatchRequest())
    await call.write(create())
    assert (await read(call)).created
    call.cancel()


async def test_a_client_that_has_said_all_goes_on_listening(api: Api, member: FakeMember) -> None:
    call = api.watch.Watch()
    await call.write(create())
    await call.done_writing()
    assert (await read(call)).created
    member.fake_store.put(b"k", b"v")
    assert (await read(call)).events[0].kv.value == b"v"
    call.cancel()


async def test_the_end_of_a_call_ends_its_watches(api: Api, member: FakeMember) -> None:
    call = api.watch.Watch()
    await call.write(create())
    assert (await read(call)).created
    assert member.fake_store.watches.watchers == 1
    call.cancel()
    await until(lambda: member.fake_store.watches.streams == 0)
    assert member.fake_store.watches.watchers == 0


async def test_the_end_of_a_connection_ends_its_watches(api: Api, member: FakeMember) -> None:
    call = api.watch.Watch()
    await call.write(create())
    await call.done_writing()
    assert (await read(call)).created
    await api.channel.close(None)
    await until(lambda: member.fake_store.watches.streams == 0)


class Context:
    """A call whose buffer others fill and empty. The drains of it are what waits for room."""

    def __init__(self) -> None:
        self.writable = True
        self.drains: list[Promise[None]] = []
        self.sent: list[bytes] = []

    def write(self, message: bytes) -> bool:
        self.sent.append(message)
        return self.writable

    def drain(self) -> Promise[None]:
        promise: Promise[None] = Promise()
        self.drains.append(promise)
        return promise


def test_a_watch_that_others_filled_the_connection_of_goes_on_when_it_is_empty(member: FakeMember) -> None:
    context = Context()
    stream = CallSink(context).open(member.fake_store.watches)
    stream.create(pb.WatchCreateRequest(key=b"k"))
    # Not by what this stream writes: none of its writes has told it to wait.
    context.writable = False
    member.fake_store.put(b"k", b"v")
    watches = member.fake_store.watches
    assert (len(context.sent), watches.slow_watchers) == (1, 1)
    context.writable = True
    assert len(context.drains) == 1
    context.drains.pop().set_result(None)
    while watches.sync():
        pass
    assert watches.slow_watchers == 0
    member.fake_store.put(b"k", b"later")
    assert pb.WatchResponse.FromString(context.sent[-1]).events[0].kv.value == b"later"
    stream.close()
