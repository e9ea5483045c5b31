"""An error while the log is applied: the state on disk stays whole."""

from pathlib import Path

import pytest

from kvstore.storage.backend import open_inline
from kvstore.storage.batch import TableSpec
from kvstore.storage.errors import WriterFailed


async def test_what_was_half_applied_is_never_stored(tmp_path: Path) -> None:
    backend = open_inline(tmp_path, [TableSpec("t")])
    backend.table("t").put(b"whole", b"1")
    backend.set_applied(1, 1)
    backend.flush()
    backend.applying = True
    backend.table("t").put(b"half", b"1")
    with pytest.raises(AssertionError, match="half"):
        backend.flush()
    backend.abandon(WriterFailed("an entry could not be applied"))
    await backend.close()
    again = open_inline(tmp_path, [TableSpec("t")])
    assert (again.applied.index, again.table("t").get(b"whole"), again.table("t").get(b"half")) == (1, b"1", None)
    await again.close()
