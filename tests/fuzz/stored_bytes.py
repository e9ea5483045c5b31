"""Targets: what is read from disk or from a writer: frames, rows of the log, values of meta, snapshot files."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from hypothesis import strategies as st

from kvstore.storage import backend
from kvstore.storage.batch import TableSpec
from kvstore.storage.errors import CorruptStore, FormatTooNew, SnapshotInvalid
from kvstore.storage.frames import FrameReader, encode, split
from kvstore.storage.meta import FORMAT_KEY, Identity, Position, decode_identity, decode_position
from kvstore.storage.pages import DATA_FILE
from kvstore.storage.snapshot_file import restore, verify
from kvstore.storage.wal import decode_entry, encode_entry
from raft.messages import Entry, EntryType
from tests.fuzz.mutations import changes, pieces, spoil
from tests.fuzz.target import Check, Target, by_itself

# Frames of a writer process


def frames() -> st.SearchStrategy[Any]:
    """(values, size of reads)"""
    plain = st.one_of(st.none(), st.booleans(), st.integers(), st.binary(max_size=300), st.text(max_size=8))
    value = st.recursive(plain, lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=8)
    return st.tuples(st.lists(value, max_size=6), st.integers(1, 400))


def check_frames(value: Any) -> None:
    """However a stream is cut, the values come out whole and in order."""
    values, size = value
    stream = b"".join(part for each in values for part in encode(each))
    reader = FrameReader()
    assert [found for piece in pieces(stream, size) for found in reader.feed(piece)] == values
    assert reader.buffered == 0
    for expected in values:
        assert split(stream[:3]) is None
        one = split(stream)
        assert one is not None
        found, stream = one
        assert found == expected
    assert split(stream) is None


# Rows of the log


def log_rows() -> st.SearchStrategy[Any]:
    """(term, index, type, data, changes of the row, changes of its key)"""
    number = st.integers(0, (1 << 64) - 1)
    kind = st.sampled_from([int(each) for each in EntryType])
    return st.tuples(number, number, kind, st.binary(max_size=60), changes(3), changes(1))


def check_log_row(value: Any) -> None:
    """An entry comes back as it was or is known to be damaged."""
    term, index, kind, data, made, made_of_key = value
    entry = Entry(term, index, EntryType(kind), data)
    key, row = encode_entry(entry)
    spoiled, spoiled_key = spoil(row, made), spoil(key, made_of_key)
    try:
        found = decode_entry(spoiled_key, spoiled, Path("log"))
    except CorruptStore:
        assert (spoiled_key, spoiled) != (key, row)
        return
    assert found == entry


# Values of meta


def metas() -> st.SearchStrategy[Any]:
    """(position, ids, whether rows are spoiled and how)"""
    number = st.integers(0, (1 << 64) - 1)
    key = st.sampled_from((b"format", b"cluster_id", b"member_id", b"applied"))
    return st.tuples(number, number, number, number, st.lists(st.tuples(key, st.booleans(), changes(2)), max_size=3))


def check_meta(value: Any) -> None:
    """Positions and identities are read as they were written, or refused by name."""
    index, term, cluster, member, spoiled = value
    position, identity = Position(index, term), Identity(cluster, member)
    rows = {**dict(identity.rows()), b"applied": position.encode()}
    right = dict(rows)
    for key, gone, made in spoiled:
        if gone:
            rows.pop(key, None)
        elif key in rows:
            rows[key] = spoil(rows[key], made)
    try:
        found = decode_position(rows.get(b"applied"))
        assert found == (position if rows.get(b"applied") == right[b"applied"] else found)
        owner = decode_identity(rows, "here")
    except (CorruptStore, FormatTooNew):
        assert rows != right
        return
    assert owner == identity or rows != right
    assert (owner is None) == (FORMAT_KEY not in rows)


# Snapshot files


def files() -> st.SearchStrategy[Any]:
    """(changes, whether the hash is made to fit the damage, how much is cut off or added at the end)"""
    return st.tuples(changes(4), st.sampled_from((0, 0, 0, -1, -32, -33, -4096, -5000, 1, 32, 4096)))


@contextlib.contextmanager
def _open_files() -> Iterator[Check]:
    with tempfile.TemporaryDirectory(prefix="kvstore-fuzz-") as name:
        directory = Path(name)
        right = _snapshot(directory)
        file = directory / "file"

        def check(value: Any) -> None:
            """A file is what it was or is refused: never taken, never deadly. A refused one restores nothing."""
            made, more = value
            spoiled = spoil(right, made)
            spoiled = spoiled[:more] if more < 0 else spoiled + bytes(more)
            file.write_bytes(spoiled)
            identity = Identity(1, 2)
            target = directory / "restored"
            try:
                info = verify(file)
                assert spoiled == right, "a damaged file is taken"
                assert info.total_size == len(right) - hashlib.sha256().digest_size
            except SnapshotInvalid:
                assert spoiled != right, "a right file is refused"
                with contextlib.suppress(SnapshotInvalid):
                    restore(file, target, identity, 1, {}, {})
                assert not target.exists() or not list(target.iterdir())

        yield check


def _snapshot(directory: Path) -> bytes:
    """A small state's file with its hash behind it."""
    source = directory / "source"
    source.mkdir()
    state = backend.open_inline(source, [TableSpec("t")])
    for number in range(50):
        state.table("t").put(b"%d" % number, bytes(200))
    state.set_applied(1, 1)
    state.flush()
    data = (source / DATA_FILE).read_bytes()
    os.remove(source / DATA_FILE)
    return data + hashlib.sha256(data).digest()


TARGETS: Final = (
    Target("writer-frames", frames, by_itself(check_frames), examples=80),
    Target("log-rows", log_rows, by_itself(check_log_row), examples=150),
    Target("meta-values", metas, by_itself(check_meta), examples=120),
    Target("snapshot-files", files, _open_files, examples=60),
)
