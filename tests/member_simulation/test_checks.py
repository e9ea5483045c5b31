"""The parts of the simulation, and its checks, each shown something that breaks it."""

import asyncio
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from kvstore.pb import internal_pb2
from kvstore.pb import rpc_pb2 as pb
from kvstore.rpc import RpcError, StatusCode
from kvstore.storage.batch import TableSpec, WriteBatch
from kvstore.storage.engine import Engine, EngineOptions
from raft.messages import Entry, HardState, Message, MessageType, SnapshotMetadata
from tests.history.plan import SECOND
from tests.member_simulation.clients import Book, HeldLease, Watching, Write
from tests.member_simulation.disk import SimulatedWriter
from tests.member_simulation.durable import DiskHabits
from tests.member_simulation.host import KnownLog
from tests.member_simulation.timeline import ProcessLoop, Timeline, Trace, Violation
from tests.member_simulation.truth import Truth
from tests.member_simulation.world import World


@pytest.fixture
def timeline() -> Timeline:
    return Timeline(random.Random(1), Trace())


@pytest.fixture
def world() -> Iterator[World]:
    with World(1, 1) as world:
        yield world


def put(index: int, key: bytes, value: bytes, lease: int = 0, term: int = 1) -> Entry:
    request = internal_pb2.InternalRequest(put=pb.PutRequest(key=key, value=value, lease=lease))
    return Entry(term, index, data=internal_pb2.RequestBatch(requests=[request]).SerializeToString())


def truth_after(*entries: Entry) -> Truth:
    truth = Truth(lambda: 10.0)
    for entry in entries:
        truth.apply("m1", entry)
    return truth


# Time.


def test_time_jumps_to_what_comes_next(timeline: Timeline) -> None:
    seen: list[float] = []
    timeline.after(5.0, lambda: seen.append(timeline.now))
    timeline.after(3600.0, lambda: seen.append(timeline.now))
    timeline.run(4000.0)
    assert seen == [5.0, 3600.0]
    assert timeline.now == 4000.0


def test_a_process_has_its_own_clock(timeline: Timeline) -> None:
    loop = ProcessLoop(timeline, "fast", rate=2.0, offset=100.0)
    seen: list[tuple[float, float]] = []

    async def sleep() -> None:
        await asyncio.sleep(10.0)
        seen.append((timeline.now, loop.time()))

    loop.create_task(sleep())
    timeline.run(6.0)
    assert [round(seconds, 2) for seconds in seen[0]] == [5.0, 110.0]


def test_a_paused_process_does_everything_late(timeline: Timeline) -> None:
    loop = ProcessLoop(timeline, "paused")
    seen: list[float] = []
    loop.call_later(1.0, lambda: seen.append(timeline.now))
    loop.pause(3.0)
    timeline.run(5.0)
    assert seen == [3.0]


def test_a_killed_process_does_nothing_more(timeline: Timeline) -> None:
    loop = ProcessLoop(timeline, "killed")
    seen: list[str] = []

    async def work() -> None:
        try:
            await asyncio.sleep(10.0)
        finally:
            loop.call_soon(seen.append, "after the end")

    loop.create_task(work())
    timeline.after(1.0, loop.kill)
    timeline.run(20.0)
    assert seen == []


