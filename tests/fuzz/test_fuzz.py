"""A fixed number of inputs for every target, the same in every run. `python -m tests.fuzz` goes on from there.

KVSTORE_FUZZ_TIMES tries so many times as many.
"""

from __future__ import annotations

import os

import pytest

from tests.fuzz.catalogue import TARGETS
from tests.fuzz.runner import run_examples
from tests.fuzz.target import Target

SEED = 20
TIMES = int(os.environ.get("KVSTORE_FUZZ_TIMES", "1"))


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_every_input_is_taken(target: Target) -> None:
    with target.open() as check:
        failure = run_examples(target, check, TIMES * target.examples, SEED)
    assert failure is None, f"{failure.value!r}" if failure else ""
