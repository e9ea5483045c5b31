"""A disk as a trace of changes leaves it: what is certain to survive a power cut, and what may or may not.

The rules are those that POSIX gives and no better ones, for file systems differ in what they add to them:

- A write, and a change of a file's size, survives for certain once a sync of its file that began after it has ended.
  Until then any part of it may be there, in sectors of 512 bytes, whatever became of writes before and after it.
- A name, made, changed or removed, survives for certain once its directory was synced; a rename once either of its
  directories was. Syncing a file does nothing for its name. A rename is done or not done.
- What is not certain is there or not, each change by itself; which, a Fate decides.

Knows nothing of what the files hold.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from tests.faultfs import trace as t
from tests.faultfs.trace import Record

SECTOR: Final = 512
PAGE: Final = 4096


class Fate(Protocol):
    """Decides what becomes of changes that no sync has made certain."""

    def name(self) -> bool:
        """Whether a change of names has reached the disk."""

    def size(self) -> bool:
        """Whether a change of a file's size has."""

    def write(self, sectors: int) -> Iterable[int]:
        """Which sectors of a write have, of so many, in their order."""


class AllOrNothing:
    """Everything of a kind is there, or nothing of it: the corners where most is wrong at once."""

    def __init__(self, names: bool, data: bool) -> None:
        """names: whether changes of names are there. data: whether writes and sizes are."""
        self._names, self._data = names, data

    def name(self) -> bool:
        """As Fate.name."""
        return self._names

    def size(self) -> bool:
        """As Fate.size."""
        return self._data

    def write(self, sectors: int) -> Iterable[int]:
        """As Fate.write."""
        return range(sectors if self._data else 0)


class Chance:
    """Each change for itself, from a seed: whole, not at all, cut short, or torn in pages or sectors."""

    def __init__(self, seed: int | str) -> None:
        """The same seed, the same fate. How likely changes are to survive differs from seed to seed."""
        self._random = random.Random(seed)
        self._likely = self._random.choice((0.1, 0.5, 0.9))

    def name(self) -> bool:
        """As Fate.name."""
        return self._random.random() < self._likely

    def size(self) -> bool:
        """As Fate.size."""
        return self._random.random() < self._likely

    def write(self, sectors: int) -> Iterable[int]:
        """As Fate.write."""
        way = self._random.random()
        if way < 0.6:
            return range(sectors if self._random.random() < self._likely else 0)
        if way < 0.7:
            return range(self._random.randrange(sectors + 1))
        if way < 0.8:
            return range(self._random.randrange(sectors + 1), sectors)
        together = PAGE // SECTOR if way < 0.9 else 1
        kept = {part for part in range(0, sectors, together) if self._random.random() < 0.5}
        return [sector for sector in range(sectors) if sector - sector % together in kept]


@dataclass(slots=True, eq=False)
class _Change:
    """A change of a file. offset: of the data, or the size to set or to reach. when: by the disk's clock."""

    kind: int
    offset: int
    data: bytes
    operation: int
    when: int
    certain: bool = False

    def sectors(self) -> int:
        """How many sectors a write touches."""
        return (self.offset + len(self.data) - 1) // SECTOR - self.offset // SECTOR + 1

    def apply(self, content: bytearray, fate: Fate | None) -> None:
        """Change a file's content. fate: None if all of it is to be done."""
        if self.kind != t.WRITE:
            if fate is None or fate.size():
                _resize(content, self.offset, shrink=self.kind == t.TRUNCATE)
        elif fate is None:
            self._store(content, 0, len(self.data))
        else:
            first = self.offset // SECTOR * SECTOR - self.offset
            for sector in fate.write(self.sectors()):
                start = first + sector * SECTOR
                self._store(content, max(0, start), min(len(self.data), start + SECTOR))

    def _store(self, content: bytearray, start: int, stop: int) -> None:
        _resize(content, self.offset + start, shrink=False)
        content[self.offset + start : self.offset + stop] = self.data[start:stop]


def _resize(content: bytearray, size: int, *, shrink: bool) -> None:
    if size > len(content):
        content.extend(bytes(size - len(content)))
    elif shrink:
        del content[size:]


@dataclass(slots=True, eq=False)
class _File:
    """settled: what the first changes, all of them certain, have made of it. changes: those after them."""

    settled: bytearray = field(default_factory=bytearray)
    changes: list[_Change] = field(default_factory=list)

    def settle(self) -> None:
        done = 0
        for change in self.changes:
            if not change.certain:
                break
            change.apply(self.settled, None)
            done += 1
        del self.changes[:done]

    def content(self, fate: Fate) -> bytes:
        content = bytearray(self.settled)
        for change in self.changes:
            change.apply(content, None if change.certain else fate)
        return bytes(content)


