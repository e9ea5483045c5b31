"""How the compiled build comes about: what it asks for, and on which interpreter."""

import runpy
import shutil
from pathlib import Path

import pytest

COMPILED = Path(__file__).parents[2] / "deploy" / "compiled"


@pytest.fixture
def interpreters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that is all of the path, for programs that answer as a measured interpreter does."""
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def add(directory: Path, name: str, says: str) -> str:
    program = directory / name
    program.write_text(f"#!/bin/sh\n{says}\n")
    program.chmod(0o755)
    return str(program)


def measured(directory: Path, name: str, seconds: float) -> str:
    return add(directory, name, f'echo "$0 {seconds}"')


def best(*programs: str) -> str | None:
    chosen: str | None = runpy.run_path(str(COMPILED / "interpreter.py"))["best"](programs)
    return chosen


def test_the_fastest_interpreter_is_chosen(interpreters: Path) -> None:
    measured(interpreters, "slow", 0.010)
    fast = measured(interpreters, "fast", 0.008)
    assert best("slow", "fast") == best("fast", "slow") == fast


def test_a_difference_as_small_as_the_error_leaves_the_first_one(interpreters: Path) -> None:
    first = measured(interpreters, "first", 0.0100)
    measured(interpreters, "second", 0.0098)
    assert best("first", "second") == first


def test_what_cannot_be_used_is_not_chosen(interpreters: Path) -> None:
    add(interpreters, "broken", "exit 1")
    usable = measured(interpreters, "usable", 0.010)
    assert best("missing", "broken", "usable") == usable
    assert best("missing", "broken") is None


@pytest.mark.skipif(shutil.which("python3") is None, reason="there is no python3 on the PATH")
def test_a_real_interpreter_answers_or_is_left_out() -> None:
    chosen = best("python3")
    assert chosen is None or Path(chosen).is_file()


@pytest.mark.parametrize(("wanted", "asked"), [(None, False), ("0", False), ("1", True)])
def test_mypy_is_asked_for_only_where_it_is_needed(
    monkeypatch: pytest.MonkeyPatch, wanted: str | None, asked: bool
) -> None:
    pytest.importorskip("setuptools")
    # setuptools looks at the package for requirements of its own, and this says only what is added.
    monkeypatch.setattr("setuptools.build_meta.get_requires_for_build_wheel", lambda settings: ["wheel"])
    if wanted is None:
        monkeypatch.delenv("KVSTORE_COMPILE", raising=False)
    else:
        monkeypatch.setenv("KVSTORE_COMPILE", wanted)
    backend = runpy.run_path(str(COMPILED / "backend.py"))
    needed = backend["get_requires_for_build_wheel"]()
    assert any(requirement.startswith("mypy") for requirement in needed) is asked
