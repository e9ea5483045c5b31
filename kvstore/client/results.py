"""What calls answer with, as values of the library's own: plain, slotted, comparable, and without a trace of gRPC.

Keys and values are bytes; revisions, leases and member ids are integers as the server numbers them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

from kvstore.pb import kv_pb2, rpc_pb2


@dataclass(slots=True)
class Header:
    """Who answered, and how far the store was: `revision` is the current one, not the one asked for."""

    cluster_id: int = 0
    member_id: int = 0
    revision: int = 0
    raft_term: int = 0

    @classmethod
    def from_pb(cls, pb: rpc_pb2.ResponseHeader) -> Header:
        return cls(pb.cluster_id, pb.member_id, pb.revision, pb.raft_term)


@dataclass(slots=True)
class KeyValue:
    """A key as it was at some revision. `version` counts its writes since it was created, `lease` is 0 for none."""

    key: bytes
    value: bytes = b""
    create_revision: int = 0
    mod_revision: int = 0
    version: int = 0
    lease: int = 0

    @classmethod
    def from_pb(cls, pb: kv_pb2.KeyValue) -> KeyValue:
        return cls(pb.key, pb.value, pb.create_revision, pb.mod_revision, pb.version, pb.lease)


@dataclass(slots=True)
class GetResult:
    """The keys found. `count` is how many there are in the range, `more` that a limit left some out."""

    header: Header
    kvs: tuple[KeyValue, ...]
    more: bool
    count: int

    @classmethod
    def from_pb(cls, pb: rpc_pb2.RangeResponse) -> GetResult:
        return cls(Header.from_pb(pb.header), tuple(map(KeyValue.from_pb, pb.kvs)), pb.more, pb.count)

    @property
    def value(self) -> bytes | None:
        """The first key's value; None if there is no key."""
        return self.kvs[0].value if self.kvs else None


@dataclass(slots=True)
class PutResult:
    """`prev_kv` is the key before, if it was asked for and there was one."""

    header: Header
    prev_kv: KeyValue | None

    @classmethod
    def from_pb(cls, pb: rpc_pb2.PutResponse) -> PutResult:
        return cls(Header.from_pb(pb.header), KeyValue.from_pb(pb.prev_kv) if pb.HasField("prev_kv") else None)


@dataclass(slots=True)
class DeleteResult:
    """How many keys were deleted, and what they were if that was asked for."""

    header: Header
    deleted: int
    prev_kvs: tuple[KeyValue, ...]

    @classmethod
    def from_pb(cls, pb: rpc_pb2.DeleteRangeResponse) -> DeleteResult:
        return cls(Header.from_pb(pb.header), pb.deleted, tuple(map(KeyValue.from_pb, pb.prev_kvs)))


@dataclass(slots=True)
class TxnResult:
    """`succeeded` tells which branch ran; `responses` has one result for each of its operations, in order."""

    header: Header
    succeeded: bool
    responses: tuple[OpResult, ...]

    @classmethod
    def from_pb(cls, pb: rpc_pb2.TxnResponse) -> TxnResult:
        return cls(Header.from_pb(pb.header), pb.succeeded, tuple(map(_op_result, pb.responses)))


OpResult = GetResult | PutResult | DeleteResult | TxnResult


def _op_result(pb: rpc_pb2.ResponseOp) -> OpResult:
    if pb.HasField("response_range"):
        return GetResult.from_pb(pb.response_range)
    if pb.HasField("response_put"):
        return PutResult.from_pb(pb.response_put)
    if pb.HasField("response_delete_range"):
        return DeleteResult.from_pb(pb.response_delete_range)
    return TxnResult.from_pb(pb.response_txn)


class EventType(IntEnum):
    PUT = 0
    DELETE = 1


@dataclass(slots=True)
class Event:
    """One change. A DELETE's `kv` has only the key and the revision of the deletion."""

    type: EventType
    kv: KeyValue
    prev_kv: KeyValue | None

    @classmethod
    def from_pb(cls, pb: kv_pb2.Event) -> Event:
        prev_kv = KeyValue.from_pb(pb.prev_kv) if pb.HasField("prev_kv") else None
        return cls(EventType(pb.type), KeyValue.from_pb(pb.kv), prev_kv)


