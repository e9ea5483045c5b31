"""Watches of a real member: history, compaction, slow readers, progress."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from typing import Any

import pytest

from kvstore.pb import rpc_pb2 as pb
from tests.api.real_member import RealMember

SECONDS = 20.0


class Watch:
    """A stream of watches. Responses are read by whoever asks for them, and by nobody ahead of that."""

    def __init__(self, member: RealMember) -> None:
        self._requests: queue.SimpleQueue[pb.WatchRequest | None] = queue.SimpleQueue()
        self._call = member.watch.Watch(iter(self._requests.get, None), timeout=SECONDS)

    def create(self, key: bytes, **options: Any) -> pb.WatchResponse:
        """Ask for a watch: the first response."""
        self._requests.put(pb.WatchRequest(create_request=pb.WatchCreateRequest(key=key, **options)))
        return self.read()

    def read(self) -> pb.WatchResponse:
        response: pb.WatchResponse = next(self._call)
        return response

    def values(self) -> Iterator[bytes]:
        """Values of the events as they come."""
        for response in self._call:
            yield from (event.kv.value for event in response.events)

    def close(self) -> None:
        self._requests.put(None)
        self._call.cancel()


@pytest.fixture
def member(shared_member: RealMember) -> RealMember:
    return shared_member


@pytest.fixture
def watch(member: RealMember) -> Iterator[Watch]:
    watch = Watch(member)
    yield watch
    watch.close()


def put(member: RealMember, key: bytes, value: bytes) -> int:
    revision: int = member.kv.Put(pb.PutRequest(key=key, value=value)).header.revision
    return revision


def test_history_is_replayed_in_order_and_the_present_follows(member: RealMember, watch: Watch) -> None:
    # More rows than are read in one step.
    expected = [b"%d/%d" % (batch, number) for batch in range(25) for number in range(100)]
    revisions = []
    for first in range(0, len(expected), 100):
        operations = [
            pb.RequestOp(request_put=pb.PutRequest(key=b"h/%d" % number, value=value))
            for number, value in enumerate(expected[first : first + 100])
        ]
        revisions.append(member.kv.Txn(pb.TxnRequest(success=operations)).header.revision)
    assert watch.create(b"h/", range_end=b"h0", start_revision=revisions[0]).created
    values = watch.values()
    assert [next(values) for _ in expected] == expected
    put(member, b"h/1", b"now")
    assert next(values) == b"now"


def test_a_watch_from_below_the_compaction_is_cancelled_with_its_revision(member: RealMember, watch: Watch) -> None:
    first = put(member, b"c", b"1")
    last = put(member, b"c", b"2")
    member.kv.Compact(pb.CompactionRequest(revision=last))
    assert watch.create(b"c", start_revision=first).created
    canceled = watch.read()
    assert (canceled.canceled, canceled.compact_revision) == (True, last)


def test_a_slow_reader_gets_everything_in_order_and_holds_up_nobody(member: RealMember, watch: Watch) -> None:
    slow = Watch(member)
    assert slow.create(b"s").created
    assert watch.create(b"s").created
    filler = bytes(90_000)
    quick_values = watch.values()
    for number in range(200):
        put(member, b"s", b"%03d" % number + filler)
        # The one that reads is told of each at once, though the other has read nothing of 18 MB.
        assert next(quick_values)[:3] == b"%03d" % number
    slow_values = slow.values()
    assert [next(slow_values)[:3] for _ in range(200)] == [b"%03d" % number for number in range(200)]
    slow.close()


def test_an_idle_watch_that_asked_for_it_is_told_of_progress(member: RealMember, watch: Watch) -> None:
    assert watch.create(b"idle", progress_notify=True, watch_id=7).created
    revision = put(member, b"elsewhere", b"")
    while (progress := watch.read()).header.revision < revision:
        assert list(progress.events) == []
    assert (progress.watch_id, list(progress.events)) == (7, [])


def test_all_of_a_revision_arrives_together_unless_fragments_were_asked_for(member: RealMember, watch: Watch) -> None:
    assert watch.create(b"f/", range_end=b"f0").created
    operations = [pb.RequestOp(request_put=pb.PutRequest(key=b"f/%d" % n, value=bytes(900))) for n in range(100)]
    member.kv.Txn(pb.TxnRequest(success=operations))
    assert len(watch.read().events) == 100
