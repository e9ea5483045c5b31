"""The search guided by revisions, held against the one that is not; and that one by itself."""

from __future__ import annotations

import copy
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.history.check import check
from tests.history.generate import Shape, generate
from tests.history.linear import GaveUp, HastyReplay, Replay
from tests.history.model import (
    Compare,
    Grant,
    GrantResult,
    History,
    Outcome,
    Put,
    PutResult,
    Range,
    RangeResult,
    Revoke,
    RevokeResult,
    Txn,
    WatchResponse,
)
from tests.history.oracle import Oracle, within_reach
from tests.history.plan import make
from tests.history.script import Script, kv, shown
from tests.history.search import Search, Timed


def guided(history: History) -> bool | None:
    plan = make(history, 0.01)
    if plan.faults:
        return False
    try:
        return Replay(plan, 200_000).run() is None
    except GaveUp:
        return None


def spoil(history: History, rng: random.Random) -> None:
    """Change one thing that a client saw, or when."""
    call = rng.choice(history.calls)
    kind = rng.randrange(7)
    answered = [other for other in history.calls if other.result is not None]
    if kind == 0 and call.result is not None:
        call.result = replace(call.result, revision=max(1, call.result.revision + rng.choice((-1, 1))))
    elif kind == 1 and call.outcome is not Outcome.UNKNOWN:
        shift = rng.randrange(-20_000_000, 20_000_000)
        call.start, call.end = max(0, call.start + shift), max(0, call.end + shift)
    elif kind == 2 and isinstance(call.result, RangeResult):
        others = [other.result for other in answered if other.op == call.op and isinstance(other.result, RangeResult)]
        call.result = replace(rng.choice(others), revision=call.result.revision)
    elif kind == 3:
        history.calls.remove(call)
    elif kind == 4 and call.outcome is Outcome.UNKNOWN:
        call.outcome, call.end = Outcome.REFUSED, max(call.start, call.end)
    elif kind == 5 and isinstance(call.result, PutResult):
        call.outcome, call.result = Outcome.UNKNOWN, None
    elif kind == 6 and answered:
        other = rng.choice(answered)
        if call.outcome is not Outcome.UNKNOWN:
            call.start, call.end, other.start, other.end = other.start, other.end, call.start, call.end


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10**9),
    calls=st.integers(2, 22),
    clients=st.integers(1, 5),
    keys=st.integers(1, 3),
    values=st.sampled_from([0, 2]),
    unknown=st.sampled_from([0.0, 0.1, 0.3]),
    spoils=st.integers(0, 2),
)
def test_both_searches_agree(
    seed: int, calls: int, clients: int, keys: int, values: int, unknown: float, spoils: int
) -> None:
    shape = Shape(calls, clients, keys, unknown, watches=0, compactions=False, values=values)
    history = within_reach(generate(seed, shape))
    rng = random.Random(seed)
    for _ in range(spoils if history.calls else 0):
        spoil(history, rng)
        if not history.calls:
            return
    plain = Oracle(history).linearizable(20_000)
    quick = guided(history)
    if plain is None or quick is None:
        return
    assert quick == plain, history
    plan = make(history, 0.01)
    assert plain or plan.faults or HastyReplay(plan, 200_000).run() is not None, history
    if not spoils:
        assert quick


@pytest.mark.parametrize("seed", range(20))
def test_made_up_histories_have_an_order_by_both(seed: int) -> None:
    history = within_reach(generate(seed, Shape(30, 4, 3, 0.1, watches=0, compactions=False)))
    assert guided(history)
    assert Oracle(history).linearizable(200_000) is not False


def test_checking_leaves_the_history_as_it_was() -> None:
    history = generate(1, Shape(100))
    before = copy.deepcopy(history)
    assert guided(history)
    assert history == before


# --- the plain search -----------------------------------------------------------------------------------------------


def register(state: int, thing: tuple[str, int]) -> int | None:
    verb, value = thing
    if verb == "write":
        return value
    return state if state == value else None


def order(*things: Timed[tuple[str, int]]) -> bool | None:
    return Search(things, register, 1000).run(0).found


