"""The program in docs/raft.md works as it stands."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

_ROOT = Path(__file__).parents[2]
_DOCUMENT = (_ROOT / "docs" / "raft.md").read_text()


def _program() -> str:
    (program,) = re.findall(r"^```python\n(.*?)^```$", _DOCUMENT, re.MULTILINE | re.DOTALL)
    return str(program)


def test_the_program_prints_what_the_document_says() -> None:
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", _program()],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.stderr == ""
    assert f"It prints `{run.stdout.strip()}`" in _DOCUMENT


def test_the_program_has_40_lines_of_code() -> None:
    assert len([line for line in _program().splitlines() if line.strip()]) <= 40
