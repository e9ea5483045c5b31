"""Fixtures of the state machine's tests."""

from collections.abc import Iterator

import pytest

from kvstore.mvcc.store import Store
from tests.mvcc.harness import Harness


@pytest.fixture
def harness() -> Iterator[Harness]:
    harness = Harness(batch_limit=1000)
    yield harness
    harness.destroy()


@pytest.fixture
def store(harness: Harness) -> Store:
    return harness.store
