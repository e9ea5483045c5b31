"""The small values an environment says of itself, in its `meta` table: format, identity, positions.

Knows how they are encoded; who changes them when is the business of wal.py, backend.py and datadir.py.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass
from struct import Struct
from typing import Final, NamedTuple, Protocol

from kvstore.storage.batch import TableSpec
from kvstore.storage.errors import WAY_OUT, CorruptStore, FormatTooNew, IdentityMismatch
from kvstore.storage.table import Table

FORMAT: Final = 3
"""Version of everything that is stored: tables, keys, values. Raised when an older version could not read it, which
refuses tables that it does not know; then formats.py must say how a directory of the format before becomes one of this,
with all of its tables."""

FORMAT_KEY: Final = b"format"
"""The one row without a seal: builds from before there were any have to read it, to know that they cannot go on."""

META: Final = TableSpec("meta", bare=(FORMAT_KEY,))
"""Every environment has this table."""

CLUSTER_KEY: Final = b"cluster_id"
MEMBER_KEY: Final = b"member_id"
APPLIED_KEY: Final = b"applied"
HARD_STATE_KEY: Final = b"hard_state"
CUT_KEY: Final = b"cut"
JOURNAL_KEY: Final = b"journal"

_NUMBER: Final = Struct(">Q")
_POSITION: Final = Struct(">QQ")


@dataclass(frozen=True, slots=True)
class Identity:
    """Whose data this is."""

    cluster_id: int
    member_id: int

    def rows(self) -> list[tuple[bytes, bytes]]:
        """What is stored of it, with the format."""
        return [
            (FORMAT_KEY, _NUMBER.pack(FORMAT)),
            (CLUSTER_KEY, _NUMBER.pack(self.cluster_id)),
            (MEMBER_KEY, _NUMBER.pack(self.member_id)),
        ]


class Position(NamedTuple):
    """A place in the log; index 0 is before its beginning."""

    index: int = 0  # type: ignore[assignment]  # no tuple of numbers is searched here
    term: int = 0

    def encode(self) -> bytes:
        """As it is stored."""
        return _POSITION.pack(*self)


def decode_position(value: bytes | None) -> Position:
    """The position stored; 0 if there is none. Raises CorruptStore."""
    if value is None:
        return Position()
    if len(value) != _POSITION.size:
        raise CorruptStore(f"a position of {len(value)} bytes is stored; {WAY_OUT}")
    return Position(*_POSITION.unpack(value))


def decode_identity(meta: MetaReader, path: object) -> Identity | None:
    """Whose the environment is; None if nothing is in it. Raises FormatTooNew or CorruptStore; path is for messages."""
    stored = meta.get(FORMAT_KEY)
    if stored is None:
        return None
    version = _number(stored, path)
    if version > FORMAT:
        raise FormatTooNew(too_new(version, path))
    cluster, member = meta.get(CLUSTER_KEY), meta.get(MEMBER_KEY)
    if cluster is None or member is None:
        raise CorruptStore(f"{path}: has a format but no identity; {WAY_OUT}")
    return Identity(_number(cluster, path), _number(member, path))


def too_new(version: int, path: object) -> str:
    """What to say of an environment in a format that this build does not know."""
    return (
        f"{path}: written in format {version}, and this version of kvstore reads formats up to {FORMAT}; "
        "use the version that wrote it, or a later one. To go on with this version, remove the member from its "
        "cluster and add it again with an empty directory, or restore a snapshot that this version has saved"
    )


def decode_format(meta: MetaReader, path: object) -> int | None:
    """The format the environment was written in; None if nothing is in it. Raises CorruptStore."""
    stored = meta.get(FORMAT_KEY)
    return None if stored is None else _number(stored, path)


def encode_format(version: int) -> bytes:
    """The value of FORMAT_KEY."""
    return _NUMBER.pack(version)


def check_identity(found: Identity, expected: Identity, path: object) -> None:
    """Raise IdentityMismatch, saying what to do, unless the two are the same."""
    if found.cluster_id != expected.cluster_id:
        raise IdentityMismatch(
            f"{path}: belongs to cluster {found.cluster_id:x}, not to {expected.cluster_id:x}; "
            "use another data directory, or give the initial cluster and token that this one was made with"
        )
    if found.member_id != expected.member_id:
        raise IdentityMismatch(
            f"{path}: belongs to member {found.member_id:x}, not to {expected.member_id:x}; "
            "use another data directory, or the name and peer URLs of the member that this one belongs to"
        )


class MetaReader(Protocol):
    """Looks up rows of a `meta` table, wherever they are read from."""

    def get(self, key: bytes, /) -> bytes | None:
        """The value stored."""


def _number(value: bytes, path: object) -> int:
    if len(value) != _NUMBER.size:
        raise CorruptStore(f"{path}: a number of {len(value)} bytes is stored; {WAY_OUT}")
    number: int = _NUMBER.unpack(value)[0]
    return number


class Meta(MutableMapping[str, bytes]):
    """The `meta` table as a dict of names to values. What is set becomes durable with everything else of its turn."""

    def __init__(self, table: Table) -> None:
        """Read and write through `table`."""
        self._table = table

    def __getitem__(self, name: str) -> bytes:
        """The value of a name. Raises KeyError."""
        value = self._table.get(name.encode())
        if value is None:
            raise KeyError(name)
        return value

    def __setitem__(self, name: str, value: bytes) -> None:
        """Set a value."""
        self._table.active[name.encode()] = value

    def __delitem__(self, name: str) -> None:
        """Remove a name. Raises KeyError."""
        self[name]
        self._table.delete(name.encode())

    def __iter__(self) -> Iterator[str]:
        """The names."""
        return (key.decode() for key, _ in self._table.items(b"", None))

    def __len__(self) -> int:
        """How many names there are."""
        return len(self._table.items(b"", None))
