"""Rounds of ReadIndex: who is served by which, and who is told that it takes too long."""

from kvstore import errors
from kvstore.server.reads import FULL_SECONDS, MAX_JOINING, MAX_ROUNDS, RETRY_SECONDS, ReadRounds
from raft.messages import ReadState


class Rounds:
    """ReadRounds whose contexts are kept instead of being sent."""

    def __init__(self) -> None:
        self.contexts: list[bytes] = []
        self.reads = ReadRounds(1, 1, self.contexts.append, timeout=5.0)
        self.outcomes: dict[str, errors.KvstoreError | None] = {}

    def join(self, name: str, now: float = 0.0) -> None:
        self.reads.join(lambda error: self.outcomes.update({name: error}), now)


def test_a_round_serves_only_those_that_joined_before_it_began() -> None:
    rounds = Rounds()
    rounds.join("early")
    rounds.reads.begin(0.0)
    rounds.join("late")
    rounds.reads.confirmed([ReadState(7, rounds.contexts[0])], applied=7)
    assert rounds.outcomes == {"early": None}
    rounds.reads.begin(0.0)
    rounds.reads.confirmed([ReadState(7, rounds.contexts[1])], applied=7)
    assert rounds.outcomes == {"early": None, "late": None}


def test_a_confirmed_read_waits_until_its_index_is_applied() -> None:
    rounds = Rounds()
    rounds.join("a")
    rounds.reads.begin(0.0)
    rounds.reads.confirmed([ReadState(9, rounds.contexts[0])], applied=7)
    rounds.reads.applied(8)
    assert rounds.outcomes == {}
    rounds.reads.applied(9)
    assert rounds.outcomes == {"a": None}


def test_a_round_without_an_answer_is_begun_again_under_another_name() -> None:
    rounds = Rounds()
    rounds.join("a")
    rounds.reads.begin(0.0)
    rounds.reads.tick(RETRY_SECONDS)
    first, second = rounds.contexts
    assert first != second
    rounds.reads.confirmed([ReadState(7, first)], applied=7)
    assert rounds.outcomes == {}
    rounds.reads.confirmed([ReadState(7, second)], applied=7)
    assert rounds.outcomes == {"a": None}


def test_reads_do_not_wait_for_ever() -> None:
    rounds = Rounds()
    for name in ("unconfirmed", "confirmed"):
        rounds.join(name)
        rounds.reads.begin(0.0)
    rounds.join("waiting")
    rounds.reads.confirmed([ReadState(9, rounds.contexts[1])], applied=7)
    rounds.reads.tick(4.9)
    assert rounds.outcomes == {}
    rounds.reads.tick(5.0)
    assert {name: type(error) for name, error in rounds.outcomes.items()} == {
        "unconfirmed": errors.RequestTimeout,
        "confirmed": errors.TimeoutWaitAppliedIndex,
        "waiting": errors.RequestTimeout,
    }


def test_rounds_under_way_are_limited() -> None:
    rounds = Rounds()
    for name in map(str, range(MAX_ROUNDS)):
        rounds.join(name)
        assert rounds.reads.wants_round
        rounds.reads.begin(0.0)
    rounds.join("more")
    assert not rounds.reads.wants_round


def test_more_reads_than_can_wait_are_refused() -> None:
    rounds = Rounds()
    for number in range(MAX_JOINING):
        rounds.join(str(number))
    rounds.join("one too many")
    assert list(rounds.outcomes) == ["one too many"]
    assert isinstance(rounds.outcomes["one too many"], errors.RequestTooManyRequests)
    rounds.reads.begin(0.0)
    rounds.join("next round")
    assert "next round" not in rounds.outcomes


class FullRounds(Rounds):
    """Rounds of a member whose disk is full."""

    def __init__(self) -> None:
        super().__init__()
        self.full = True
        self.reads = ReadRounds(1, 1, self.contexts.append, timeout=5.0, disk_full=lambda: self.full)

    def kinds(self) -> dict[str, type]:
        return {name: type(error) for name, error in self.outcomes.items()}


