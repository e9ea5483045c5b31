"""Damage: flipped bits, files cut short, emptied, zeroed, missing or another member's, in every file of a directory.

What is looked for is whether a member that starts from it refuses to, or finds out when it reads, or serves what is not
true.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from random import Random
from struct import Struct
from types import TracebackType

from kvstore.storage import sectors
from kvstore.storage.pages import read_meta
from tests.cluster.harness.binary import REPOSITORY
from tests.crash.examine import Outcome
from tests.crash.history import History, everything
from tests.crash.victim import Victim

_PAGE_HEAD = Struct("=QHHHH")
_HEAD_BYTES = _PAGE_HEAD.size
_KINDS = {1: "branch", 2: "leaf", 4: "overflow", 8: "meta"}


@dataclass(frozen=True, slots=True)
class Damage:
    """What is done to one file. path: below the data directory. where: what part of the file it is in."""

    path: str
    what: str
    where: str = ""
    offset: int = 0
    bit: int = 0

    def __str__(self) -> str:
        """As a reader of a failure wants it."""
        place = f" at {self.offset}, bit {self.bit}" if self.what == "flip" else ""
        return f"{self.what} {self.path}{place}{f' ({self.where})' if self.where else ''}"

    def inflict(self, root: Path, other: Path) -> None:
        """Do it to the file below `root`. other: the directory of another member of another cluster."""
        file = root / self.path
        size = file.stat().st_size
        match self.what:
            case "flip":
                with file.open("r+b") as stream:
                    stream.seek(self.offset)
                    byte = stream.read(1)[0]
                    stream.seek(self.offset)
                    stream.write(bytes([byte ^ 1 << self.bit]))
            case "halve":
                os.truncate(file, size // 2)
            case "cut off the last page of":
                os.truncate(file, max(0, size - 4096))
            case "cut off the last bytes of":
                os.truncate(file, max(0, size - 7))
            case "empty":
                os.truncate(file, 0)
            case "zero":
                file.write_bytes(bytes(size))
            case "remove":
                file.unlink()
            case "exchange with another member":
                shutil.copyfile(other / self.path, file)
            case _:
                raise ValueError(self.what)


WHOLE_FILES = (
    "halve",
    "cut off the last page of",
    "cut off the last bytes of",
    "empty",
    "zero",
    "remove",
    "exchange with another member",
)


def whole_files(root: Path) -> Iterator[Damage]:
    """Everything that is done to files as a whole."""
    for path in _files(root):
        for what in WHOLE_FILES:
            yield Damage(path, what)


def flips(root: Path, count: int, seed: int) -> Iterator[Damage]:
    """Flipped bits: so many in each kind of page of each file."""
    chance = Random(seed)
    for path in _files(root):
        for where, places in sorted(_parts(root / path).items()):
            for _ in range(count):
                start, stop = chance.choice(places)
                yield Damage(path, "flip", where, chance.randrange(start, stop), chance.randrange(8))


def _files(root: Path) -> list[str]:
    return sorted(os.fspath(file.relative_to(root)) for file in root.rglob("*") if file.is_file())


def _parts(file: Path) -> dict[str, list[tuple[int, int]]]:
    """Ranges of bytes by what they are: pages by kind for LMDB's files, otherwise blocks with something in them."""
    data = file.read_bytes()
    found: dict[str, list[tuple[int, int]]] = {}
    if file.name != "data.mdb":
        for start in range(0, len(data), 4096):
            block = data[start : start + 4096]
            # Where a journal was never written there are stamps.
            if any(block) and block != sectors.blank(4096):
                found.setdefault("block", []).append((start, start + len(block.rstrip(b"\0"))))
        return found
    with file.open("rb") as stream:
        size = min(len(data), read_meta(stream.fileno(), file).file_size)
    start = 0
    while start < size:
        _, _, flags, lower, upper = _PAGE_HEAD.unpack_from(data, start)
        kind = _KINDS.get(flags & 15, "other")
        # Of an overflow page the two bounds are the number of pages it spans.
        span = lower | upper << 16 if kind == "overflow" else 1
        stop = start + 4096 * max(1, min(span, 1000))
        if kind == "meta":
            found.setdefault("meta", []).append((start, start + 152))
        elif kind in ("branch", "leaf") and _HEAD_BYTES < lower <= upper < 4096:
            for part, begin, end in (
                ("header", 0, _HEAD_BYTES),
                ("table of nodes", _HEAD_BYTES, lower),
                ("nodes", upper, 4096),
            ):
                found.setdefault(f"{kind}, {part}", []).append((start + begin, start + end))
        else:
            found.setdefault(kind, []).append((start, min(stop, size)))
        start = stop
    return found


@dataclass(slots=True)
class Findings:
    """What came of each damage."""

    all: list[tuple[Damage, Outcome, str]] = field(default_factory=list)

    def of(self, *outcomes: Outcome) -> list[str]:
        """Those with one of these outcomes, as lines."""
        return [f"{outcome}: {damage}: {said}" for damage, outcome, said in self.all if outcome in outcomes]

    def table(self) -> str:
        """How many of each outcome, by file and part."""
        rows: dict[tuple[str, str], Counter[Outcome]] = {}
        for damage, outcome, _ in self.all:
            what = f"flip in {damage.where}" if damage.what == "flip" else damage.what
            rows.setdefault((damage.path, what), Counter())[outcome] += 1
        lines = [f"{'':60} " + " ".join(f"{outcome:>9}" for outcome in Outcome)]
        for (path, what), counts in sorted(rows.items()):
            lines.append(f"{path + ': ' + what:60} " + " ".join(f"{counts[outcome] or '':>9}" for outcome in Outcome))
        return "\n".join(lines)


class Patients:
    """A data directory as a killed member leaves it, to be damaged again and again. Use it in a `with` statement.

    directory: where copies are made. root: the data directory. Raises NoCompiler.
    """

    def __init__(self, directory: Path) -> None:
        """Goes through a history, and through a part of it with the member whose files get into the wrong place."""
        self._directory = directory
        self.history = History.of(everything())
        self.root = self._prepare("own", self.history)
        self._other = self._prepare("other", History.of(islice(everything(), 10)))
        path = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "cmd")])
        self._examiner = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.examine"],
            cwd=REPOSITORY,
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def _prepare(self, name: str, history: History) -> Path:
        with Victim(self._directory / name, history) as victim:
            victim.take_all()
            # At once, so that the journal has something that is nowhere else.
            victim.member.kill_group()
            if name == "own":
                self._own = victim.member.name, victim.member.advertised_peer_url
            return victim.faults.root

    def __enter__(self) -> Patients:
        """Nothing but the patients themselves."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the examiner."""
        assert self._examiner.stdin is not None
        assert self._examiner.stdout is not None
        self._examiner.stdin.close()
        self._examiner.wait(60)
        self._examiner.stdout.close()

    def suffer(self, damage: Damage | None) -> tuple[Outcome, str]:
        """Damage a copy and start a member from it. None: no damage."""
        assert self._examiner.stdin is not None
        assert self._examiner.stdout is not None
        copy = self._directory / "copy"
        shutil.copytree(self.root, copy)
        if damage is not None:
            damage.inflict(copy, self._other)
        self._examiner.stdin.write(json.dumps([os.fspath(copy), *self._own]) + "\n")
        self._examiner.stdin.flush()
        outcome, said = json.loads(self._examiner.stdout.readline())
        shutil.rmtree(copy)
        return Outcome(outcome), said

    def suffer_all(self, damages: Iterator[Damage]) -> Findings:
        """One after the other."""
        return Findings([(damage, *self.suffer(damage)) for damage in damages])
