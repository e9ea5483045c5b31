"""What strikes when follows from the seed alone; what the command line takes."""

import argparse
from itertools import islice

import pytest

from tests.chaos.__main__ import faults, parse, repeat, seeds
from tests.chaos.catalog import CATALOG
from tests.chaos.schedule import HOLD_SECONDS, strikes

ALL = list(CATALOG)


def test_a_seed_always_gives_the_same_strikes() -> None:
    assert list(islice(strikes(7, ALL), 40)) == list(islice(strikes(7, ALL), 40))
    assert list(islice(strikes(7, ALL), 40)) != list(islice(strikes(8, ALL), 40))


def test_every_fault_strikes_once_before_any_strikes_a_second_time_save_those_dealt_together() -> None:
    dealt = [name for strike in islice(strikes(1, ALL), len(ALL) * 2) for name in strike.faults]
    assert set(dealt[: len(ALL) + 3]) == set(ALL)


def test_faults_strike_alone_and_in_company_and_never_twice_at_once() -> None:
    sizes = set()
    for strike in islice(strikes(3, ALL), 100):
        sizes.add(len(strike.faults))
        assert len(set(strike.faults)) == len(strike.faults) == len(strike.chances)
        assert HOLD_SECONDS[0] <= strike.hold <= HOLD_SECONDS[1]
    assert sizes == {1, 2, 3}


def test_of_faults_at_once_the_one_that_needs_a_whole_cluster_begins() -> None:
    for strike in islice(strikes(5, ALL), 100):
        ranks = [CATALOG[name].rank for name in strike.faults]
        assert ranks == sorted(ranks)


def test_fewer_faults_than_could_strike_together_are_enough() -> None:
    assert {strike.faults for strike in islice(strikes(1, ["kill"]), 20)} == {("kill",)}


def test_seeds_are_one_or_a_range() -> None:
    assert seeds("7") == [7]
    assert seeds("1..3") == [1, 2, 3]
    assert parse(["--seeds", "4..5"]).seeds == [4, 5]
    assert parse([]).seeds == [1]


def test_a_fault_that_there_is_not_is_refused_by_name() -> None:
    assert faults("all") == ALL
    assert faults("kill,halves") == ["kill", "halves"]
    with pytest.raises(argparse.ArgumentTypeError, match="kiil"):
        faults("kiil,halves")


def test_the_command_to_repeat_a_run_means_that_run() -> None:
    arguments = parse(["--seeds", "4..9", "--members", "5", "--faults", "kill,lossy", "--seconds", "12"])
    again = parse(repeat(arguments, 6).removeprefix("python -m tests.chaos ").split())
    assert again.seeds == [6]
    assert (again.members, again.faults, again.seconds) == (5, ["kill", "lossy"], 12.0)