def test_a_read_does_not_wait_for_what_a_full_disk_keeps_from_being_applied() -> None:
    rounds = FullRounds()
    rounds.join("a")
    rounds.reads.begin(0.0)
    rounds.reads.confirmed([ReadState(9, rounds.contexts[0])], applied=7)
    rounds.reads.tick(0.0)
    rounds.reads.tick(FULL_SECONDS - 0.01)
    assert rounds.outcomes == {}
    rounds.reads.tick(FULL_SECONDS)
    assert rounds.kinds() == {"a": errors.NoRoomToCatchUp}


def test_a_round_that_took_long_leaves_as_much_time_to_apply_what_it_confirmed() -> None:
    rounds = FullRounds()
    rounds.join("a")
    rounds.reads.begin(0.0)
    rounds.reads.tick(0.4)
    rounds.reads.confirmed([ReadState(9, rounds.contexts[0])], applied=7)
    rounds.reads.tick(0.4)
    assert rounds.outcomes == {}
    rounds.reads.applied(9)
    assert rounds.outcomes == {"a": None}


def test_a_disk_that_fills_again_while_a_read_waits_is_given_its_time_again() -> None:
    rounds = FullRounds()
    rounds.join("a")
    rounds.reads.begin(0.0)
    rounds.reads.confirmed([ReadState(9, rounds.contexts[0])], applied=7)
    for full, now in ((True, 0.0), (False, 0.1), (True, FULL_SECONDS)):
        rounds.full = full
        rounds.reads.tick(now)
    assert rounds.outcomes == {}
    rounds.reads.tick(2 * FULL_SECONDS)
    assert rounds.kinds() == {"a": errors.NoRoomToCatchUp}


def test_a_read_at_a_member_known_to_be_stuck_does_not_wait_at_all() -> None:
    rounds = FullRounds()
    for name in ("first", "stuck"):
        rounds.join(name)
        rounds.reads.begin(0.0)
        rounds.reads.confirmed([ReadState(9, rounds.contexts[-1])], applied=7)
        rounds.reads.tick(0.0)
        rounds.reads.tick(FULL_SECONDS)
    rounds.outcomes.clear()
    rounds.join("at once")
    rounds.reads.begin(1.0)
    rounds.reads.confirmed([ReadState(9, rounds.contexts[-1])], applied=7)
    assert rounds.kinds() == {"at once": errors.NoRoomToCatchUp}
    rounds.join("as far as it goes")
    rounds.reads.begin(1.0)
    rounds.reads.confirmed([ReadState(7, rounds.contexts[-1])], applied=7)
    assert rounds.outcomes["as far as it goes"] is None


def test_a_member_that_goes_on_applying_lets_reads_wait_again() -> None:
    rounds = FullRounds()
    rounds.join("stuck")
    rounds.reads.begin(0.0)
    rounds.reads.confirmed([ReadState(9, rounds.contexts[-1])], applied=7)
    rounds.reads.tick(0.0)
    rounds.reads.tick(FULL_SECONDS)
    for name, applied in (("it went on", 8), ("there is room", 8)):
        rounds.reads.applied(applied)
        rounds.join(name, 1.0)
        rounds.reads.begin(1.0)
        rounds.reads.confirmed([ReadState(9, rounds.contexts[-1])], applied=applied)
        rounds.full = False
    assert rounds.kinds() == {"stuck": errors.NoRoomToCatchUp}
    rounds.reads.tick(2.0)
    assert "it went on" not in rounds.outcomes
    rounds.reads.applied(9)
    assert rounds.outcomes["it went on"] is None
    assert rounds.outcomes["there is room"] is None


def test_a_full_disk_does_not_shorten_the_wait_for_a_leader() -> None:
    rounds = FullRounds()
    rounds.join("a")
    rounds.reads.begin(0.0)
    rounds.reads.tick(4.9)
    assert rounds.outcomes == {}
    rounds.reads.tick(5.0)
    assert rounds.kinds() == {"a": errors.RequestTimeout}


def test_reads_leave_a_member_that_waits_for_room_to_replace_its_state() -> None:
    rounds = FullRounds()
    rounds.join("a")
    rounds.reads.tick(FULL_SECONDS)
    assert rounds.kinds() == {"a": errors.NoRoomToCatchUp}