@dataclass(slots=True)
class WatchResponse:
    """Changes in the order of their revisions, never half of one revision; none at all is a progress notification.

    Progress means: everything up to `header.revision` has been delivered.
    """

    header: Header
    events: tuple[Event, ...]

    @property
    def is_progress(self) -> bool:
        return not self.events


@dataclass(slots=True)
class Lease:
    """A granted lease: its id and the seconds it lives without a renewal, as the server decided them."""

    header: Header
    id: int
    ttl: int


@dataclass(slots=True)
class LeaseInfo:
    """`ttl` is what remains, in seconds; -1 if there is no such lease. `keys` only if they were asked for."""

    header: Header
    id: int
    ttl: int
    granted_ttl: int
    keys: tuple[bytes, ...]

    @property
    def expired(self) -> bool:
        return self.granted_ttl == 0 and self.ttl == -1


@dataclass(slots=True)
class LeaseList:
    header: Header
    ids: tuple[int, ...]


@dataclass(slots=True)
class HeaderOnly:
    """The answer of a call that has nothing more to tell."""

    header: Header


@dataclass(slots=True)
class Member:
    """A member of the cluster. One without a name was added and has not started yet."""

    id: int
    name: str
    peer_urls: tuple[str, ...]
    client_urls: tuple[str, ...]
    is_learner: bool

    @classmethod
    def from_pb(cls, pb: rpc_pb2.Member) -> Member:
        return cls(pb.ID, pb.name, tuple(pb.peerURLs), tuple(pb.clientURLs), pb.isLearner)


@dataclass(slots=True)
class MemberList:
    """The members after the call."""

    header: Header
    members: tuple[Member, ...]

    @classmethod
    def from_pb(cls, header: rpc_pb2.ResponseHeader, members: Iterable[rpc_pb2.Member]) -> MemberList:
        return cls(Header.from_pb(header), tuple(map(Member.from_pb, members)))


@dataclass(slots=True)
class MemberAdded:
    header: Header
    member: Member
    members: tuple[Member, ...]


class AlarmType(IntEnum):
    NONE = 0
    NOSPACE = 1
    CORRUPT = 2


@dataclass(slots=True)
class Alarm:
    member_id: int
    type: AlarmType


@dataclass(slots=True)
class AlarmList:
    """`header` is None where the server sends none with alarms."""

    header: Header | None
    alarms: tuple[Alarm, ...]


@dataclass(slots=True)
class Downgrade:
    enabled: bool
    target_version: str


@dataclass(slots=True)
class Status:
    """How one member is. Sizes are bytes; `leader` is 0 when it knows none; `errors` are texts for people."""

    header: Header
    version: str
    storage_version: str
    db_size: int
    db_size_in_use: int
    db_size_quota: int
    leader: int
    is_learner: bool
    raft_index: int
    raft_term: int
    raft_applied_index: int
    errors: tuple[str, ...]
    downgrade: Downgrade | None

    @classmethod
    def from_pb(cls, pb: rpc_pb2.StatusResponse) -> Status:
        info = pb.downgradeInfo
        return cls(
            header=Header.from_pb(pb.header),
            version=pb.version,
            storage_version=pb.storageVersion,
            db_size=pb.dbSize,
            db_size_in_use=pb.dbSizeInUse,
            db_size_quota=pb.dbSizeQuota,
            leader=pb.leader,
            is_learner=pb.isLearner,
            raft_index=pb.raftIndex,
            raft_term=pb.raftTerm,
            raft_applied_index=pb.raftAppliedIndex,
            errors=tuple(pb.errors),
            downgrade=Downgrade(info.enabled, info.targetVersion) if pb.HasField("downgradeInfo") else None,
        )

    @property
    def is_leader(self) -> bool:
        return self.leader == self.header.member_id


@dataclass(slots=True)
class Hash:
    """A member's whole backend as a number; comparable only between copies of one file."""

    header: Header
    hash: int


@dataclass(slots=True)
class HashKV:
    """All history between `compact_revision` and `hash_revision` as a number, the same on every healthy member."""

    header: Header
    hash: int
    compact_revision: int
    hash_revision: int


@dataclass(slots=True)
class SnapshotChunk:
    """A piece of a snapshot and how many bytes follow it. `version` is the storage version, where the server says."""

    data: bytes
    remaining: int
    version: str
