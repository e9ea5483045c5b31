"""Target: the journal, a log's first line: what lies in it after a crash, or was damaged since."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from hypothesis import strategies as st

from kvstore.storage import journal
from kvstore.storage.errors import CorruptStore
from kvstore.storage.journal import Mark
from kvstore.storage.sectors import BLOCK, blank
from tests.fuzz.mutations import changes, spoil
from tests.fuzz.target import Check, Target

_SECTOR: Final = 512
_SIZE: Final = 12 * BLOCK
"""Bytes of the journal: some records, and the next ones go on at its beginning."""


def journals() -> st.SearchStrategy[Any]:
    """(records: length and whether all before it is executed; sectors of the last one that a cut power leaves out;
    sectors copied over others; changes of the file, of the mark)
    """
    record = st.tuples(st.sampled_from((0, 5, 476, 3000, 5000, 9000)), st.booleans())
    sector = st.integers(0, _SIZE // _SECTOR - 1)
    return st.tuples(
        st.lists(record, max_size=8),
        st.sets(st.integers(0, 23), max_size=4).map(sorted),
        st.lists(st.tuples(sector, sector), max_size=2),
        changes(2),
        changes(1),
    )


@contextlib.contextmanager
def _open_journal() -> Iterator[Check]:
    with tempfile.TemporaryDirectory(prefix="kvstore-fuzz-") as name:
        directory = Path(name)
        file = directory / journal.FILE

        def check(value: Any) -> None:
            """What is read was written, in this order and from the mark on; what a cut power leaves is never refused.

            Damage is, but for what looks like a last record that was cut off.
            """
            written, lost, copied, made, made_of_mark = value
            # Nothing is left of the input before.
            file.write_bytes(blank(_SIZE))
            mark, kept, before = _write(directory, written)
            whole = file.read_bytes()
            torn = _torn(before, whole, lost)
            file.write_bytes(torn)
            found = [record.payload for record in journal.records(directory, mark)]
            assert found == kept if torn == whole else found == kept[:-1]
            damaged = spoil(_copied(whole, copied), made)
            file.write_bytes(damaged)
            try:
                found = [record.payload for record in journal.records(directory, mark)]
                assert found == kept[: len(found)], "a record is read that was not written"
                if damaged == whole:
                    assert len(found) == len(kept), "a record is missing"
                elif len(copied) + len(made) == 1:
                    assert len(found) >= len(kept) - 1, "damage in one place hides several records"
            except CorruptStore:
                assert damaged != whole
            _check_mark(mark, spoil(mark.encode(), made_of_mark), file)

        yield check


def _write(directory: Path, written: Sequence[tuple[int, bool]]) -> tuple[Mark, list[bytes], bytes]:
    """Write records; those that find no room are left out. The mark, what is to be found from it on, and the file as it
    was before the last record.
    """
    opened = journal.prepare(directory, _SIZE, durable=False)
    try:
        mark = opened.mark
        kept: list[bytes] = []
        before = (directory / journal.FILE).read_bytes()
        for number, (length, executed) in enumerate(written):
            if not opened.fits(length):
                continue
            if executed:
                mark, kept = opened.mark, []
                opened.release(mark)
            payload = bytes((number + 1,)) * length
            before = (directory / journal.FILE).read_bytes()
            opened.append(payload)
            kept.append(payload)
        return mark, kept, before
    finally:
        opened.close()


def _torn(before: bytes, after: bytes, lost: Sequence[int]) -> bytes:
    """The last record without some of its sectors: there is what was there before."""
    changed = [at for at in range(0, len(after), _SECTOR) if before[at : at + _SECTOR] != after[at : at + _SECTOR]]
    left = after
    for number in lost:
        if number < len(changed):
            at = changed[number]
            left = left[:at] + before[at : at + _SECTOR] + left[at + _SECTOR :]
    return left


def _copied(data: bytes, copied: Sequence[tuple[int, int]]) -> bytes:
    for to, source in copied:
        sector = data[source * _SECTOR : (source + 1) * _SECTOR]
        data = data[: to * _SECTOR] + sector + data[(to + 1) * _SECTOR :]
    return data


def _check_mark(mark: Mark, stored: bytes, file: Path) -> None:
    """A mark is read as it was stored, or refused."""
    try:
        found = journal.decode_mark(stored, file)
    except CorruptStore:
        assert stored != mark.encode()
        return
    assert found == mark


TARGETS: Final = (Target("journals", journals, _open_journal, examples=200),)
