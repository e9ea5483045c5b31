"""What a client of watches can rely on, case by case."""

from __future__ import annotations

import pytest

from kvstore.mvcc.events import COMBINE_BYTES
from kvstore.mvcc.puts import of_message
from kvstore.mvcc.store import Store
from kvstore.mvcc.watchers import WatchConfig
from kvstore.pb import rpc_pb2
from tests.mvcc.harness import Harness, Sink

Create = rpc_pb2.WatchCreateRequest


def put(store: Store, key: bytes, value: bytes = b"") -> int:
    store.put(of_message(rpc_pb2.PutRequest(key=key, value=value)))
    return store.revision


def put_both(store: Store, keys: list[bytes], value: bytes) -> int:
    store.txn(
        rpc_pb2.TxnRequest(
            success=[rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=key, value=value)) for key in keys]
        )
    )
    return store.revision


def catch_up(store: Store) -> None:
    store.watches.notify()
    while store.watches.sync():
        pass


def test_the_server_chooses_ids_that_are_free(store: Store) -> None:
    sink = Sink()
    stream = store.watches.open(sink)
    assert stream.create(Create(key=b"a")) == 0
    assert stream.create(Create(key=b"a", watch_id=1)) == 1
    assert stream.create(Create(key=b"a")) == 2
    assert [answer.watch_id for answer in sink.received] == [0, 1, 2]
    assert all(answer.created and not answer.canceled for answer in sink.received)


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (Create(key=b"a", watch_id=5), "mvcc: duplicate watch ID provided on the WatchStream"),
        (Create(key=b"b", range_end=b"a"), "mvcc: watcher range is empty"),
        (Create(key=b"b", range_end=b"b"), "mvcc: watcher range is empty"),
        (Create(key=b"b", start_revision=-1), "etcdserver: mvcc: required revision has been compacted"),
    ],
)
def test_what_cannot_be_watched_is_refused_with_the_reason(store: Store, request_: Create, reason: str) -> None:
    sink = Sink()
    stream = store.watches.open(sink)
    stream.create(Create(key=b"a", watch_id=5))
    assert stream.create(request_) is None
    refusal = sink.received[-1]
    assert (refusal.watch_id, refusal.created, refusal.canceled, refusal.cancel_reason) == (-1, True, True, reason)
    assert store.watches.watchers == 1


def test_cancelling_is_answered_once(store: Store) -> None:
    sink = Sink()
    stream = store.watches.open(sink)
    stream.create(Create(key=b"a", watch_id=3))
    assert stream.cancel(3)
    assert not stream.cancel(3)
    assert [answer.canceled for answer in sink.received] == [False, True]
    put(store, b"a")
    store.watches.notify()
    assert len(sink.received) == 2


def test_a_compacted_start_is_cancelled_with_the_compacted_revision(store: Store) -> None:
    for _ in range(3):
        put(store, b"a")
    store.compact(3)
    sink = Sink()
    stream = store.watches.open(sink)
    stream.create(Create(key=b"a", start_revision=2))
    catch_up(store)
    created, canceled = sink.received
    assert created.created
    assert canceled.canceled
    assert canceled.compact_revision == 3
    assert store.watches.watchers == 0


def test_a_future_start_skips_what_comes_before_it(store: Store) -> None:
    sink = Sink()
    store.watches.open(sink).create(Create(key=b"a", start_revision=4))
    for _ in range(4):
        put(store, b"a")
    store.watches.notify()
    assert [event.kv.mod_revision for answer in sink.received for event in answer.events] == [4, 5]


def test_all_watches_that_want_the_same_share_the_bytes(harness: Harness) -> None:
    messages: list[bytes] = []

    class Raw:
        writable = True

        def send(self, message: bytes, /) -> None:
            messages.append(message)

    stream = harness.store.watches.open(Raw())
    for watch_id in range(1, 4):
        stream.create(Create(key=b"a", range_end=b"b", watch_id=watch_id))
    messages.clear()
    put(harness.store, b"a", b"v")
    harness.store.watches.notify()
    bodies = {message.split(b"\x5a", 1)[1] for message in messages}
    assert len(messages) == 3
    assert len(bodies) == 1


