"""Bringing a mapped file into memory before anybody reads it, and locking it there."""

from __future__ import annotations

import mmap
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kvstore.storage import backend as backends
from kvstore.storage import resident
from kvstore.storage.backend import BackendOptions
from kvstore.storage.engine import EngineOptions
from kvstore.storage.resident import ResidentMap
from tests.storage.harness import TABLES, until

MIB = 1 << 20

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="nothing is asked for elsewhere")


def mapping(file: Path) -> dict[str, str]:
    """What the kernel says of this process's maps of a file: sizes in bytes, added up; flags of the last."""
    found: dict[str, str] = {}
    of_file = False
    with open("/proc/self/smaps") as lines:
        for line in lines:
            name, _, value = line.partition(":")
            if " " in name:
                of_file = line.rstrip().endswith(os.path.realpath(file))
            elif of_file:
                size = value.split()[0] if value.rstrip().endswith("kB") else ""
                found[name] = str(int(found.get(name, 0)) + int(size) * 1024) if size else value.strip()
    return found


def resident_bytes(file: Path) -> int:
    return int(mapping(file).get("Rss", 0))


@contextmanager
def mapped(file: Path, size: int, map_size: int = 0) -> Iterator[mmap.mmap]:
    """A file of so many bytes, mapped from its beginning; with nothing of it in the page table."""
    with file.open("wb") as writer:
        writer.write(bytes(size))
        writer.truncate(map_size or size)
    with file.open("rb") as reader, mmap.mmap(reader.fileno(), 0, prot=mmap.PROT_READ) as made:
        yield made


def asks_ahead() -> bool:
    """Whether the system knows MADV_POPULATE_READ (Linux 5.14)."""
    with mmap.mmap(-1, mmap.PAGESIZE) as some:
        try:
            some.madvise(22)
        except OSError:
            return False
    return True


needs_asking_ahead = pytest.mark.skipif(
    sys.platform == "linux" and not asks_ahead(), reason="this kernel cannot be asked"
)


@needs_asking_ahead
def test_pages_are_there_before_they_are_read_and_so_are_those_that_the_file_grows_by(tmp_path: Path) -> None:
    file = tmp_path / "file with a blank"
    with mapped(file, 40 * MIB):
        assert resident_bytes(file) == 0
        pages = ResidentMap(file)
        pages.used(20 * MIB, 40 * MIB)
        pages.wait()
        assert 20 * MIB <= resident_bytes(file) < 24 * MIB
        pages.used(27 * MIB, 40 * MIB)
        pages.wait()
        assert resident_bytes(file) < 24 * MIB, "too little to start a thread for"
        pages.used(40 * MIB, 40 * MIB)
        pages.wait()
        assert resident_bytes(file) == 40 * MIB


@needs_asking_ahead
def test_another_map_is_asked_for_from_its_beginning(tmp_path: Path) -> None:
    file = tmp_path / "file"
    pages = ResidentMap(file)
    with mapped(file, 10 * MIB):
        pages.used(10 * MIB, 10 * MIB)
        pages.wait()
        assert resident_bytes(file) == 10 * MIB
    with mapped(file, 10 * MIB, 30 * MIB):
        pages.used(10 * MIB, 30 * MIB)
        pages.wait()
        assert resident_bytes(file) >= 10 * MIB
    with mapped(file, 10 * MIB, 30 * MIB):
        pages.used(10 * MIB, 30 * MIB)
        pages.wait()
        assert resident_bytes(file) == 0, "nobody has said that it is another one"
        pages.replaced()
        pages.used(10 * MIB, 30 * MIB)
        pages.wait()
        assert resident_bytes(file) >= 10 * MIB


def test_a_file_that_memory_has_no_room_for_is_left_alone_and_read_page_by_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    monkeypatch.setattr(resident, "_memory", lambda: 12.0 * MIB)
    with mapped(file, 10 * MIB):
        pages = ResidentMap(file)
        pages.used(10 * MIB, 10 * MIB)
        pages.wait()
        assert resident_bytes(file) == 0
        assert "rr" in mapping(file)["VmFlags"].split()


