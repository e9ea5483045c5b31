"""What there is no etcdctl at hand to compare with: newer flags, and what kvctl does better."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest

from kvctl.display import Health
from kvctl.write_fields import FieldsWriter
from kvctl.write_json import JsonWriter
from kvctl.write_simple import SimpleWriter, TableWriter
from kvstore.client import Alarm, AlarmType, Member, Status
from kvstore.client.results import AlarmList, Downgrade, HashKV, Header, MemberList
from tests.cluster.harness import ClusterFactory
from tests.kvctl.programs import Kvctl

HEADER = Header(0xC1, 0xA1, 0, 7)


def test_keys_are_counted(kvctl: Kvctl) -> None:
    for name in "abc":
        kvctl("put", f"count/{name}", "v")
    counted = kvctl("get", "count/", "--prefix", "--count-only", "-w", "fields")
    assert b'"Key"' not in counted.out
    assert counted.out.endswith(b'"More" : false\n"Count" : 3\n')
    refused = kvctl("get", "count/", "--prefix", "--count-only")
    assert (refused.code, refused.err) == (128, b"Error: --count-only is only for `--write-out=fields`\n")
    both = kvctl("get", "k", "--count-only", "--keys-only", "-w", "fields")
    assert both.err == (b"Error: `--keys-only` and `--count-only` cannot be set at the same time, choose one\n")


def test_revisions_bound_what_is_found(kvctl: Kvctl, revision: Callable[[], int]) -> None:
    base = revision()
    for name in "abca":
        kvctl("put", f"bounds/{name}", "v")

    def names(*flags: str) -> str:
        out = kvctl("get", "bounds/", "--prefix", "--keys-only", *flags).out.decode()
        return "".join(line[-1] for line in out.splitlines() if line)

    assert names("--min-mod-rev", str(base + 3)) == "ac"
    assert names("--max-mod-rev", str(base + 2)) == "b"
    assert names(f"--min-create-rev={base + 2}") == "bc"
    assert names(f"--max-create-rev={base + 1}") == "a"


def test_a_range_is_deleted_without_a_pause_when_it_is_announced(kvctl: Kvctl, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "abc":
        kvctl("put", f"range/{name}", "v")
    assert kvctl("del", "range/a", "range/c", "--range").out == b"2\n"
    pauses: list[float] = []
    monkeypatch.setattr("time.sleep", pauses.append)
    outcome = kvctl("del", "range/c", "range/d")
    assert outcome.out == b"1\n"
    assert outcome.err.startswith(b'Warning: Keys between "range/c" and "range/d" will be deleted.')
    assert pauses == [2.0]


def test_a_condition_can_be_the_lease_and_words_can_stand_in_single_quotes(kvctl: Kvctl) -> None:
    lease = kvctl("lease", "grant", "100").out.split()[1].decode()
    kvctl("put", "txn/k", "v", "--lease", lease)
    outcome = kvctl("txn", stdin=f"lease(\"txn/k\") = \"{lease}\"\n\nput 'txn/a b' 'c d'\n\n\n".encode())
    assert outcome.out == b"SUCCESS\n\nOK\n"
    assert kvctl("get", "txn/a b").out == b"txn/a b\nc d\n"


def test_a_condition_with_an_operator_that_does_not_exist_is_refused(kvctl: Kvctl) -> None:
    outcome = kvctl("txn", stdin=b'mod("k") >= "1"\n\n\n\n')
    assert outcome.code == 3
    assert b"invalid txn compare request" in outcome.err


def test_a_lease_is_kept_alive_until_it_is_revoked(kvctl: Kvctl) -> None:
    lease = kvctl("lease", "grant", "5").out.split()[1].decode()
    process = kvctl.process("lease", "keep-alive", lease)
    assert isinstance(process.stdout, io.BufferedReader)
    for _ in range(2):
        assert process.stdout.readline().startswith(f"lease {lease} keepalived with TTL(".encode())
    kvctl("lease", "revoke", lease)
    rest = process.communicate(timeout=30)[0]
    assert rest.splitlines()[-1] == f"lease {lease} expired or revoked.".encode()
    assert process.returncode == 0


def test_leadership_moves_and_is_only_asked_of_the_leader(kvctl: Kvctl, make_cluster: ClusterFactory) -> None:
    cluster = make_cluster(size=3)
    leader, follower = cluster.leader(), cluster.followers()[0]
    refused = kvctl.on(follower.endpoint)("move-leader", f"{follower.id:x}")
    assert (refused.code, refused.err.decode()) == (
        128,
        f"Error: no leader endpoint given at [{follower.endpoint}]\n",
    )
    everywhere = kvctl.on(",".join(member.endpoint for member in cluster.members))
    moved = everywhere("move-leader", f"{follower.id:x}")
    assert moved.out.decode() == f"Leadership transferred from {leader.id:x} to {follower.id:x}\n"


def test_a_whole_cluster_is_asked_through_one_endpoint(kvctl: Kvctl, make_cluster: ClusterFactory) -> None:
    cluster = make_cluster(size=3)
    one = kvctl.on(cluster.members[0].endpoint)
    urls = {member.client_url for member in cluster.members}
    for command in ("health", "status", "hashkv"):
        out = one("endpoint", command, "--cluster").out.decode()
        assert {line.split()[0].rstrip(",") for line in out.splitlines()} == urls
    assert one("defrag", "--cluster").out.decode().count("Finished defragmenting etcd member[http://") == 3


def test_alarms_are_printed_in_every_format() -> None:
    result = AlarmList(HEADER, (Alarm(0xA1, AlarmType.NOSPACE),))
    assert SimpleWriter(False).alarms(result) == b"memberID:161 alarm:NOSPACE \n"
    assert JsonWriter(False).alarms(result) == (
        b'{"header":{"cluster_id":193,"member_id":161,"raft_term":7},"alarms":[{"memberID":161,"alarm":1}]}\n'
    )
    assert FieldsWriter(True).alarms(result) == (
        b'"ClusterID" : c1\n"MemberID" : a1\n"RaftTerm" : 7\n"MemberID" : a1\n"AlarmType" : NOSPACE\n\n'
    )


def test_ids_of_members_are_hexadecimal_where_that_is_asked_for() -> None:
    result = MemberList(HEADER, (Member(0xB2, "m", ("http://p",), (), True),))
    assert JsonWriter(True).members(result) == (
        b'{"header":{"cluster_id":"c1","member_id":"a1","raft_term":7},'
        b'"members":[{"ID":"b2","name":"m","peerURLs":["http://p"],"isLearner":true}]}\n'
    )
    assert b'"ID" : b2\n' in FieldsWriter(True).members(result)


STATUS = Status(
    header=HEADER,
    version="3.6.0",
    storage_version="3.6.0",
    db_size=20480,
    db_size_in_use=16384,
    db_size_quota=2147483648,
    leader=0xA1,
    is_learner=False,
    raft_index=10,
    raft_term=7,
    raft_applied_index=9,
    errors=("etcdserver: no leader",),
    downgrade=Downgrade(True, "3.5"),
)


def test_status_has_all_columns() -> None:
    simple = (
        "h:1, a1, 3.6.0, 3.6.0, 20 kB, 16 kB, 20%, 2.1 GB, true, false, 7, 10, 9, etcdserver: no leader, 3.5, true\n"
    )
    assert SimpleWriter(False).status([("h:1", STATUS)]).decode() == simple
    heading = TableWriter(False).status([("h:1", STATUS)]).decode().splitlines()[1]
    assert [title.strip() for title in heading.strip("|").split("|")] == [
        "ENDPOINT", "ID", "VERSION", "STORAGE VERSION", "DB SIZE", "IN USE", "PERCENTAGE NOT IN USE", "QUOTA",
        "IS LEADER", "IS LEARNER", "RAFT TERM", "RAFT INDEX", "RAFT APPLIED INDEX", "ERRORS",
        "DOWNGRADE TARGET VERSION", "DOWNGRADE ENABLED",
    ]  # fmt: skip
    assert b'"downgradeInfo":{"enabled":true,"targetVersion":"3.5"}' in JsonWriter(False).status([("h:1", STATUS)])
    assert b'"DowngradeTargetVersion" : "3.5"\n"DowngradeEnabled" : true\n' in FieldsWriter(False).status(
        [("h:1", STATUS)]
    )


def test_an_unhealthy_endpoint_stands_in_the_table_with_its_error() -> None:
    rows = TableWriter(False).health([Health("h:1", 0.5, ""), Health("h:2", 1.5, "out")]).decode().splitlines()
    assert [cell.strip() for cell in rows[3].strip("|").split("|")] == ["h:1", "true", "500ms", ""]
    assert [cell.strip() for cell in rows[4].strip("|").split("|")] == ["h:2", "false", "1.5s", "out"]


def test_a_hash_is_printed_with_its_revision() -> None:
    result = [("h:1", HashKV(HEADER, 5, 2, 9))]
    assert SimpleWriter(False).hash_kv(result) == b"h:1, 5, 9\n"
    assert b'"HashKV":{"header":{' in JsonWriter(False).hash_kv(result)
    assert b'"hash":5,"compact_revision":2,"hash_revision":9}' in JsonWriter(False).hash_kv(result)
    assert b'"Hash" : 5\n"HashRevision" : 9\n' in FieldsWriter(False).hash_kv(result)
