"""A store whose file has a flipped bit gives the answers that it gave before, or what is damaged is found."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.crash.examine import Outcome
from tests.crash.state import Specimen


@pytest.mark.timeout(300)
def test_flipped_bits_in_the_state_are_found(place: Path) -> None:
    findings = Specimen(place, keys=500, seed=1).suffer_all(7, seed=1)
    unseen = [line for line in findings.of(Outcome.SERVED, Outcome.DIED) if line.endswith("a look finds nothing")]
    assert not unseen
    rows = [
        damage for damage, outcome, _ in findings.all if outcome == Outcome.SERVED and damage.where == "leaf, nodes"
    ]
    assert not rows, "bits of rows are told by their seals"
    found = findings.of(Outcome.STOPPED, Outcome.REFUSED, Outcome.LOOKED)
    assert len(found) > 30
    for line in found:
        assert "/copy" in line, f"does not say what is broken: {line}"
