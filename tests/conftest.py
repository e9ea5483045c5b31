"""How the tests are handed out to workers: what takes long first, and whole files where a file shares something.

Of several workers each takes the next piece that is left, and one ahead: who takes a long one last is waited for.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]

LONGEST_FIRST = (
    "tests/member_simulation/test_member_simulation.py",
    "tests/simulation/",
    "tests/crash/test_kill.py",
    "tests/chaos/test_scenarios.py",
    "tests/chaos/test_chaos.py",
    "tests/cluster/test_cluster_faults.py",
    "tests/cluster/test_cluster_reconfiguration.py",
    "tests/cluster/",
    "tests/kvctl/",
    "tests/client/",
    "tests/history/test_history_checks.py",
    "tests/crash/",
    "tests/versions/",
    "tests/limits/",
    "tests/member_simulation/",
    "tests/chaos/",
    "tests/known_faults/",
    "tests/server/test_full_disk.py",
    "tests/fuzz/",
    "tests/kvbench/",
    "tests/storage/",
    "tests/history/",
)
"""What takes longest: it starts processes, waits for what these do, or has a budget to use up. Packages that share
members stay together."""

APART = (
    "tests/crash/test_catch_up.py",
    "tests/crash/test_interruption.py",
    "tests/crash/test_kill.py",
    "tests/crash/test_power.py",
    "tests/chaos/test_chaos.py",
    "tests/chaos/test_joining.py",
    "tests/chaos/test_scenarios.py",
    "tests/fuzz/test_fuzz.py",
    "tests/history/test_history_checks.py",
    "tests/known_faults/test_membership.py",
    "tests/known_faults/test_storage.py",
    "tests/limits/test_limits.py",
    "tests/member_simulation/test_member_simulation.py",
    "tests/member_simulation/test_removals.py",
    "tests/simulation/test_simulation.py",
    "tests/versions/test_refusals.py",
    "tests/versions/test_rolling_upgrade.py",
)
"""Long files each test of which has members or worlds of its own: their tests are handed out one by one."""

_WAITING = 1
"""Workers more than processors: most of what takes long waits for processes that start, elect and expire."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """How many workers `-n auto` stands for."""
    return len(os.sched_getaffinity(0)) + _WAITING if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With `--dist loadfile` the files whose tests share nothing are taken apart."""
    from xdist.scheduler import LoadFileScheduling  # type: ignore[import-untyped]

    class Scheduling(LoadFileScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return nodeid if nodeid.startswith(APART) else str(super()._split_scope(nodeid))

    return Scheduling(config, log) if config.getoption("dist") == "loadfile" else None


def _place(item: pytest.Item) -> int:
    path = item.path.relative_to(ROOT).as_posix()
    return next((place for place, long in enumerate(LONGEST_FIRST) if path.startswith(long)), len(LONGEST_FIRST))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put long files first; those that are alike, and the tests of a file, stay as they are."""
    items.sort(key=_place)
