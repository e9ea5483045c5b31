"""The Watch service of a running cluster: every option of a watch, and what ends one."""

from collections.abc import Iterator

import pytest

from kvstore.pb import kv_pb2
from kvstore.pb.rpc_pb2 import CompactionRequest, PutRequest, RequestOp, TxnRequest, WatchCreateRequest, WatchResponse
from tests.cluster.harness import Binary, Client, Cluster, ClusterFactory, prefix_end, wait_until
from tests.cluster.harness.client import WatchStream

PUT, DELETE = kv_pb2.Event.PUT, kv_pb2.Event.DELETE


@pytest.fixture
def stream(client: Client) -> Iterator[WatchStream]:
    with client.watch_stream() as stream:
        yield stream


def brief(events: list[kv_pb2.Event], prefix: bytes) -> list[tuple[int, bytes, bytes]]:
    return [(event.type, event.kv.key.removeprefix(prefix), event.kv.value) for event in events]


def test_created_comes_first_then_events_in_order(stream: WatchStream, client: Client, prefix: bytes) -> None:
    created = stream.create(prefix, prefix_end(prefix))
    assert created.created
    assert not created.events
    revisions = [client.put(prefix + b"%d" % number, b"v").header.revision for number in range(20)]
    events = stream.events(20)
    assert [event.kv.mod_revision for event in events] == revisions
    assert [event.kv.key for event in events] == [prefix + b"%d" % number for number in range(20)]


def test_a_change_made_on_any_member_is_seen_on_every_member(cluster: Cluster, prefix: bytes) -> None:
    streams = [member.client.watch_stream() for member in cluster.members]
    for stream in streams:
        assert stream.create(prefix).created
    for number, member in enumerate(cluster.members):
        member.client.put(prefix, b"%d" % number)
    for stream in streams:
        assert [event.kv.value for event in stream.events(3)] == [b"0", b"1", b"2"]
        stream.close()


def test_a_delete_is_an_event_with_key_and_revision_only(stream: WatchStream, client: Client, prefix: bytes) -> None:
    stream.create(prefix)
    client.put(prefix, b"v")
    deleted = client.delete(prefix).header.revision
    event = stream.events(2)[1]
    assert event.type == DELETE
    assert event.kv == kv_pb2.KeyValue(key=prefix, mod_revision=deleted)
    assert not event.HasField("prev_kv")


def test_ranges(stream: WatchStream, client: Client, prefix: bytes) -> None:
    one = stream.create(prefix + b"b").watch_id
    pair = stream.create(prefix + b"b", prefix + b"d").watch_id
    onward = stream.create(prefix + b"c", b"\0").watch_id
    everything = stream.create(b"\0", b"\0").watch_id
    for letter in b"abcd":
        client.put(prefix + bytes([letter]))
    seen: dict[int, bytes] = {one: b"", pair: b"", onward: b"", everything: b""}
    wanted = {one: b"b", pair: b"bc", onward: b"cd", everything: b"abcd"}
    while seen != wanted:
        response = stream.receive()
        seen[response.watch_id] += b"".join(event.kv.key.removeprefix(prefix) for event in response.events)
        assert wanted[response.watch_id].startswith(seen[response.watch_id])


def test_a_past_start_revision_replays_history(stream: WatchStream, client: Client, prefix: bytes) -> None:
    client.put(prefix + b"before")
    start = client.put(prefix + b"a", b"1").header.revision
    client.put(prefix + b"a", b"2")
    client.delete(prefix + b"a")
    client.put(prefix + b"b", b"3")
    assert stream.create(prefix, prefix_end(prefix), start_revision=start).created
    assert brief(stream.events(4), prefix) == [
        (PUT, b"a", b"1"),
        (PUT, b"a", b"2"),
        (DELETE, b"a", b""),
        (PUT, b"b", b"3"),
    ]
    client.put(prefix + b"c", b"4")
    assert brief(stream.events(1), prefix) == [(PUT, b"c", b"4")]


def test_a_future_start_revision_waits_for_it(stream: WatchStream, client: Client, prefix: bytes) -> None:
    now = client.put(prefix, b"now").header.revision
    stream.create(prefix, start_revision=now + 2)
    client.put(prefix, b"too early")
    client.put(prefix, b"in time")
    assert brief(stream.events(1), prefix) == [(PUT, b"", b"in time")]


