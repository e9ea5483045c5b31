"""The format for scripts that look for one line: every field of an answer by its name."""

from __future__ import annotations

from collections.abc import Iterable

from kvctl import gotext
from kvctl.display import Health
from kvstore.client import KeyValue, Status
from kvstore.client.results import (
    AlarmList,
    DeleteResult,
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


class FieldsWriter:
    """Lines of `"Name" : value`."""

    def __init__(self, in_hex: bool) -> None:
        self._hex = in_hex

    def get(self, result: GetResult) -> bytes:
        return _text(self._get(result))

    def put(self, result: PutResult) -> bytes:
        return _text(self._put(result))

    def delete(self, result: DeleteResult) -> bytes:
        return _text(self._delete(result))

    def txn(self, result: TxnResult) -> bytes:
        return _text(self._txn(result))

    def watch(self, response: WatchResponse) -> bytes:
        lines = self._header(response.header)
        for event in response.events:
            lines.append(f'"Type" : {event.type.name}')
            if event.prev_kv is not None:
                lines += self._kv("Prev", event.prev_kv)
            lines += self._kv("", event.kv)
        return _text(lines)

    def watch_canceled(self, header: Header, compact_revision: int) -> bytes:
        return _text(self._header(header))

    def granted(self, lease: Lease) -> bytes:
        return _text([*self._header(lease.header), self._lease(lease.id), f'"TTL" : {lease.ttl}'])

    def kept_alive(self, lease: Lease) -> bytes:
        return self.granted(lease)

    def revoked(self, lease_id: int, result: HeaderOnly) -> bytes:
        return _text(self._header(result.header))

    def time_to_live(self, info: LeaseInfo, keys: bool) -> bytes:
        lines = [*self._header(info.header), self._lease(info.id)]
        lines += [f'"TTL" : {info.ttl}', f'"GrantedTTL" : {info.granted_ttl}']
        return _text([*lines, *(f'"Key" : {gotext.quote(key)}' for key in info.keys)])

    def leases(self, result: LeaseList) -> bytes:
        return _text([*self._header(result.header), *map(self._lease, result.ids)])

    def members(self, result: MemberList) -> bytes:
        lines = self._header(result.header)
        for member in result.members:
            lines += [f'"ID" : {self._id(member.id)}', f'"Name" : {_quoted(member.name)}']
            lines += [f'"PeerURL" : {_quoted(url)}' for url in member.peer_urls]
            lines += [f'"ClientURL" : {_quoted(url)}' for url in member.client_urls]
            lines += [f'"IsLearner" : {str(member.is_learner).lower()}', ""]
        return _text(lines)

    def member_added(self, result: MemberAdded) -> bytes:
        return self.members(MemberList(result.header, result.members))

    def member_changed(self, verb: str, member_id: int, result: MemberList) -> bytes:
        return self.members(result)

    def health(self, results: list[Health]) -> bytes:
        lines: list[str] = []
        for each in results:
            lines += [f'"Endpoint" : {_quoted(each.endpoint)}', f'"Health" : {str(each.healthy).lower()}']
            lines += [f'"Took" : {gotext.format_duration(each.took)}', f'"Error" : {each.error}', ""]
        return _text(lines)

    def status(self, results: list[tuple[str, Status]]) -> bytes:
        lines: list[str] = []
        for endpoint, status in results:
            lines += self._header(status.header)
            lines += [
                f'"Version" : {_quoted(status.version)}',
                f'"StorageVersion" : {_quoted(status.storage_version)}',
                f'"DBSize" : {status.db_size}',
                f'"DBSizeInUse" : {status.db_size_in_use}',
                f'"DBSizeQuota" : {status.db_size_quota}',
                f'"Leader" : {status.leader}',
                f'"IsLearner" : {str(status.is_learner).lower()}',
                f'"RaftIndex" : {status.raft_index}',
                f'"RaftTerm" : {status.raft_term}',
                f'"RaftAppliedIndex" : {status.raft_applied_index}',
                f'"Errors" : [{" ".join(status.errors)}]',
                f'"Endpoint" : {_quoted(endpoint)}',
                f'"DowngradeTargetVersion" : {_quoted(status.downgrade.target_version if status.downgrade else "")}',
                f'"DowngradeEnabled" : {str(bool(status.downgrade and status.downgrade.enabled)).lower()}',
                "",
            ]
        return _text(lines)

    def hash_kv(self, results: list[tuple[str, HashKV]]) -> bytes:
        lines: list[str] = []
        for endpoint, each in results:
            lines += self._header(each.header)
            lines += [f'"Endpoint" : {_quoted(endpoint)}', f'"Hash" : {each.hash}']
            lines += [f'"HashRevision" : {each.hash_revision}', ""]
        return _text(lines)

    def alarms(self, result: AlarmList) -> bytes:
        lines = self._header(result.header) if result.header is not None else []
        for alarm in result.alarms:
            lines += [f'"MemberID" : {self._id(alarm.member_id)}', f'"AlarmType" : {alarm.type.name}', ""]
        return _text(lines)

    def leader_moved(self, leader: int, target: int, result: HeaderOnly) -> bytes:
        return _text(self._header(result.header))

    def _get(self, result: GetResult) -> list[str]:
        lines = self._header(result.header)
        for kv in result.kvs:
            lines += self._kv("", kv)
        return [*lines, f'"More" : {str(result.more).lower()}', f'"Count" : {result.count}']

    def _put(self, result: PutResult) -> list[str]:
        before = self._kv("Prev", result.prev_kv) if result.prev_kv is not None else []
        return self._header(result.header) + before

    def _delete(self, result: DeleteResult) -> list[str]:
        lines = [*self._header(result.header), f'"Deleted" : {result.deleted}']
        for kv in result.prev_kvs:
            lines += self._kv("Prev", kv)
        return lines

    def _txn(self, result: TxnResult) -> list[str]:
        lines = [*self._header(result.header), f'"Succeeded" : {str(result.succeeded).lower()}']
        for response in result.responses:
            lines += self._response(response)
        return lines

    def _response(self, result: OpResult) -> list[str]:
        match result:
            case GetResult():
                return self._get(result)
            case PutResult():
                return self._put(result)
            case DeleteResult():
                return self._delete(result)
            case TxnResult():
                return self._txn(result)

    def _header(self, header: Header) -> list[str]:
        lines = [f'"ClusterID" : {self._id(header.cluster_id)}', f'"MemberID" : {self._id(header.member_id)}']
        # A call that is not about keys has no revision to tell.
        if header.revision > 0:
            lines.append(f'"Revision" : {header.revision}')
        return [*lines, f'"RaftTerm" : {header.raft_term}']

    def _kv(self, prefix: str, kv: KeyValue) -> list[str]:
        return [
            f'"{prefix}Key" : {gotext.quote(kv.key)}',
            f'"{prefix}CreateRevision" : {kv.create_revision}',
            f'"{prefix}ModRevision" : {kv.mod_revision}',
            f'"{prefix}Version" : {kv.version}',
            f'"{prefix}Value" : {gotext.quote(kv.value)}',
            f'"{prefix}Lease" : {f"{kv.lease:016x}" if self._hex else kv.lease}',
        ]

    def _lease(self, lease_id: int) -> str:
        return f'"ID" : {f"{lease_id:016x}" if self._hex else lease_id}'

    def _id(self, number: int) -> str:
        return f"{number:x}" if self._hex else str(number)


def _quoted(text: str) -> str:
    return gotext.quote(text.encode())


def _text(lines: Iterable[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()
