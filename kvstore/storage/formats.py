"""Which formats of a data directory this build reads, and how an older one becomes the newest, in place.

A member's directory is brought to the newest format when it is opened, before anything else is done with it: step by
step, each from one format to the next. A step may be interrupted by a crash and is then begun again, so it must do no
harm when part of it is done already; it may add to what is there, but must leave the old data readable by itself until
its end. The new number is stored after the step, in the state first and in the log last.

Knows the files of a directory; not who opens it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from kvstore.storage.batch import WriteBatch
from kvstore.storage.convert import seal_log, seal_state
from kvstore.storage.engine import Engine, sync_directory
from kvstore.storage.errors import FormatTooOld
from kvstore.storage.meta import FORMAT, FORMAT_KEY, META, encode_format
from kvstore.storage.pages import DATA_FILE

Step = Callable[[Path, Path], None]
"""Changes a directory, given its log's and its state's, to the next format. Durable on return."""


@dataclass(frozen=True, slots=True)
class Formats:
    """What a build can read: from the oldest format that has a step to the next one, to `newest`, which it writes.

    steps: by the format that they lead away from.
    """

    newest: int = FORMAT
    steps: Mapping[int, Step] = field(default_factory=dict)

    @property
    def oldest(self) -> int:
        """The first format from which steps lead to the newest without a gap."""
        version = self.newest
        while version - 1 in self.steps:
            version -= 1
        return version

    def check(self, found: int, path: Path) -> None:
        """Raise FormatTooOld, naming both versions and the way out, if no steps lead on from this format."""
        if found < self.oldest:
            raise FormatTooOld(
                f"{path}: written in format {found}, and this version of kvstore reads formats {self.oldest} to "
                f"{self.newest}; start it once with a version in between, which brings it to a later format"
            )

    def upgrade(self, found: int, log: Path, state: Path) -> None:
        """Bring a directory that nobody has open from format `found` to the newest."""
        for version in range(found, self.newest):
            self.steps[version](log, state)
            for environment in (state, log):
                _stamp(environment, version + 1)


def _nothing(log: Path, state: Path) -> None:
    """Format 2 has a journal beside the log. A directory without one needs none."""


def _seal(log: Path, state: Path) -> None:
    """Format 3 has a seal on every row. Either environment may have been brought to it already."""
    seal_state(state / DATA_FILE)
    sync_directory(state)
    seal_log(log)


FORMATS: Final = Formats(steps={1: _nothing, 2: _seal})
"""Those of this build."""


def _stamp(path: Path, version: int) -> None:
    batch = WriteBatch()
    batch.put(META.name, {FORMAT_KEY: encode_format(version)})
    engine = Engine(path, [META])
    try:
        engine.commit([batch.operations])
    finally:
        engine.close()