def test_what_escapes_a_callback_fails_the_world(timeline: Timeline) -> None:
    loop = ProcessLoop(timeline, "broken")
    loop.call_soon(lambda: 1 // 0)
    with pytest.raises(Violation, match="ZeroDivisionError"):
        timeline.run(1.0)


# Disks.


def writer_in(path: Path, timeline: Timeline) -> SimulatedWriter:
    engine = Engine(path, [TableSpec("t")], EngineOptions(unsafe_no_fsync=True))
    return SimulatedWriter(engine, ProcessLoop(timeline, "m1"), timeline, DiskHabits(seconds=1.0), "m1/test")


def rows_in(path: Path) -> int:
    engine = Engine(path, [TableSpec("t")])
    with engine.env.begin(db=engine.handles["t"].main) as txn:
        count: int = txn.stat(engine.handles["t"].main)["entries"]
    engine.close()
    return count


def one_row(number: int) -> WriteBatch:
    batch = WriteBatch()
    batch.put("t", [(b"%d" % number, b"1")])
    return batch


def test_what_a_disk_has_reported_outlives_a_crash(tmp_path: Path, timeline: Timeline) -> None:
    writer, done = writer_in(tmp_path, timeline), []
    for number in range(5):
        writer.submit(one_row(number), lambda number=number: done.append(number))  # type: ignore[misc]
    timeline.run(100.0)
    writer.crash()
    assert done == [0, 1, 2, 3, 4]
    assert rows_in(tmp_path) == 5


def test_a_writer_that_dies_while_it_is_closed_is_waited_for_no_more(tmp_path: Path, timeline: Timeline) -> None:
    writer = writer_in(tmp_path, timeline)
    writer.habits.full = True
    writer.submit(one_row(1), lambda: None)
    closing = writer.loop.create_task(writer.close())
    timeline.run(10.0)
    assert not closing.done()
    writer.break_down()
    timeline.run(20.0)
    assert closing.done()
    assert rows_in(tmp_path) == 0


def test_what_a_disk_has_not_done_may_be_lost_in_a_crash(tmp_path: Path, timeline: Timeline) -> None:
    writer = writer_in(tmp_path, timeline)
    for number in range(10):
        writer.submit(one_row(number), lambda: None)
    writer.crash()
    assert rows_in(tmp_path) <= 3


def test_a_log_that_has_lost_an_entry_is_noticed(world: World) -> None:
    world.hosts[0].start()
    world.timeline.run(2.0)
    host = world.hosts[0]
    log = world.group.logs[host.member_id]
    log.durable(None, [Entry(log.term(log.last_index()), log.last_index() + 1)], None)
    host.crash()
    host.start()
    with pytest.raises(Violation, match="has lost entry"):
        world.timeline.run(5.0)


def test_a_log_that_has_lost_its_vote_is_noticed(world: World) -> None:
    world.hosts[0].start()
    world.timeline.run(2.0)
    host = world.hosts[0]
    world.group.logs[host.member_id].durable(HardState(99, 1, 1), (), None)
    host.crash()
    host.start()
    with pytest.raises(Violation, match="lost its hard state"):
        world.timeline.run(5.0)


def test_a_known_log_is_replaced_by_a_snapshot_and_by_a_later_leader() -> None:
    log = KnownLog()
    log.durable(HardState(1), [Entry(1, 1), Entry(1, 2), Entry(1, 3)], None)
    log.durable(None, [Entry(2, 2)], None)
    assert (log.last_index(), log.term(1), log.term(2)) == (2, 1, 2)
    log.durable(None, (), SnapshotMetadata(index=9, term=3))
    assert (log.last_index(), log.term(9)) == (9, 3)


def test_an_acknowledgement_of_what_is_not_on_disk_is_noticed_unless_a_later_term_is(world: World) -> None:
    host, log = world.hosts[0], KnownLog()
    log.durable(HardState(3), [Entry(3, 1)], None)
    promise = Message(type=MessageType.APP_RESP, from_=1, to=2, term=2, index=2)
    host._check_promise(log, promise)
    with pytest.raises(AssertionError, match="acknowledges 2, its disk ends with 1"):
        host._check_promise(log, replace(promise, term=3))


# The truth.


def test_two_entries_at_one_index_are_noticed() -> None:
    truth = truth_after(put(1, b"k", b"1"))
    truth.apply("m2", put(1, b"k", b"1"))
    with pytest.raises(Violation, match="m2 applies another entry at 1"):
        truth.apply("m2", put(1, b"k", b"2"))


def test_a_member_at_another_revision_is_noticed() -> None:
    truth = truth_after(put(1, b"k", b"1"), put(2, b"k", b"2"))
    truth.check_state("m1", 2, 3)
    with pytest.raises(Violation, match="at revision 2 after entry 2, not at 3"):
        truth.check_state("m1", 2, 2)


def test_rows_of_another_revision_are_noticed() -> None:
    truth = truth_after(put(1, b"k", b"1"), put(2, b"k", b"2"))
    newest = pb.RangeResponse().kvs.add(key=b"k", value=b"2", create_revision=2, mod_revision=3, version=2)
    truth.check_rows("a read", [newest], b"k", b"", 3)
    with pytest.raises(Violation, match="a read at revision 2"):
        truth.check_rows("a read", [newest], b"k", b"", 2)


# What clients may see.


def test_a_read_of_less_than_was_known_is_noticed(world: World) -> None:
    for entry in (put(1, b"k", b""), put(2, b"k", b"")):
        world.truth.on_put = lambda key, value, revision: None
        world.truth.apply("m1", entry)
    world.book.see(3, 3, False, "a read")
    with pytest.raises(Violation, match="linearizability"):
        world.book.see(3, 2, False, "a read")
    with pytest.raises(Violation, match="linearizability"):
        world.book.see(3, 3, True, "a write")
    with pytest.raises(Violation, match="the log leads to 3"):
        world.book.see(3, 4, False, "a read")


def test_a_value_that_takes_effect_twice_is_noticed(world: World) -> None:
    world.book.writes[b"v@k"] = Write(floor=1)
    world.truth.apply("m1", put(1, b"k", b"v"))
    with pytest.raises(Violation, match="takes effect at 2 and at 3"):
        world.truth.apply("m1", put(2, b"k", b"v"))


def test_a_refused_value_that_takes_effect_is_noticed(world: World) -> None:
    world.book.writes[b"v@k"] = Write(floor=1, refused=True)
    with pytest.raises(Violation, match="was refused"):
        world.truth.apply("m1", put(1, b"k", b"v"))


def test_a_value_that_nobody_wrote_is_noticed(world: World) -> None:
    with pytest.raises(Violation, match="nobody has asked for"):
        world.truth.apply("m1", put(1, b"k", b"v"))


def lease_request(kind: str, index: int) -> Entry:
    request = internal_pb2.InternalRequest()
    getattr(request, kind).ID = 7
    return Entry(1, index, data=internal_pb2.RequestBatch(requests=[request]).SerializeToString())


@pytest.mark.parametrize(("until", "early"), [(0.0, False), (5.0, True)])
def test_a_lease_that_ends_early_is_noticed(world: World, until: float, early: bool) -> None:
    world.book.leases[7] = HeldLease(7, 5, alive_until=until)
    world.truth.apply("m1", lease_request("lease_grant", 1))
    if not early:
        world.truth.apply("m1", lease_request("lease_revoke", 2))
        return
    with pytest.raises(Violation, match="promised until 5"):
        world.truth.apply("m1", lease_request("lease_revoke", 2))


def test_a_lease_that_is_renewed_after_its_end_is_noticed(world: World) -> None:
    lease = world.book.leases[7] = HeldLease(7, 5, alive_until=0.0)
    world.truth.apply("m1", lease_request("lease_grant", 1))
    world.truth.apply("m1", lease_request("lease_revoke", 2))
    world.book.check_renewal(lease, 1.0, 0)
    with pytest.raises(Violation, match="was revoked at"):
        world.book.check_renewal(lease, 1.0, 5)


def watch_of(world: World) -> Watching:
    world.truth.on_put = lambda key, value, revision: None
    for index in (1, 2, 3):
        world.truth.apply("m1", put(index, b"k", b"%d" % index))
    watch = Watching(world, world.book, "w", random.Random(1), b"k", b"l")
    watch._take(pb.WatchResponse(created=True, header=pb.ResponseHeader(revision=1)))
    return watch


def events(*revisions: int) -> pb.WatchResponse:
    response = pb.WatchResponse(header=pb.ResponseHeader(revision=4))
    for revision in revisions:
        event = response.events.add()
        event.kv.key, event.kv.value, event.kv.mod_revision = b"k", b"%d" % (revision - 1), revision
    return response


def test_a_watch_that_is_told_everything_in_order_is_content(world: World) -> None:
    watch = watch_of(world)
    watch._take(events(2))
    assert not watch.up_to_date
    watch._take(events(3, 4))
    assert watch.up_to_date


@pytest.mark.parametrize("revisions", [(3,), (2, 4), (2, 2), (3, 2)], ids=str)
def test_a_watch_that_misses_repeats_or_reorders_is_noticed(world: World, revisions: tuple[int, ...]) -> None:
    with pytest.raises(Violation, match="is told of"):
        watch_of(world)._take(events(*revisions))


def test_progress_past_what_was_told_is_noticed(world: World) -> None:
    with pytest.raises(Violation, match="it misses"):
        watch_of(world)._take(pb.WatchResponse(header=pb.ResponseHeader(revision=3)))


def test_hashes_that_differ_are_noticed(world: World) -> None:
    world.operator.note_hash(3, pb.HashKVResponse(hash=1), "m1")
    world.operator.note_hash(3, pb.HashKVResponse(hash=1), "m2")
    with pytest.raises(Violation, match="different histories"):
        world.operator.note_hash(3, pb.HashKVResponse(hash=2), "m3")


# The history.


def written(world: World, client: str, value: bytes, revision: int) -> None:
    call = world.scribe.asked(client, pb.PutRequest(key=b"k", value=value))
    world.scribe.answered(call, pb.PutResponse(header=pb.ResponseHeader(revision=revision)))


def test_a_history_that_no_store_could_have_had_is_noticed(world: World) -> None:
    written(world, "c0", b"1", 2)
    world._judge()
    world.timeline.run(1.0)
    call = world.scribe.asked("c1", pb.RangeRequest(key=b"k"))
    world.scribe.answered(call, pb.RangeResponse(header=pb.ResponseHeader(revision=1)))
    with pytest.raises(Violation, match=r"history: 2 calls .*\n.*stale: call 1 is at revision 1"):
        world._judge()


def test_a_history_knows_what_a_watch_was_told(world: World) -> None:
    written(world, "c0", b"1", 2)
    written(world, "c0", b"2", 3)
    watch = world.scribe.watch("w", pb.WatchCreateRequest(key=b"k"), revision=1)
    world.scribe.told(watch, pb.WatchResponse(header=pb.ResponseHeader(revision=2)))
    with pytest.raises(Violation, match="skipped event"):
        world._judge()


@pytest.mark.parametrize(("message", "refused", "kind"), [
    ("etcdserver: mvcc: required revision has been compacted", True, "wrong refusal"),
    ("etcdserver: request timed out", False, ""),
])  # fmt: skip
def test_a_history_tells_a_refusal_from_a_doubt(world: World, message: str, refused: bool, kind: str) -> None:
    written(world, "c0", b"1", 2)
    call = world.scribe.asked("c0", pb.RangeRequest(key=b"k", revision=1))
    world.scribe.failed(call, RpcError(StatusCode.OUT_OF_RANGE, message), refused)
    if not kind:
        world._judge()
        return
    with pytest.raises(Violation, match=kind):
        world._judge()
    world.scribe.compacted(2)
    world._judge()


def test_runs_leave_histories_of_everything() -> None:
    kinds: set[str] = set()
    for seed in range(8):
        with World(seed) as world:
            world.run(15.0)
            history = world.scribe.history
        assert max(call.end for call in history.calls) <= world.timeline.now * SECOND
        kinds |= {f"{type(call.op).__name__} {call.outcome.value}" for call in history.calls}
        kinds |= {type(entry).__name__ for watch in history.watches for entry in watch.log}
        if kinds >= _EVERYTHING:
            return
    pytest.fail(f"nowhere: {_EVERYTHING - kinds}")


_EVERYTHING = {
    *("Put answered", "Put unknown", "Range answered", "Range refused", "Txn answered", "Delete answered"),
    *("Compact answered", "Grant answered", "KeepAlive answered", "Revoke answered", "WatchResponse", "WatchResumed"),
}


def test_a_cluster_that_does_not_come_back_is_noticed() -> None:
    with World(5, 3) as world:
        for host in world.hosts[:2]:
            # As removed members stay away, so do these, though nobody has removed them.
            host.removed = True
        with pytest.raises(Violation, match="liveness"):
            world.run(1.0)


def test_a_book_belongs_to_one_world(world: World) -> None:
    assert Book(world).floor == 1
