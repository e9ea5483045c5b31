"""The same services through etcdctl: a client that was written by others, in another language."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.harness import Cluster, ClusterFactory, Member, wait_until

TIMEOUT = 30.0

pytestmark = pytest.mark.skipif(shutil.which("etcdctl") is None, reason="there is no etcdctl on the PATH")


class Etcdctl:
    """etcdctl with the endpoints of a cluster."""

    def __init__(self, endpoints: list[str]) -> None:
        self.command = ["etcdctl", f"--endpoints={','.join(endpoints)}"]
        self.environment = {**os.environ, "ETCDCTL_API": "3"}

    def __call__(self, *arguments: str, stdin: str = "") -> str:
        """Its output. Fails the test with what it said if it does not succeed."""
        done = self.run(*arguments, stdin=stdin)
        assert done.returncode == 0, f"etcdctl {' '.join(arguments)}: {done.stdout}{done.stderr}"
        return done.stdout

    def run(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.command, *arguments],
            env=self.environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )

    def json(self, *arguments: str) -> Any:
        return json.loads(self(*arguments, "--write-out=json"))

    @contextmanager
    def background(self, *arguments: str, output: Path) -> Iterator[Callable[[], list[str]]]:
        """Run it beside the test; yields a function that gives the lines written so far."""
        with output.open("wb") as file:
            process = subprocess.Popen([*self.command, *arguments], env=self.environment, stdout=file, stderr=file)
        try:
            yield lambda: output.read_text().splitlines()
        finally:
            process.kill()
            process.wait(TIMEOUT)


@pytest.fixture
def etcdctl(cluster: Cluster) -> Etcdctl:
    return Etcdctl([member.endpoint for member in cluster.members])


@pytest.fixture
def name(prefix: bytes) -> str:
    return prefix.decode()


def test_put_get_and_delete(etcdctl: Etcdctl, name: str) -> None:
    assert etcdctl("put", name + "a", "1") == "OK\n"
    etcdctl("put", name + "b", "2")
    etcdctl("put", name + "c", "3")
    assert etcdctl("get", name + "a") == f"{name}a\n1\n"
    assert etcdctl("get", name, "--prefix", "--print-value-only") == "1\n2\n3\n"
    assert etcdctl("get", name, "--prefix", "--keys-only", "--order=DESCEND", "--limit=1").split() == [name + "c"]
    assert etcdctl("get", name + "b", "--from-key", "--limit=1", "--print-value-only") == "2\n"
    assert etcdctl("get", name, "--prefix", "--sort-by=VALUE", "--order=DESCEND", "--print-value-only") == "3\n2\n1\n"
    assert etcdctl("get", name + "a", "--consistency=s", "--print-value-only") == "1\n"
    assert etcdctl("put", name + "a", "new", "--prev-kv") == f"OK\n{name}a\n1\n"
    assert etcdctl("del", name + "a", "--prev-kv") == f"1\n{name}a\nnew\n"
    assert etcdctl("del", name, "--prefix") == "2\n"


def test_json_output_has_the_numbers(etcdctl: Etcdctl, cluster: Cluster, name: str) -> None:
    etcdctl("put", name, "v")
    got = etcdctl.json("get", name)
    assert got["count"] == 1
    assert (got["kvs"][0]["version"], got["kvs"][0]["mod_revision"]) == (1, got["header"]["revision"])
    assert got["header"]["member_id"] in {member.id for member in cluster.members}


def test_reading_an_old_revision_and_compacting(etcdctl: Etcdctl, name: str) -> None:
    etcdctl("put", name, "old")
    revision = etcdctl.json("get", name)["header"]["revision"]
    etcdctl("put", name, "new")
    assert etcdctl("get", name, f"--rev={revision}", "--print-value-only") == "old\n"
    assert f"compacted revision {revision + 1}" in etcdctl("compaction", str(revision + 1), "--physical=true")
    refused = etcdctl.run("get", name, f"--rev={revision}")
    assert refused.returncode == 1
    assert "etcdserver: mvcc: required revision has been compacted" in refused.stderr


def test_transactions(etcdctl: Etcdctl, name: str) -> None:
    etcdctl("put", name + "key", "1")
    script = f'value("{name}key") = "1"\n\nput {name}key 2\nget {name}key\n\nput {name}key other\n\n'
    said = etcdctl("txn", stdin=script)
    assert said.split() == ["SUCCESS", "OK", name + "key", "2"]
    assert etcdctl("txn", stdin=script).split() == ["FAILURE", "OK"]


def test_watch(etcdctl: Etcdctl, name: str, tmp_path: Path) -> None:
    etcdctl("put", name + "old", "0")
    revision = etcdctl.json("get", name + "old")["header"]["revision"]
    arguments = ("watch", name, "--prefix", "--prev-kv", f"--rev={revision}")
    with etcdctl.background(*arguments, output=tmp_path / "events") as lines:
        wait_until(lambda: lines() == ["PUT", name + "old", "0"], "history is replayed")
        etcdctl("put", name + "old", "1")
        etcdctl("del", name + "old")
        expected = ["PUT", name + "old", "0", name + "old", "1", "DELETE", name + "old", "1", name + "old", ""]
        wait_until(lambda: lines()[3:] == expected, "the events are printed")


def test_leases(etcdctl: Etcdctl, name: str, tmp_path: Path) -> None:
    lease = etcdctl("lease", "grant", "300").split()[1]
    etcdctl("put", name, "v", f"--lease={lease}")
    assert lease in etcdctl("lease", "list")
    told = etcdctl("lease", "timetolive", lease, "--keys")
    assert "granted with TTL(300s)" in told
    assert f"attached keys([{name}])" in told
    assert "keepalived with TTL(300)" in etcdctl("lease", "keep-alive", lease, "--once")
    assert f"lease {lease} revoked" in etcdctl("lease", "revoke", lease)
    assert etcdctl("get", name) == ""
    assert "already expired" in etcdctl("lease", "timetolive", lease)
    refused = etcdctl.run("lease", "revoke", lease)
    assert "etcdserver: requested lease not found" in refused.stderr


def test_endpoints(etcdctl: Etcdctl, cluster: Cluster) -> None:
    health = etcdctl.run("endpoint", "health")
    assert (health.returncode, (health.stdout + health.stderr).count("is healthy")) == (0, 3)
    statuses = etcdctl.json("endpoint", "status")
    assert {status["Status"]["leader"] for status in statuses} == {cluster.leader().id}
    cluster.wait_agreed()
    hashes = etcdctl.json("endpoint", "hashkv")
    assert len({answer["HashKV"]["hash"] for answer in hashes}) == 1


def test_member_list(etcdctl: Etcdctl, cluster: Cluster) -> None:
    listed = etcdctl("member", "list")
    for member in cluster.members:
        assert f"{member.id:x}, started, {member.name}, {member.peer_url}, {member.client_url}, false" in listed


def test_alarms(etcdctl: Etcdctl) -> None:
    assert etcdctl("alarm", "list") == ""
    assert etcdctl("alarm", "disarm") == ""


def test_defrag(etcdctl: Etcdctl) -> None:
    assert etcdctl("defrag").count("Finished defragmenting") == 3


def test_move_leader(etcdctl: Etcdctl, cluster: Cluster) -> None:
    target = cluster.followers()[0]
    assert "Leadership transferred" in etcdctl("move-leader", f"{target.id:x}")
    assert cluster.leader() is target


def test_locks(etcdctl: Etcdctl, name: str) -> None:
    assert etcdctl("lock", name, "echo", "held").split() == ["held"]


def test_elections(etcdctl: Etcdctl, name: str, tmp_path: Path) -> None:
    with etcdctl.background("elect", name, "candidate", output=tmp_path / "elected") as lines:
        wait_until(lambda: lines()[1:] == ["candidate"], "the candidate is elected")
        with etcdctl.background("elect", name, "--listen", output=tmp_path / "observed") as observed:
            wait_until(lambda: observed()[1:] == ["candidate"], "an observer sees it")
    # Who is killed leaves its lease behind, at whose end there would be a revision in the midst of another test.
    (elected,) = etcdctl.json("get", name, "--prefix")["kvs"]
    etcdctl("lease", "revoke", f"{elected['lease']:x}")
    assert etcdctl("get", name, "--prefix") == ""


def test_a_snapshot_is_saved(etcdctl: Etcdctl, member: Member, name: str, tmp_path: Path) -> None:
    etcdctl("put", name, "v")
    one = Etcdctl([member.endpoint])
    file = tmp_path / "snapshot.db"
    assert "Snapshot saved" in one("snapshot", "save", str(file))
    assert file.stat().st_size > 0


@pytest.mark.slow
def test_members_come_and_go(make_cluster: ClusterFactory) -> None:
    cluster = make_cluster(1)
    etcdctl = Etcdctl([cluster.members[0].endpoint])
    etcdctl("put", "key", "value")
    added = cluster.prepare_member("m2")
    said = etcdctl("member", "add", "m2", f"--peer-urls={added.peer_url}", "--learner")
    assert 'ETCD_INITIAL_CLUSTER_STATE="existing"' in said
    added_id = said.split()[1]
    cluster.joined(added)
    added.start()

    def promoted() -> bool:
        done = etcdctl.run("member", "promote", added_id)
        return "promoted in cluster" in done.stdout

    wait_until(promoted, "the learner is promoted", 30)
    added.wait_ready()
    assert Etcdctl([added.endpoint])("get", "key") == "key\nvalue\n"
    etcdctl("member", "update", added_id, f"--peer-urls={added.peer_url},http://localhost:{added.peer_port}")

    def removed() -> bool:
        return "removed from cluster" in etcdctl.run("member", "remove", added_id).stdout

    wait_until(removed, "the cluster is healthy enough for the removal", 30)
    cluster.members.remove(added)
    added.close()
    assert etcdctl("member", "list").count("started") == 1
    etcdctl("put", "key", "alone again")


@pytest.mark.slow
def test_it_goes_on_when_an_endpoint_dies(make_cluster: ClusterFactory) -> None:
    cluster = make_cluster(3)
    etcdctl = Etcdctl([member.endpoint for member in cluster.members])
    for victim in list(cluster.members):
        etcdctl("put", "key", victim.name)
        victim.kill()
        begun = time.monotonic()
        cluster.followers()[0].wait_ready()
        assert etcdctl("get", "key", "--print-value-only") == f"{victim.name}\n"
        assert time.monotonic() - begun < TIMEOUT
        victim.start()
        victim.wait_ready()
