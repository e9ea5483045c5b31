"""Reading, writing and transactions."""

from __future__ import annotations

import pytest

from kvstore.client import (
    Client,
    Compare,
    Delete,
    Get,
    KeyValue,
    Put,
    SortOrder,
    SortTarget,
    TxnOp,
    errors,
    from_key,
    key_range,
    prefix,
)
from kvstore.client.results import DeleteResult, GetResult, PutResult, TxnResult


async def test_what_was_put_is_found_with_its_revisions(client: Client, key: str) -> None:
    put = await client.kv.put(key, b"\x00\xff")
    again = await client.kv.put(key, "two", prev_kv=True)
    assert again.prev_kv == KeyValue(key.encode(), b"\x00\xff", put.header.revision, put.header.revision, 1)
    found = await client.kv.get(key)
    assert found.value == b"two"
    assert found.count == 1
    assert found.kvs[0].version == 2
    assert found.kvs[0].create_revision == put.header.revision
    assert found.kvs[0].mod_revision == found.header.revision == put.header.revision + 1
    assert (await client.kv.get(key, revision=put.header.revision)).value == b"\x00\xff"


async def test_a_key_that_does_not_exist_is_no_error(client: Client, key: str) -> None:
    found = await client.kv.get(key)
    assert found.kvs == ()
    assert found.value is None
    assert (await client.kv.put(key, "v", prev_kv=True)).prev_kv is None
    assert (await client.kv.delete(key + "other")).deleted == 0


async def test_ranges_limits_orders_and_filters(client: Client, key: str) -> None:
    revisions = [
        (await client.kv.put(f"{key}{name}", value)).header.revision for name, value in zip("cab", "123", strict=True)
    ]

    async def names(op: Get) -> str:
        return "".join(kv.key.decode()[-1] for kv in (await client.kv.read(op)).kvs)

    everything = prefix(key)
    assert await names(Get(everything)) == "abc"
    assert await names(Get(everything, order=SortOrder.ASCEND)) == "abc"
    assert await names(Get(everything, order=SortOrder.DESCEND)) == "cba"
    assert await names(Get(everything, sort_by=SortTarget.VALUE)) == "cab"
    assert await names(Get(everything, sort_by=SortTarget.CREATE, order=SortOrder.DESCEND)) == "bac"
    assert await names(Get(key_range(key + "a", key + "c"))) == "ab"
    assert (await names(Get(from_key(key + "b"))))[:2] == "bc"
    assert await names(Get(everything, min_mod_revision=revisions[1])) == "ab"
    assert await names(Get(everything, max_create_revision=revisions[0])) == "c"
    assert await names(Get(everything, serializable=True)) == "abc"
    limited = await client.kv.get(everything, limit=2)
    assert (len(limited.kvs), limited.more, limited.count) == (2, True, 3)
    counted = await client.kv.get(everything, count_only=True)
    assert (counted.kvs, counted.count) == ((), 3)
    assert {kv.value for kv in (await client.kv.get(everything, keys_only=True)).kvs} == {b""}


async def test_a_deletion_tells_what_it_removed(client: Client, key: str) -> None:
    for name in "ab":
        await client.kv.put(key + name, name)
    gone = await client.kv.delete(prefix(key), prev_kv=True)
    assert gone.deleted == 2
    assert [kv.value for kv in gone.prev_kvs] == [b"a", b"b"]
    assert (await client.kv.get(prefix(key))).count == 0


async def test_refusals_are_errors_of_their_own(client: Client, key: str) -> None:
    revision = (await client.kv.put(key, "v")).header.revision
    with pytest.raises(errors.EmptyKey):
        await client.kv.put("", "v")
    with pytest.raises(errors.KeyNotFound):
        await client.kv.put(key + "none", ignore_value=True)
    with pytest.raises(errors.ValueProvided):
        await client.kv.put(key, "v", ignore_value=True)
    with pytest.raises(errors.LeaseNotFound):
        await client.kv.put(key, "v", lease=0x7EA5E)
    with pytest.raises(errors.FutureRev):
        await client.kv.get(key, revision=revision + 1000)
    with pytest.raises(errors.RequestTooLarge):
        await client.kv.put(key, bytes(2_000_000))


async def test_history_before_a_compaction_is_gone(client: Client, key: str) -> None:
    first = (await client.kv.put(key, "1")).header.revision
    last = (await client.kv.put(key, "2")).header.revision
    await client.kv.compact(last, physical=True)
    with pytest.raises(errors.Compacted):
        await client.kv.get(key, revision=first)
    with pytest.raises(errors.Compacted):
        await client.kv.compact(last)
    assert (await client.kv.get(key, revision=last)).value == b"2"


async def test_a_transaction_runs_one_branch_and_answers_each_operation(client: Client, key: str) -> None:
    await client.kv.put(key, "old")

    def swap() -> TxnOp:
        txn = client.kv.txn().when(Compare.value(key, "=", "old"), Compare.version(key, "<", 5))
        return txn.then(Put(key, "new", prev_kv=True), Get(key)).otherwise(Delete(prefix(key))).as_op()

    won = await client.kv.txn().then(swap()).commit()
    assert won.succeeded
    [inner] = won.responses
    assert isinstance(inner, TxnResult)
    assert inner.succeeded
    put, got = inner.responses
    assert isinstance(put, PutResult)
    assert put.prev_kv is not None
    assert put.prev_kv.value == b"old"
    assert isinstance(got, GetResult)
    assert got.value == b"new"
    lost = await client.kv.txn().then(swap()).commit()
    [inner] = lost.responses
    assert isinstance(inner, TxnResult)
    assert not inner.succeeded
    [deleted] = inner.responses
    assert isinstance(deleted, DeleteResult)
    assert deleted.deleted == 1


async def test_every_property_of_a_key_can_be_compared(client: Client, key: str) -> None:
    lease = await client.lease.grant(60)
    revision = (await client.kv.put(key, "v", lease=lease.id)).header.revision
    holding = [
        Compare.version(key, "=", 1),
        Compare.create_revision(key, "=", revision),
        Compare.mod_revision(key, ">", revision - 1),
        Compare.value(key, "!=", "w"),
        Compare.lease(key, "=", lease.id),
        Compare.version(prefix(key), "=", 1),
        Compare.create_revision(key + "none", "=", 0),
    ]
    assert (await client.kv.txn().when(*holding).commit()).succeeded
    for compare in (Compare.version(key, ">", 1), Compare.value(key, "<", "a"), Compare.lease(key, "=", 0)):
        assert not (await client.kv.txn().when(compare).commit()).succeeded
    with pytest.raises(ValueError, match=">="):
        Compare.version(key, ">=", 1)


async def test_a_transaction_that_writes_a_key_twice_is_refused(client: Client, key: str) -> None:
    with pytest.raises(errors.DuplicateKey):
        await client.kv.txn().then(Put(key, "1"), Put(key, "2")).commit()


def test_only_a_transaction_without_writes_may_be_sent_twice() -> None:
    assert TxnOp(success=[Get("a"), TxnOp(failure=[Get("b")])]).read_only
    assert not TxnOp(success=[Get("a"), TxnOp(failure=[Put("b")])]).read_only
    assert not TxnOp(failure=[Delete("a")]).read_only