@dataclass(slots=True, eq=False)
class _Directory:
    """names: what the process sees. settled: what has been certain from the first of the disk's name changes on."""

    names: dict[str, _File | _Directory] = field(default_factory=dict)
    settled: dict[str, _File | _Directory] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class _Naming:
    """Names given (a file or directory) or taken away (None), together."""

    names: list[tuple[_Directory, str, _File | _Directory | None]]
    certain: bool = False


class Disk:
    """A root directory, empty at first, and what records of a trace do to it.

    root_inode: of the directory that the trace is about.
    """

    def __init__(self, root_inode: int) -> None:
        self._root = _Directory()
        self._by_inode: dict[int, _File | _Directory] = {root_inode: self._root}
        self._namings: list[_Naming] = []
        # When a sync began, by process and file: the changes it will make certain are those before.
        self._begun: dict[tuple[int, int], int] = {}
        self._clock = 0

    def apply(self, record: Record) -> None:
        """One more record has happened."""
        self._clock += 1
        kind = record.kind
        if kind in (t.WRITE, t.TRUNCATE, t.ALLOCATE):
            self._change(record)
        elif kind == t.SYNC_BEGIN:
            self._begun[(record.pid, record.inode)] = self._clock
        elif kind == t.SYNC_END:
            self._synced(record)
        elif kind == t.DIRECTORY_SYNCED:
            self._directory_synced(self._by_inode[record.inode])
        elif kind in (t.CREATE, t.MKDIR):
            made: _File | _Directory = _File() if kind == t.CREATE else _Directory()
            self._by_inode[record.inode] = made
            self._name([(*self._place(record.path), made)])
        elif kind in (t.UNLINK, t.RMDIR):
            self._name([(*self._place(record.path), None)])
        elif kind == t.RENAME:
            moved = self._by_inode[record.inode]
            self._name([(*self._place(record.path), None), (*self._place(record.to), moved)])

    def after_power_cut(self, fate: Fate) -> dict[str, bytes | None]:
        """What is there then: content by path of the files, None by path of the directories, parents first."""
        names = {id(directory): dict(directory.settled) for directory in self._directories()}
        for naming in self._namings:
            if naming.certain or fate.name():
                for directory, name, what in naming.names:
                    held = names.setdefault(id(directory), {})
                    if what is None:
                        held.pop(name, None)
                    else:
                        held[name] = what
        found: dict[str, bytes | None] = {}
        pending: list[tuple[str, _Directory]] = [("", self._root)]
        while pending:
            path, directory = pending.pop()
            for name, what in sorted(names.get(id(directory), {}).items()):
                if isinstance(what, _Directory):
                    found[path + name] = None
                    pending.append((f"{path}{name}/", what))
                else:
                    found[path + name] = what.content(fate)
        return found

    def _directories(self) -> list[_Directory]:
        found = [what for what in self._by_inode.values() if isinstance(what, _Directory)]
        return [*found, self._root]

    def _file(self, record: Record) -> _File:
        file = self._by_inode[record.inode]
        assert isinstance(file, _File), f"{record} is not about a file"
        return file

    def _change(self, record: Record) -> None:
        file = self._file(record)
        offset = record.offset
        if record.kind == t.TRUNCATE:
            offset = record.length
        elif record.kind == t.ALLOCATE:
            offset = record.offset + record.length
        file.changes.append(_Change(record.kind, offset, record.data, record.operation, self._clock))

    def _synced(self, record: Record) -> None:
        file = self._file(record)
        if record.length:
            certain = [change for change in file.changes if change.operation == record.operation]
        else:
            began = self._begun.pop((record.pid, record.inode))
            certain = [change for change in file.changes if change.when < began]
        for change in certain:
            change.certain = True
        file.settle()

    def _directory_synced(self, directory: _File | _Directory) -> None:
        for naming in self._namings:
            if any(where is directory for where, _, _ in naming.names):
                naming.certain = True
        done = 0
        for naming in self._namings:
            if not naming.certain:
                break
            for where, name, what in naming.names:
                _give(where.settled, name, what)
            done += 1
        del self._namings[:done]

    def _name(self, names: list[tuple[_Directory, str, _File | _Directory | None]]) -> None:
        for directory, name, what in names:
            _give(directory.names, name, what)
        self._namings.append(_Naming(names))

    def _place(self, path: str) -> tuple[_Directory, str]:
        *parents, name = path.split("/")
        directory = self._root
        for parent in parents:
            inner = directory.names[parent]
            assert isinstance(inner, _Directory), f"{path} is not within a directory"
            directory = inner
        return directory, name


def _give(names: dict[str, _File | _Directory], name: str, what: _File | _Directory | None) -> None:
    if what is None:
        names.pop(name, None)
    else:
        names[name] = what


def write_tree(found: dict[str, bytes | None], root: Path) -> None:
    """Make the files and directories of Disk.after_power_cut() below `root`, which must not exist yet."""
    root.mkdir(parents=True)
    for path, content in sorted(found.items()):
        if content is None:
            (root / path).mkdir()
        else:
            (root / path).write_bytes(content)
