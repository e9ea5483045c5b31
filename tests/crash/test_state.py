"""A store whose file has a flipped bit gives the answers that it gave before, or says what is damaged."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.crash.examine import Outcome
from tests.crash.state import Specimen


@pytest.mark.timeout(300)
def test_flipped_bits_in_the_state_are_found_and_never_served(place: Path) -> None:
    findings = Specimen(place, keys=500, seed=1).suffer_all(12, seed=1)
    assert not findings.of(Outcome.SERVED)
    found = findings.of(Outcome.STOPPED, Outcome.REFUSED)
    assert len(found) > 10
    for line in found:
        assert "/copy" in line, f"does not say what is broken: {line}"
