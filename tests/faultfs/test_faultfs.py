"""The fault layer does what it says to a process that is started under it."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faultfs import FaultFs, NoCompiler
from tests.faultfs import trace as traces


@pytest.fixture
def faults(tmp_path: Path) -> Iterator[FaultFs]:
    try:
        layer = FaultFs(tmp_path / "root", tmp_path / "state", trace=True)
    except NoCompiler as reason:
        pytest.skip(str(reason))
    with layer:
        yield layer


def run(faults: FaultFs, program: str) -> subprocess.CompletedProcess[str]:
    """Run a program in the root; what it prints is its result."""
    return subprocess.run(
        [sys.executable, "-S", "-c", "import os, sys, errno, mmap, time\n" + program],
        cwd=faults.root,
        env={**os.environ, **faults.environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def changes(faults: FaultFs) -> list[tuple[str, str]]:
    assert faults.trace is not None
    return [(traces.NAMES[record.kind], record.path) for record in traces.read(faults.trace)]


EVERY_WAY_TO_WRITE = """
fd = os.open("a", os.O_CREAT | os.O_RDWR)
os.write(fd, b"one")
os.pwrite(fd, b"two", 100)
os.lseek(fd, 10, 0)
os.writev(fd, [b"th", b"ree"])
os.pwritev(fd, [b"fo", b"ur"], 200)
os.ftruncate(fd, 4096)
os.posix_fallocate(fd, 4096, 4096)
os.fsync(fd); os.fdatasync(fd)
copy = os.dup(fd)
os.write(copy, b"five")
os.truncate("a", 8000)
with open("b", "wb") as file: file.write(b"six")
with open("b", "ab") as file: file.write(b"seven")
with open("b", "r+b") as file: file.truncate(1)
os.mkdir("d"); os.rename("b", "d/c"); os.replace("d/c", "d/e"); os.unlink("d/e"); os.rmdir("d")
directory = os.open(".", os.O_RDONLY); os.fsync(directory)
"""


def test_every_change_of_a_file_is_seen_with_what_was_written(faults: FaultFs) -> None:
    assert run(faults, EVERY_WAY_TO_WRITE).returncode == 0
    assert changes(faults) == [
        ("create", "a"),
        ("write", ""),
        ("write", ""),
        ("write", ""),
        ("write", ""),
        ("truncate", "a"),
        ("allocate", "a"),
        ("begin to sync", "a"),
        ("synced", "a"),
        ("begin to sync", "a"),
        ("synced", "a"),
        ("write", ""),
        ("truncate", "a"),
        ("create", "b"),
        ("write", ""),
        ("write", ""),
        ("truncate", "b"),
        ("mkdir", "d"),
        ("rename", "b"),
        ("rename", "d/c"),
        ("unlink", "d/e"),
        ("rmdir", "d"),
        ("directory synced", ""),
    ]
    assert faults.trace is not None
    written = [(record.offset, record.data) for record in traces.read(faults.trace) if record.kind == traces.WRITE]
    assert written == [
        (0, b"one"),
        (100, b"two"),
        (10, b"three"),
        (200, b"four"),
        (15, b"five"),
        (0, b"six"),
        (3, b"seven"),
    ]
    assert faults.operations == 21
    assert faults.syncs == 3


def test_files_elsewhere_are_not_touched(faults: FaultFs, tmp_path: Path) -> None:
    faults.fail_writes()
    done = run(faults, f"with open({str(tmp_path / 'other')!r}, 'wb') as file: file.write(b'x')")
    assert done.returncode == 0
    assert faults.operations == 0
    assert faults.joined == 1


def test_a_file_that_is_renamed_into_the_root_is_refused(faults: FaultFs, tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(b"x")
    done = run(faults, f"os.rename({str(tmp_path / 'other')!r}, 'here')")
    assert "EXDEV" in done.stderr or "cross-device" in done.stderr


def test_what_lmdb_writes_is_seen(faults: FaultFs) -> None:
    program = """
