"""Each kind of fault, as small as it gets, is found, named, and left when the history is cut down."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.history import check, load, write_failure
from tests.history.generate import Shape, generate
from tests.history.model import (
    Compact,
    CompactResult,
    Compare,
    Delete,
    DeleteResult,
    Event,
    Grant,
    GrantResult,
    History,
    KeepAlive,
    KeepAliveResult,
    Put,
    PutResult,
    Range,
    RangeResult,
    Refusal,
    Revoke,
    RevokeResult,
    Txn,
    TxnResult,
    WatchResponse,
    WatchResumed,
)
from tests.history.plan import SECOND
from tests.history.script import Script, delete_event, kv, put_event, shown


def stale_read() -> Script:
    script = Script()
    script.put("a", 0, 10, b"x", b"1", 2)
    script.put("a", 20, 30, b"x", b"2", 3)
    script.get("b", 40, 50, b"x", 2, kv(b"x", b"1", 2))
    return script


def stale_content() -> Script:
    script = Script()
    script.put("a", 0, 10, b"x", b"1", 2)
    script.put("a", 20, 30, b"x", b"2", 3)
    script.get("b", 40, 50, b"x", 3, kv(b"x", b"1", 2))
    return script


def lost_update() -> Script:
    script = Script()
    script.put("a", 0, 10, b"x", b"1", 2)
    script.put("a", 20, 30, b"y", b"1", 3)
    script.get("b", 40, 50, b"x", 3)
    return script


def two_writes_of_one_revision() -> Script:
    script = Script()
    script.put("a", 0, 10, b"x", b"1", 2)
    script.put("b", 20, 30, b"x", b"2", 2)
    return script


def revision_that_went_back() -> Script:
    script = Script()
    script.put("a", 0, 10, b"x", b"1", 3)
    script.put("b", 20, 30, b"y", b"2", 2)
    return script


def dirty_read_of_a_refused_write() -> Script:
    script = Script()
    script.refused("a", 0, 10, Put(b"x", b"1"), "NoSpace")
    script.get("b", 20, 30, b"x", 2, kv(b"x", b"1", 2))
    return script


def read_before_the_write_began() -> Script:
    script = Script()
    script.get("b", 0, 10, b"x", 2, kv(b"x", b"1", 2))
    script.put("a", 20, 30, b"x", b"1", 2)
    return script


def read_before_an_unanswered_write_began() -> Script:
    script = Script()
    script.get("b", 0, 10, b"x", 2, kv(b"x", b"1", 2))
    script.unknown("a", 20, 30, Put(b"x", b"1"))
    return script


def torn_txn() -> Script:
    script = Script()
    both = Txn((), (Put(b"x", b"1"), Put(b"y", b"1")))
    script.answered("a", 0, 10, both, TxnResult(2, True, (PutResult(2), PutResult(2))))
    script.answered("b", 20, 30, Range(b"a", b"z"), shown(2, kv(b"x", b"1", 2)))
    return script


def comparison_that_did_not_hold() -> Script:
    script = Script()
    script.put("a", 0, 10, b"x", b"1", 2)
    swap = Txn((Compare(b"x", "mod", "=", 0),), (Put(b"x", b"2"),))
    script.answered("b", 20, 30, swap, TxnResult(3, True, (PutResult(3),)))
    return script


def wrong_prev_kv() -> Script:
    script = Script()
    script.put("a", 0, 10, b"x", b"1", 2)
    script.answered("a", 20, 30, Put(b"x", b"2", prev_kv=True), PutResult(3, kv(b"x", b"0", 2)))
    return script


def wrong_version() -> Script:
    script = Script()
    script.put("a", 0, 10, b"x", b"1", 2)
    script.put("a", 20, 30, b"x", b"2", 3)
    script.get("b", 40, 50, b"x", 3, kv(b"x", b"2", 3, create=2, version=1))
    return script


def wrong_count() -> Script:
    script = Script()
    script.put("a", 0, 10, b"x", b"1", 2)
    script.answered("b", 20, 30, Range(b"a", b"z", count_only=True), RangeResult(2, (), 2))
    return script


def wrong_number_deleted() -> Script:
    script = Script()
    script.put("a", 0, 10, b"x", b"1", 2)
    script.answered("b", 20, 30, Delete(b"a", b"z"), DeleteResult(3, 2))
    return script


def delete_that_found_nothing() -> Script:
    script = Script()
    script.put("a", 0, 10, b"x", b"1", 2)
    script.answered("b", 20, 30, Delete(b"x"), DeleteResult(2, 0))
    return script


def serializable_read_of_what_never_was() -> Script:
    script = Script()
    script.put("a", 0, 10, b"x", b"1", 2)
    script.put("a", 20, 30, b"x", b"2", 3)
    script.answered("b", 40, 50, Range(b"x", serializable=True), shown(2, kv(b"x", b"7", 2)))
    return script


def serializable_read_of_the_future() -> Script:
    script = Script()
    script.answered("b", 0, 5, Range(b"x", serializable=True), shown(2, kv(b"x", b"1", 2)))
    script.put("a", 10, 20, b"x", b"1", 2)
    return script


def revision_that_nobody_made() -> Script:
    script = Script()
    script.unknown("c", 0, 10, Delete(b"y"))
    script.put("a", 20, 30, b"x", b"1", 3)
    return script


def deletion_without_an_answer_that_would_have_happened_twice() -> Script:
    script = Script()
    script.unknown("c", 0, 5, Delete(b"x"))
    for revision in (2, 4, 6):
        script.put("a", 20 * revision, 20 * revision + 5, b"x", b"%d" % revision, revision)
        script.get("a", 20 * revision + 10, 20 * revision + 15, b"x", revision, kv(b"x", b"%d" % revision, revision))
    return script


def past_read_of_a_compacted_revision() -> Script:
    script = Script()
    script.put("a", 0, 10, b"x", b"1", 2)
    script.put("a", 20, 30, b"x", b"2", 3)
    script.answered("a", 40, 50, Compact(3), CompactResult(3))
    script.answered("b", 60, 70, Range(b"x", revision=2), shown(3, kv(b"x", b"1", 2)))
    return script


def refused_as_compacted_without_a_compaction() -> Script:
    script = Script()
    script.put("a", 0, 10, b"x", b"1", 2)
    script.refused("b", 20, 30, Range(b"x", revision=1), Refusal.COMPACTED)
    return script


def refused_as_not_found_while_there() -> Script:
    script = Script()
    script.put("a", 0, 10, b"x", b"1", 2)
    script.refused("b", 20, 30, Put(b"x", ignore_value=True), Refusal.KEY_NOT_FOUND)
    return script


def leased(script: Script) -> None:
    script.answered("a", 0, 10, Grant(5), GrantResult(1, 7, 5))
    script.answered("a", 20, 30, Put(b"x", b"1", lease=7), PutResult(2))


def keepalive_after_revocation() -> Script:
    script = Script()
    leased(script)
    script.answered("a", 40, 50, Revoke(7), RevokeResult(3))
    script.answered("b", 60, 70, KeepAlive(7), KeepAliveResult(3, 7, 5))
    return script


def key_that_outlives_its_revoked_lease() -> Script:
    script = Script()
    leased(script)
    script.answered("a", 40, 50, Revoke(7), RevokeResult(2))
    script.get("b", 60, 70, b"x", 2, kv(b"x", b"1", 2, lease=7))
    return script


def lease_that_expired_too_early() -> Script:
    script = Script()
    leased(script)
    script.get("b", 4 * SECOND, 4 * SECOND + 9, b"x", 3)
    return script


def lease_not_found_while_it_lives() -> Script:
    script = Script()
    leased(script)
    script.answered("b", 4 * SECOND, 4 * SECOND + 9, KeepAlive(7), KeepAliveResult(2, 7, 0))
    return script


def put_with_a_lease_that_was_never_granted() -> Script:
    script = Script()
    script.answered("a", 20, 30, Put(b"x", b"1", lease=7), PutResult(2))
    return script


def put_with_a_revoked_lease() -> Script:
    script = Script()
    leased(script)
    script.answered("a", 40, 50, Revoke(7), RevokeResult(3))
    script.answered("a", 60, 70, Put(b"y", b"1", lease=7), PutResult(4))
    return script


CALLS = {
    stale_read: "stale",
    stale_content: "wrong read",
    lost_update: "wrong read",
    two_writes_of_one_revision: "revision made twice",
    revision_that_went_back: "stale",
    dirty_read_of_a_refused_write: "dirty read",
    read_before_the_write_began: "read of the future",
    read_before_an_unanswered_write_began: "unexplained revision",
    torn_txn: "wrong read",
    comparison_that_did_not_hold: "wrong answer",
    wrong_prev_kv: "two truths|wrong answer",
    wrong_version: "wrong read|two truths",
    wrong_count: "wrong read",
    wrong_number_deleted: "wrong answer",
    delete_that_found_nothing: "wrong read",
    serializable_read_of_what_never_was: "two truths",
    serializable_read_of_the_future: "read of the future",
    revision_that_nobody_made: "unexplained revision",
    deletion_without_an_answer_that_would_have_happened_twice: "unexplained revision",
    past_read_of_a_compacted_revision: "read of the compacted",
    refused_as_compacted_without_a_compaction: "wrong refusal",
    refused_as_not_found_while_there: "wrong refusal",
    keepalive_after_revocation: "lease life|unexplained revision",
    key_that_outlives_its_revoked_lease: "revoked lease keeps keys",
    lease_that_expired_too_early: "unexplained revision",
    lease_not_found_while_it_lives: "lease life",
    put_with_a_lease_that_was_never_granted: "lease from nowhere",
    put_with_a_revoked_lease: "dead lease",
}


def assert_fails(history: History, kind: str) -> None:
    report = check(history)
    kinds = {violation.kind for violation in report.violations}
    assert kinds & set(kind.split("|")), report.summary()


@pytest.mark.parametrize("make", CALLS, ids=lambda make: str(make.__name__))
def test_a_fault_of_the_calls_is_found(make: Callable[[], Script]) -> None:
    assert_fails(make().history, CALLS[make])


def test_an_absurd_revision_is_refused_without_walking_to_it() -> None:
    script = Script()
    script.put("a", 0, 10, b"x", b"1", 1 << 60)
    assert_fails(script.history, "unexplained revision")


# --- watches --------------------------------------------------------------------------------------------------------


def watched() -> tuple[Script, list[Event]]:
    """Three puts, a transaction of two and a deletion, and the events of them all."""
    script = Script()
    script.put("a", 0, 1, b"x", b"1", 2)
    script.put("a", 2, 3, b"x", b"2", 3)
    both = Txn((), (Put(b"x", b"3"), Put(b"y", b"3")))
    script.answered("a", 4, 5, both, TxnResult(4, True, (PutResult(4), PutResult(4))))
    script.answered("a", 6, 7, Delete(b"x"), DeleteResult(5, 1))
    x1, x2 = kv(b"x", b"1", 2), kv(b"x", b"2", 3, 2, 2)
    x3 = kv(b"x", b"3", 4, 2, 3)
    events = [
        put_event(b"x", b"1", 2),
        put_event(b"x", b"2", 3, x1, 2, 2),
        put_event(b"x", b"3", 4, x2, 2, 3),
        put_event(b"y", b"3", 4),
        delete_event(b"x", 5, x3),
    ]
    return script, events


def test_a_watch_told_all_in_order_passes() -> None:
    script, events = watched()
    script.watch(*((event,) for event in events[:2]), tuple(events[2:4]), (events[4],), prev_kv=True)
    script.watch(tuple(events), prev_kv=True)
    assert check(script.history).ok, check(script.history).summary()


@pytest.mark.parametrize(
    ("told", "kind"),
    [
        ([[0], [2, 3], [4]], "skipped event"),
        ([[0], [1], [2], [4]], "torn revision"),
        ([[0], [1], [2], [3], [4]], "split revision"),
        ([[0], [1], [1], [2, 3], [4]], "repeated event"),
        ([[0], [1], [2, 3], [4], [0]], "repeated event"),
        ([[0], [2, 3], [1], [4]], "watch order"),
        ([[1], [2, 3], [4]], "skipped event"),
    ],
)
def test_a_watch_told_wrongly_is_found(told: list[list[int]], kind: str) -> None:
    script, events = watched()
    script.watch(*(tuple(events[index] for index in response) for response in told), prev_kv=True)
    assert_fails(script.history, kind)


def test_progress_beyond_an_event_not_told_is_found() -> None:
    script, events = watched()
    watch = script.watch(tuple(events[:4]), prev_kv=True)
    watch.log.append(WatchResponse(2000, 5))
    assert_fails(script.history, "skipped event")


def test_a_wrong_prev_kv_of_an_event_is_found() -> None:
    script, events = watched()
    events[4] = replace(events[4], prev_kv=None)
    script.watch(tuple(events), prev_kv=True)
    assert_fails(script.history, "wrong prev_kv")


@pytest.mark.parametrize(("compacted", "begun", "excused"), [(5, 900, True), (4, 900, False), (5, 1001, False)])
def test_what_was_before_may_be_left_out_once_it_is_compacted(compacted: int, begun: int, excused: bool) -> None:
    script, events = watched()
    events[4] = replace(events[4], prev_kv=None)
    script.watch(tuple(events), prev_kv=True)
    script.answered("a", begun, 2000, Compact(compacted), CompactResult(5))
    if excused:
        assert check(script.history).ok, check(script.history).summary()
    else:
        assert_fails(script.history, "wrong prev_kv")


def test_an_event_of_a_deletion_that_was_a_put_is_found() -> None:
    script, events = watched()
    script.watch((events[0], delete_event(b"x", 3, kv(b"x", b"1", 2)), *events[2:]), prev_kv=True)
    assert_fails(script.history, "two truths")


def test_an_event_of_a_key_that_is_not_watched_is_found() -> None:
    script, events = watched()
    watch = script.watch(tuple(events), prev_kv=True)
    watch.key, watch.end = b"x", b""
    assert_fails(script.history, "foreign event")


def test_a_fragmented_revision_may_come_in_parts() -> None:
    script, events = watched()
    watch = script.watch(tuple(events[:3]), (events[3],), (events[4],), prev_kv=True, fragment=True)
    for index in (1, 2):
        entry = watch.log[index]
        assert isinstance(entry, WatchResponse)
        watch.log[index] = replace(entry, fragment=False)
    assert check(script.history).ok, check(script.history).summary()


def test_a_resumed_watch_must_go_on_where_it_was() -> None:
    script, events = watched()
    watch = script.watch((events[0],), (events[1],), tuple(events[2:4]), (events[4],), prev_kv=True)
    watch.log.insert(2, WatchResumed(1001, 4))
    assert check(script.history).ok, check(script.history).summary()
    del watch.log[3]
    assert_fails(script.history, "skipped event")


def test_a_watch_canceled_by_a_compaction_that_nobody_asked_for_is_found() -> None:
    script, events = watched()
    watch = script.watch((events[0],))
    watch.log.append(WatchResponse(3000, 5, canceled=True, compact_revision=5))
    assert_fails(script.history, "watch lost for nothing")
    script.answered("a", 8, 9, Compact(5), CompactResult(5))
    assert check(script.history).ok, check(script.history).summary()


# --- what is left of a failure --------------------------------------------------------------------------------------


def spoiled(spoil: Callable[[History], int]) -> tuple[History, int]:
    history = generate(3, Shape(calls=600, clients=5, keys=6))
    return history, spoil(history)


def _stale(history: History) -> int:
    """Let a read in the middle show what the key was two writes before, at the revision it says."""
    reads = [
        call
        for call in history.calls[200:]
        if isinstance(call.op, Range) and not (call.op.end or call.op.serializable or call.op.revision) and call.result
    ]
    for read in reads:
        assert isinstance(read.result, RangeResult)
        if read.result.kvs and read.result.kvs[0].version > 1:
            read.result = replace(read.result, kvs=(), count=0)
            return read.id
    raise AssertionError("no read to spoil")


def _skip(history: History) -> int:
    log = history.watches[0].log
    told = [index for index, entry in enumerate(log) if isinstance(entry, WatchResponse) and entry.events]
    del log[told[len(told) // 2]]
    return -1


@pytest.mark.parametrize("spoil", [_stale, _skip])
def test_a_failure_leaves_a_small_history_that_fails_and_its_picture(
    spoil: Callable[[History], int], tmp_path: Path
) -> None:
    history, impossible = spoiled(spoil)
    report = check(history)
    assert not report.ok
    minimal = write_failure(history, report, tmp_path)
    assert load([tmp_path / "history.jsonl"]) == history
    again = load([tmp_path / "minimal.jsonl"])
    assert again == minimal
    assert {violation.kind for violation in check(again).violations} & {v.kind for v in report.violations}
    assert len(minimal.calls) <= 4
    if impossible >= 0:
        assert impossible in {call.id for call in minimal.calls}
    page = (tmp_path / "minimal.html").read_text(encoding="utf-8")
    tree = ElementTree.fromstring(page.removeprefix("<!DOCTYPE html>\n"))
    marked = [group for group in tree.iter("{http://www.w3.org/2000/svg}g") if "bad" in group.get("class", "").split()]
    assert marked
    if impossible >= 0:
        text = "".join("".join(group.itertext()) for group in marked)
        assert f"call {impossible}:" in text
    assert len(list(tree.iter("{http://www.w3.org/2000/svg}line"))) == len(
        {call.client for call in minimal.calls} | {watch.client for watch in minimal.watches}
    )


@pytest.mark.parametrize("make", [stale_read, lost_update, torn_txn, dirty_read_of_a_refused_write])
def test_the_smallest_history_of_a_small_fault_has_no_more_than_it_needs(
    make: Callable[[], Script], tmp_path: Path
) -> None:
    script = make()
    last = max(call.result.revision for call in script.history.calls if call.result)
    for number in range(20):
        script.put("noise", 100 + 2 * number, 101 + 2 * number, b"n%d" % number, b"", last + 1 + number)
    report = check(script.history)
    assert len(write_failure(script.history, report, tmp_path).calls) <= 2