def test_a_compacted_start_revision_cancels_the_watch(stream: WatchStream, client: Client, prefix: bytes) -> None:
    first = client.put(prefix, b"1").header.revision
    last = client.put(prefix, b"2").header.revision
    client.kv.Compact(CompactionRequest(revision=last))
    created = stream.create(prefix, start_revision=first)
    assert created.created
    canceled = stream.receive() if not created.canceled else created
    assert (canceled.canceled, canceled.compact_revision) == (True, last)
    # The other watches of the stream are none the worse for it.
    assert stream.create(prefix, start_revision=last).created
    assert brief(stream.events(1), prefix) == [(PUT, b"", b"2")]


def test_prev_kv(stream: WatchStream, client: Client, prefix: bytes) -> None:
    stream.create(prefix, prev_kv=True)
    client.put(prefix, b"1")
    client.put(prefix, b"2")
    client.delete(prefix)
    events = stream.events(3)
    assert not events[0].HasField("prev_kv")
    assert [event.prev_kv.value for event in events[1:]] == [b"1", b"2"]
    assert events[2].prev_kv.version == 2


def test_prev_kv_of_replayed_history(stream: WatchStream, client: Client, prefix: bytes) -> None:
    client.put(prefix, b"1")
    second = client.put(prefix, b"2").header.revision
    client.delete(prefix)
    stream.create(prefix, prev_kv=True, start_revision=second)
    assert [event.prev_kv.value for event in stream.events(2)] == [b"1", b"2"]


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ([WatchCreateRequest.NOPUT], [DELETE, DELETE]),
        ([WatchCreateRequest.NODELETE], [PUT, PUT, PUT]),
    ],
)
def test_filters(stream: WatchStream, client: Client, prefix: bytes, filters: list[int], expected: list[int]) -> None:
    watch_id = stream.create(prefix, filters=filters).watch_id
    for _ in range(2):
        client.put(prefix)
        client.delete(prefix)
    client.put(prefix)
    assert [event.type for event in stream.events(len(expected))] == expected
    stream.cancel(watch_id)
    assert stream.receive().canceled


def test_all_events_of_a_revision_come_together(stream: WatchStream, client: Client, prefix: bytes) -> None:
    stream.create(prefix, prefix_end(prefix))
    puts = [RequestOp(request_put=PutRequest(key=prefix + b"%03d" % number)) for number in range(100)]
    client.kv.Txn(TxnRequest(success=puts))
    response = stream.receive()
    assert [event.kv.key for event in response.events] == [prefix + b"%03d" % number for number in range(100)]
    client.delete(prefix, prefix_end(prefix))
    assert [event.type for event in stream.receive().events] == [DELETE] * 100


def test_fragments_of_a_large_revision(stream: WatchStream, client: Client, prefix: bytes) -> None:
    # No single request may be this large, but events with their previous values are.
    value = bytes(300_000)
    for number in range(10):
        client.put(prefix + b"%d" % number, value)
    stream.create(prefix, prefix_end(prefix), fragment=True, prev_kv=True)
    revision = client.delete(prefix, prefix_end(prefix)).header.revision
    responses = [stream.receive()]
    while responses[-1].fragment:
        responses.append(stream.receive())
    assert len(responses) > 1
    events = [event for response in responses for event in response.events]
    assert [event.kv.key for event in events] == [prefix + b"%d" % number for number in range(10)]
    assert {event.kv.mod_revision for event in events} == {revision}
    assert {event.prev_kv.value for event in events} == {value}


class TestWatchIds:
    def test_the_client_may_choose(self, stream: WatchStream, client: Client, prefix: bytes) -> None:
        assert stream.create(prefix, watch_id=77).watch_id == 77
        client.put(prefix)
        assert stream.receive().watch_id == 77

    def test_the_server_chooses_different_ones(self, stream: WatchStream, prefix: bytes) -> None:
        ids = [stream.create(prefix).watch_id for _ in range(5)]
        assert len(set(ids)) == 5

    def test_one_in_use_is_refused(self, stream: WatchStream, client: Client, prefix: bytes) -> None:
        stream.create(prefix, watch_id=5)
        again = stream.create(prefix, watch_id=5)
        assert (again.created, again.canceled, again.watch_id) == (True, True, -1)
        client.put(prefix)
        assert stream.receive().watch_id == 5

    def test_one_is_free_again_after_its_cancellation(self, stream: WatchStream, prefix: bytes) -> None:
        stream.create(prefix, watch_id=5)
        stream.cancel(5)
        assert stream.receive().canceled
        again = stream.create(prefix, watch_id=5)
        assert (again.created, again.canceled, again.watch_id) == (True, False, 5)


