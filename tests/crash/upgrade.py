"""Brings a data directory to the newest format, in a process of its own: `python -m tests.crash.upgrade HOW DIRECTORY`.

`old` makes a directory of the format before the newest, `new` opens it as a member does.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Final

from kvstore.storage.batch import WriteBatch
from kvstore.storage.datadir import DataDirectory
from kvstore.storage.engine import Engine
from kvstore.storage.formats import Formats
from kvstore.storage.meta import FORMAT, META
from tests.storage.test_datadir import make_member
from tests.storage.test_formats import log_and_state, set_format

STEPPED: Final = b"stepped"
"""Key of the row that the step adds to the log and to the state."""

APPLIED: Final = 4
"""The entry that the directory's state is at."""


def step(log: Path, state: Path) -> None:
    """Add a row to both environments, one after the other."""
    for path in (log, state):
        batch = WriteBatch()
        batch.put(META.name, [(STEPPED, b"x" * 5_000)])
        engine = Engine(path, [META])
        try:
            engine.commit([batch.operations])
        finally:
            engine.close()


FORMATS: Final = Formats(FORMAT, {FORMAT - 1: step})


def main() -> None:
    """Do as told."""
    how, path = sys.argv[1], Path(sys.argv[2])
    if how == "new":
        DataDirectory.open(path, formats=FORMATS).close()
        return
    asyncio.run(make_member(path, applied=APPLIED))
    for environment in log_and_state(path):
        set_format(environment, FORMAT - 1)


if __name__ == "__main__":
    main()
