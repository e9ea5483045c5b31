"""Watches that delivered what they had not been asked for."""

from __future__ import annotations

import pytest

from kvstore.mvcc.puts import of_message
from kvstore.pb import rpc_pb2
from tests.cluster.harness import Cluster
from tests.mvcc.harness import Harness, Sink

Create = rpc_pb2.WatchCreateRequest


@pytest.fixture
def harness() -> Harness:
    """A store without a member."""
    return Harness()


@pytest.mark.parametrize("brought", [3, 8, 9, 20])
def test_watch_from_a_future_revision_delivering_old_events(harness: Harness, brought: int) -> None:
    """etcd (issue 20221): a member whose state was replaced by a copy took all its watches for late ones, and, having
    caught them up, let each go on from the present: one that had asked for a revision still to come then got events
    from before it.

    Here catching up never moves a watch back, whatever the state it goes on with is at.
    """
    first = 10
    store = harness.store
    sink = Sink()
    store.watches.open(sink).create(Create(key=b"a", start_revision=first))
    # As if the copy had brought these: nobody was told of them.
    while store.revision < brought:
        store.put(of_message(rpc_pb2.PutRequest(key=b"a")))
    store.take_events()
    store.reload()
    while store.watches.sync():
        continue
    while store.revision < 25:
        store.put(of_message(rpc_pb2.PutRequest(key=b"a")))
        store.watches.notify()
    while store.watches.sync():
        continue
    told = [event.kv.mod_revision for answer in sink.received for event in answer.events]
    assert told == list(range(first, 26))
    harness.destroy()


def test_watch_from_a_future_revision_told_of_progress_before_it(harness: Harness) -> None:
    """etcd (issues 20221, 19487): told of progress at a revision before the one it had asked for, a client took its
    watch up again after that revision when the connection broke, and got the events in between.

    Here a watch hears of no progress before its first revision is the next, asked for or not.
    """
    store = harness.store
    sink = Sink()
    stream = store.watches.open(sink)
    stream.create(Create(key=b"a", start_revision=5, progress_notify=True))
    stream.request_progress()
    told: list[list[tuple[int, int]]] = []
    for _ in range(4):
        store.watches.report_progress()
        told.append([(answer.watch_id, answer.header.revision) for answer in sink.received if not answer.created])
        sink.received.clear()
        store.put(of_message(rpc_pb2.PutRequest(key=b"b")))
        store.watches.notify()
    assert store.revision == 5
    assert told == [[], [], [], [(-1, 4), (0, 4)]]
    harness.destroy()


KEYS = (b"w", b"w\0", b"w\0\0", b"w0", b"wa", b"x", b"\0", b"\xff")
RANGES = [
    (b"w", b""),
    (b"w\0", b""),
    (b"wa", b""),
    (b"w", b"w\0"),
    (b"w", b"w\0\0"),
    (b"w", b"x"),
    (b"w", b"\0"),
    (b"wa", b"\0"),
    (b"\0", b""),
    (b"\0", b"\0"),
    (b"\xff", b""),
    (b"\xff", b"\0"),
]


@pytest.mark.parametrize(("key", "range_end"), RANGES)
def test_watch_on_one_key_granted_to_deliver_others(cluster: Cluster, key: bytes, range_end: bytes) -> None:
    """etcd (GHSA-xg4h-6gfc-h4m8): who was allowed to read one key was allowed to watch from that key on, because the
    check of the permission and the watch itself read the end of a range each in its own way.

    Here a range has one reading: a watch delivers what a read of the same range returns, no key more and none less.
    """
    client = cluster.followers()[0].client
    with client.watch_stream() as stream:
        assert stream.create(key, range_end).created
        for each in KEYS:
            client.put(each, key + range_end)
        last = client.put(b"\xff", b"end").header.revision
        stream.ask_progress()
        told: set[bytes] = set()
        while True:
            answer = stream.receive()
            told |= {event.kv.key for event in answer.events}
            if not answer.events and answer.header.revision >= last:
                break
    read = {kv.key for kv in client.range(key, range_end).kvs} & set(KEYS)
    assert told == read
    if range_end in (b"", key + b"\0"):
        assert told == {key} & set(KEYS)
