"""Power cuts: a history is gone through once and every change of a file written down; then the power is cut, in theory,
at many moments, each time with another part of what no sync had made certain. A member starts from what is left.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from kvstore.pb import rpc_pb2 as pb
from tests.crash.history import History
from tests.crash.observe import Lost, observe
from tests.crash.recovery import Recovered
from tests.crash.victim import Victim
from tests.faultfs import trace
from tests.faultfs.disk import AllOrNothing, Chance, Disk, Fate, write_tree
from tests.faultfs.trace import Record


@dataclass(frozen=True, slots=True)
class Recording:
    """A run written down. root_inode: of the data directory; name, peer_url: the member's."""

    history: History
    records: Sequence[Record]
    root_inode: int
    name: str
    peer_url: str


def record(directory: Path, history: History, *, lie: bool = False) -> Recording:
    """Go through a history and write down every change. lie: let no sync do anything. Raises NoCompiler."""
    with Victim(directory, history, trace=True) as victim:
        victim.faults.lie_about_syncs(lie)
        victim.go_through()
        path = victim.faults.trace
        assert path is not None
        root, name, url = victim.faults.root.stat().st_ino, victim.member.name, victim.member.advertised_peer_url
    return Recording(history, list(trace.read(path)), root, name, url)


@dataclass(frozen=True, slots=True)
class Cut:
    """When the power is cut: behind so many records. fate: what becomes of what is uncertain; seed: of chance."""

    after: int
    fate: str
    seed: int = 0

    def __str__(self) -> str:
        """As a reader of a failure wants it."""
        return f"after record {self.after}, {self.fate}" + (f", seed {self.seed}" if self.fate == "chance" else "")

    def decide(self) -> Fate:
        """The fate itself, always the same one."""
        if self.fate == "chance":
            return Chance(f"{self.seed} {self.after}")
        return _CORNERS[self.fate]()


_CORNERS: dict[str, Callable[[], Fate]] = {
    "nothing of it": lambda: AllOrNothing(names=False, data=False),
    "names without data": lambda: AllOrNothing(names=True, data=False),
    "data without names": lambda: AllOrNothing(names=False, data=True),
    "all of it": lambda: AllOrNothing(names=True, data=True),
}


def moments(recording: Recording, count: int) -> list[int]:
    """So many moments, the same for the same recording: around every rare change first, then evenly over the run."""
    total = len(recording.records)
    kinds = Counter(each.kind for each in recording.records)
    rare = {
        moment
        for place, each in enumerate(recording.records)
        if kinds[each.kind] < total // 50 and each.kind != trace.MARK
        for moment in (place, place + 1)
    }
    chosen = sorted(rare)
    if len(chosen) > count // 2:
        chosen = Random(total).sample(chosen, count // 2)
    left = count - len(chosen)
    return sorted({*chosen, *(1 + place * total // left for place in range(left))})


def cuts(recording: Recording, count: int, seeds: int) -> Iterator[Cut]:
    """At so many moments: the four corners of what may have happened, and so many fates by chance."""
    for moment in moments(recording, count):
        for fate in _CORNERS:
            yield Cut(moment, fate)
        for seed in range(seeds):
            yield Cut(moment, "chance", seed)


def check(recording: Recording, disk: Disk, cut: Cut, acknowledged: int, directory: Path) -> None:
    """See that a member starts from what a power cut has left, holds everything acknowledged, and takes new writes.

    acknowledged: how many steps were. directory: made, and left behind if it does not hold. Raises Lost.
    """
    write_tree(disk.after_power_cut(cut.decide()), directory)
    contents = recording.history.contents
    under_way = contents[acknowledged + 1] if acknowledged + 1 < len(contents) else None
    try:
        with Recovered(directory, recording.name, recording.peer_url) as member:
            found = observe(member, contents[acknowledged], under_way)
            answer = member.put(pb.PutRequest(key=b"afterwards", value=b"written"))
            if answer.header.revision != found.revision + 1:
                raise Lost(f"a write got revision {answer.header.revision} after {found.revision}")
    except Exception as error:
        before = "\n".join(str(each) for each in recording.records[max(0, cut.after - 8) : cut.after])
        raise Lost(f"power cut {cut}: {type(error).__name__}: {error}\nthe last records before:\n{before}") from error
    shutil.rmtree(directory)


def check_all(
    recording: Recording, wanted: Iterator[Cut], directory: Path, tell: Callable[[str], None]
) -> tuple[int, list[str]]:
    """All cuts, which come in the order of their moments: how many, and what was lost."""
    disk = Disk(recording.root_inode)
    applied = acknowledged = count = 0
    lost = []
    for cut in wanted:
        for each in recording.records[applied : cut.after]:
            if each.kind == trace.MARK:
                acknowledged = int(each.data)
            else:
                disk.apply(each)
        applied = cut.after
        count += 1
        try:
            check(recording, disk, cut, acknowledged, directory / f"cut-{count}")
        except Lost as error:
            tell(f"LOST  {str(error).splitlines()[0]}")
            lost.append(str(error))
    return count, lost
