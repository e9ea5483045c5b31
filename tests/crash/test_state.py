"""A store whose file has a flipped bit gives the answers that it gave before, or it is refused, or a read says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.crash.examine import Outcome
from tests.crash.state import Specimen


@pytest.mark.timeout(300)
def test_flipped_bits_in_the_state_are_found(place: Path) -> None:
    findings = Specimen(place, keys=500, seed=1).suffer_all(7, seed=1)
    assert not findings.of(Outcome.SERVED, Outcome.DIED)
    late = [damage.where for damage, outcome, _ in findings.all if outcome in (Outcome.STOPPED, Outcome.LOOKED)]
    assert set(late) <= {"leaf, nodes", "overflow"}, "what is not told by a seal is told before anything is read"
    found = findings.of(Outcome.STOPPED, Outcome.REFUSED, Outcome.LOOKED)
    assert len(found) > 30
    for line in found:
        assert "/copy" in line, f"does not say what is broken: {line}"
