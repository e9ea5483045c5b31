"""Transactions of a running cluster: every compare, every operation, nesting, and every error."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from kvstore.pb.rpc_pb2 import (
    Compare,
    DeleteRangeRequest,
    PutRequest,
    RangeRequest,
    RequestOp,
    TxnRequest,
    TxnResponse,
)
from tests.cluster.harness import Client, Cluster, ClusterFactory, Member, prefix_end, refused

INVALID = grpc.StatusCode.INVALID_ARGUMENT


def put(key: bytes, value: bytes = b"", **fields: object) -> RequestOp:
    return RequestOp(request_put=PutRequest(key=key, value=value, **fields))  # type: ignore[arg-type]


def get(key: bytes, range_end: bytes = b"", **fields: object) -> RequestOp:
    return RequestOp(request_range=RangeRequest(key=key, range_end=range_end, **fields))  # type: ignore[arg-type]


def delete(key: bytes, range_end: bytes = b"", **fields: object) -> RequestOp:
    request = DeleteRangeRequest(key=key, range_end=range_end, **fields)  # type: ignore[arg-type]
    return RequestOp(request_delete_range=request)


def nested(*success: RequestOp, compare: Sequence[Compare] = (), failure: Sequence[RequestOp] = ()) -> RequestOp:
    return RequestOp(request_txn=TxnRequest(compare=compare, success=success, failure=failure))


def txn(
    client: Client,
    compare: Sequence[Compare] = (),
    success: Sequence[RequestOp] = (),
    failure: Sequence[RequestOp] = (),
) -> TxnResponse:
    response: TxnResponse = client.kv.Txn(TxnRequest(compare=compare, success=success, failure=failure))
    return response


def holds(client: Client, **fields: object) -> bool:
    return txn(client, [Compare(**fields)]).succeeded  # type: ignore[arg-type]


class TestCompare:
    @pytest.mark.parametrize("field", ["version", "create_revision", "mod_revision", "lease"])
    def test_numbers(self, client: Client, prefix: bytes, field: str) -> None:
        client.put(prefix)
        client.put(prefix, lease=client.grant(600))
        kv = client.get(prefix)
        assert kv is not None
        target = {"create_revision": "CREATE", "mod_revision": "MOD"}.get(field, field.upper())
        actual = getattr(kv, field)
        truths = {
            (Compare.EQUAL, 0): True,
            (Compare.EQUAL, 1): False,
            (Compare.NOT_EQUAL, 0): False,
            (Compare.NOT_EQUAL, 1): True,
            (Compare.GREATER, 0): False,
            (Compare.GREATER, -1): True,
            (Compare.LESS, 0): False,
            (Compare.LESS, 1): True,
        }
        for (result, shift), truth in truths.items():
            compare = {"key": prefix, "target": target, "result": result, field: actual + shift}
            assert holds(client, **compare) is truth, compare

    def test_values(self, client: Client, prefix: bytes) -> None:
        client.put(prefix, b"mm")
        value = {"key": prefix, "target": Compare.VALUE}
        assert holds(client, **value, result=Compare.EQUAL, value=b"mm")
        assert holds(client, **value, result=Compare.NOT_EQUAL, value=b"m")
        assert holds(client, **value, result=Compare.GREATER, value=b"m")
        assert holds(client, **value, result=Compare.LESS, value=b"n")
        assert not holds(client, **value, result=Compare.LESS, value=b"mm")

    def test_a_missing_key_is_all_zeros_and_has_no_value(self, client: Client, prefix: bytes) -> None:
        for target, field in [
            (Compare.VERSION, "version"),
            (Compare.CREATE, "create_revision"),
            (Compare.MOD, "mod_revision"),
            (Compare.LEASE, "lease"),
        ]:
            assert holds(client, key=prefix, target=target, result=Compare.EQUAL, **{field: 0})
            assert holds(client, key=prefix, target=target, result=Compare.LESS, **{field: 1})
        for result in (Compare.EQUAL, Compare.NOT_EQUAL, Compare.GREATER, Compare.LESS):
            assert not holds(client, key=prefix, target=Compare.VALUE, result=result, value=b"")

    def test_a_range_holds_only_if_every_key_does(self, client: Client, prefix: bytes) -> None:
        client.put(prefix + b"a", b"x")
        client.put(prefix + b"b", b"x")
        fields = {"key": prefix, "range_end": prefix_end(prefix), "target": Compare.VALUE, "result": Compare.EQUAL}
        assert holds(client, **fields, value=b"x")
        client.put(prefix + b"b", b"y")
        assert not holds(client, **fields, value=b"x")

    def test_all_compares_must_hold(self, client: Client, prefix: bytes) -> None:
        client.put(prefix, b"x")
        right = Compare(key=prefix, target=Compare.VALUE, result=Compare.EQUAL, value=b"x")
        wrong = Compare(key=prefix, target=Compare.VERSION, result=Compare.GREATER, version=7)
        assert txn(client, [right, right]).succeeded
        assert not txn(client, [right, wrong]).succeeded


class TestBranches:
    def test_the_branch_taken_is_the_one_that_changes_the_store(self, client: Client, prefix: bytes) -> None:
        absent = Compare(key=prefix, target=Compare.CREATE, result=Compare.EQUAL, create_revision=0)
        first = txn(client, [absent], [put(prefix, b"made")], [get(prefix)])
        assert first.succeeded
        assert first.responses[0].HasField("response_put")
        second = txn(client, [absent], [put(prefix, b"again")], [get(prefix)])
        assert not second.succeeded
        assert second.responses[0].response_range.kvs[0].value == b"made"
        assert second.header.revision == first.header.revision

    def test_all_writes_share_a_revision(self, client: Client, prefix: bytes) -> None:
        client.put(prefix + b"gone")
        before = client.range(prefix).header.revision
        done = txn(client, success=[put(prefix + b"a"), put(prefix + b"b"), delete(prefix + b"gone")])
        assert done.header.revision == before + 1
        assert {kv.mod_revision for kv in client.prefix(prefix).kvs} == {before + 1}

    def test_reads_see_the_writes_before_them(self, client: Client, prefix: bytes) -> None:
        client.put(prefix + b"a", b"old")
        done = txn(
            client,
            success=[
                get(prefix + b"a"),
                put(prefix + b"a", b"new", prev_kv=True),
                get(prefix + b"a"),
                delete(prefix + b"b", prev_kv=True),
                put(prefix + b"c", b"c"),
                get(prefix, prefix_end(prefix), limit=1),
                nested(get(prefix + b"c"), put(prefix + b"d", b"d")),
                get(prefix, prefix_end(prefix), count_only=True),
            ],
        )
        answers = done.responses
        assert answers[0].response_range.kvs[0].value == b"old"
        assert answers[1].response_put.prev_kv.value == b"old"
        assert answers[2].response_range.kvs[0].value == b"new"
        assert answers[2].response_range.kvs[0].mod_revision == done.header.revision
        assert answers[3].response_delete_range.deleted == 0
        assert (answers[5].response_range.count, answers[5].response_range.more) == (2, True)
        assert answers[6].response_txn.succeeded
        assert answers[6].response_txn.responses[0].response_range.kvs[0].value == b"c"
        assert answers[7].response_range.count == 3

    def test_a_nested_transaction_decides_for_itself(self, client: Client, prefix: bytes) -> None:
        absent = Compare(key=prefix, target=Compare.VERSION, result=Compare.EQUAL, version=0)
        inner = nested(put(prefix + b"yes"), compare=[absent], failure=[put(prefix + b"no")])
        assert txn(client, success=[inner]).responses[0].response_txn.succeeded
        client.put(prefix)
        assert not txn(client, success=[inner]).responses[0].response_txn.succeeded
        assert [kv.key.removeprefix(prefix) for kv in client.prefix(prefix).kvs] == [b"", b"no", b"yes"]

    def test_an_empty_transaction_succeeds(self, client: Client) -> None:
        done = txn(client)
        assert done.succeeded
        assert len(done.responses) == 0

    def test_a_read_at_an_old_revision_in_a_transaction(self, client: Client, prefix: bytes) -> None:
        revision = client.put(prefix, b"1").header.revision
        client.put(prefix, b"2")
        done = txn(client, success=[get(prefix, revision=revision)])
        assert done.responses[0].response_range.kvs[0].value == b"1"


class TestErrors:
    def test_two_puts_to_one_key(self, client: Client, prefix: bytes) -> None:
        with refused(INVALID, "etcdserver: duplicate key given in txn request"):
            txn(client, success=[put(prefix, b"1"), put(prefix, b"2")])
        with refused(INVALID, "etcdserver: duplicate key given in txn request"):
            txn(client, failure=[put(prefix, b"1"), put(prefix, b"2")])

    def test_a_put_inside_the_range_of_a_delete(self, client: Client, prefix: bytes) -> None:
        with refused(INVALID, "etcdserver: duplicate key given in txn request"):
            txn(client, success=[delete(prefix, prefix_end(prefix)), put(prefix + b"k")])

    def test_a_put_inside_a_nested_transaction_counts(self, client: Client, prefix: bytes) -> None:
        with refused(INVALID, "etcdserver: duplicate key given in txn request"):
            txn(client, success=[put(prefix), nested(put(prefix))])

    def test_the_branches_are_apart(self, client: Client, prefix: bytes) -> None:
        assert txn(client, success=[put(prefix, b"1")], failure=[put(prefix, b"2")]).succeeded
        assert txn(client, success=[nested(put(prefix, b"3"), failure=[put(prefix, b"4")])]).succeeded

    def test_too_many_operations(self, client: Client, prefix: bytes) -> None:
        operations = [put(prefix + b"%03d" % number) for number in range(129)]
        compares = [Compare(key=prefix, target=Compare.VERSION, version=0)] * 129
        assert txn(client, compares[:128], operations[:128], operations[:128]).succeeded
        with refused(INVALID, "etcdserver: too many operations in txn request"):
            txn(client, success=operations)
        with refused(INVALID, "etcdserver: too many operations in txn request"):
            txn(client, failure=operations)
        with refused(INVALID, "etcdserver: too many operations in txn request"):
            txn(client, compare=compares)

    def test_an_operation_without_a_key(self, client: Client) -> None:
        for operation in (put(b""), get(b""), delete(b""), nested(put(b""))):
            with refused(INVALID, "etcdserver: key is not provided"):
                txn(client, success=[operation])
        with refused(INVALID, "etcdserver: key is not provided"):
            txn(client, compare=[Compare(target=Compare.VERSION, version=0)])

    def test_a_failing_operation_undoes_the_whole(self, client: Client, prefix: bytes) -> None:
        before = client.range(prefix).header.revision
        with refused(grpc.StatusCode.NOT_FOUND, "etcdserver: requested lease not found"):
            txn(client, success=[put(prefix + b"a"), put(prefix + b"b", lease=99_999)])
        with refused(INVALID, "etcdserver: key not found"):
            txn(client, success=[put(prefix + b"a"), put(prefix + b"none", ignore_value=True)])
        with refused(grpc.StatusCode.OUT_OF_RANGE, "etcdserver: mvcc: required revision is a future revision"):
            txn(client, success=[put(prefix + b"a"), get(prefix, revision=before + 1_000_000)])
        assert client.prefix(prefix).count == 0
        assert client.range(prefix).header.revision == before

    def test_values_with_their_ignore_flags(self, client: Client, prefix: bytes) -> None:
        with refused(INVALID, "etcdserver: value is provided"):
            txn(client, success=[put(prefix, b"v", ignore_value=True)])
        with refused(INVALID, "etcdserver: lease is provided"):
            txn(client, success=[put(prefix, lease=1, ignore_lease=True)])


def test_the_limits_are_flags(make_cluster: ClusterFactory) -> None:
    client = make_cluster(1, {"max-txn-ops": "2", "max-request-bytes": "1000"}).members[0].client
    assert txn(client, success=[put(b"a"), put(b"b")]).succeeded
    with refused(INVALID, "etcdserver: too many operations in txn request"):
        txn(client, success=[put(b"a"), put(b"b"), put(b"c")])
    client.put(b"key", bytes(900))
    with refused(INVALID, "etcdserver: request is too large"):
        client.put(b"key", bytes(1_000))
    with refused(INVALID, "etcdserver: request is too large"):
        txn(client, success=[put(b"a", bytes(600)), put(b"b", bytes(600))])


def test_increments_by_many_clients_through_all_members_lose_none(cluster: Cluster, prefix: bytes) -> None:
    client = cluster.members[0].client
    client.put(prefix, b"0")
    conflicts = 0

    def increment(member: Member, times: int) -> int:
        """Read, add one, and write if nobody else has meanwhile; the number of conflicts."""
        lost = 0
        while times:
            kv = member.client.get(prefix)
            assert kv is not None
            unchanged = Compare(key=prefix, target=Compare.MOD, result=Compare.EQUAL, mod_revision=kv.mod_revision)
            if txn(member.client, [unchanged], [put(prefix, b"%d" % (int(kv.value) + 1))]).succeeded:
                times -= 1
            else:
                lost += 1
        return lost

    with ThreadPoolExecutor(9) as threads:
        for done in [threads.submit(increment, member, 20) for member in cluster.members for _ in range(3)]:
            conflicts += done.result(timeout=60)
    kv = client.get(prefix)
    assert kv is not None
    assert kv.value == b"180"
    assert conflicts > 0
