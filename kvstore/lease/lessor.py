"""The leases of the cluster: how long each was granted, which keys hang on it, and on the leader when it expires.

Grants, revocations, checkpoints and attachments are replicated and change the same on every member. Expiry times are
not: only the leader (the *primary*) has them, in seconds of its own monotonic clock, which the caller passes in.
Deleting the keys of a lease is done by the store; this module only tells which they are.
"""

import heapq
import itertools
import math
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from kvstore.errors import LeaseExist, LeaseNotFound, LeaseTTLTooLarge
from kvstore.pb import rpc_pb2
from kvstore.storage.batch import TableSpec

MAX_TTL = 9_000_000_000
"""Seconds; about 285 years, the longest that etcd's 64-bit nanoseconds hold."""

TABLES = (TableSpec("leases"), TableSpec("lease_keys"))
"""The tables that a lessor needs of its backend."""

_ID = struct.Struct(">Q")
_ID_MASK = 0xFFFFFFFFFFFFFFFF
_TERMS = struct.Struct(">qq")

TAKE_UP_STEP = 2_000
"""Leases that a new primary takes up at a time: some 4 ms."""


class LeaseTable(Protocol):
    """The part of a storage table that leases need."""

    @property
    def active(self) -> dict[bytes, bytes | None]: ...
    def get(self, key: bytes) -> bytes | None: ...
    def put(self, key: bytes, value: bytes) -> None: ...
    def delete(self, key: bytes) -> None: ...
    def scan(self, start: bytes, end: bytes | None) -> Iterator[tuple[bytes, bytes]]: ...


class LeaseBackend(Protocol):
    """Where tables come from."""

    def table(self, name: str) -> LeaseTable: ...


@dataclass(slots=True)
class Lease:
    """One lease.

    ttl: seconds granted. remaining: seconds left at the last checkpoint, 0 if there was none since the last renewal.
    expiry: when it expires on the primary's clock; without meaning on other members. reign: of which time as the
    primary that is. checkpointing: whether the primary has a checkpoint on its way that leaves less than the full TTL.
    """

    id: int
    ttl: int
    remaining: int = 0
    expiry: float = math.inf
    reign: int = 0
    checkpointing: bool = False


# Field 2 of a LeaseLeasesResponse and the length of what is in it: a lease's number takes at most 11 bytes.
_STATUS_TAGS = tuple(bytes((0x12, length)) for length in range(12))

_Due = tuple[float, int, Lease]
"""When, a number that makes it unique, which lease."""


@dataclass(frozen=True, slots=True)
class LessorConfig:
    """How leases are run.

    min_ttl: seconds that every lease gets at least. checkpoint_interval: seconds between two checkpoints of a lease.
    revoke_rate: leases that may expire in a second, so that a pile of them does not crowd out everything else.
    retry_interval: seconds after which an expired lease that is still there is reported again.
    """

    min_ttl: int = 2
    checkpoint_interval: float = 300.0
    revoke_rate: int = 1000
    retry_interval: float = 3.0


def min_ttl(election_timeout: float) -> int:
    """The least TTL for an election timeout in seconds: no lease should expire while a leader is elected."""
    return math.ceil(1.5 * election_timeout)


def _table_key(lease_id: int) -> bytes:
    return _ID.pack(lease_id & _ID_MASK)


