"""Protobuf messages of the etcd API as operations, results and events of a history. Translation only."""

from __future__ import annotations

from typing import Any

from kvstore.pb import kv_pb2, rpc_pb2
from tests.history import model
from tests.history.model import KeyValue

_TARGETS = {
    rpc_pb2.Compare.VERSION: ("version", "version"),
    rpc_pb2.Compare.CREATE: ("create", "create_revision"),
    rpc_pb2.Compare.MOD: ("mod", "mod_revision"),
    rpc_pb2.Compare.VALUE: ("value", "value"),
    rpc_pb2.Compare.LEASE: ("lease", "lease"),
}
_RELATIONS = {
    rpc_pb2.Compare.EQUAL: "=",
    rpc_pb2.Compare.NOT_EQUAL: "!=",
    rpc_pb2.Compare.GREATER: ">",
    rpc_pb2.Compare.LESS: "<",
}


class NotRecordable(Exception):
    """A message that the checker has no operation for (another sort order, filters by revision, ...)."""


def operation(request: Any) -> model.Op:
    """What a request message asks for. Raises NotRecordable."""
    convert = _OPERATIONS.get(type(request))
    if convert is None:
        raise NotRecordable(type(request).__name__)
    converted: model.Op = convert(request)
    return converted


def result(response: Any) -> model.Result:
    """What a response message says. Raises NotRecordable."""
    convert = _RESULTS.get(type(response))
    if convert is None:
        raise NotRecordable(type(response).__name__)
    converted: model.Result = convert(response)
    return converted


def key_value(pb: kv_pb2.KeyValue) -> KeyValue:
    return KeyValue(pb.key, pb.value, pb.create_revision, pb.mod_revision, pb.version, pb.lease)


def events(response: rpc_pb2.WatchResponse) -> tuple[model.Event, ...]:
    """The events of a watch response, for `Recorder.events`."""
    return tuple(
        model.Event(
            deleted=event.type == kv_pb2.Event.DELETE,
            kv=key_value(event.kv),
            prev_kv=key_value(event.prev_kv) if event.HasField("prev_kv") else None,
        )
        for event in response.events
    )


def _put(pb: rpc_pb2.PutRequest) -> model.Put:
    return model.Put(pb.key, pb.value, pb.lease, pb.prev_kv, pb.ignore_value, pb.ignore_lease)


def _range(pb: rpc_pb2.RangeRequest) -> model.Range:
    filters = (pb.min_mod_revision, pb.max_mod_revision, pb.min_create_revision, pb.max_create_revision)
    if pb.sort_target != rpc_pb2.RangeRequest.KEY or pb.sort_order == rpc_pb2.RangeRequest.DESCEND or any(filters):
        raise NotRecordable("a range that is sorted or filtered")
    return model.Range(
        key=pb.key,
        end=pb.range_end,
        limit=max(pb.limit, 0),
        revision=max(pb.revision, 0),
        serializable=pb.serializable,
        count_only=pb.count_only,
        keys_only=pb.keys_only,
    )


def _delete(pb: rpc_pb2.DeleteRangeRequest) -> model.Delete:
    return model.Delete(pb.key, pb.range_end, pb.prev_kv)


def _compare(pb: rpc_pb2.Compare) -> model.Compare:
    target, field = _TARGETS[pb.target]
    return model.Compare(pb.key, target, _RELATIONS[pb.result], getattr(pb, field), pb.range_end)


def _request_op(pb: rpc_pb2.RequestOp) -> model.TxnOp:
    if pb.HasField("request_put"):
        return _put(pb.request_put)
    if pb.HasField("request_range"):
        return _range(pb.request_range)
    if pb.HasField("request_delete_range"):
        return _delete(pb.request_delete_range)
    return _txn(pb.request_txn)


def _txn(pb: rpc_pb2.TxnRequest) -> model.Txn:
    return model.Txn(
        compares=tuple(map(_compare, pb.compare)),
        then=tuple(map(_request_op, pb.success)),
        otherwise=tuple(map(_request_op, pb.failure)),
    )


def _put_result(pb: rpc_pb2.PutResponse) -> model.PutResult:
    return model.PutResult(pb.header.revision, key_value(pb.prev_kv) if pb.HasField("prev_kv") else None)


def _range_result(pb: rpc_pb2.RangeResponse) -> model.RangeResult:
    return model.RangeResult(pb.header.revision, tuple(map(key_value, pb.kvs)), pb.count, pb.more)


def _delete_result(pb: rpc_pb2.DeleteRangeResponse) -> model.DeleteResult:
    return model.DeleteResult(pb.header.revision, pb.deleted, tuple(map(key_value, pb.prev_kvs)))


def _response_op(pb: rpc_pb2.ResponseOp) -> model.TxnOpResult:
    if pb.HasField("response_put"):
        return _put_result(pb.response_put)
    if pb.HasField("response_range"):
        return _range_result(pb.response_range)
    if pb.HasField("response_delete_range"):
        return _delete_result(pb.response_delete_range)
    return _txn_result(pb.response_txn)


def _txn_result(pb: rpc_pb2.TxnResponse) -> model.TxnResult:
    return model.TxnResult(pb.header.revision, pb.succeeded, tuple(map(_response_op, pb.responses)))


def _time_to_live_result(pb: rpc_pb2.LeaseTimeToLiveResponse) -> model.TimeToLiveResult:
    """The message does not tell "no keys" from "not asked"; drop `keys` of a call that did not ask for them."""
    return model.TimeToLiveResult(pb.header.revision, pb.ID, pb.TTL, pb.grantedTTL, tuple(pb.keys))


_OPERATIONS: dict[type[Any], Any] = {
    rpc_pb2.PutRequest: _put,
    rpc_pb2.RangeRequest: _range,
    rpc_pb2.DeleteRangeRequest: _delete,
    rpc_pb2.TxnRequest: _txn,
    rpc_pb2.CompactionRequest: lambda pb: model.Compact(pb.revision),
    rpc_pb2.LeaseGrantRequest: lambda pb: model.Grant(pb.TTL, pb.ID),
    rpc_pb2.LeaseRevokeRequest: lambda pb: model.Revoke(pb.ID),
    rpc_pb2.LeaseKeepAliveRequest: lambda pb: model.KeepAlive(pb.ID),
    rpc_pb2.LeaseTimeToLiveRequest: lambda pb: model.TimeToLive(pb.ID, pb.keys),
}
_RESULTS: dict[type[Any], Any] = {
    rpc_pb2.PutResponse: _put_result,
    rpc_pb2.RangeResponse: _range_result,
    rpc_pb2.DeleteRangeResponse: _delete_result,
    rpc_pb2.TxnResponse: _txn_result,
    rpc_pb2.CompactionResponse: lambda pb: model.CompactResult(pb.header.revision),
    rpc_pb2.LeaseGrantResponse: lambda pb: model.GrantResult(pb.header.revision, pb.ID, pb.TTL),
    rpc_pb2.LeaseRevokeResponse: lambda pb: model.RevokeResult(pb.header.revision),
    rpc_pb2.LeaseKeepAliveResponse: lambda pb: model.KeepAliveResult(pb.header.revision, pb.ID, pb.TTL),
    rpc_pb2.LeaseTimeToLiveResponse: _time_to_live_result,
}
