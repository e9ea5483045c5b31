"""What fills a disk can fail: a member that takes more than its file has room for is noticed, and no other one is."""

import pytest

from tests.chaos.full_disk import FILLER_BYTES, fill_up
from tests.cluster.harness.waiting import ConditionNotMet

HELD = 4 * FILLER_BYTES + 1


class Store:
    """Takes so many fillers, one after the other, and refuses the next ones."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.asked = 0

    def refuses(self) -> bool:
        self.asked += 1
        return self.asked > self.room


@pytest.mark.parametrize("room", [0, 1, 4])
def test_a_member_that_uses_up_what_its_file_holds_and_refuses_then_is_right_however_long_it_takes(room: int) -> None:
    store = Store(room)
    assert fill_up(store.refuses, HELD, "m1", patience=0.0) == room + 1
    assert store.asked == room + 1


def test_a_member_that_takes_more_than_its_file_holds_is_wrong() -> None:
    store = Store(1_000_000)
    with pytest.raises(ConditionNotMet, match="writes through m1 are refused, after 1280 KiB, where its file has 1024"):
        fill_up(store.refuses, HELD, "m1", patience=0.0)
    assert store.asked * FILLER_BYTES > HELD


def test_a_member_that_notices_a_little_later_is_right() -> None:
    store = Store(8)
    assert fill_up(store.refuses, HELD, "m1", patience=10.0) > HELD // FILLER_BYTES + 1
    assert store.asked == 9
