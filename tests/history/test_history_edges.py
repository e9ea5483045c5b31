"""Small histories at the edge of each rule: just right, and just wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.history import CheckOptions, check
from tests.history.facts import gather
from tests.history.generate import Shape, generate
from tests.history.keyed import check_keys
from tests.history.model import (
    Compact,
    CompactResult,
    Compare,
    Delete,
    DeleteResult,
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


def assert_right(script: Script) -> None:
    report = check(script.history)
    assert report.ok, report.summary()


def assert_wrong(script: Script, kind: str) -> None:
    report = check(script.history)
    assert kind in {violation.kind for violation in report.violations}, report.summary()


def granted(end: int = 1, ttl: int = 5, result: int = 5) -> Script:
    """A lease, granted from the beginning to `end`, and a key on it at revision 2."""
    script = Script()
    script.answered("a", 0, end, Grant(ttl), GrantResult(1, 7, result))
    script.answered("a", end + 1, end + 2, Put(b"x", b"1", lease=7), PutResult(2))
    return script


# --- leases ---------------------------------------------------------------------------------------------------------


def test_a_lease_is_granted_for_no_less_than_was_asked() -> None:
    assert_right(granted(ttl=5, result=6))
    assert_wrong(granted(ttl=5, result=4), "lease too short")


@pytest.mark.parametrize(("gone", "right"), [(7.0, False), (9.0, True)])
def test_a_renewed_lease_lives_longer(gone: float, right: bool) -> None:
    script = granted()
    script.answered("a", 4 * SECOND, 4 * SECOND + 1, KeepAlive(7), KeepAliveResult(2, 7, 5))
    script.get("b", int(gone * SECOND), int(gone * SECOND) + 1, b"x", 3)
    if right:
        assert_right(script)
    else:
        assert_wrong(script, "unexplained revision")


@pytest.mark.parametrize(("gone", "right"), [(4.94, False), (4.96, True)])
def test_a_lease_lives_from_when_it_was_asked_for_less_what_clocks_err(gone: float, right: bool) -> None:
    script = granted(end=3 * SECOND)
    script.get("b", int(gone * SECOND) - 1, int(gone * SECOND), b"x", 3)
    if right:
        assert_right(script)
    else:
        assert_wrong(script, "unexplained revision")


def test_what_an_expiry_made_was_not_there_before() -> None:
    script = granted()
    script.answered("a", SECOND, 2 * SECOND, Compact(3), CompactResult(2))
    script.get("b", 6 * SECOND, 7 * SECOND, b"x", 3)
    assert_wrong(script, "compaction of the future")


def test_a_key_that_leaves_its_revoked_lease_too_late_is_noticed() -> None:
    script = granted()
    script.answered("a", 40, 50, Revoke(7), RevokeResult(2))
    script.get("b", 60, 70, b"x", 2, kv(b"x", b"1", 2, lease=7))
    script.answered("a", 80, 90, Put(b"x", b"2"), PutResult(3))
    assert_wrong(script, "revoked lease keeps keys")


def bare_lease(*calls: tuple[int, object, object]) -> Script:
    script = Script()
    script.answered("a", 0, 1, Grant(5), GrantResult(1, 7, 5))
    for start, op, result in calls:
        script.answered("a", start, start + 5, op, result)  # type: ignore[arg-type]
    return script


def test_a_lease_without_keys_is_not_renewed_after_its_end() -> None:
    renewal = (KeepAlive(7), KeepAliveResult(1, 7, 5))
    assert_right(bare_lease((10, *renewal), (20, Revoke(7), RevokeResult(1))))
    assert_wrong(bare_lease((10, Revoke(7), RevokeResult(1)), (20, *renewal)), "lease life")


def test_a_lease_is_renewed_for_what_it_was_granted() -> None:
    assert_wrong(bare_lease((10, KeepAlive(7), KeepAliveResult(1, 7, 4))), "wrong lease time")


def test_a_lease_is_revoked_once() -> None:
    once = (Revoke(7), RevokeResult(1))
    assert_wrong(bare_lease((10, *once), (20, *once)), "lease revoked twice")


# --- states ---------------------------------------------------------------------------------------------------------


def test_two_that_saw_one_revision_differently_contradict_each_other() -> None:
    script = Script()
    for value in (b"1", b"2"):
        script.unknown("a", 0, 1, Put(b"x", value))
        script.get("b", 10, 20, b"x", 2, kv(b"x", value, 2))
    assert_wrong(script, "two truths")


def test_a_revision_that_was_a_put_was_no_deletion() -> None:
    script = Script()
    script.put("a", 0, 1, b"x", b"1", 2)
    script.unknown("a", 2, 3, Put(b"x", b"2"))
    script.unknown("a", 2, 3, Delete(b"x"))
    script.watch((put_event(b"x", b"2", 3, create=2, version=2),), start=3)
    script.watch((delete_event(b"x", 3),), start=3)
    assert_wrong(script, "two truths")


def test_more_is_said_only_of_what_was_left_out() -> None:
    for limit, rows, right in ((1, 1, True), (2, 2, False)):
        script = Script()
        keys = (b"x", b"y")
        for number, key in enumerate(keys):
            script.put("a", 10 * number, 10 * number + 5, key, b"", 2 + number)
        found = tuple(kv(key, b"", 2 + number) for number, key in enumerate(keys))
        script.answered("b", 40, 50, Range(b"a", b"z", limit=limit), RangeResult(3, found[:rows], 2, more=True))
        if right:
            assert_right(script)
        else:
            assert_wrong(script, "wrong read")


@pytest.mark.parametrize(
    "compares",
    [
        (Compare(b"x", "mod", "=", 2), Compare(b"y", "mod", "=", 2)),
        (Compare(b"a", "mod", "=", 3, b"z"),),
    ],
    ids=["one of two", "a range"],
)
def test_all_comparisons_must_hold(compares: tuple[Compare, ...]) -> None:
    for succeeded in (False, True):
        script = Script()
        script.put("a", 0, 5, b"x", b"1", 2)
        swap = Txn(compares, (Put(b"q"),), (Put(b"q"),))
        script.answered("b", 20, 30, swap, TxnResult(3, succeeded, (PutResult(3),)))
        if succeeded:
            assert_wrong(script, "wrong answer")
        else:
            assert_right(script)


def test_a_previous_value_that_was_there_is_told() -> None:
    script = Script()
    script.put("a", 0, 10, b"x", b"1", 2)
    script.answered("a", 20, 30, Put(b"x", b"2", prev_kv=True), PutResult(3))
    assert_wrong(script, "wrong answer")


def test_a_guess_that_was_taken_back_leaves_nothing_in_the_past() -> None:
    script = Script()
    for key in (b"x", b"y"):
        script.unknown("a", 0, 1, Put(key))
    script.answered("b", 10, 20, Range(b"x", b"x\0", count_only=True), RangeResult(2))
    script.put("a", 30, 40, b"z", b"", 3)
    script.answered("b", 50, 60, Range(b"x", b"x\0", revision=2), RangeResult(3))
    assert_right(script)


def test_a_guess_writes_all_that_was_seen_of_its_revision() -> None:
    script = Script()
    script.unknown("a", 0, 1, Put(b"x"))
    script.unknown("a", 0, 1, Txn((), (Put(b"x"), Put(b"y"))))
    script.watch((put_event(b"x", b"", 2), put_event(b"y", b"", 2)))
    assert_right(script)


def test_a_long_history_without_a_watch_is_decided_with_few_guesses_taken_back() -> None:
    history = generate(1, Shape(10_000, clients=20, keys=100, watches=0))
    report = check(history, CheckOptions(budget=BUDGET))
    assert report.ok, report.summary()


BUDGET = 8_000
"""Revisions; the hasty search may take back a quarter of them."""


def test_a_key_that_was_seen_unchanged_was_not_written_meanwhile() -> None:
    script = Script()
    script.get("b", 0, 10, b"x", 5, kv(b"x", b"1", 3))
    facts = gather(script.history)
    assert [facts.excludes(revision, b"x") for revision in (3, 4, 5, 6)] == [False, True, True, False]


def test_puts_in_answered_transactions_leave_no_room_for_a_guess() -> None:
    script = Script()
    script.put("a", 0, 5, b"x", b"1", 2)
    for key in (b"x", b"y"):
        script.unknown("lost", 6, 7, Put(key))
    script.answered("a", 20, 25, Txn((), (Put(b"x", b"2"),)), TxnResult(4, True, (PutResult(4),)))
    script.put("a", 30, 35, b"x", b"3", 5)
    script.get("b", 40, 45, b"x", 5, kv(b"x", b"3", 5, create=2, version=3))
    report = check(script.history, CheckOptions(budget=0))
    assert report.violations == []
    assert not any("too many ways" in text for text in report.undecided)


# --- each key by itself ---------------------------------------------------------------------------------------------


def by_key(script: Script) -> set[str]:
    faults, undecided = check_keys(script.history, 1000)
    assert not undecided
    return {fault.kind for fault in faults}


@pytest.mark.parametrize(
    ("seen", "right"), [((kv(b"x", b"1", 2),), True), ((kv(b"x", b"2", 2),), False), ((), False)], ids=str
)
def test_a_key_by_itself_shows_what_was_written(seen: tuple[object, ...], right: bool) -> None:
    script = Script()
    script.put("a", 0, 10, b"x", b"1", 2)
    script.get("b", 20, 30, b"x", 2, *seen)  # type: ignore[arg-type]
    assert by_key(script) == (set() if right else {"no order for a key"})


# --- watches --------------------------------------------------------------------------------------------------------


def three_puts() -> Script:
    script = Script()
    for revision in (2, 3, 4):
        script.put("a", 10 * revision, 10 * revision + 5, b"x", b"%d" % revision, revision)
    return script


X2, X3, X4 = (put_event(b"x", b"%d" % revision, revision, create=2, version=revision - 1) for revision in (2, 3, 4))


def told(*log: WatchResponse, start: int = 1) -> History:
    script = three_puts()
    watch = script.watch(start=start)
    watch.log.extend(log)
    return script.history


WATCHES: dict[str, tuple[Callable[[], History], str]] = {
    "a response reaches as far as its last event": (lambda: told(WatchResponse(1, 4, (X2, X3))), ""),
    "an event is not newer than its response": (lambda: told(WatchResponse(1, 2, (X2, X3))), "watch order"),
    "progress goes on from where it was": (
        lambda: told(WatchResponse(1, 2, (X2,)), WatchResponse(2, 2), WatchResponse(3, 3, (X3,))),
        "",
    ),
    "what comes after progress is newer": (
        lambda: told(WatchResponse(1, 2, (X2,)), WatchResponse(2, 3), WatchResponse(3, 4, (X3, X4))),
        "watch order",
    ),
    "a watch from now on begins with what is next": (
        lambda: told(WatchResponse(1, 2, created=True), WatchResponse(2, 4, (X3, X4)), start=0),
        "",
    ),
    "a watch from now on is not told of what was": (
        lambda: told(WatchResponse(1, 2, created=True), WatchResponse(2, 4, (X2, X3)), start=0),
        "watch order",
    ),
    "a response of nothing but its creation promises nothing": (
        lambda: told(WatchResponse(1, 4, created=True), WatchResponse(2, 4, (X2,))),
        "",
    ),
}


@pytest.mark.parametrize(("make", "kind"), WATCHES.values(), ids=WATCHES)
def test_of_a_watch(make: Callable[[], History], kind: str) -> None:
    report = check(make())
    assert {violation.kind for violation in report.violations} == ({kind} if kind else set()), report.summary()


@pytest.mark.parametrize("after", [False, True])
def test_a_watch_that_was_lost_is_told_nothing_more(after: bool) -> None:
    script = three_puts()
    script.answered("a", 60, 70, Compact(4), CompactResult(4))
    watch = script.watch((X2,))
    watch.log.append(WatchResponse(2000, 4, canceled=True, compact_revision=4))
    if after:
        watch.log.append(WatchResponse(2001, 4, (X4,)))
        assert_wrong(script, "watch order")
    else:
        assert_right(script)


def test_a_watch_that_was_lost_to_a_compaction_goes_on_from_there() -> None:
    script = three_puts()
    script.answered("a", 60, 70, Compact(4), CompactResult(4))
    watch = script.watch((X2,))
    watch.log.append(WatchResponse(2000, 4, canceled=True, compact_revision=4))
    watch.log.append(WatchResumed(2001, 4))
    watch.log.append(WatchResponse(2002, 4, (X4,)))
    assert_right(script)


@pytest.mark.parametrize("deletions", [False, True])
def test_a_watch_is_not_told_of_what_it_left_out(deletions: bool) -> None:
    script = three_puts()
    script.answered("a", 80, 90, Delete(b"x"), DeleteResult(5, 1))
    watch = script.watch((delete_event(b"x", 5),) if deletions else (X2,), start=5 if deletions else 1)
    watch.no_delete, watch.no_put = deletions, not deletions
    assert_wrong(script, "foreign event")


def test_who_asked_for_no_previous_value_gets_none() -> None:
    script = three_puts()
    script.watch((replace(X2, prev_kv=None), replace(X3, prev_kv=kv(b"x", b"2", 2))))
    assert_wrong(script, "wrong prev_kv")


# --- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("asked", "right"), [(2, True), (3, False)])
def test_a_read_at_the_compacted_revision_is_answered(asked: int, right: bool) -> None:
    script = three_puts()
    script.answered("a", 60, 70, Compact(3), CompactResult(4))
    script.refused("b", 80, 90, Range(b"x", revision=asked), Refusal.COMPACTED)
    if right:
        assert_right(script)
    else:
        assert_wrong(script, "wrong refusal")


@pytest.mark.parametrize(("asked", "right"), [(5, True), (4, False)])
def test_a_revision_of_the_future_is_refused(asked: int, right: bool) -> None:
    script = three_puts()
    script.refused("b", 80, 90, Range(b"x", revision=asked), Refusal.FUTURE_REV)
    if right:
        assert_right(script)
    else:
        assert_wrong(script, "wrong refusal")


@pytest.mark.parametrize(("start", "end", "right"), [(0, 15, True), (60, 70, False), (60, 85, True), (95, 99, True)])
def test_a_key_is_missing_before_it_is_made_and_after_it_was_deleted(start: int, end: int, right: bool) -> None:
    script = three_puts()
    script.answered("a", 80, 90, Delete(b"x"), DeleteResult(5, 1))
    script.refused("b", start, end, Put(b"x", ignore_value=True), Refusal.KEY_NOT_FOUND)
    if right:
        assert_right(script)
    else:
        assert_wrong(script, "wrong refusal")


def test_a_compaction_is_of_what_is_there_and_once() -> None:
    script = three_puts()
    script.answered("a", 26, 29, Compact(3), CompactResult(2))
    assert_wrong(script, "compaction of the future")
    script = three_puts()
    for start in (60, 70):
        script.answered("a", start, start + 5, Compact(3), CompactResult(4))
    assert_wrong(script, "compacted twice")


def test_a_read_shows_no_more_than_was_there() -> None:
    script = three_puts()
    script.answered("b", 80, 90, Range(b"x", revision=2), shown(4, kv(b"x", b"3", 3, 2, 2)))
    assert_wrong(script, "wrong read")