def test_an_empty_range_is_refused(stream: WatchStream, client: Client, prefix: bytes) -> None:
    refused = stream.create(prefix + b"b", prefix + b"a")
    assert (refused.created, refused.canceled, refused.watch_id) == (True, True, -1)
    assert stream.create(prefix).created
    client.put(prefix)
    assert len(stream.events(1)) == 1


def test_an_empty_key_watches_from_the_first_key(stream: WatchStream, client: Client, prefix: bytes) -> None:
    stream.create(b"", b"\0")
    client.put(prefix)
    assert stream.events(1)[0].kv.key == prefix


def test_cancel_ends_the_events_of_that_watch_alone(stream: WatchStream, client: Client, prefix: bytes) -> None:
    first = stream.create(prefix).watch_id
    second = stream.create(prefix).watch_id
    stream.cancel(first)
    answer = stream.receive()
    assert (answer.canceled, answer.watch_id, answer.compact_revision) == (True, first, 0)
    client.put(prefix)
    assert stream.receive().watch_id == second
    stream.ask_progress()
    assert stream.receive().watch_id == -1


def test_cancelling_an_unknown_watch_is_ignored(stream: WatchStream, client: Client, prefix: bytes) -> None:
    stream.create(prefix)
    stream.cancel(4_711)
    client.put(prefix, b"v")
    assert brief(stream.events(1), prefix) == [(PUT, b"", b"v")]


def test_manual_progress_tells_how_far_all_watches_are(stream: WatchStream, client: Client, prefix: bytes) -> None:
    stream.create(prefix)
    revision = client.put(prefix + b"elsewhere").header.revision

    def told() -> bool:
        stream.ask_progress()
        response = stream.receive()
        assert (response.watch_id, len(response.events)) == (-1, 0)
        return bool(response.header.revision >= revision)

    wait_until(told, "progress reaches the revision of the put")


def test_progress_notify_when_idle(binary: Binary, make_cluster: ClusterFactory) -> None:
    if binary.api_level < (3, 6):
        pytest.skip("the interval cannot be set on an etcd of this age")
    client = make_cluster(1, {"watch-progress-notify-interval": "200ms"}).members[0].client
    with client.watch_stream() as stream:
        watch_id = stream.create(b"k", progress_notify=True).watch_id
        revision = client.put(b"other").header.revision

        def notified() -> WatchResponse | None:
            response: WatchResponse = stream.receive()
            return response if response.header.revision == revision else None

        response = wait_until(notified, "a notification tells the current revision")
        assert (response.watch_id, len(response.events)) == (watch_id, 0)


def test_a_slow_reader_delays_nobody_and_misses_nothing(client: Client, prefix: bytes) -> None:
    slow = client.watch_stream()
    with client.watch_stream() as quick:
        # grpcio reads ahead only as far as the flow control window lets it, once nobody takes from its queue.
        slow.create(prefix, prefix_end(prefix))
        quick.create(prefix, prefix_end(prefix))
        slow.pause()
        for number in range(100):
            client.put(prefix + b"%d" % (number % 7), bytes([number]) * 100_000)
        assert len(quick.events(100)) == 100
        slow.resume()
        assert [event.kv.value[0] for event in slow.events(100)] == list(range(100))
    slow.close()
    client.delete(prefix, prefix_end(prefix))


def test_a_thousand_watches_on_one_stream(stream: WatchStream, client: Client, prefix: bytes) -> None:
    ids = {stream.create(prefix + b"%d" % (number % 10)).watch_id for number in range(1_000)}
    assert len(ids) == 1_000
    client.put(prefix + b"3")
    told = {stream.receive().watch_id for _ in range(100)}
    assert len(told) == 100


def test_half_closing_leaves_the_watches_running(stream: WatchStream, client: Client, prefix: bytes) -> None:
    # A client that writes one request and closes its side, as command line tools do, still wants the events.
    stream.create(prefix)
    stream.half_close()
    client.put(prefix, b"after")
    assert brief(stream.events(1), prefix) == [(PUT, b"", b"after")]
