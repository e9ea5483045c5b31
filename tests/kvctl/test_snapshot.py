"""Saving, checking and restoring snapshots."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.harness import Binary, ClusterFactory
from tests.kvctl.programs import REPOSITORY, Kvctl

# Of LMDB's pages: their size, that of a header, where in it the flags are and the end of the rows' offsets.
PAGE, HEADER, FLAGS, ROWS_END = 4096, 16, 10, 12
LEAF = 2


def test_a_snapshot_appears_under_its_name_only_when_it_is_complete(kvctl: Kvctl, tmp_path: Path) -> None:
    saved = kvctl("snapshot", "save", "backup.db")
    assert saved.code == 0
    assert saved.out.startswith(b"Snapshot saved at backup.db\n")
    assert os.listdir(tmp_path) == ["backup.db"]
    kept = (tmp_path / "backup.db").read_bytes()
    assert len(kept) > 10_000
    failed = kvctl("snapshot", "save", "backup.db", "--endpoints", "127.0.0.1:1", "--command-timeout", "200ms")
    assert failed.code == 5
    assert os.listdir(tmp_path) == ["backup.db"]
    assert (tmp_path / "backup.db").read_bytes() == kept


def test_a_directory_that_is_not_there_is_named(kvctl: Kvctl) -> None:
    outcome = kvctl("snapshot", "save", "none/backup.db")
    assert outcome.code == 5
    assert b"none/backup.db.part: No such file or directory" in outcome.err


def test_progress_is_shown_on_a_terminal_and_nowhere_else(kvctl: Kvctl, tmp_path: Path) -> None:
    quiet = kvctl.process("snapshot", "save", "quiet.db")
    assert quiet.communicate(timeout=30)[1] == b""
    terminal, slave = pty.openpty()
    path = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "cmd")])
    shown = subprocess.run(
        [sys.executable, "-m", "kvctl", "snapshot", "save", "shown.db"],
        env=os.environ | kvctl._environment | {"PYTHONPATH": path},
        stderr=slave,
        stdout=subprocess.PIPE,
        cwd=tmp_path,
        timeout=30,
    )
    os.close(slave)
    assert shown.returncode == 0
    assert b" of " in os.read(terminal, 10_000)
    os.close(terminal)


@pytest.fixture
def own_format(binary: Binary) -> None:
    if binary.is_reference:
        pytest.skip("an etcd's snapshots are for etcd's own tools")


@pytest.mark.usefixtures("own_format")
def test_a_file_is_checked_and_its_contents_counted(kvctl: Kvctl, tmp_path: Path) -> None:
    kvctl("put", "snapshot/k", "v")
    kvctl("snapshot", "save", "s.db")
    fields = kvctl("get", "snapshot/k", "-w", "fields").out.splitlines()
    revision = int(next(line for line in fields if line.startswith(b'"Revision"')).split()[-1])
    told = json.loads(kvctl("snapshot", "status", "s.db", "-w", "json").out)
    assert told["revision"] == revision
    assert told["totalKey"] > 0
    assert told["totalSize"] + 32 == (tmp_path / "s.db").stat().st_size
    simple = kvctl("snapshot", "status", "s.db").out.decode().strip().split(", ")
    assert simple[:3] == [f"{told['hash']:x}", str(revision), str(told["totalKey"])]
    assert kvctl("snapshot", "status", "s.db", "-w", "fields").out.decode().splitlines() == [
        f'"Hash" : {told["hash"]}',
        f'"Revision" : {revision}',
        f'"Keys" : {told["totalKey"]}',
        f'"Size" : {told["totalSize"]}',
    ]
    assert b"| TOTAL KEYS |" in kvctl("snapshot", "status", "s.db", "-w", "table").out
    damaged = bytearray((tmp_path / "s.db").read_bytes())
    damaged[-1] ^= 1
    (tmp_path / "damaged.db").write_bytes(damaged)
    outcome = kvctl("snapshot", "status", "damaged.db")
    assert outcome.code == 1
    assert b"SHA-256" in outcome.err


@pytest.mark.usefixtures("own_format")
def test_a_cluster_begins_anew_from_a_snapshot(kvctl: Kvctl, make_cluster: ClusterFactory, tmp_path: Path) -> None:
    kvctl("put", "snapshot/restored", "v")
    kvctl("snapshot", "save", "s.db")
    cluster = make_cluster.prepare(size=3, token="anew")
    together = ",".join(f"{member.name}={member.peer_url}" for member in cluster.members)
    for member in cluster.members:
        flags = {
            "name": member.name,
            "data-dir": str(member.data),
            "initial-cluster": together,
            "initial-cluster-token": "anew",
            "initial-advertise-peer-urls": member.peer_url,
        }
        args = [f"--{name}={value}" for name, value in flags.items()]
        done = kvctl.process("snapshot", "restore", "s.db", *args)
        _, err = done.communicate(timeout=60)
        assert done.returncode == 0, err
        assert json.loads(err)["msg"] == "restored snapshot"
        again = kvctl("snapshot", "restore", "s.db", *args)
        assert again.code == 1
    cluster.start()
    for member in cluster.members:
        assert kvctl.on(member.endpoint)("get", "snapshot/restored").out == b"snapshot/restored\nv\n"
    assert kvctl.on(cluster.members[0].endpoint)("member", "list").out.count(b"started") == 3


@pytest.mark.parametrize("command", ["status", "restore"])
def test_what_is_not_a_snapshot_is_refused(kvctl: Kvctl, tmp_path: Path, command: str) -> None:
    (tmp_path / "text.db").write_bytes(b"no snapshot" * 1000)
    assert kvctl("snapshot", command, "text.db").code == 1
    assert kvctl("snapshot", command, "none.db").code == 1
    assert kvctl("snapshot", command).code == 128
    assert not (tmp_path / "default.etcd").exists()


@pytest.mark.usefixtures("own_format")
@pytest.mark.parametrize("command", ["status", "restore"])
def test_a_file_that_kills_whoever_reads_it_is_said_to_be_damaged(kvctl: Kvctl, tmp_path: Path, command: str) -> None:
    kvctl("put", "snapshot/k", "v")
    kvctl("snapshot", "save", "s.db")
    damaged = bytearray((tmp_path / "s.db").read_bytes())
    for page in range(2 * PAGE, len(damaged) - PAGE + 1, PAGE):
        if int.from_bytes(damaged[page + FLAGS : page + FLAGS + 2], sys.byteorder) & LEAF:
            # Every row is now said to lie in the last bytes of the 64 KiB from here, beyond the end of the file.
            rows_end = page + int.from_bytes(damaged[page + ROWS_END : page + ROWS_END + 2], sys.byteorder)
            damaged[page + HEADER : rows_end] = b"\xf0\xff" * ((rows_end - page - HEADER) // 2)
    (tmp_path / "damaged.db").write_bytes(damaged)
    outcome = kvctl("snapshot", command, "damaged.db", "--skip-hash-check")
    assert outcome.code == 1
    assert b"Error: damaged.db: is damaged: reading it ended with SIG" in outcome.err
    assert list(tmp_path.glob("default.etcd/*")) == []