def test_a_response_has_the_previous_value_of_the_revision_before(store: Store) -> None:
    put(store, b"a", b"1")
    sink = Sink()
    store.watches.open(sink).create(Create(key=b"a", prev_kv=True))
    nested = [
        rpc_pb2.RequestOp(
            request_txn=rpc_pb2.TxnRequest(
                success=[rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=b"a", value=b"2"))]
            )
        ),
        rpc_pb2.RequestOp(
            request_txn=rpc_pb2.TxnRequest(
                success=[rpc_pb2.RequestOp(request_delete_range=rpc_pb2.DeleteRangeRequest(key=b"a"))]
            )
        ),
    ]
    store.txn(rpc_pb2.TxnRequest(success=nested))
    store.watches.notify()
    update, deletion = sink.received[-1].events
    assert update.prev_kv.value == b"1"
    assert deletion.prev_kv.value == b"1"
    assert (deletion.kv.key, deletion.kv.mod_revision, deletion.kv.create_revision) == (b"a", 3, 0)


def test_one_revision_is_one_response_and_large_ones_are_cut_between_revisions(store: Store) -> None:
    sink = Sink()
    store.watches.open(sink).create(Create(key=b"a", range_end=b"z"))
    large = b"x" * (COMBINE_BYTES // 3)
    for _ in range(2):
        put_both(store, [b"a", b"b", b"c", b"d"], large)
    store.watches.notify()
    assert [len(answer.events) for answer in sink.received[1:]] == [4, 4]
    for _ in range(5):
        put(store, b"a", b"small")
    store.watches.notify()
    assert [len(answer.events) for answer in sink.received[3:]] == [5]
    assert sink.received[-1].header.revision == store.revision


@pytest.mark.parametrize("watch", [WatchConfig(fragment_bytes=1000)], ids=["limits"])
def test_a_large_revision_is_sent_in_fragments_to_who_asked(harness: Harness) -> None:
    store = harness.store
    whole, parts = Sink(), Sink()
    store.watches.open(whole).create(Create(key=b"a", range_end=b"z"))
    store.watches.open(parts).create(Create(key=b"a", range_end=b"z", fragment=True))
    keys = [b"a", b"b", b"c", b"d", b"e"]
    put_both(store, keys, b"x" * 400)
    put(store, b"a", b"x" * 2000)
    store.watches.notify()
    assert [answer.fragment for answer in whole.received[1:]] == [False]
    assert [answer.fragment for answer in parts.received[1:]] == [True, True, True, False]
    events = [event for answer in parts.received[1:] for event in answer.events]
    assert events == list(whole.received[1].events)
    assert all(answer.ByteSize() < 1100 for answer in parts.received[1:4])


def test_a_slow_reader_is_remembered_by_its_revision_only(store: Store) -> None:
    slow, quick = Sink(room=2), Sink()
    stream = store.watches.open(slow)
    stream.create(Create(key=b"a"))
    store.watches.open(quick).create(Create(key=b"a"))
    for _ in range(50):
        put(store, b"a", b"x" * 1000)
        store.watches.notify()
        store.watches.sync()
    assert len(slow.received) == 2
    assert store.watches.slow_watchers == 1
    assert len(quick.received) == 51
    slow.room = None
    stream.resume()
    catch_up(store)
    assert store.watches.slow_watchers == 0
    told = [event.kv.mod_revision for answer in slow.received for event in answer.events]
    assert told == list(range(2, 52))


@pytest.mark.parametrize("watch", [WatchConfig(step_rows=5)], ids=["limits"])
def test_a_sink_that_fills_up_while_catching_up_is_left_alone(harness: Harness) -> None:
    store = harness.store
    for _ in range(100):
        put(store, b"a")
    sink = Sink(room=3)
    stream = store.watches.open(sink)
    stream.create(Create(key=b"a", start_revision=1))
    for _ in range(100):
        store.watches.sync()
    assert len(sink.received) == 3
    while store.watches.slow_watchers:
        sink.drain()
        stream.resume()
        store.watches.sync()
    assert sum(len(answer.events) for answer in sink.received) == 100


@pytest.mark.parametrize("watch", [WatchConfig(notify_send_bytes=2_500, step_send_bytes=2_500)], ids=["limits"])
def test_more_than_can_be_told_at_once_is_told_in_steps(harness: Harness) -> None:
    store = harness.store
    sinks = [Sink() for _ in range(8)]
    for sink in sinks:
        store.watches.open(sink).create(Create(key=b"a"))
    put(store, b"a", b"x" * 1_000)
    store.watches.notify()
    assert sum(len(sink.received) > 1 for sink in sinks) == 3
    assert store.watches.slow_watchers == 5
    store.watches.sync()
    assert sum(len(sink.received) > 1 for sink in sinks) == 6
    catch_up(store)
    put(store, b"a", b"later")
    catch_up(store)
    for sink in sinks:
        assert [event.kv.value[:5] for answer in sink.received for event in answer.events] == [b"xxxxx", b"later"]


@pytest.mark.parametrize("watch", [WatchConfig(step_rows=2)], ids=["limits"])
def test_a_step_of_catching_up_is_bounded_and_keeps_revisions_whole(harness: Harness) -> None:
    store = harness.store
    for _ in range(3):
        put_both(store, [b"a", b"b", b"c"], b"")
    sink = Sink()
    store.watches.open(sink).create(Create(key=b"a", range_end=b"z", start_revision=1))
    assert store.watches.sync()
    assert [len(answer.events) for answer in sink.received[1:]] == [3]
    catch_up(store)
    assert [len(answer.events) for answer in sink.received[1:]] == [3, 3, 3]


def test_progress_is_told_when_every_watch_has_caught_up(store: Store) -> None:
    put(store, b"a")
    store.watches.notify()
    sink = Sink()
    stream = store.watches.open(sink)
    stream.create(Create(key=b"a", start_revision=1))
    stream.create(Create(key=b"b"))
    stream.request_progress()
    assert len(sink.received) == 2
    catch_up(store)
    events, progress = sink.received[2:]
    assert len(events.events) == 1
    assert (progress.watch_id, progress.header.revision, len(progress.events)) == (-1, store.revision, 0)


def test_progress_covers_only_what_was_notified(store: Store) -> None:
    store.watches.notify()
    sink = Sink()
    stream = store.watches.open(sink)
    stream.create(Create(key=b"a"))
    put(store, b"a")
    stream.request_progress()
    assert sink.received[-1].header.revision == store.revision - 1


def test_idle_watches_that_asked_are_told_of_progress(store: Store) -> None:
    sink = Sink()
    stream = store.watches.open(sink)
    stream.create(Create(key=b"a", watch_id=1, progress_notify=True))
    stream.create(Create(key=b"b", watch_id=2, progress_notify=True))
    stream.create(Create(key=b"c", watch_id=3))
    put(store, b"a")
    store.watches.notify()
    sink.received.clear()
    store.watches.report_progress()
    assert [(answer.watch_id, answer.header.revision) for answer in sink.received] == [(2, 2)]
    store.watches.report_progress()
    assert sorted(answer.watch_id for answer in sink.received) == [1, 2, 2]


def test_watches_go_on_after_a_snapshot_has_replaced_the_state(store: Store) -> None:
    sink = Sink()
    store.watches.open(sink).create(Create(key=b"a"))
    put(store, b"a")
    store.watches.notify()
    # As if the snapshot had brought these: they were never told.
    for _ in range(3):
        put(store, b"a")
    store.take_events()
    store.reload()
    catch_up(store)
    put(store, b"a")
    store.watches.notify()
    assert [event.kv.mod_revision for answer in sink.received for event in answer.events] == [2, 3, 4, 5, 6]


def test_a_snapshot_that_is_compacted_beyond_a_watch_ends_it(store: Store) -> None:
    sink = Sink()
    store.watches.open(sink).create(Create(key=b"a"))
    put(store, b"a")
    store.watches.notify()
    for _ in range(5):
        put(store, b"a")
    store.take_events()
    store.compact(5)
    store.reload()
    catch_up(store)
    assert sink.received[-1].canceled
    assert sink.received[-1].compact_revision == 5


def test_closing_a_stream_forgets_its_watches(store: Store) -> None:
    put(store, b"a")
    sink = Sink(room=0)
    stream = store.watches.open(sink)
    stream.create(Create(key=b"a", start_revision=1))
    stream.create(Create(key=b"a", range_end=b"b"))
    assert store.watches.slow_watchers == 1
    stream.close()
    assert (store.watches.watchers, store.watches.slow_watchers, store.watches.streams) == (0, 0, 0)
    assert not store.watches.sync()
