"""Many deadlines, one wheel."""

from hypothesis import given
from hypothesis import strategies as st

from kvstore.rpc.deadlines import TICKS_PER_SECOND, DeadlineWheel


class Item:
    def __init__(self) -> None:
        self.expired = 0

    def expire(self) -> None:
        self.expired += 1


@given(st.lists(st.floats(min_value=0, max_value=100), min_size=1), st.floats(min_value=0, max_value=100))
def test_a_sweep_expires_what_is_due_and_nothing_else(deadlines: list[float], now: float) -> None:
    wheel = DeadlineWheel()
    items = [(deadline, Item()) for deadline in deadlines]
    for deadline, item in items:
        wheel.add(deadline, item)
    wheel.sweep(now)
    for deadline, item in items:
        if deadline > now:
            assert item.expired == 0
        elif deadline <= now - 1 / TICKS_PER_SECOND:
            assert item.expired == 1


@given(st.lists(st.floats(min_value=0, max_value=100), min_size=1))
def test_following_next_expires_everything_soon_after_its_time(deadlines: list[float]) -> None:
    wheel = DeadlineWheel()
    times: dict[int, float] = {}
    items = [Item() for _ in deadlines]
    for deadline, item in zip(deadlines, items, strict=True):
        wheel.add(deadline, item)
    while (now := wheel.next()) is not None:
        wheel.sweep(now)
        for index, item in enumerate(items):
            if item.expired:
                times.setdefault(index, now)
    for index, deadline in enumerate(deadlines):
        assert deadline <= times[index] <= deadline + 1 / TICKS_PER_SECOND + 1e-9


def test_a_withdrawn_item_does_not_expire_and_leaves_nothing_to_wait_for() -> None:
    wheel = DeadlineWheel()
    item = Item()
    bucket = wheel.add(5.0, item)
    assert wheel.next() is not None
    bucket.pop(item)
    assert wheel.next() is None
    wheel.sweep(10)
    assert item.expired == 0