def test_a_file_that_is_not_mapped_is_no_error(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(bytes(10 * MIB))
    pages = ResidentMap(file, lock=True)
    pages.used(10 * MIB, 10 * MIB)
    pages.wait()
    assert resident_bytes(file) == 0


def test_there_is_memory_and_less_of_it_than_the_machine_has() -> None:
    assert 0 < resident._memory() <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def may_lock(size: int) -> bool:
    limit, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    return os.geteuid() == 0 or limit == resource.RLIM_INFINITY or limit >= size


@needs_asking_ahead
@pytest.mark.skipif(not may_lock(64 * MIB), reason="this user may not lock so much")
def test_pages_are_locked_with_those_that_the_file_grows_by(tmp_path: Path) -> None:
    file = tmp_path / "file"
    with mapped(file, 30 * MIB):
        pages = ResidentMap(file, lock=True)
        pages.used(20 * MIB, 30 * MIB)
        pages.wait()
        assert int(mapping(file)["Locked"]) == 20 * MIB
        pages.used(30 * MIB, 30 * MIB)
        pages.wait()
        assert int(mapping(file)["Locked"]) == resident_bytes(file) == 30 * MIB


LIMITED = """
import mmap, os, resource, sys
from pathlib import Path
from kvstore.storage.errors import StorageError
from kvstore.storage.resident import ResidentMap

file, limit, sizes = Path(sys.argv[1]), int(sys.argv[2]), map(int, sys.argv[3:])
with file.open("rb") as reader, mmap.mmap(reader.fileno(), 0, prot=mmap.PROT_READ):
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (limit, limit))
    if os.geteuid() == 0:
        os.seteuid(65534)  # root may lock whatever it likes
    pages = ResidentMap(file, lock=True)
    for size in sizes:
        try:
            pages.used(size << 20, 8 << 20)
        except StorageError as error:
            print("refused:", error)
        else:
            print("taken")
"""


def test_a_limit_on_locking_is_an_error_at_first_and_in_the_log_later(tmp_path: Path) -> None:
    file = tmp_path / "file"
    with file.open("wb") as writer:
        writer.truncate(8 * MIB)

    def said(limit: int, *sizes: int) -> tuple[list[str], str]:
        done = subprocess.run(
            [sys.executable, "-c", LIMITED, str(file), str(limit), *map(str, sizes)],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        return done.stdout.splitlines(), done.stderr

    out, _ = said(1 * MIB, 2)
    assert out[0].startswith(f"refused: {os.path.realpath(file)}: 2048 KiB of it cannot be locked into memory: ")
    assert out[0].endswith("the limit of this process is 1024 KiB (ulimit -l, or LimitMEMLOCK= of its unit)")
    out, err = said(4 * MIB, 2, 3, 5, 6)
    assert out == ["taken"] * 4
    assert err.count("cannot be locked into memory") == 1
    assert "5120 KiB of it" in err


@needs_asking_ahead
async def test_the_pages_of_a_state_are_there_after_opening_and_as_it_grows(tmp_path: Path) -> None:
    file = tmp_path / "data.mdb"
    options = BackendOptions(engine=EngineOptions(map_size=16 * MIB, count_free=True))

    async def grow(backend: backends.Backend, name: str) -> None:
        for number in range(12):
            backend.table("current").put(b"%s%d" % (name.encode(), number), bytes(MIB))
        await backend.flush_all()

    def all_there() -> bool:
        # What comes to less than a step is left to its readers.
        return resident_bytes(file) > file.stat().st_size - 8 * MIB

    backend = backends.open_with_process(tmp_path, TABLES[1:], options)
    await grow(backend, "a")
    await until(all_there)
    await grow(backend, "b")
    assert file.stat().st_size > 16 * MIB, "so the map has been made anew"
    await until(all_there)
    await backend.close()
    assert resident_bytes(file) == 0

    backend = backends.open_with_process(tmp_path, TABLES[1:], options)
    await until(all_there)
    await backend.defragment()
    await until(all_there)
    await backend.close()


@pytest.mark.skipif(not may_lock(MIB), reason="this user may not lock so much")
async def test_the_pages_of_a_state_are_locked_if_its_options_say_so(tmp_path: Path) -> None:
    file = tmp_path / "data.mdb"
    for lock in (False, True):
        backend = backends.open_with_process(
            tmp_path, TABLES[1:], BackendOptions(engine=EngineOptions(lock_memory=lock))
        )
        assert (int(mapping(file)["Locked"]) > 0) is lock
        await backend.close()
