"""Messages of the API become what the checker knows, or are refused."""

from __future__ import annotations

import pytest

from kvstore.pb import kv_pb2, rpc_pb2
from tests.history import convert, model


def test_a_transaction_and_its_answer_are_converted_with_all_that_is_in_them() -> None:
    request = rpc_pb2.TxnRequest(
        compare=[
            rpc_pb2.Compare(key=b"k", target=rpc_pb2.Compare.VALUE, result=rpc_pb2.Compare.NOT_EQUAL, value=b"v"),
            rpc_pb2.Compare(key=b"k", target=rpc_pb2.Compare.MOD, result=rpc_pb2.Compare.LESS, mod_revision=7),
        ],
        success=[
            rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=b"k", value=b"w", lease=3, prev_kv=True)),
            rpc_pb2.RequestOp(request_txn=rpc_pb2.TxnRequest()),
        ],
        failure=[
            rpc_pb2.RequestOp(request_range=rpc_pb2.RangeRequest(key=b"a", range_end=b"b", limit=2)),
            rpc_pb2.RequestOp(request_delete_range=rpc_pb2.DeleteRangeRequest(key=b"a", prev_kv=True)),
        ],
    )
    assert convert.operation(request) == model.Txn(
        (model.Compare(b"k", "value", "!=", b"v"), model.Compare(b"k", "mod", "<", 7)),
        (model.Put(b"k", b"w", 3, True), model.Txn()),
        (model.Range(b"a", b"b", 2), model.Delete(b"a", prev_kv=True)),
    )
    kv = kv_pb2.KeyValue(key=b"k", value=b"v", create_revision=2, mod_revision=5, version=3, lease=9)
    response = rpc_pb2.TxnResponse(
        header=rpc_pb2.ResponseHeader(revision=8),
        succeeded=True,
        responses=[
            rpc_pb2.ResponseOp(response_put=rpc_pb2.PutResponse(prev_kv=kv)),
            rpc_pb2.ResponseOp(response_txn=rpc_pb2.TxnResponse()),
        ],
    )
    assert convert.result(response) == model.TxnResult(
        8, True, (model.PutResult(0, model.KeyValue(b"k", b"v", 2, 5, 3, 9)), model.TxnResult(0, False))
    )


def test_events_keep_their_kind_and_what_was_before() -> None:
    kv = kv_pb2.KeyValue(key=b"k", mod_revision=5)
    response = rpc_pb2.WatchResponse(events=[kv_pb2.Event(type=kv_pb2.Event.DELETE, kv=kv, prev_kv=kv)])
    seen = model.KeyValue(b"k", mod_revision=5)
    assert convert.events(response) == (model.Event(True, seen, seen),)


@pytest.mark.parametrize(
    "message",
    [
        rpc_pb2.RangeRequest(key=b"k", sort_order=rpc_pb2.RangeRequest.DESCEND),
        rpc_pb2.RangeRequest(key=b"k", min_mod_revision=3),
        rpc_pb2.StatusRequest(),
    ],
)
def test_what_the_checker_does_not_know_is_refused(message: object) -> None:
    with pytest.raises(convert.NotRecordable):
        convert.operation(message)
