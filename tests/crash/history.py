"""A history: steps that one client takes one after the other, and what a store holds after each of them.

The same every time, so that a run that a crash cut short is compared with what was to come. Knows neither how the steps
are carried out nor what happens between them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

TTL: Final = 100_000
"""Seconds that the leases of a history live: longer than any test."""


@dataclass(frozen=True, slots=True)
class Put:
    """Put keys in one transaction; a single one is an ordinary put."""

    pairs: tuple[tuple[bytes, bytes], ...]
    lease: int = 0


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete the keys from `start` up to `stop`; without one, the key `start`."""

    start: bytes
    stop: bytes = b""


@dataclass(frozen=True, slots=True)
class Grant:
    """Grant a lease."""

    lease: int


@dataclass(frozen=True, slots=True)
class Revoke:
    """Revoke a lease; its keys go with it."""

    lease: int


@dataclass(frozen=True, slots=True)
class Compact:
    """Compact so many revisions behind the newest, and wait until it is done."""

    behind: int


@dataclass(frozen=True, slots=True)
class Join:
    """Add a learner with this peer URL, where nobody ever listens."""

    url: str


@dataclass(frozen=True, slots=True)
class Leave:
    """Remove the member with this peer URL."""

    url: str


@dataclass(frozen=True, slots=True)
class Do:
    """Something that changes nothing of what is held: "defragment", "snapshot", "restart"."""

    what: str


Step = Put | Delete | Grant | Revoke | Compact | Join | Leave | Do


@dataclass(frozen=True, slots=True)
class Row:
    """A key's newest version."""

    value: bytes
    created: int
    modified: int
    version: int
    lease: int


@dataclass(frozen=True, slots=True)
class Contents:
    """What a store holds. leases: those there are. past: the keys at every revision that can still be read, by it.
    learners: the peer URLs of those who were added to the cluster.
    """

    revision: int = 1
    compacted: int = 0
    keys: Mapping[bytes, Row] = field(default_factory=dict)
    leases: frozenset[int] = frozenset()
    learners: frozenset[str] = frozenset()
    past: Mapping[int, Mapping[bytes, Row]] = field(default_factory=lambda: {1: {}})

    def after(self, step: Step) -> Contents:
        """What it holds after one more step."""
        match step:
            case Put(pairs, lease):
                return self._changed({key: self._put(key, value, lease) for key, value in pairs})
            case Delete(start, stop):
                gone = [key for key in self.keys if (start <= key < stop if stop else key == start)]
                return self._changed(dict.fromkeys(gone))
            case Grant(lease):
                return replace(self, leases=self.leases | {lease})
            case Revoke(lease):
                gone = [key for key, row in self.keys.items() if row.lease == lease]
                return replace(self._changed(dict.fromkeys(gone)), leases=self.leases - {lease})
            case Compact(behind):
                at = self.revision - behind
                kept = {revision: keys for revision, keys in self.past.items() if revision >= at}
                return replace(self, compacted=at, past=kept)
            case Join(url):
                return replace(self, learners=self.learners | {url})
            case Leave(url):
                return replace(self, learners=self.learners - {url})
            case Do():
                return self

    def _put(self, key: bytes, value: bytes, lease: int) -> Row:
        revision = self.revision + 1
        old = self.keys.get(key)
        return Row(value, old.created if old else revision, revision, old.version + 1 if old else 1, lease)

    def _changed(self, rows: Mapping[bytes, Row | None]) -> Contents:
        if not rows:
            return self
        keys = {key: row for key, row in {**self.keys, **rows}.items() if row is not None}
        revision = self.revision + 1
        return replace(self, revision=revision, keys=keys, past={**self.past, revision: keys})


@dataclass(frozen=True, slots=True)
class History:
    """steps, and contents[n]: what is held after the first n of them."""

    steps: tuple[Step, ...]
    contents: tuple[Contents, ...]

    @classmethod
    def of(cls, steps: Iterator[Step]) -> History:
        """The history of these steps in a store that is empty at first."""
        taken = tuple(steps)
        contents = [Contents()]
        for step in taken:
            contents.append(contents[-1].after(step))
        return cls(taken, tuple(contents))


def everything() -> Iterator[Step]:
    """Something of all that a member writes for: small and large values, keys beyond LMDB's limit, leases, compactions,
    members that come and go, files rewritten, orderly restarts.
    """
    nobody, nobody_else = "http://127.0.0.1:1", "http://127.0.0.1:2"
    for number in range(6):
        yield Put(((b"key-%02d" % number, b"first"),))
    yield Grant(101)
    yield Put(((b"leased-1", b"of 101"), (b"leased-2", b"of 101")), lease=101)
    yield Put(((b"long/" + b"k" * 1500, b"a key in layers"), (b"large", b"v" * 20_000)))
    yield Delete(b"key-01")
    yield Join(nobody)
    yield Do("restart")
    for number in range(6):
        yield Put(((b"key-%02d" % number, b"second"),))
    yield Compact(4)
    yield Put(((b"large", b"w" * 30_000),))
    yield Delete(b"key-03", b"key-05")
    yield Do("snapshot")
    yield Leave(nobody)
    yield Do("defragment")
    yield Grant(102)
    yield Put(((b"leased-3", b"of 102"),), lease=102)
    yield Revoke(101)
    for number in range(4):
        yield Put(tuple((b"batch-%02d-%02d" % (number, part), b"x" * 300) for part in range(20)))
    yield Compact(0)
    yield Put(((b"key-00", b"third"),))
    yield Join(nobody_else)
    yield Do("restart")
    yield Leave(nobody_else)
    for number in range(8):
        yield Put(((b"key-%02d" % number, b"last"),))
