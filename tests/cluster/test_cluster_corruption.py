"""A member whose data is not that of the others: found before it starts, and while it runs."""

from __future__ import annotations

import os

import grpc
import lmdb
import pytest

from kvstore.pb.rpc_pb2 import AlarmMember, AlarmRequest, AlarmType, CompactionRequest
from tests.cluster.harness import Binary, ClusterFactory, Member, refused, wait_until

WRITTEN = 20
FLAGS = {"corrupt-check-time": "1s", "feature-gates": "InitialCorruptCheck=true"}


def lose_a_row(member: Member) -> None:
    """Take a change out of a member's history, as a bug might; what is left is well formed."""
    with lmdb.open(os.fspath(member.data / "member" / "db"), max_dbs=16) as env:
        history = env.open_db(b"history", create=False)
        with env.begin(db=history, write=True) as txn:
            revisions = {int.from_bytes(bytes(key)[:8], "big"): bytes(key) for key, _ in txn.cursor()}
            assert txn.delete(revisions[WRITTEN])


def alarms(member: Member) -> list[AlarmMember]:
    return list(member.client.maintenance.Alarm(AlarmRequest(action=AlarmRequest.GET)).alarms)


def test_a_member_that_has_lost_a_row_is_found_before_it_starts_and_while_it_runs(
    make_cluster: ClusterFactory, binary: Binary
) -> None:
    if binary.is_reference:
        pytest.skip("the files of another server are not known here")
    # All at once: nobody can be asked yet, and everybody starts.
    cluster = make_cluster(flags=FLAGS)
    for number in range(WRITTEN):
        cluster.leader().client.put(b"key", b"%d" % number)
    cluster.wait_agreed()
    member = cluster.followers()[0]
    member.terminate(60)
    # What it has is right, and compacted less.
    cluster.leader().client.kv.Compact(CompactionRequest(revision=WRITTEN // 2))
    member.start()
    member.wait_ready()
    number = member.id
    all_compared = '"msg": "members hold the same", "compared": 3'
    wait_until(lambda: any(all_compared in each.log.read_text() for each in cluster.members), "all are compared", 60)
    assert not alarms(cluster.leader())

    member.terminate(60)
    lose_a_row(member)
    status, said = member.run_to_end(60)
    assert status != 0
    assert f"the data of this member ({number:x}) is not that of the others" in said
    assert not alarms(cluster.leader())

    member.start(feature_gates="")
    member.wait_ready()
    leader = cluster.leader()
    wait_until(lambda: alarms(leader), "the alarm is raised", 60)
    assert alarms(leader) == [AlarmMember(memberID=number, alarm=AlarmType.CORRUPT)]
    # Nothing more is built on it, and what is there can be read.
    with refused(grpc.StatusCode.DATA_LOSS, "etcdserver: corrupt cluster"):
        leader.client.put(b"key", b"more")
    kv = leader.client.get(b"key")
    assert kv is not None
    assert kv.version == WRITTEN
