"""The calls of the etcd v3 API that the client makes: path, messages, and whether a call may be sent twice.

A call is `repeatable` when the server's state after two of it is as after one and the answer still tells the truth:
reads, and renewals of a lease. Every other call is sent again only if it cannot have reached a server.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from google.protobuf.message import Message

from kvstore.pb import rpc_pb2 as pb

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)


@dataclass(slots=True, eq=False)
class Rpc(Generic[Request, Response]):
    """One method of a service."""

    path: str
    request: type[Request]
    response: type[Response]
    repeatable: bool = False


def _path(service: str, method: str) -> str:
    return f"/etcdserverpb.{service}/{method}"


RANGE = Rpc(_path("KV", "Range"), pb.RangeRequest, pb.RangeResponse, repeatable=True)
PUT = Rpc(_path("KV", "Put"), pb.PutRequest, pb.PutResponse)
DELETE = Rpc(_path("KV", "DeleteRange"), pb.DeleteRangeRequest, pb.DeleteRangeResponse)
TXN = Rpc(_path("KV", "Txn"), pb.TxnRequest, pb.TxnResponse)
READ_TXN = Rpc(_path("KV", "Txn"), pb.TxnRequest, pb.TxnResponse, repeatable=True)
COMPACT = Rpc(_path("KV", "Compact"), pb.CompactionRequest, pb.CompactionResponse)

WATCH = Rpc(_path("Watch", "Watch"), pb.WatchRequest, pb.WatchResponse)

LEASE_GRANT = Rpc(_path("Lease", "LeaseGrant"), pb.LeaseGrantRequest, pb.LeaseGrantResponse)
LEASE_REVOKE = Rpc(_path("Lease", "LeaseRevoke"), pb.LeaseRevokeRequest, pb.LeaseRevokeResponse)
LEASE_KEEP_ALIVE = Rpc(
    _path("Lease", "LeaseKeepAlive"), pb.LeaseKeepAliveRequest, pb.LeaseKeepAliveResponse, repeatable=True
)
LEASE_TIME_TO_LIVE = Rpc(
    _path("Lease", "LeaseTimeToLive"), pb.LeaseTimeToLiveRequest, pb.LeaseTimeToLiveResponse, repeatable=True
)
LEASE_LEASES = Rpc(_path("Lease", "LeaseLeases"), pb.LeaseLeasesRequest, pb.LeaseLeasesResponse, repeatable=True)

MEMBER_ADD = Rpc(_path("Cluster", "MemberAdd"), pb.MemberAddRequest, pb.MemberAddResponse)
MEMBER_REMOVE = Rpc(_path("Cluster", "MemberRemove"), pb.MemberRemoveRequest, pb.MemberRemoveResponse)
MEMBER_UPDATE = Rpc(_path("Cluster", "MemberUpdate"), pb.MemberUpdateRequest, pb.MemberUpdateResponse)
MEMBER_PROMOTE = Rpc(_path("Cluster", "MemberPromote"), pb.MemberPromoteRequest, pb.MemberPromoteResponse)
MEMBER_LIST = Rpc(_path("Cluster", "MemberList"), pb.MemberListRequest, pb.MemberListResponse, repeatable=True)

ALARM = Rpc(_path("Maintenance", "Alarm"), pb.AlarmRequest, pb.AlarmResponse)
ALARM_LIST = Rpc(_path("Maintenance", "Alarm"), pb.AlarmRequest, pb.AlarmResponse, repeatable=True)
STATUS = Rpc(_path("Maintenance", "Status"), pb.StatusRequest, pb.StatusResponse, repeatable=True)
DEFRAGMENT = Rpc(_path("Maintenance", "Defragment"), pb.DefragmentRequest, pb.DefragmentResponse)
HASH = Rpc(_path("Maintenance", "Hash"), pb.HashRequest, pb.HashResponse, repeatable=True)
HASH_KV = Rpc(_path("Maintenance", "HashKV"), pb.HashKVRequest, pb.HashKVResponse, repeatable=True)
SNAPSHOT = Rpc(_path("Maintenance", "Snapshot"), pb.SnapshotRequest, pb.SnapshotResponse)
MOVE_LEADER = Rpc(_path("Maintenance", "MoveLeader"), pb.MoveLeaderRequest, pb.MoveLeaderResponse)

AUTHENTICATE = Rpc(_path("Auth", "Authenticate"), pb.AuthenticateRequest, pb.AuthenticateResponse, repeatable=True)
