"""What the library may not do: I/O, clocks, threads, other people's code. Its imports tell."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
_MODULES = sorted((_ROOT / "raft").glob("*.py"))
_ALLOWED = {"__future__", "collections", "dataclasses", "enum", "json", "random", "raft", "typing"}


def _imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").split(".")[0])
    return names


@pytest.mark.parametrize("path", _MODULES, ids=lambda path: path.name)
def test_a_module_imports_nothing_that_could_make_it_impure(path: Path) -> None:
    allowed = _ALLOWED | {"asyncio"} if path.name == "node.py" else _ALLOWED
    assert _imports(path) <= allowed


def test_random_numbers_come_only_from_the_configuration() -> None:
    assert [path.name for path in _MODULES if "random" in _imports(path)] == ["config.py"]


def test_importing_the_library_loads_nothing_of_the_server() -> None:
    code = (
        "import sys, raft; print([name for name in sys.modules if name.split('.')[0] in ('kvstore', 'lmdb', 'grpc')])"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=_ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    assert run.stdout.strip() == "[]"