def test_overlapping_calls_may_be_in_either_order() -> None:
    assert order(Timed(0, 10, ("write", 1)), Timed(5, 15, ("read", 0)))
    assert order(Timed(0, 10, ("write", 1)), Timed(5, 15, ("read", 1)))


def test_a_call_cannot_come_before_one_that_had_ended() -> None:
    assert order(Timed(0, 10, ("write", 1)), Timed(11, 15, ("read", 0), pure=True)) is False


def test_calls_that_touch_in_time_may_be_in_either_order() -> None:
    assert order(Timed(0, 10, ("write", 1)), Timed(10, 15, ("read", 0)))


def test_a_call_that_may_not_have_happened_can_come_late_or_never() -> None:
    late = Timed(0, 1 << 62, ("write", 1), must=False)
    assert order(late, Timed(20, 30, ("read", 0)), Timed(40, 50, ("read", 1)))
    assert order(late, Timed(20, 30, ("read", 0)))
    assert order(late, Timed(20, 30, ("read", 1)), Timed(40, 50, ("read", 0))) is False


def test_a_deletion_of_nothing_may_be_needed_later() -> None:
    # The write of what is there already changes nothing now, and everything after the other write.
    assert order(
        Timed(0, 100, ("write", 0)), Timed(0, 100, ("write", 1)), Timed(0, 50, ("read", 1)), Timed(60, 99, ("read", 0))
    )


def test_a_search_beyond_its_budget_says_so() -> None:
    things = [Timed(0, 100, ("write", number)) for number in range(1, 12)]
    assert Search([*things, Timed(101, 102, ("read", 99))], register, 100).run(0).found is None


def test_what_could_not_be_placed_is_named() -> None:
    found = Search([Timed(0, 1, ("write", 1)), Timed(2, 3, ("read", 2))], register, 100).run(0)
    assert found.stuck == ("read", 2)


# --- going back -----------------------------------------------------------------------------------------------------


def puts(script: Script, *keys: bytes, start: int = 0) -> None:
    """Puts without an answer."""
    for key in keys:
        script.unknown("lost", start, start + 1, Put(key))


def count_of_one(script: Script, start: int, key: bytes, revision: int, count: int) -> None:
    script.answered("reader", start, start + 5, Range(key, count_only=True), RangeResult(revision, (), count))


def test_a_transaction_without_an_answer_ties_keys_together() -> None:
    # That x was not there at first was the fault of y, which the first guess put there.
    script = Script()
    puts(script, b"y", b"z")
    script.unknown("lost", 0, 1, Txn((Compare(b"y", "create", "=", 0),), (Put(b"x"),)))
    script.get("reader", 10, 20, b"x", 2)
    count_of_one(script, 30, b"x", 3, 1)
    assert HastyReplay(make(script.history, 0.01), 1000).run() is not None
    assert check(script.history).ok, check(script.history).summary()


def test_a_call_that_an_earlier_guess_holds_is_let_go_when_it_is_missed() -> None:
    # Only z, which the first guess holds, and x can be what revision 3 wrote; and it was not x.
    script = Script()
    puts(script, b"z", b"w")
    script.get("reader", 10, 20, b"q", 2)
    puts(script, b"x", start=25)
    count_of_one(script, 30, b"x", 3, 0)
    watch = script.watch(start=3)
    watch.key, watch.end = b"w", b""
    watch.log.append(WatchResponse(50, 3))
    assert check(script.history).ok, check(script.history).summary()


def test_a_guess_that_comes_too_late_is_taken_back_whatever_it_writes() -> None:
    # Both z and w can be what revision 3 wrote, but z was asked for after the lease had been revoked.
    script = Script()
    script.answered("a", 0, 1, Grant(100), GrantResult(1, 7, 100))
    script.answered("a", 2, 3, Put(b"x", b"1", lease=7), PutResult(2))
    puts(script, b"z", start=30)
    puts(script, b"w")
    script.answered("a", 10, 20, Revoke(7), RevokeResult(2))
    kept = shown(3, kv(b"x", b"1", 2, lease=7))
    script.answered("reader", 40, 50, Range(b"x", serializable=True), kept)
    script.get("reader", 60, 70, b"x", 4)
    assert check(script.history).ok, check(script.history).summary()