import sys; sys.path[:0] = PATHS
import lmdb
env = lmdb.open(".", map_size=1 << 24)
for number in range(3):
    with env.begin(write=True) as txn:
        for row in range(200): txn.put(b"%d-%d" % (number, row), bytes(300))
""".replace("PATHS", repr(sys.path))
    done = run(faults, program)
    assert done.returncode == 0, done.stderr
    kinds = [kind for kind, _ in changes(faults)]
    # Three commits: each syncs its pages, then writes its meta page synchronously.
    assert kinds.count("begin to sync") == 3
    assert kinds.count("synced") == 6
    assert sum(len(record.data) for record in traces.read(faults.trace or Path())) > 3 * 200 * 300


def test_children_are_under_the_layer_too(faults: FaultFs) -> None:
    done = run(faults, "import subprocess\nsubprocess.run(['sh', '-c', 'echo hello > file'], check=True)")
    assert done.returncode == 0
    assert faults.joined >= 2
    assert ("create", "file") in changes(faults)


@pytest.mark.parametrize("after", [False, True])
def test_a_process_is_killed_before_or_after_the_operation(faults: FaultFs, after: bool) -> None:
    faults.kill_at(3, after=after)
    done = run(faults, "\n".join(f"open('f{number}', 'wb').close()" for number in range(5)))
    assert done.returncode == -signal.SIGKILL
    assert faults.killed == 3
    assert faults.disarm()
    assert sorted(os.listdir(faults.root)) == (["f0", "f1", "f2"] if after else ["f0", "f1"])


def test_nobody_is_killed_once_that_is_disarmed(faults: FaultFs) -> None:
    faults.kill_at(2)
    assert not faults.disarm()
    assert run(faults, "open('f', 'wb').close(); os.unlink('f')").returncode == 0
    assert faults.operations == 2


def test_every_operation_is_described_by_its_kind_and_file(faults: FaultFs) -> None:
    program = "with open('a', 'wb', buffering=0) as file: file.write(b'1'); os.rename('a', 'b'); file.write(b'2')"
    assert run(faults, program).returncode == 0
    assert faults.trace is not None
    described = traces.describe(traces.read(faults.trace))
    assert described == {1: "create a", 2: "write a", 3: "rename a -> b", 4: "write b"}


def test_an_operation_is_chosen_by_its_kind(faults: FaultFs) -> None:
    faults.kill_at(2, kind=traces.RENAME)
    done = run(faults, "\n".join(f"open('f{n}', 'wb').close(); os.rename('f{n}', 'g{n}')" for n in range(5)))
    assert done.returncode == -signal.SIGKILL
    assert sorted(os.listdir(faults.root)) == ["f1", "g0"]
    assert faults.count(traces.RENAME) == 2


@pytest.mark.parametrize("everyone", [False, True])
def test_the_other_processes_die_with_the_one_that_comes_to_the_operation(faults: FaultFs, everyone: bool) -> None:
    waiting = subprocess.Popen(
        [sys.executable, "-S", "-c", "print(flush=True); input()"],
        env={**os.environ, **faults.environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    with waiting:
        assert waiting.stdout is not None
        waiting.stdout.readline()
        faults.kill_at(1, everyone=everyone)
        assert run(faults, "open('f', 'wb')").returncode == -signal.SIGKILL
        waiting.communicate(b"\n", timeout=30)
    assert waiting.returncode == (-signal.SIGKILL if everyone else 0)


SYNC = """
fd = os.open(NAME, os.O_CREAT | os.O_RDWR)
os.write(fd, b"x")
began = time.monotonic()
try: os.fsync(fd); print("synced", time.monotonic() - began)
except OSError as error: print(errno.errorcode[error.errno])
"""


def test_syncs_fail_as_often_as_told_and_only_where_told(faults: FaultFs) -> None:
    faults.only_below("/wal")
    faults.fail_syncs(errno.EIO, 1)
    assert run(faults, SYNC.replace("NAME", "'db'")).stdout.startswith("synced")
    assert run(faults, SYNC.replace("NAME", "'wal'")).stdout == "EIO\n"
    assert run(faults, SYNC.replace("NAME", "'wal'")).stdout.startswith("synced")
    assert [kind for kind, path in changes(faults) if path == "wal"].count("synced") == 1


def test_syncs_are_delayed(faults: FaultFs) -> None:
    faults.delay_syncs(0.3)
    assert float(run(faults, SYNC.replace("NAME", "'a'")).stdout.split()[1]) >= 0.3
    faults.heal()
    assert float(run(faults, SYNC.replace("NAME", "'a'")).stdout.split()[1]) < 0.3


def test_a_synchronous_write_is_delayed_and_fails_as_a_sync(faults: FaultFs) -> None:
    program = """
