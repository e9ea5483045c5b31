"""One member of a cluster, put together: what the API layer asks, and who answers it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence

from kvstore.lease.lessor import Lessor
from kvstore.mvcc.store import Store
from kvstore.pb import rpc_pb2 as pb
from kvstore.rpc import Promise
from kvstore.server.config import Config


class Member:
    """The requests of the etcd v3 API, decided.

    Methods that return Promise[bytes] resolve to the encoded response message, header included, or fail with a
    KvstoreError; they check the request first, so the promise may be resolved on return. Nothing here blocks.
    """

    config: Config
    id: int
    cluster_id: int
    store: Store
    lessor: Lessor

    # What every answer needs.

    def header(self, revision: int | None = None) -> bytes:
        """Field 1 of a response, encoded: tag, length, ResponseHeader. revision: the store's current one if None."""
        raise NotImplementedError

    def header_message(self) -> pb.ResponseHeader:
        """The same as a message, for responses that are not made by hand."""
        raise NotImplementedError

    @property
    def has_leader(self) -> bool:
        """Whether this member knows a leader."""
        raise NotImplementedError

    @property
    def is_leader(self) -> bool: ...

    @property
    def is_learner(self) -> bool: ...

    def on_leader_lost(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call back each time there has been no leader for longer than an election timeout. Returns how to stop that."""
        raise NotImplementedError

    # KV

    def range(self, request: pb.RangeRequest) -> Promise[bytes]:
        """Long answers are made in steps that let the loop go on."""
        raise NotImplementedError

    def range_stream(self, request: pb.RangeRequest) -> AsyncIterator[bytes]:
        """Encoded RangeStreamResponse messages, one a step."""
        raise NotImplementedError

    def put(self, request: pb.PutRequest) -> Promise[bytes]:
        raise NotImplementedError

    def delete_range(self, request: pb.DeleteRangeRequest) -> Promise[bytes]:
        raise NotImplementedError

    def txn(self, request: pb.TxnRequest) -> Promise[bytes]:
        """A txn without writes is a read: linearizable, or serializable if all its ranges are."""
        raise NotImplementedError

    def compact(self, request: pb.CompactionRequest) -> Promise[bytes]:
        raise NotImplementedError

    # Lease

    def lease_grant(self, request: pb.LeaseGrantRequest) -> Promise[bytes]:
        raise NotImplementedError

    def lease_revoke(self, request: pb.LeaseRevokeRequest) -> Promise[bytes]:
        raise NotImplementedError

    def lease_renew(self, lease_id: int) -> Promise[int]:
        """Renew a lease here or, on a follower, at the leader: its TTL, 0 if there is no such lease."""
        raise NotImplementedError

    async def lease_time_to_live(self, request: pb.LeaseTimeToLiveRequest) -> pb.LeaseTimeToLiveResponse:
        raise NotImplementedError

    async def lease_leases(self) -> pb.LeaseLeasesResponse:
        raise NotImplementedError

    # Cluster

    async def member_list(self, linearizable: bool) -> list[pb.Member]:
        raise NotImplementedError

    async def member_add(self, peer_urls: Sequence[str], is_learner: bool) -> tuple[pb.Member, list[pb.Member]]:
        raise NotImplementedError

    async def member_remove(self, number: int) -> list[pb.Member]:
        raise NotImplementedError

    async def member_update(self, number: int, peer_urls: Sequence[str]) -> list[pb.Member]:
        raise NotImplementedError

    async def member_promote(self, number: int) -> list[pb.Member]:
        raise NotImplementedError

    # Maintenance

    def status(self) -> pb.StatusResponse:
        raise NotImplementedError

    async def alarm(self, request: pb.AlarmRequest) -> pb.AlarmResponse:
        raise NotImplementedError

    async def hash(self) -> int:
        """A hash of the whole state."""
        raise NotImplementedError

    async def hash_kv(self, revision: int) -> pb.HashKVResponse:
        raise NotImplementedError

    def snapshot(self) -> AsyncIterator[pb.SnapshotResponse]:
        """A consistent copy of the state in chunks, its SHA-256 at the end."""
        raise NotImplementedError

    async def defragment(self) -> None:
        raise NotImplementedError

    async def move_leader(self, target: int) -> None:
        """Raises NotLeader, BadLeaderTransferee or RequestTimeout."""
        raise NotImplementedError

    async def linearizable(self) -> None:
        """Return once everything committed before the call is applied here."""
        raise NotImplementedError
