"""Brings a data directory to the newest format, in a process of its own: `python -m tests.crash.upgrade HOW DIRECTORY`.

`old` makes a directory of the format before the newest, `new` opens it as a member does.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Final

from kvstore.storage import backend
from kvstore.storage.datadir import DataDirectory
from tests.storage.harness import TABLES
from tests.storage.older import become_format_2
from tests.storage.test_datadir import make_member
from tests.storage.test_formats import log_and_state

APPLIED: Final = 4
"""The entry that the directory's state is at."""

ROWS: Final = [(b"%04d" % number, b"value %d " % number * 10) for number in range(300)]
"""The rows of the directory's state."""


async def _make(path: Path) -> None:
    await make_member(path, applied=APPLIED)
    state = backend.open_inline(log_and_state(path)[1], TABLES[1:])
    for key, value in ROWS:
        state.table("current").put(key, value)
    await state.flush_all()
    await state.close()


def main() -> None:
    """Do as told."""
    how, path = sys.argv[1], Path(sys.argv[2])
    if how == "new":
        DataDirectory.open(path).close()
        return
    asyncio.run(_make(path))
    become_format_2(path)


if __name__ == "__main__":
    main()
