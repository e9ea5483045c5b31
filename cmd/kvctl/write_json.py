"""The format for programs: one JSON object or array a line, named and left out as etcdctl does.

Keys and values are base64; what is zero, empty or false is left out where etcd's own messages leave it out.
"""

from __future__ import annotations

from base64 import b64encode
from typing import Any

from kvctl import gotext
from kvctl.display import Health
from kvstore.client import KeyValue, Member, Status
from kvstore.client.results import (
    AlarmList,
    DeleteResult,
    Event,
    GetResult,
    HashKV,
    Header,
    HeaderOnly,
    Lease,
    LeaseInfo,
    LeaseList,
    MemberAdded,
    MemberList,
    OpResult,
    PutResult,
    TxnResult,
    WatchResponse,
)

Object = dict[str, Any]


class JsonWriter:
    """Lines of JSON. `in_hex` concerns the ids in answers about members alone."""

    def __init__(self, in_hex: bool) -> None:
        self._hex = in_hex

    def get(self, result: GetResult) -> bytes:
        return _json(_get(result))

    def put(self, result: PutResult) -> bytes:
        return _json(_put(result))

    def delete(self, result: DeleteResult) -> bytes:
        return _json(_delete(result))

    def txn(self, result: TxnResult) -> bytes:
        return _json(_txn(result))

    def watch(self, response: WatchResponse) -> bytes:
        return _watch(response.header, [_event(event) for event in response.events], 0, canceled=False)

    def watch_canceled(self, header: Header, compact_revision: int) -> bytes:
        return _watch(header, [], compact_revision, canceled=True)

    def granted(self, lease: Lease) -> bytes:
        return _json(_header(lease.header) | {"ID": lease.id, "TTL": lease.ttl, "Error": ""})

    def kept_alive(self, lease: Lease) -> bytes:
        return _json(_header(lease.header) | {"ID": lease.id, "TTL": lease.ttl})

    def revoked(self, lease_id: int, result: HeaderOnly) -> bytes:
        return _json({"header": _header(result.header)})

    def time_to_live(self, info: LeaseInfo, keys: bool) -> bytes:
        attached = list(map(_base64, info.keys)) or None
        values = {"id": info.id, "ttl": info.ttl, "granted-ttl": info.granted_ttl, "keys": attached}
        return _json(_header(info.header) | values)

    def leases(self, result: LeaseList) -> bytes:
        return _json(_header(result.header) | {"leases": [{"id": lease} for lease in result.ids]})

    def members(self, result: MemberList) -> bytes:
        return _json(self._cluster_header(result.header) | {"members": list(map(self._member, result.members))})

    def member_added(self, result: MemberAdded) -> bytes:
        answer = self._cluster_header(result.header) | {"member": self._member(result.member)}
        return _json(answer | {"members": list(map(self._member, result.members))})

    def member_changed(self, verb: str, member_id: int, result: MemberList) -> bytes:
        return self.members(result)

    def health(self, results: list[Health]) -> bytes:
        return _json(
            [
                {"endpoint": each.endpoint, "health": each.healthy, "took": gotext.format_duration(each.took)}
                | _given(error=each.error)
                for each in results
            ]
        )

    def status(self, results: list[tuple[str, Status]]) -> bytes:
        return _json([{"Endpoint": endpoint, "Status": _status(status)} for endpoint, status in results])

    def hash_kv(self, results: list[tuple[str, HashKV]]) -> bytes:
        return _json(
            [
                {
                    "Endpoint": endpoint,
                    "HashKV": {"header": _header(each.header)}
                    | _given(hash=each.hash, compact_revision=each.compact_revision, hash_revision=each.hash_revision),
                }
                for endpoint, each in results
            ]
        )

    def alarms(self, result: AlarmList) -> bytes:
        header = {"header": _header(result.header)} if result.header is not None else {}
        alarms = [_given(memberID=alarm.member_id, alarm=int(alarm.type)) for alarm in result.alarms]
        return _json(header | _given(alarms=alarms))

    def leader_moved(self, leader: int, target: int, result: HeaderOnly) -> bytes:
        return _json({"header": _header(result.header)})

    def _cluster_header(self, header: Header) -> Object:
        if not self._hex:
            return {"header": _header(header)}
        ids = {"cluster_id": f"{header.cluster_id:x}", "member_id": f"{header.member_id:x}"}
        return {"header": ids | _given(revision=header.revision, raft_term=header.raft_term)}

    def _member(self, member: Member) -> Object:
        shown = {"ID": f"{member.id:x}"} if self._hex else _given(ID=member.id)
        return shown | _given(
            name=member.name,
            peerURLs=member.peer_urls,
            clientURLs=member.client_urls,
            isLearner=member.is_learner,
        )


