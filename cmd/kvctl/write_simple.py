"""The formats for people: plain lines and, for lists of members and endpoints, tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

from kvctl import gotext, table
from kvctl.display import Health
from kvstore.client import AlarmType, KeyValue, Member, Status
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

Rows = list[list[str]]


class SimpleWriter:
    """Plain lines: keys and values as they are, everything else in words."""

    def __init__(self, in_hex: bool, *, values_only: bool = False) -> None:
        self._hex = in_hex
        self._values_only = values_only

    def get(self, result: GetResult) -> bytes:
        return self._kvs(result.kvs)

    def put(self, result: PutResult) -> bytes:
        return b"OK\n" + self._kvs([result.prev_kv] if result.prev_kv is not None else [])

    def delete(self, result: DeleteResult) -> bytes:
        return b"%d\n" % result.deleted + self._kvs(result.prev_kvs)

    def txn(self, result: TxnResult) -> bytes:
        head = b"SUCCESS\n" if result.succeeded else b"FAILURE\n"
        return head + b"".join(b"\n" + self._response(response) for response in result.responses)

    def _response(self, result: OpResult) -> bytes:
        match result:
            case GetResult():
                return self.get(result)
            case PutResult():
                return self.put(result)
            case DeleteResult():
                return self.delete(result)
            case TxnResult():
                return self.txn(result)

    def watch(self, response: WatchResponse) -> bytes:
        lines = []
        for event in response.events:
            before = [event.prev_kv] if event.prev_kv is not None else []
            lines.append(event.type.name.encode() + b"\n" + self._kvs([*before, event.kv]))
        return b"".join(lines)

    def watch_canceled(self, header: Header, compact_revision: int) -> bytes:
        return b""

    def granted(self, lease: Lease) -> bytes:
        return _line(f"lease {lease.id:016x} granted with TTL({lease.ttl}s)")

    def kept_alive(self, lease: Lease) -> bytes:
        return _line(f"lease {lease.id:016x} keepalived with TTL({lease.ttl})")

    def revoked(self, lease_id: int, result: HeaderOnly) -> bytes:
        return _line(f"lease {lease_id:016x} revoked")

    def time_to_live(self, info: LeaseInfo, keys: bool) -> bytes:
        if info.expired:
            return _line(f"lease {info.id:016x} already expired")
        text = f"lease {info.id:016x} granted with TTL({info.granted_ttl}s), remaining({info.ttl}s)".encode()
        if keys:
            text += b", attached keys([" + b" ".join(info.keys) + b"])"
        return text + b"\n"

    def leases(self, result: LeaseList) -> bytes:
        return b"".join(map(_line, [f"found {len(result.ids)} leases", *(f"{lease:016x}" for lease in result.ids)]))

    def members(self, result: MemberList) -> bytes:
        return _commas(_member_rows(result.members))

    def member_added(self, result: MemberAdded) -> bytes:
        return _line(f"Member {result.member.id:16x} added to cluster {result.header.cluster_id:16x}")

    def member_changed(self, verb: str, member_id: int, result: MemberList) -> bytes:
        return _line(f"Member {member_id:16x} {verb} cluster {result.header.cluster_id:16x}")

    def health(self, results: list[Health]) -> bytes:
        return b"".join(
            _line(
                f"{each.endpoint} is healthy: successfully committed proposal: "
                f"took = {gotext.format_duration(each.took)}"
            )
            for each in results
            if each.healthy
        )

    def status(self, results: list[tuple[str, Status]]) -> bytes:
        return _commas(_status_rows(results))

    def hash_kv(self, results: list[tuple[str, HashKV]]) -> bytes:
        return _commas(_hash_rows(results))

    def alarms(self, result: AlarmList) -> bytes:
        return b"".join(_line(f"{alarm_text(alarm.member_id, alarm.type)} ") for alarm in result.alarms)

    def leader_moved(self, leader: int, target: int, result: HeaderOnly) -> bytes:
        return _line(f"Leadership transferred from {leader:x} to {target:x}")

    def _kvs(self, kvs: Iterable[KeyValue]) -> bytes:
        show = as_hex if self._hex else bytes
        if self._values_only:
            return b"".join([show(kv.value) + b"\n" for kv in kvs])
        return b"".join([show(kv.key) + b"\n" + show(kv.value) + b"\n" for kv in kvs])


class TableWriter(SimpleWriter):
    """Tables, for what is a list of members or endpoints. The commands ask it for nothing else."""

    def members(self, result: MemberList) -> bytes:
        heading = ["ID", "Status", "Name", "Peer Addrs", "Client Addrs", "Is Learner"]
        return table.render(heading, _member_rows(result.members)).encode()

    def health(self, results: list[Health]) -> bytes:
        rows = [
            [each.endpoint, str(each.healthy).lower(), gotext.format_duration(each.took), each.error]
            for each in results
        ]
        return table.render(["endpoint", "health", "took", "error"], rows).encode()

    def status(self, results: list[tuple[str, Status]]) -> bytes:
        heading = [
            "endpoint", "ID", "version", "storage version", "db size", "in use", "percentage not in use", "quota",
            "is leader", "is learner", "raft term", "raft index", "raft applied index", "errors",
            "downgrade target version", "downgrade enabled",
        ]  # fmt: skip
        return table.render(heading, _status_rows(results)).encode()

    def hash_kv(self, results: list[tuple[str, HashKV]]) -> bytes:
        return table.render(["endpoint", "hash", "hash_revision"], _hash_rows(results)).encode()


def as_hex(raw: bytes) -> bytes:
    r"""Every byte as `\x0f`."""
    return b"".join(map(b"\\x%02x".__mod__, raw))


def alarm_text(member_id: int, alarm: AlarmType) -> str:
    return f"memberID:{member_id} alarm:{alarm.name}"


def _line(text: str) -> bytes:
    return text.encode() + b"\n"


_commas_of_row = partial(str.join, ", ")


def _commas(rows: Rows) -> bytes:
    return b"".join(_line(_commas_of_row(row)) for row in rows)


def _member_rows(members: Sequence[Member]) -> Rows:
    return [
        [
            f"{member.id:x}",
            "started" if member.name else "unstarted",
            member.name,
            ",".join(member.peer_urls),
            ",".join(member.client_urls),
            str(member.is_learner).lower(),
        ]
        for member in members
    ]


def _status_rows(results: list[tuple[str, Status]]) -> Rows:
    return [
        [
            endpoint,
            f"{status.header.member_id:x}",
            status.version,
            status.storage_version,
            gotext.human_bytes(status.db_size),
            gotext.human_bytes(status.db_size_in_use),
            f"{100 - status.db_size_in_use * 100 // status.db_size if status.db_size else 0}%",
            gotext.human_bytes(status.db_size_quota),
            str(status.is_leader).lower(),
            str(status.is_learner).lower(),
            str(status.raft_term),
            str(status.raft_index),
            str(status.raft_applied_index),
            ", ".join(status.errors),
            status.downgrade.target_version if status.downgrade else "",
            str(bool(status.downgrade and status.downgrade.enabled)).lower(),
        ]
        for endpoint, status in results
    ]


def _hash_rows(results: list[tuple[str, HashKV]]) -> Rows:
    return [[endpoint, str(each.hash), str(each.hash_revision)] for endpoint, each in results]
