"""Which program the tests run: kvstored, or an etcd to develop the tests themselves against.

KVSTORE_TEST_BINARY=etcd picks the etcd on the PATH (or give a path); the path of an installed kvstored, as the compiled
.venv-compiled/bin/kvstored, that one instead of the sources. Flags that an older etcd has not are left away; a test
that does not apply to its API level says so itself.
"""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[3]


@dataclass(frozen=True, slots=True)
class Binary:
    """A server program that takes etcd's flags.

    command: what is executed, before the flags. environment: added to ours. api_level: (major, minor) of etcd's
    API that it serves. announced: the level it names itself.
    is_reference: whether it is an etcd, not kvstored. clean_exit: its exit status after SIGTERM.
    """

    name: str
    command: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)
    api_level: tuple[int, int] = (3, 7)
    announced: tuple[int, int] = (3, 6)
    is_reference: bool = False
    clean_exit: int = 0

    def flags(self, flags: dict[str, str]) -> list[str]:
        """The flags as arguments, without those that came after this program's API level."""
        since = {"snapshot-catchup-entries": (3, 6), "max-learners": (3, 6), "watch-progress-notify-interval": (3, 6)}
        known = {name: value for name, value in flags.items() if since.get(name, (3, 0)) <= self.api_level}
        if self.is_reference:
            known.pop("grpc-server", None)
        return [f"--{name}={value}" for name, value in known.items()]


def kvstored() -> Binary:
    """The daemon of this repository, run from its sources."""
    path = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "cmd"), os.environ.get("PYTHONPATH", "")])
    return Binary("kvstored", (sys.executable, "-m", "kvstored"), {"PYTHONPATH": path.rstrip(os.pathsep)})


def installed(program: str) -> Binary:
    """A kvstored that is installed somewhere. Raises FileNotFoundError if it is not there."""
    path = shutil.which(program)
    if path is None:
        raise FileNotFoundError(f"{program} is not a program")
    # The sources would hide what is installed.
    return Binary("kvstored", (str(Path(path).absolute()),), {"PYTHONPATH": ""})


def reference(program: str) -> Binary:
    """An etcd. Raises FileNotFoundError if it is not there."""
    path = shutil.which(program)
    if path is None:
        raise FileNotFoundError(f"{program} is not on the PATH")
    said = subprocess.run([path, "--version"], capture_output=True, text=True, check=True, timeout=30).stdout
    version = re.search(r"etcd Version: (\d+)\.(\d+)", said)
    if version is None:
        raise ValueError(f"{path} --version does not say that it is an etcd: {said!r}")
    # etcd ends by the signal that it was sent, after it has shut down.
    level = (int(version[1]), int(version[2]))
    return Binary("etcd", (path,), api_level=level, announced=level, is_reference=True, clean_exit=-15)


def from_environment() -> Binary:
    """The program under test."""
    wanted = os.environ.get("KVSTORE_TEST_BINARY", "kvstored")
    if wanted == "kvstored":
        return kvstored()
    return installed(wanted) if Path(wanted).name == "kvstored" else reference(wanted)
