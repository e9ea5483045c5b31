"""Fixtures of the state machine's tests."""

from collections.abc import Iterator

import pytest

from kvstore.mvcc.store import Store
from kvstore.mvcc.watchers import WatchConfig
from tests.mvcc.harness import Harness


@pytest.fixture
def watch() -> WatchConfig | None:
    """Limits of watching; a test that wants others gives this as a parameter."""
    return None


@pytest.fixture
def harness(watch: WatchConfig | None) -> Iterator[Harness]:
    harness = Harness(batch_limit=1000, watch=watch)
    yield harness
    harness.destroy()


@pytest.fixture
def store(harness: Harness) -> Store:
    return harness.store
