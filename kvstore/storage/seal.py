"""Seals: the checksum that a row carries over its table, its key and its value.

A row is sealed where it is written into an environment and checked where it is read from there, so that bits that have
flipped on the disk are found and never served. The seal is the last four bytes of what is stored: a CRC-32 over the
table's name, the key and the value, in that order. The CRC of all that with the seal behind it is a constant, which
makes a check two calls and a comparison, without taking the row apart.

Knows bytes; hot paths (table.py, transaction.py) do what is here without the calls.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import Final
from zlib import crc32

from kvstore.storage.batch import OPEN, SEALED, TableSpec
from kvstore.storage.errors import WAY_OUT, CorruptStore

INTACT: Final = 0x2144DF1C
"""The CRC-32 of a key and what is stored under it, if that is what was written."""

SEAL_SIZE: Final = 4
"""Bytes of a seal."""

pack_seal: Final = Struct("<I").pack

_SHOWN: Final = 60


@dataclass(frozen=True, slots=True)
class Seal:
    """How the rows of one table are sealed.

    seed: what the CRC of every row begins with. where: the environment, for messages. bare: keys without a seal.
    """

    kind: int
    seed: int
    name: str
    where: str
    bare: frozenset[bytes]

    @classmethod
    def of(cls, spec: TableSpec, where: str) -> Seal:
        """The seals of a table of the environment in directory `where`."""
        return cls(spec.seal, crc32(spec.name.encode()), spec.name, where, frozenset(spec.bare))

    def put_on(self, key: bytes, value: bytes) -> bytes:
        """What is stored for a value."""
        if self.kind == OPEN or key in self.bare:
            return value
        body = value if self.kind == SEALED else value[:-SEAL_SIZE]
        return body + pack_seal(crc32(body, crc32(key, self.seed)))

    def take_off(self, key: bytes, stored: bytes) -> bytes:
        """The value of what is stored, as its owner put it. Raises CorruptStore if it is not what was written."""
        if self.kind == OPEN:
            return stored
        if crc32(stored, crc32(key, self.seed)) == INTACT:
            return stored[:-SEAL_SIZE] if self.kind == SEALED else stored
        if key in self.bare:
            return stored
        raise self.damaged(f"the row of {shown(key)}")

    def damaged(self, what: str) -> CorruptStore:
        """What to raise about something in the table that is not as it was written."""
        return CorruptStore(f"{self.where}: {what} in table {self.name} is damaged; {WAY_OUT}")


def shown(key: bytes) -> str:
    """A key as messages show it."""
    return repr(key) if len(key) <= _SHOWN else f"{key[:_SHOWN]!r}... ({len(key)} bytes)"
