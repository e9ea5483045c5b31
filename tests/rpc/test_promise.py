"""Promises: resolved in the turn of their resolver."""

import asyncio

import pytest

from kvstore.rpc import Promise


def test_the_callback_runs_inside_set_result() -> None:
    promise: Promise[int] = Promise()
    seen: list[int] = []
    promise.then(lambda resolved: seen.append(resolved.result()))
    assert not promise.done()
    promise.set_result(7)
    assert seen == [7]


def test_a_resolved_promise_calls_back_at_once() -> None:
    seen: list[object] = []
    Promise.resolved(1).then(lambda promise: seen.append(promise.result()))
    Promise.failed(KeyError("x")).then(lambda promise: seen.append(type(promise.exception())))
    assert seen == [1, KeyError]


def test_a_failing_callback_does_not_reach_the_resolver(caplog: pytest.LogCaptureFixture) -> None:
    promise: Promise[int] = Promise()
    promise.then(lambda _: 1 / 0)  # type: ignore[arg-type]
    promise.set_result(1)
    assert "callback" in caplog.text
    assert promise.result() == 1


def test_a_promise_is_resolved_once_and_observed_once() -> None:
    promise: Promise[int] = Promise()
    with pytest.raises(asyncio.InvalidStateError):
        promise.result()
    promise.then(lambda _: None)
    with pytest.raises(RuntimeError):
        promise.then(lambda _: None)
    promise.set_result(1)
    with pytest.raises(asyncio.InvalidStateError):
        promise.set_result(2)
    with pytest.raises(asyncio.InvalidStateError):
        promise.set_exception(ValueError())


def test_an_ignored_promise_can_still_be_resolved() -> None:
    promise: Promise[int] = Promise()
    seen: list[object] = []
    promise.then(seen.append)
    promise.ignore()
    promise.set_result(1)
    assert seen == []


async def test_a_task_may_await_it() -> None:
    promise: Promise[int] = Promise()
    asyncio.get_running_loop().call_soon(promise.set_result, 3)
    assert await promise == 3
    assert await promise == 3


async def test_awaiting_raises_its_exception() -> None:
    promise: Promise[int] = Promise()
    asyncio.get_running_loop().call_soon(promise.set_exception, KeyError("k"))
    with pytest.raises(KeyError):
        await promise


async def test_a_waiter_may_give_up_and_another_take_its_place() -> None:
    promise: Promise[int] = Promise()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(promise, 0.001)
    waiting = asyncio.ensure_future(asyncio.wait_for(promise, 5))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    promise.set_result(4)
    assert await waiting == 4
