"""Who cannot run with a cluster, or with a data directory, is told so, and nothing is changed."""

from __future__ import annotations

import lmdb
import pytest

from kvstore.storage.meta import FORMAT
from tests.cluster.harness import ClusterFactory
from tests.cluster.harness.waiting import wait_until
from tests.storage.older import become_format_2
from tests.versions.builds import (
    OLD,
    STOP_SECONDS,
    WAIT_SECONDS,
    become_new,
    become_old,
    contents,
    protocol,
    wait_protocol,
)


def test_an_older_member_cannot_join_a_newer_cluster(make_cluster: ClusterFactory) -> None:
    cluster = make_cluster(1)
    wait_protocol(cluster, 2)
    joining = cluster.add("m2")
    become_old(joining)
    status, output = joining.run_to_end()
    assert status == 1
    assert "the cluster speaks version 2 of the protocol between members, and the caller only up to 1" in output
    assert "install the version of kvstore that the other members run" in output

    become_new(joining)
    joining.start()
    joining.wait_ready()
    assert protocol(joining) == 2


def test_an_older_learner_keeps_the_cluster_at_its_version(make_cluster: ClusterFactory) -> None:
    cluster = make_cluster(1, flags=OLD)
    learner = cluster.add("m2", learner=True)
    learner.start()
    wait_until(lambda: protocol(learner) == 1, "the learner serves", WAIT_SECONDS)
    old = cluster.members[0]
    become_new(old)
    old.terminate(STOP_SECONDS)
    old.start()
    old.wait_ready()
    old.client.put(b"k", b"v")
    assert protocol(old) == 1

    become_new(learner)
    learner.terminate(STOP_SECONDS)
    learner.start()
    wait_until(lambda: [protocol(each) for each in (old, learner)] == [2, 2], "both use version 2", WAIT_SECONDS)


def test_a_member_does_not_go_back_behind_its_cluster(make_cluster: ClusterFactory) -> None:
    cluster = make_cluster()
    wait_protocol(cluster, 2)
    member = cluster.followers()[0]
    member.terminate(STOP_SECONDS)
    become_old(member)
    before = contents(member.data)
    status, output = member.run_to_end()
    assert status == 1
    assert "belongs to a cluster that speaks version 2 of the protocol between members" in output
    assert "speaks only up to 1" in output
    assert contents(member.data) == before

    become_new(member)
    member.start()
    member.wait_ready()


@pytest.mark.parametrize("environment", ["wal", "db"])
def test_a_directory_of_a_newer_format_is_not_touched(make_cluster: ClusterFactory, environment: str) -> None:
    cluster = make_cluster(1)
    member = cluster.members[0]
    member.client.put(b"k", b"v")
    member.terminate(STOP_SECONDS)
    stored = member.data / "member" / environment
    _set_format(str(stored), FORMAT + 1)
    before = contents(member.data)
    status, output = member.run_to_end()
    assert status == 1
    assert f"written in format {FORMAT + 1}, and this version of kvstore reads formats up to {FORMAT}" in output
    assert contents(member.data) == before

    _set_format(str(stored), FORMAT)
    member.start()
    member.wait_ready()
    kv = member.client.get(b"k")
    assert kv is not None
    assert kv.value == b"v"


def test_a_directory_of_the_format_before_is_upgraded_where_it_is(make_cluster: ClusterFactory) -> None:
    cluster = make_cluster(1)
    member = cluster.members[0]
    member.client.put(b"k", b"v")
    member.terminate(STOP_SECONDS)
    become_format_2(member.data)
    member.start()
    member.wait_ready()
    kv = member.client.get(b"k")
    assert kv is not None
    assert kv.value == b"v"
    member.terminate(STOP_SECONDS)
    assert [_format(str(member.data / "member" / environment)) for environment in ("wal", "db")] == [FORMAT, FORMAT]


def _format(path: str) -> int:
    with lmdb.open(path, max_dbs=64, readonly=True, lock=False) as env:
        table = env.open_db(b"meta", create=False)
        with env.begin(db=table) as txn:
            return int.from_bytes(txn.get(b"format") or b"", "big")


def _set_format(path: str, version: int) -> None:
    with lmdb.open(path, max_dbs=64) as env:
        table = env.open_db(b"meta")
        with env.begin(write=True, db=table) as txn:
            txn.put(b"format", version.to_bytes(8, "big"))
