"""What a member and its writer process say to each other: tuples that begin with a kind.

Knows the vocabulary only; see writer.py and writer_process.py for the two ends.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from kvstore.storage import errors
from kvstore.storage.batch import TableSpec
from kvstore.storage.engine import EngineOptions

# To the writer.
OPEN: Final = 1
"""(OPEN, path, tables, options): comes first."""
BATCH: Final = 2
"""(BATCH, operations)"""
JOB: Final = 3
"""(JOB, function, arguments)"""
COMPACT: Final = 4
"""(COMPACT,)"""
SWAP_IN: Final = 5
"""(SWAP_IN, file, operations)"""
RETRY: Final = 6
"""(RETRY,): there may be room on the disk again. Has no answer."""
PART: Final = 7
"""(PART, operations): the beginning of the next BATCH, which is executed as one with it. Has no answer."""

# From the writer. COMMITTED answers batches; each other request is answered by RESULT or ERROR, in order.
COMMITTED: Final = 17
"""(COMMITTED, number of batches, stats)"""
RESULT: Final = 18
"""(RESULT, result, stats)"""
ERROR: Final = 19
"""(ERROR, class, text)"""
FULL: Final = 20
"""(FULL, text)"""
RECOVERED: Final = 21
"""(RECOVERED,)"""
FAILED: Final = 22
"""(FAILED, class, text): the last message."""


def open_environment(path: Path, tables: Sequence[TableSpec], options: EngineOptions) -> tuple[Any, ...]:
    """The OPEN message."""
    return (
        OPEN,
        os.fspath(path),
        [table.fields() for table in tables],
        (options.map_size, options.count_free, options.unsafe_no_fsync),
    )


def decode_open(message: tuple[Any, ...]) -> tuple[Path, list[TableSpec], EngineOptions]:
    """What open_environment() was given."""
    _, path, tables, options = message
    return Path(path), [TableSpec(*table) for table in tables], EngineOptions(*options)


def encode_error(error: errors.StorageError) -> tuple[str, str]:
    """Class and text of an error, for decode_error()."""
    return type(error).__name__, str(error)


def decode_error(name: str, text: str) -> errors.StorageError:
    """The error again."""
    error: errors.StorageError = getattr(errors, name, errors.WriterFailed)(text)
    return error
