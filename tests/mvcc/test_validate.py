"""Requests that are refused before they are proposed."""

from __future__ import annotations

from typing import Any

import pytest

from kvstore.errors import (
    DuplicateKey,
    EmptyKey,
    InvalidSortOption,
    KeyNotFound,
    KvstoreError,
    LeaseProvided,
    TooManyOps,
    ValueProvided,
)
from kvstore.mvcc import puts, validate
from kvstore.pb import rpc_pb2

_UNKNOWN: Any = 7

Op = rpc_pb2.RequestOp
Txn = rpc_pb2.TxnRequest


def put(key: bytes) -> Op:
    return Op(request_put=rpc_pb2.PutRequest(key=key))


def delete(key: bytes, end: bytes = b"") -> Op:
    return Op(request_delete_range=rpc_pb2.DeleteRangeRequest(key=key, range_end=end))


def nested(*success: Op, failure: tuple[Op, ...] = ()) -> Op:
    return Op(request_txn=Txn(success=success, failure=failure))


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (rpc_pb2.RangeRequest(), EmptyKey),
        (rpc_pb2.RangeRequest(key=b"a", sort_order=_UNKNOWN), InvalidSortOption),
        (rpc_pb2.RangeRequest(key=b"a", sort_target=_UNKNOWN), InvalidSortOption),
        (rpc_pb2.PutRequest(), EmptyKey),
        (rpc_pb2.PutRequest(key=b"a", value=b"v", ignore_value=True), ValueProvided),
        (rpc_pb2.PutRequest(key=b"a", lease=1, ignore_lease=True), LeaseProvided),
        (rpc_pb2.DeleteRangeRequest(range_end=b"a"), EmptyKey),
        (Txn(compare=[rpc_pb2.Compare()]), EmptyKey),
        (Txn(success=[Op()]), KeyNotFound),
        (Txn(failure=[put(b"")]), EmptyKey),
        (Txn(success=[nested(put(b""))]), EmptyKey),
        (Txn(success=[Op(request_range=rpc_pb2.RangeRequest(key=b"a", sort_order=_UNKNOWN))]), InvalidSortOption),
        (Txn(success=[delete(b"a")] * 5), TooManyOps),
        (Txn(compare=[rpc_pb2.Compare(key=b"a")] * 5), TooManyOps),
        (Txn(success=[delete(b"a"), nested(*[delete(b"b")] * 3)]), TooManyOps),
        (Txn(success=[put(b"a"), put(b"a")]), DuplicateKey),
        (Txn(failure=[put(b"a"), put(b"a")]), DuplicateKey),
        (Txn(success=[put(b"b"), delete(b"a", b"c")]), DuplicateKey),
        (Txn(success=[nested(put(b"a")), put(b"a")]), DuplicateKey),
        (Txn(success=[nested(put(b"a")), nested(put(b"a"))]), DuplicateKey),
        (Txn(success=[nested(delete(b"a")), put(b"a")]), DuplicateKey),
        (Txn(success=[nested(delete(b"a")), nested(put(b"a"))]), DuplicateKey),
        (Txn(success=[nested(put(b"a")), delete(b"a")]), DuplicateKey),
        (Txn(success=[nested(failure=(put(b"a"),)), put(b"a")]), DuplicateKey),
    ],
)
def test_refused(request_: object, error: type[KvstoreError]) -> None:
    with pytest.raises(error):
        check(request_)


@pytest.mark.parametrize(
    "request_",
    [
        rpc_pb2.RangeRequest(key=b"a", sort_order=rpc_pb2.RangeRequest.DESCEND, sort_target=rpc_pb2.RangeRequest.VALUE),
        rpc_pb2.PutRequest(key=b"a", ignore_value=True, ignore_lease=True),
        Txn(success=[put(b"a")], failure=[put(b"a")]),
        Txn(success=[put(b"c"), delete(b"a", b"c")]),
        Txn(success=[delete(b"a"), delete(b"a")]),
        Txn(success=[nested(put(b"a"), failure=(put(b"a"),))]),
        # As etcd has it: the deletion comes later, and open-ended ranges are not looked at.
        Txn(success=[nested(put(b"a")), nested(delete(b"a"))]),
        Txn(success=[delete(b"a", b"\0"), put(b"b")]),
        Txn(success=[delete(b"a")] * 4),
    ],
)
def test_accepted(request_: object) -> None:
    refusals: list[KvstoreError] = []
    try:
        check(request_)
    except KvstoreError as error:
        refusals.append(error)
    assert not refusals


def check(request: object) -> None:
    match request:
        case rpc_pb2.RangeRequest():
            validate.check_range(request)
        case rpc_pb2.PutRequest():
            puts.of_message(request).check()
        case rpc_pb2.DeleteRangeRequest():
            validate.check_delete_range(request)
        case rpc_pb2.TxnRequest():
            validate.check_txn(request, max_ops=4)