class Lessor:
    """All leases of a member.

    A renewal only moves the expiry; the heap learns of it when the old expiry comes up. So renewing is O(1), and the
    heap holds one entry a lease. A new primary takes its leases up in steps, and one that is asked for before its
    turn at once.
    """

    def __init__(self, backend: LeaseBackend, config: LessorConfig | None = None) -> None:
        self._backend = backend
        self._config = config or LessorConfig()
        self._leases: dict[int, Lease] = {}
        self._expiries: list[_Due] = []
        self._checkpoints: list[_Due] = []
        self._reign = 0
        self._began = 0.0
        self._extended = 0.0
        self._waiting: list[Lease] = []
        self._allowance = 0.0
        self._allowance_at = 0.0
        self._serial = itertools.count()
        self.primary = False
        self.granted = 0
        self.revoked = 0
        self.renewed = 0
        self.expired_seen = 0
        self.ttl_observed: Callable[[int], None] | None = None
        self.reload()

    def reload(self) -> None:
        """Read the leases anew from the backend, at start or when a snapshot has replaced it."""
        self._table = self._backend.table("leases")
        self._keys = self._backend.table("lease_keys")
        self.demote()
        self._leases = {}
        for row_key, row in self._table.scan(b"", None):
            lease_id = _ID.unpack(row_key)[0]
            lease_id = lease_id - (1 << 64) if lease_id >> 63 else lease_id
            ttl, remaining = _TERMS.unpack(row)
            self._leases[lease_id] = Lease(lease_id, max(ttl, self._config.min_ttl), remaining)

    # The replicated side: called in log order on every member.

    def grant(self, request: rpc_pb2.LeaseGrantRequest, now: float) -> bytes:
        """Create a lease; the LeaseGrantResponse without header.

        request.ID: chosen before this is replicated, not 0. request.TTL: seconds, raised to the least allowed.
        now: seconds on this member's clock. Raises LeaseTTLTooLarge, LeaseExist.
        """
        lease_id, ttl = request.ID, request.TTL
        assert lease_id, "the id of a lease is chosen before it is replicated"
        if ttl > MAX_TTL:
            raise LeaseTTLTooLarge
        if lease_id in self._leases:
            raise LeaseExist
        lease = Lease(lease_id, max(ttl, self._config.min_ttl))
        self._leases[lease_id] = lease
        self._store(lease)
        self.granted += 1
        if self.ttl_observed is not None:
            self.ttl_observed(lease.ttl)
        if self.primary:
            self._start(lease, now + lease.ttl, now)
        return rpc_pb2.LeaseGrantResponse(ID=lease_id, TTL=lease.ttl).SerializeToString()

    def revoke(self, lease_id: int, delete_keys: Callable[[list[bytes]], int]) -> bytes:
        """End a lease with all its keys; the LeaseRevokeResponse without header.

        delete_keys: deletes keys in one revision, as `Store.delete_keys` does, and detaches them here.
        Raises LeaseNotFound.
        """
        if lease_id not in self._leases:
            raise LeaseNotFound
        keys = self.keys(lease_id)
        deleted = delete_keys(keys)
        assert deleted == len(keys), "every key that hangs on a lease is there"
        del self._leases[lease_id]
        self._table.delete(_table_key(lease_id))
        self.revoked += 1
        return b""

    def checkpoint(self, request: rpc_pb2.LeaseCheckpointRequest) -> None:
        """Note how many seconds leases had left, for the next leader. Leases that are gone are passed over."""
        for checkpoint in request.checkpoints:
            lease = self._leases.get(checkpoint.ID)
            if lease is None:
                continue
            lease.checkpointing = False
            if lease.remaining != checkpoint.remaining_TTL:
                lease.remaining = checkpoint.remaining_TTL
                self._store(lease)
                if self.primary and lease.reign == self._reign:
                    # A new primary takes leases up before it has applied all that its log holds: this one may have been
                    # renewed since what it was taken up with.
                    lease.expiry = max(lease.expiry, self._began + self._extended + (lease.remaining or lease.ttl))

    def exists(self, lease_id: int) -> bool:
        """Whether there is such a lease."""
        return lease_id in self._leases

    def attach(self, lease_id: int, key: bytes) -> None:
        """Hang a key on a lease that exists."""
        self._keys.put(_table_key(lease_id) + key, b"")

    def detach(self, lease_id: int, key: bytes) -> None:
        """Take a key off a lease."""
        self._keys.delete(_table_key(lease_id) + key)

    def detach_all(self, lease_id: int, keys: Iterable[bytes]) -> None:
        """Take many keys off a lease."""
        prefix = _table_key(lease_id)
        self._keys.active.update(dict.fromkeys([prefix + key for key in keys]))

    def keys(self, lease_id: int) -> list[bytes]:
        """The keys that hang on a lease, in order."""
        start = _table_key(lease_id)
        end = _ID.pack((lease_id & _ID_MASK) + 1) if lease_id & _ID_MASK != _ID_MASK else None
        return [row_key[_ID.size :] for row_key, _ in self._keys.scan(start, end)]

    def _store(self, lease: Lease) -> None:
        self._table.put(_table_key(lease.id), _TERMS.pack(lease.ttl, lease.remaining))

    # Reading.

    def __len__(self) -> int:
        return len(self._leases)

    def get(self, lease_id: int) -> Lease | None:
        """The lease of this id."""
        return self._leases.get(lease_id)

    def leases(self) -> bytes:
        """The LeaseLeasesResponse without header; the next to expire first on the primary."""
        leases: Iterable[Lease] = self._leases.values()
        if self.primary:
            leases = sorted(leases, key=self._expiry)
        status = rpc_pb2.LeaseStatus()
        fields: list[bytes] = []
        for lease in leases:
            # Five times as fast as a message of messages.
            status.ID = lease.id
            encoded = status.SerializeToString()
            fields += (_STATUS_TAGS[len(encoded)], encoded)
        return b"".join(fields)

    def time_to_live(self, request: rpc_pb2.LeaseTimeToLiveRequest, now: float) -> bytes:
        """The LeaseTimeToLiveResponse without header; TTL -1 if there is no such lease. Asked of the primary."""
        lease = self._leases.get(request.ID)
        if lease is None:
            return rpc_pb2.LeaseTimeToLiveResponse(ID=request.ID, TTL=-1).SerializeToString()
        left = self._expiry(lease) - now if self.primary else lease.remaining or lease.ttl
        return rpc_pb2.LeaseTimeToLiveResponse(
            ID=lease.id,
            TTL=max(0, int(left)),
            grantedTTL=lease.ttl,
            keys=self.keys(lease.id) if request.keys else (),
        ).SerializeToString()

    # The primary's side: time.

    def promote(self, now: float, extend: float) -> None:
        """Begin to expire leases: this member leads.

        extend: seconds that every lease gets on top of what it has left, for the time without a leader.
        """
        self.demote()
        self.primary = True
        self._allowance, self._allowance_at = 0.0, now
        self._reign += 1
        self._began, self._extended = now, extend
        self._waiting = list(self._leases.values())

    def take_up(self) -> bool:
        """Take up the next leases after a promotion; whether there are more. To be called again soon until not."""
        waiting = self._waiting
        if len(waiting) <= TAKE_UP_STEP:
            step, self._waiting = waiting, []
        else:
            step = waiting[-TAKE_UP_STEP:]
            del waiting[-TAKE_UP_STEP:]
        for lease in step:
            if lease.reign != self._reign and self._leases.get(lease.id) is lease:
                self._take_up(lease)
        return bool(self._waiting)

    def _take_up(self, lease: Lease) -> None:
        left = lease.remaining or lease.ttl
        lease.expiry = self._expiry(lease)
        lease.reign = self._reign
        heapq.heappush(self._expiries, (lease.expiry, next(self._serial), lease))
        if left > self._config.checkpoint_interval:
            due = self._began + self._config.checkpoint_interval
            heapq.heappush(self._checkpoints, (due, next(self._serial), lease))

    def _expiry(self, lease: Lease) -> float:
        """When a lease expires, on the primary."""
        if lease.reign == self._reign:
            return lease.expiry
        return self._began + self._extended + (lease.remaining or lease.ttl)

    def demote(self) -> None:
        """Stop expiring leases: another member leads, or none."""
        self.primary = False
        self._waiting = []
        self._expiries = []
        self._checkpoints = []

    def _start(self, lease: Lease, expiry: float, now: float) -> None:
        lease.expiry = expiry
        lease.reign = self._reign
        heapq.heappush(self._expiries, (expiry, next(self._serial), lease))
        if lease.ttl > self._config.checkpoint_interval:
            due = now + self._config.checkpoint_interval
            heapq.heappush(self._checkpoints, (due, next(self._serial), lease))
        # Revoked leases stay in the heaps until they would have expired: not too many of them.
        for heap in (self._expiries, self._checkpoints):
            if len(heap) > 2 * len(self._leases) + 64:
                heap[:] = [entry for entry in heap if self._leases.get(entry[2].id) is entry[2]]
                heapq.heapify(heap)

    def renew(self, lease_id: int, now: float) -> int:
        """Let a lease live for its full TTL from now; the TTL in seconds. About 0.3 us.

        0 if there is no such lease, or if it has expired and only waits to be revoked. Called on the primary.
        """
        assert self.primary, "only the primary knows when a lease expires"
        lease = self._leases.get(lease_id)
        if lease is None:
            return 0
        if lease.reign != self._reign:
            self._take_up(lease)
        if lease.expiry <= now:
            return 0
        lease.expiry = now + lease.ttl
        self.renewed += 1
        return lease.ttl

    def has_expired(self, lease_id: int, now: float) -> bool:
        """Whether a lease is there and over, on the primary."""
        lease = self._leases.get(lease_id)
        return lease is not None and self._expiry(lease) <= now

    def owed_checkpoint(self, lease_id: int) -> rpc_pb2.LeaseCheckpointRequest | None:
        """What has to be in the log before the renewal of a lease is answered; None if nothing has.

        The next primary begins with what the last checkpoint has left it, and that is less than the renewal gives.
        """
        lease = self._leases.get(lease_id)
        if lease is None or not (lease.remaining or lease.checkpointing):
            return None
        return rpc_pb2.LeaseCheckpointRequest(checkpoints=[rpc_pb2.LeaseCheckpoint(ID=lease_id)])

    def expired(self, now: float) -> list[int]:
        """Leases to revoke now, as many as the rate allows; to be called about twice a second.

        A lease that is still there after the retry interval is told again.
        """
        if not self.primary:
            return []
        self.take_up()
        rate = self._config.revoke_rate
        self._allowance = min(rate / 2, self._allowance + (now - self._allowance_at) * rate)
        self._allowance_at = now
        found: list[int] = []
        heap = self._expiries
        while heap and heap[0][0] <= now and len(found) < self._allowance:
            _, serial, lease = heap[0]
            if self._leases.get(lease.id) is not lease:
                heapq.heappop(heap)
            elif lease.expiry > now:
                heapq.heapreplace(heap, (lease.expiry, serial, lease))
            else:
                heapq.heapreplace(heap, (now + self._config.retry_interval, serial, lease))
                found.append(lease.id)
        self._allowance -= len(found)
        self.expired_seen += len(found)
        return found

    def due_checkpoints(self, now: float, limit: int = 1000) -> rpc_pb2.LeaseCheckpointRequest:
        """What should be checkpointed now, at most `limit` leases; empty if nothing is due."""
        request = rpc_pb2.LeaseCheckpointRequest()
        heap = self._checkpoints
        while heap and heap[0][0] <= now and len(request.checkpoints) < limit:
            _, serial, lease = heapq.heappop(heap)
            if self._leases.get(lease.id) is not lease or lease.expiry <= now:
                continue
            left = math.ceil(lease.expiry - now)
            if left < lease.ttl:
                lease.checkpointing = True
                request.checkpoints.add(ID=lease.id, remaining_TTL=left)
            heapq.heappush(heap, (now + self._config.checkpoint_interval, serial, lease))
        return request
