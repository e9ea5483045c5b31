"""Compaction, defragmentation and full disks."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from kvstore.pb.rpc_pb2 import CompactionRequest, DefragmentRequest, HashKVRequest, SnapshotRequest
from kvstore.storage.snapshot_file import verify
from tests.cluster.harness import Client, Cluster, ClusterFactory, Load, assert_all_there, from_environment, wait_until

DISK_BYTES = 24 << 20
KEYS = 100
VALUE = 8_000


def save_snapshot(client: Client, path: Path) -> None:
    """Take a copy of the state as clients do."""
    with path.open("wb") as file:
        for part in client.maintenance.Snapshot(SnapshotRequest()):
            file.write(part.blob)


def test_compaction_and_defragmentation_racing_a_snapshot(make_cluster: ClusterFactory, tmp_path: Path) -> None:
    """etcd: a copy of the state taken while it was compacted or rewritten could not be restored (issues 13456, 14749),
    and a defragmentation that was killed left a member whose position in the log was not that of its state (14685).

    Here a copy is read from one transaction, defragmentation replaces a file by a whole one, and the position is part
    of what is copied. Copies, compactions and rewrites run into one another under load; every copy must be whole,
    and the member, killed in the middle, must have all that was acknowledged.
    """
    cluster = make_cluster(size=1)
    member = cluster.members[0]
    problems: list[BaseException] = []
    stop = threading.Event()

    def again(action: object) -> threading.Thread:
        def run() -> None:
            with Client(member.endpoint) as client:
                while not stop.is_set():
                    try:
                        action(client)  # type: ignore[operator]
                    except grpc.RpcError as error:
                        # The kill at the end cuts calls off; a compaction may be overtaken by another.
                        if error.code() is not grpc.StatusCode.UNAVAILABLE:
                            problems.append(error)
                            return

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        return thread

    copies: list[Path] = []

    def copy(client: Client) -> None:
        path = tmp_path / f"copy{len(copies)}"
        save_snapshot(client, path)
        copies.append(path)

    def compact(client: Client) -> None:
        revision = client.status().header.revision
        client.kv.Compact(CompactionRequest(revision=max(revision - 20, 1), physical=True))
        client.put(b"compacted", b"%d" % revision)

    with Load([member.endpoint], b"load/", writers=2, size=2000) as load:
        threads = [
            again(copy),
            again(compact),
            again(lambda client: client.maintenance.Defragment(DefragmentRequest())),
        ]
        wait_until(lambda: len(copies) >= 3 or problems, "copies are taken under load", 60)
        member.kill_group()
        stop.set()
        for thread in threads:
            thread.join(20)
        record = load.stop()
    ignored = "etcdserver: mvcc: required revision has been compacted"
    assert not [problem for problem in problems if ignored not in str(problem)]
    infos = [verify(path) for path in copies]
    assert [info.revision for info in infos] == sorted(info.revision for info in infos)
    assert infos[-1].revision > 1
    member.start()
    member.wait_ready()
    assert_all_there(record, member.client, b"load/")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system that a test can fill."""
    mount = shutil.which("mount")
    if mount is None or os.geteuid() != 0:
        pytest.skip("mounting a file system takes root")
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run([mount, "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


def fill(disk: Path) -> Path:
    """Take all the room there is."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass
    return filler


def until_refused(client: Client, revision: int) -> grpc.StatusCode | None:
    """Compact, and write until the disk is noticed to be full: how that is told."""
    for _ in range(50):
        try:
            if revision:
                client.kv.Compact(CompactionRequest(revision=revision, physical=True), timeout=1.0)
                revision = 0
            client.put(b"more", bytes(40_000), timeout=1.0)
        except grpc.RpcError as error:
            code: grpc.StatusCode = error.code()
            return code
    return None


def test_disk_full_during_compaction(small_disk: Path) -> None:
    """etcd: a disk that filled up while space was being freed ended the member (issue 18810), and one that ended in the
    middle came back with a part of its history gone that it still spoke of.

    Here freeing space is done in transactions that each are whole or not there. What cannot be written waits; reads go
    on; and with room again the compaction ends where it would have. The member's own log is on the full disk, too.
    """
    with Cluster(from_environment(), small_disk / "cluster", size=1) as cluster:
        member = cluster.members[0]
        client = member.client
        for version in range(3):
            for number in range(KEYS):
                client.put(b"k%03d" % number, (b"%d" % version).ljust(VALUE, b"v"))
        revision = client.status().header.revision
        expected = {kv.key: kv.value for kv in client.prefix(b"k").kvs}
        filler = fill(small_disk)
        refusal = until_refused(client, revision - 1)
        assert refusal in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.DEADLINE_EXCEEDED)
        assert member.running
        assert {kv.key: kv.value for kv in client.prefix(b"k", serializable=True).kvs} == expected
        filler.unlink()
        wait_until(lambda: client.put(b"again", b"", timeout=2.0), "there is room again")
        latest = client.status().header.revision
        client.kv.Compact(CompactionRequest(revision=latest, physical=True))
        hashed = client.maintenance.HashKV(HashKVRequest(revision=latest))
        member.kill_group()
        member.start()
        member.wait_ready()
        assert {kv.key: kv.value for kv in client.prefix(b"k").kvs} == expected
        again = client.maintenance.HashKV(HashKVRequest(revision=latest))
        assert (again.hash, again.compact_revision) == (hashed.hash, latest)
