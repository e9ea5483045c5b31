"""How the time without service is told from the answers that came."""

import pytest

from tests.chaos.nemesis import Damage
from tests.chaos.probe import Probe
from tests.chaos.report import damage_table
from tests.history import Recorder


@pytest.fixture
def probe() -> Probe:
    probe = Probe([], Recorder())
    probe.answered = [1.0, 1.1, 1.2, 4.0, 4.1]
    return probe


@pytest.mark.parametrize(
    ("since", "until", "silence"),
    [
        (1.0, 1.25, 0.1),
        (1.05, 4.2, 2.8),
        (1.15, 3.0, 1.8),
        (4.05, 9.0, 4.9),
        (2.0, 3.5, 1.5),
    ],
)
def test_a_silence_lasts_until_the_next_answer_or_the_end(
    probe: Probe, since: float, until: float, silence: float
) -> None:
    assert probe.longest_silence(since, until) == pytest.approx(silence)


def test_the_table_has_the_median_and_the_worst_of_each_fault() -> None:
    damages = [Damage(("kill",), "", silent, 0.0, 1.0) for silent in (0.1, 0.2, 7.0)]
    lines = damage_table([*damages, Damage(("kill", "slow"), "", 0.3, 0.0, 1.0)]).splitlines()
    assert lines[2].split()[:4] == ["kill", "4", "0.25", "7.00"]
    assert lines[3].split()[:4] == ["slow", "1", "0.30", "0.30"]