def _given(**values: Any) -> Object:
    """The values that are not zero, empty or false."""
    return {name: value for name, value in values.items() if value}


def _json(value: Object | list[Object]) -> bytes:
    return gotext.to_json(value).encode("utf-8", "replace") + b"\n"


def _base64(raw: bytes) -> str:
    return b64encode(raw).decode()


def _header(header: Header) -> Object:
    return _given(
        cluster_id=header.cluster_id,
        member_id=header.member_id,
        revision=header.revision,
        raft_term=header.raft_term,
    )


def _kv(kv: KeyValue) -> Object:
    return _given(
        key=_base64(kv.key),
        create_revision=kv.create_revision,
        mod_revision=kv.mod_revision,
        version=kv.version,
        value=_base64(kv.value),
        lease=kv.lease,
    )


def _get(result: GetResult) -> Object:
    kvs = list(map(_kv, result.kvs))
    return {"header": _header(result.header)} | _given(kvs=kvs, more=result.more, count=result.count)


def _put(result: PutResult) -> Object:
    before = {"prev_kv": _kv(result.prev_kv)} if result.prev_kv is not None else {}
    return {"header": _header(result.header)} | before


def _delete(result: DeleteResult) -> Object:
    before = list(map(_kv, result.prev_kvs))
    return {"header": _header(result.header)} | _given(deleted=result.deleted, prev_kvs=before)


def _txn(result: TxnResult) -> Object:
    responses = [{"Response": _response(response)} for response in result.responses]
    return {"header": _header(result.header)} | _given(succeeded=result.succeeded, responses=responses)


def _response(result: OpResult) -> Object:
    match result:
        case GetResult():
            return {"ResponseRange": _get(result)}
        case PutResult():
            return {"ResponsePut": _put(result)}
        case DeleteResult():
            return {"ResponseDeleteRange": _delete(result)}
        case TxnResult():
            return {"ResponseTxn": _txn(result)}


def _event(event: Event) -> Object:
    before = {"prev_kv": _kv(event.prev_kv)} if event.prev_kv is not None else {}
    return _given(type=int(event.type)) | {"kv": _kv(event.kv)} | before


def _watch(header: Header, events: list[Object], compact_revision: int, *, canceled: bool) -> bytes:
    values = {"Events": events, "CompactRevision": compact_revision, "Canceled": canceled, "Created": False}
    return _json({"Header": _header(header)} | values)


def _status(status: Status) -> Object:
    shown = {"header": _header(status.header)} | _given(
        version=status.version,
        dbSize=status.db_size,
        leader=status.leader,
        raftIndex=status.raft_index,
        raftTerm=status.raft_term,
        raftAppliedIndex=status.raft_applied_index,
        errors=status.errors,
        dbSizeInUse=status.db_size_in_use,
        isLearner=status.is_learner,
        storageVersion=status.storage_version,
        dbSizeQuota=status.db_size_quota,
    )
    if status.downgrade is not None:
        info = _given(enabled=status.downgrade.enabled, targetVersion=status.downgrade.target_version)
        shown["downgradeInfo"] = info
    return shown
