"""Compaction, defragmentation and full disks."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import lmdb
import pytest

from kvstore.pb.rpc_pb2 import (
    CompactionRequest,
    DefragmentRequest,
    HashKVRequest,
    PutRequest,
    RequestOp,
    SnapshotRequest,
    TxnRequest,
)
from kvstore.storage.snapshot_file import verify
from tests.cluster.harness import (
    Client,
    Cluster,
    ClusterFactory,
    Load,
    Member,
    assert_all_there,
    from_environment,
    wait_until,
)
from tests.faultfs import FaultFs, NoCompiler

DISK_BYTES = 24 << 20
KEYS = 100
VALUE = 8_000
BALLAST = 3
"""Transactions of a hundred values each."""


def save_snapshot(client: Client, path: Path) -> None:
    """Take a copy of the state as clients do."""
    with path.open("wb") as file:
        for part in client.maintenance.Snapshot(SnapshotRequest()):
            file.write(part.blob)


def write_ballast(client: Client) -> None:
    """Make a copy take a while."""
    for part in range(BALLAST):
        puts = [PutRequest(key=b"ballast/%d/%02d" % (part, number), value=bytes(VALUE)) for number in range(100)]
        client.kv.Txn(TxnRequest(success=[RequestOp(request_put=put) for put in puts]))


def assert_of_one_moment(path: Path, revision: int) -> None:
    """See that a copy up to a revision has every change since what was compacted, and nothing that came later."""
    with (
        lmdb.open(os.fspath(path), subdir=False, readonly=True, lock=False, max_dbs=32) as env,
        env.begin() as txn,
    ):
        meta, history = (env.open_db(name, txn=txn, create=False) for name in (b"meta", b"history"))
        compacted = int.from_bytes(txn.get(b"compact_revision", db=meta, default=b"\xff"), "big", signed=True)
        changes = {int.from_bytes(key[:8], "big") for key, _ in txn.cursor(db=history)}
    since = max(compacted, 1) + 1
    assert {change for change in changes if change >= since} == set(range(since, revision + 1))


def test_compaction_and_defragmentation_racing_a_snapshot(make_cluster: ClusterFactory, tmp_path: Path) -> None:
    """etcd: a copy of the state taken while it was compacted or rewritten could not be restored (issues 13456, 14749),
    and a defragmentation that was killed left a member whose position in the log was not that of its state (14685).

    Here a copy is read from one transaction, defragmentation replaces a file by a whole one, and the position is part
    of what is copied. Copies, compactions and rewrites run into one another under load; every copy must be whole
    and of one moment, and the member, killed in the middle, must have all that was acknowledged.
    """
    cluster = make_cluster(size=1)
    member = cluster.members[0]
    write_ballast(member.client)
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

    def defragment(client: Client) -> None:
        client.maintenance.Defragment(DefragmentRequest())
        # Between two of them the file is written to, also where it is being copied.
        stop.wait(0.3)

    with Load([member.endpoint], b"load/", writers=2, size=2000) as load:
        threads = [
            again(copy),
            again(compact),
            again(defragment),
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
    for path, info in zip(copies, infos, strict=True):
        assert_of_one_moment(path, info.revision)
    member.start()
    member.wait_ready()
    assert_all_there(record, member.client, b"load/")


def test_position_in_the_log_wrong_after_a_defragmentation(make_cluster: ClusterFactory) -> None:
    """etcd (issue 14685): the position was written beside what was changed, so that a member killed after a
    defragmentation went on from another place of the log than that of its state.

    Here what follows a defragmentation is in the log alone when the member is killed, and must be there again, once.
    """
    cluster = make_cluster(size=1, flags={"backend-batch-interval": "10m"})
    member = cluster.members[0]
    for number in range(10):
        member.client.put(b"before", b"%d" % number)
    member.client.maintenance.Defragment(DefragmentRequest())
    for number in range(10):
        member.client.put(b"after", b"%d" % number)
    # Nothing in between, not even a hash: whatever looks at the whole state stores it first.
    member.kill_group()
    member.start()
    member.wait_ready()
    before, after = member.client.get(b"before"), member.client.get(b"after")
    assert before is not None
    assert after is not None
    assert (before.value, before.version, after.value, after.version) == (b"9", 10, b"9", 10)
    assert member.client.status().header.revision == 21


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


def compaction_steps(member: Member) -> float:
    """How many batches of compactions have been removed."""
    _, _, text = member.http("/metrics")
    name = "etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds_count"
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name))


def refusal_of(client: Client) -> grpc.StatusCode | None:
    """Write: how it was refused; None if it was not."""
    try:
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
    # In so many steps that it is still under way when the disk is full.
    steps = {"compaction-batch-limit": "10", "compaction-sleep-interval": "100ms"}
    with Cluster(from_environment(), small_disk / "cluster", size=1, flags=steps) as cluster:
        member = cluster.members[0]
        client = member.client
        for version in range(3):
            for number in range(KEYS):
                client.put(b"k%03d" % number, (b"%d" % version).ljust(VALUE, b"v"))
        revision = client.status().header.revision
        expected = {kv.key: kv.value for kv in client.prefix(b"k").kvs}
        client.kv.Compact(CompactionRequest(revision=revision - 1))
        wait_until(lambda: compaction_steps(member) > 0, "the compaction is under way")
        filler = fill(small_disk)
        refusal = wait_until(lambda: refusal_of(client), "the disk is noticed to be full", 30)
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


def test_disk_full_while_space_is_freed(make_cluster: ClusterFactory, tmp_path: Path) -> None:
    """The same on a file system that never writes in place: there freeing space needs room itself."""
    steps = {"compaction-batch-limit": "10", "compaction-sleep-interval": "300ms"}
    cluster = make_cluster.prepare(size=1, flags=steps)
    member = cluster.members[0]
    try:
        faults = FaultFs(member.data, tmp_path / "faults")
    except NoCompiler as reason:
        pytest.skip(str(reason))
    with faults:
        member.environment = {**member.environment, **faults.environment}
        cluster.start()
        client = member.client
        for version in range(100):
            client.put(b"k%d" % (version % 7), b"%d" % version)
        expected = {kv.key: kv.value for kv in client.prefix(b"k").kvs}
        client.kv.Compact(CompactionRequest(revision=100))
        wait_until(lambda: compaction_steps(member) > 0, "the compaction is under way")
        faults.only_below("/db/")
        faults.fail_writes(errno.ENOSPC)
        # Nobody writes, so it is the compaction that finds no room.
        wait_until(lambda: "no room on the disk" in member.log.read_text(), "the disk is noticed to be full")
        assert {kv.key: kv.value for kv in client.prefix(b"k", serializable=True).kvs} == expected
        faults.heal()
        wait_until(lambda: client.put(b"again", b"", timeout=2.0), "there is room again")
        client.kv.Compact(CompactionRequest(revision=101, physical=True), timeout=60.0)
        assert compaction_steps(member) >= 10
        assert {kv.key: kv.value for kv in client.prefix(b"k").kvs} == expected
