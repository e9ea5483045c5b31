"""Large files, piece by piece."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import BinaryIO

import lmdb
import pytest

from kvstore.storage import pace
from kvstore.storage.pace import Pace, Retired, SyncedFile

KIB = 1024
SECONDS = 20.0

READER = """
import sys, lmdb
with lmdb.open(sys.argv[1], readonly=True) as env:
    print("open", flush=True)
    sys.stdin.readline()
    with env.begin() as txn:
        print(sum(len(value) for _, value in txn.cursor()), flush=True)
    sys.stdin.read()
"""


class Clock:
    """Time that passes when a step or a sleep takes some."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def read(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    def take(self, seconds: float) -> None:
        self.now += seconds


def paced(clock: Clock) -> Pace:
    return Pace(clock.read, clock.sleep)


def test_pieces_grow_while_the_disk_is_fast_and_shrink_when_it_is_slow() -> None:
    clock = Clock()
    pieces = paced(clock)
    for _ in range(10):
        pieces.step(lambda: clock.take(0.001))
    assert pieces.piece == 4096 * KIB
    pieces.step(lambda: clock.take(0.004))
    assert pieces.piece == 4096 * KIB
    for _ in range(10):
        pieces.step(lambda: clock.take(0.02))
    assert pieces.piece == 1024 * KIB


def test_the_disk_is_left_alone_after_each_piece_by_how_long_it_took() -> None:
    clock = Clock()
    pieces = paced(clock)
    pieces.step(lambda: clock.take(0.004))
    pieces.step(lambda: clock.take(10.0))
    assert clock.slept == [pytest.approx(0.002), pytest.approx(0.1)]


def test_a_file_is_synced_at_least_once_a_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    sync = os.fsync

    def noting(descriptor: int) -> None:
        sizes.append(os.fstat(descriptor).st_size)
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", noting)
    data = os.urandom(5000 * KIB + 17)
    with (tmp_path / "file").open("wb") as stream:
        clock = Clock()
        file = SyncedFile(stream.fileno(), paced(clock))
        for first in range(0, len(data), 300 * KIB):
            file.write(data[first : first + 300 * KIB])
        file.finish()
    assert (tmp_path / "file").read_bytes() == data
    assert sizes[-1] == len(data)
    # Syncs take no time by this clock, so that each piece is twice as large as the one before.
    assert sizes[:2] == [1024 * KIB, 3072 * KIB]


def environment(path: Path, rows: int) -> lmdb.Environment:
    path.mkdir()
    env = lmdb.open(os.fspath(path), map_size=64 << 20)
    with env.begin(write=True) as txn:
        for number in range(rows):
            txn.put(b"%06d" % number, bytes(1000))
    return env


def test_a_copy_has_every_row(tmp_path: Path) -> None:
    with environment(tmp_path / "env", 5000) as env:
        with (tmp_path / "copy").open("wb") as stream:
            pace.copy(env, stream.fileno())
        with env.begin() as txn:
            rows = list(txn.cursor())
    with lmdb.open(os.fspath(tmp_path / "copy"), subdir=False, readonly=True, lock=False) as copy, copy.begin() as txn:
        assert list(txn.cursor()) == rows


def test_a_copy_that_cannot_be_written_fails_and_ends(tmp_path: Path) -> None:
    with environment(tmp_path / "env", 5000) as env, open("/dev/full", "wb", buffering=0) as full:
        with pytest.raises(OSError, match="No space left"):
            pace.copy(env, full.fileno())
        with env.begin() as txn:
            assert txn.stat()["entries"] == 5000


def until_no_larger(file: BinaryIO, size: int) -> None:
    deadline = time.monotonic() + SECONDS
    while os.fstat(file.fileno()).st_size > size:
        assert time.monotonic() < deadline, "nothing was given back"
        time.sleep(0.005)


def test_a_removed_file_loses_its_name_at_once_and_its_blocks_soon(tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(bytes(3 << 20))
    with path.open("rb") as held:
        pace.remove(path)
        assert not path.exists()
        # The last piece goes when the file is closed.
        until_no_larger(held, 2 << 20)
    pace.remove(path)


def test_a_file_that_cannot_be_removed_is_let_go_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"content")

    def refuse(removed: Path) -> None:
        raise PermissionError(1, "Operation not permitted", os.fspath(removed))

    monkeypatch.setattr(os, "unlink", refuse)
    with pytest.raises(PermissionError):
        pace.remove(path)
    held = {os.path.realpath(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")}
    assert os.fspath(path) not in held
    assert path.read_bytes() == b"content"


def test_a_retired_environment_stays_whole_while_another_process_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "env"
    environment(path, 5000).close()
    data, lock = path / "data.mdb", path / "lock.mdb"
    size = data.stat().st_size
    with data.open("rb") as held:
        reader = subprocess.Popen(
            [sys.executable, "-c", READER, os.fspath(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert reader.stdin is not None
        assert reader.stdout is not None
        assert reader.stdout.readline() == "open\n"
        old = Retired(data, lock)
        data.unlink()
        lock.unlink()
        old.give_back()
        reader.stdin.write("read\n")
        reader.stdin.flush()
        assert int(reader.stdout.readline()) == 5000 * 1000
        assert os.fstat(held.fileno()).st_size == size
        reader.communicate(timeout=SECONDS)
        until_no_larger(held, 4 << 20)
    assert size > 4 << 20