fd = os.open("a", os.O_CREAT | os.O_RDWR | os.O_DSYNC)
began = time.monotonic()
try: os.write(fd, b"x"); print(time.monotonic() - began)
except OSError as error: print(errno.errorcode[error.errno])
"""
    faults.delay_syncs(0.3)
    assert float(run(faults, program).stdout) >= 0.3
    faults.fail_syncs(errno.EIO, 1)
    assert run(faults, program).stdout == "EIO\n"


def test_a_sync_that_lies_is_not_in_the_trace(faults: FaultFs) -> None:
    faults.lie_about_syncs()
    assert run(faults, SYNC.replace("NAME", "'a'")).stdout.startswith("synced")
    assert [kind for kind, _ in changes(faults)] == ["create", "write", "begin to sync"]


def test_files_grow_as_far_as_there_is_room(faults: FaultFs) -> None:
    faults.leave_space(10)
    program = """
fd = os.open("a", os.O_CREAT | os.O_RDWR)
print(os.write(fd, bytes(7)), os.write(fd, bytes(7)))
for attempt in (lambda: os.write(fd, b"x"), lambda: os.ftruncate(fd, 100), lambda: os.posix_fallocate(fd, 0, 100)):
    try: attempt()
    except OSError as error: print(errno.errorcode[error.errno])
print(os.pwrite(fd, b"within", 0))
"""
    assert run(faults, program).stdout.split() == ["7", "3", "ENOSPC", "ENOSPC", "ENOSPC", "6"]
    assert (faults.root / "a").stat().st_size == 10
    faults.leave_space(None)
    assert run(faults, "print(os.write(os.open('a', os.O_WRONLY | os.O_APPEND), bytes(90)))").stdout == "90\n"


def test_writes_fail_as_often_as_told(faults: FaultFs) -> None:
    faults.fail_writes(errno.EIO, 1)
    program = """
fd = os.open("a", os.O_CREAT | os.O_RDWR)
try: os.write(fd, b"one")
except OSError as error: print(errno.errorcode[error.errno])
print(os.write(fd, b"two"))
"""
    assert run(faults, program).stdout.split() == ["EIO", "3"]
    assert (faults.root / "a").read_bytes() == b"two"


@pytest.mark.parametrize("seconds", [3600.5, -3600.5])
def test_the_time_of_day_is_shifted_and_monotonic_clocks_are_not(faults: FaultFs, seconds: float) -> None:
    faults.shift_clock(seconds)
    began = time.monotonic()
    wall, monotonic = map(float, run(faults, "print(time.time(), time.monotonic())").stdout.split())
    assert abs(wall - time.time() - seconds) < 30
    assert began <= monotonic <= time.monotonic()


def test_marks_stand_between_what_was_before_and_after(faults: FaultFs) -> None:
    run(faults, "open('a', 'wb')")
    faults.mark(b"here")
    run(faults, "open('b', 'wb')")
    assert changes(faults) == [("create", "a"), ("mark", ""), ("create", "b")]
