"""Every behaviour vector, one test a file: those of the etcd-io/raft project, and our own scenarios."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.raft.vectors.datadriven import run
from tests.raft.vectors.files import environment_for, vector_files

_ROOT = Path(__file__).parents[2]
_SHARED = _ROOT.parent / "shared" / "raft-testdata"
_SCENARIOS = Path(__file__).parent / "scenarios"


def _cases(folder: Path) -> list[pytest.param]:  # type: ignore[valid-type]
    return [pytest.param(path, id=str(path.relative_to(folder))) for path in vector_files([folder])]


def _check(path: Path) -> None:
    verdict = run(path, environment_for(path))
    assert not verdict.difference, verdict.difference


@pytest.mark.skipif(not _SHARED.is_dir(), reason="the shared vectors are not beside the repository")
@pytest.mark.parametrize("path", _cases(_SHARED))
def test_prints_what_the_shared_vector_expects(path: Path) -> None:
    _check(path)


@pytest.mark.skipif(not _SHARED.is_dir(), reason="the shared vectors are not beside the repository")
def test_all_shared_vectors_are_there() -> None:
    assert len(vector_files([_SHARED])) == 28


@pytest.mark.parametrize("path", _cases(_SCENARIOS))
def test_prints_what_the_scenario_expects(path: Path) -> None:
    _check(path)
