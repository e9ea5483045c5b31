"""Random watches on random changes, slow sinks and compactions: nothing missed, nothing twice, nothing out of order."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kvstore.mvcc.watch import WatchStream
from kvstore.mvcc.watchers import WatchConfig
from kvstore.pb import kv_pb2, rpc_pb2
from tests.mvcc.harness import Harness, Sink
from tests.mvcc.model import without_prev
from tests.mvcc.test_store_model import ENDS, KEYS, Comparison, deletes, puts, relative, txns

TINY_STEPS = WatchConfig(fragment_bytes=150, step_rows=2, step_bytes=200, step_send_bytes=300, notify_send_bytes=200)


@dataclass
class Watch:
    request: rpc_pb2.WatchCreateRequest
    first: int
    ended: bool = False


@dataclass
class Client:
    """One stream with what its watches must have been told."""

    stream: WatchStream
    sink: Sink
    watches: dict[int, Watch] = field(default_factory=dict)

    def create(self, request: rpc_pb2.WatchCreateRequest, revision: int) -> None:
        watch_id = self.stream.create(request)
        if watch_id is None:
            assert self.sink.received[-1].watch_id == -1
            assert self.sink.received[-1].canceled
            return
        self.watches[watch_id] = Watch(request, request.start_revision or revision + 1)

    def cancel(self, watch_id: int) -> None:
        known = watch_id in self.watches and not self.is_over(watch_id)
        assert self.stream.cancel(watch_id) == known
        if known:
            self.watches[watch_id].ended = True

    def is_over(self, watch_id: int) -> bool:
        return any(answer.canceled for answer in self.answers(watch_id))

    def answers(self, watch_id: int) -> list[rpc_pb2.WatchResponse]:
        return [answer for answer in self.sink.received if answer.watch_id == watch_id]


@st.composite
def creates(draw: st.DrawFn, revision: int) -> rpc_pb2.WatchCreateRequest:
    return rpc_pb2.WatchCreateRequest(
        key=draw(KEYS),
        range_end=draw(ENDS),
        start_revision=max(0, relative(draw, revision) + draw(st.sampled_from([0, 0, 0, 3]))),
        filters=draw(st.lists(st.sampled_from(rpc_pb2.WatchCreateRequest.FilterType.values()), max_size=1)),
        prev_kv=draw(st.booleans()),
        fragment=draw(st.booleans()),
    )


def check_watch(client: Client, watch_id: int, comparison: Comparison) -> None:
    watch = client.watches[watch_id]
    answers = client.answers(watch_id)
    assert answers[0].created
    assert not any(answer.created for answer in answers[1:])
    request = watch.request
    expected = comparison.model.events(
        watch.first, request.key, request.range_end, request.filters, prev_kv=request.prev_kv
    )
    told: list[kv_pb2.Event] = []
    for answer in answers[1:]:
        if answer.canceled:
            assert answer is answers[-1]
            break
        told += answer.events
        if not answer.fragment:
            # Whoever believes the header misses nothing.
            assert [event for event in expected[len(told) :] if event.kv.mod_revision <= answer.header.revision] == []
    assert [without_prev(event) for event in told] == [without_prev(event) for event in expected[: len(told)]]
    for event, wanted in zip(told, expected, strict=False):
        if event != wanted:
            assert not event.HasField("prev_kv")
            assert wanted.kv.mod_revision - 1 < comparison.model.compacted
    if answers[-1].canceled and not watch.ended:
        assert 0 < answers[-1].compact_revision <= comparison.model.compacted
        assert watch.first < answers[-1].compact_revision
    elif not watch.ended:
        assert len(told) == len(expected)
    if not request.fragment:
        ends = [answer.events[-1].kv.mod_revision for answer in answers if answer.events]
        starts = [answer.events[0].kv.mod_revision for answer in answers if answer.events]
        assert all(end < start for end, start in zip(ends, starts[1:], strict=False))


def run(data: st.DataObject, harness: Harness, steps: int) -> None:
    comparison = Comparison(harness)
    hub = harness.store.watches
    clients: list[Client] = []
    for _ in range(3):
        sink = Sink(data.draw(st.sampled_from([None, 1, 2])))
        clients.append(Client(hub.open(sink), sink))
    for _ in range(steps):
        revision = comparison.model.revision
        client = data.draw(st.sampled_from(clients))
        match data.draw(st.integers(0, 17), label="step"):
            case 0 | 1 | 2:
                comparison.put(data.draw(puts()))
            case 3:
                comparison.delete(data.draw(deletes()))
            case 4 | 5:
                comparison.txn(data.draw(txns(revision)))
            case 6 | 7 | 8:
                client.create(data.draw(creates(revision)), revision)
            case 9 | 10:
                hub.notify()
            case 11 | 12:
                hub.sync()
            case 13:
                if data.draw(st.booleans()):
                    client.sink.drain()
                client.stream.resume()
            case 14:
                client.cancel(data.draw(st.integers(0, 4)))
            case 15:
                comparison.compact(relative(data.draw, revision))
                harness.work()
            case 16:
                comparison.flush(acknowledged=True)
                harness.work()
            case _:
                harness.store.reload()
    hub.notify()
    while hub.slow_watchers:
        for client in clients:
            client.sink.drain()
            client.stream.resume()
        hub.sync()
    assert not hub.sync()
    for client in clients:
        for watch_id in client.watches:
            check_watch(client, watch_id, comparison)
        client.stream.close()
    assert hub.watchers == 0
    assert hub.streams == 0


@given(st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_watches_are_told_every_event_once_and_in_order(data: st.DataObject) -> None:
    harness = Harness(watch=data.draw(st.sampled_from([TINY_STEPS, WatchConfig()])))
    try:
        run(data, harness, data.draw(st.integers(1, 60)))
    finally:
        harness.destroy()
