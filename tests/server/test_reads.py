"""Rounds of ReadIndex: who is served by which, and who is told that it takes too long."""

from kvstore import errors
from kvstore.server.reads import MAX_JOINING, MAX_ROUNDS, RETRY_SECONDS, ReadRounds
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
