"""What is true: the state that the log leads to, computed the plain way; and what clients may see of it.

The first member to apply an entry brings it here; every other must apply the same one. So there is one history of the
store by revision, and whatever a member answers is held against it:

- a write that is acknowledged at a revision is what the history has there;
- a read that is answered at a revision shows the state at it;
- what begins after something else was answered has a revision at least as high, a write a higher one.

The revisions thus put every call in an order that is that of the clock and that a single copy would have had: that is
linearizability, checked at once and for every call.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from kvstore.pb import rpc_pb2 as pb
from kvstore.server.proposals import decode
from raft.messages import Entry, EntryType
from tests.member_simulation.timeline import Violation


@dataclass(slots=True, frozen=True)
class Version:
    """What a key holds from a revision on. value: None for a deletion."""

    revision: int
    value: bytes | None
    create: int = 0
    number: int = 0
    lease: int = 0


@dataclass(slots=True, frozen=True)
class Change:
    """One event of the history."""

    revision: int
    key: bytes
    version: Version


@dataclass(slots=True)
class LeaseTruth:
    """A lease. revoked_at: the world's time when its end was first applied."""

    ttl: int
    keys: set[bytes] = field(default_factory=set)
    revoked_at: float | None = None


@dataclass(slots=True)
class Outcome:
    """What came of a request. succeeded: of a txn."""

    revision: int
    error: str = ""
    succeeded: bool = False


class Truth:
    """The one history. now: the world's clock.

    on_put: told of each value that is written, on_revoke of each lease that ends, on_compaction of each revision up to
    which the past is forgotten.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self.revision = 1
        self.compacted = -1
        self.applied = 0
        self.leases: dict[int, LeaseTruth] = {}
        self.changes: list[Change] = []
        self.on_put: Callable[[bytes, bytes, int], None] = lambda key, value, revision: None
        self.on_revoke: Callable[[int], None] = lambda lease: None
        self.on_compaction: Callable[[int], None] = lambda revision: None
        self._now = now
        self._entries: list[tuple[int, int, bytes]] = []
        self._revisions: list[int] = []
        self._firsts: list[int] = []
        self._keys: dict[bytes, list[Version]] = {}
        self._sorted: list[bytes] = []
        self._wrote = False

    # The log.

    def apply(self, name: str, entry: Entry) -> None:
        """A member applies an entry. Raises Violation if it is another one than the others apply there."""
        content = (entry.term, int(entry.type), entry.data)
        if entry.index <= self.applied:
            if self._entries[entry.index - 1] != content:
                raise Violation(f"state machine safety: {name} applies another entry at {entry.index}")
            return
        if entry.index != self.applied + 1:
            raise Violation(f"{name} applies {entry.index} when nobody has applied {self.applied + 1}")
        self._entries.append(content)
        self.applied = entry.index
        if entry.type is EntryType.NORMAL and entry.data:
            for kind, request in decode(entry.data)[2]:
                handler = self._HANDLERS.get(kind)
                if handler is not None:
                    handler(self, request)
        self._revisions.append(self.revision)

    def term_at(self, index: int) -> int:
        """The term of the entry that everybody applies at an index."""
        return self._entries[index - 1][0]

    def check_state(self, name: str, applied: int, revision: int) -> None:
        """A member has applied so much: is its revision right?"""
        if applied > self.applied:
            raise Violation(f"state: {name} has applied {applied}; nobody has applied more than {self.applied}")
        expected = self._revisions[applied - 1] if applied else 1
        if revision != expected:
            raise Violation(f"state: {name} is at revision {revision} after entry {applied}, not at {expected}")

    def _put(self, request: pb.PutRequest) -> None:
        if not request.lease or self._lives(request.lease):
            self._write(request.key, request.value, request.lease)
        self._end()

    def _delete_range(self, request: pb.DeleteRangeRequest) -> None:
        self._delete(request.key, request.range_end)
        self._end()

    def _txn(self, request: pb.TxnRequest) -> None:
        branch = request.success if all(map(self._holds, request.compare)) else request.failure
        leases = [each.request_put.lease for each in branch if each.HasField("request_put")]
        if all(not lease or self._lives(lease) for lease in leases):
            for each in branch:
                if each.HasField("request_put"):
                    self._write(each.request_put.key, each.request_put.value, each.request_put.lease)
                elif each.HasField("request_delete_range"):
                    self._delete(each.request_delete_range.key, each.request_delete_range.range_end)
        self._end()

    def _compaction(self, request: pb.CompactionRequest) -> None:
        if self.compacted < request.revision <= self.revision:
            self.compacted = request.revision
            self.on_compaction(request.revision)

    def _lease_grant(self, request: pb.LeaseGrantRequest) -> None:
        if request.ID not in self.leases or not self._lives(request.ID):
            self.leases[request.ID] = LeaseTruth(request.TTL)

    def _lease_revoke(self, request: pb.LeaseRevokeRequest) -> None:
        lease = self.leases.get(request.ID)
        if lease is None or lease.revoked_at is not None:
            return
        for key in sorted(lease.keys):
            self._change(key, Version(self.revision + 1, None))
        self._end()
        lease.revoked_at = self._now()
        self.on_revoke(request.ID)

    _HANDLERS: ClassVar[dict[str, Callable[[Any, Any], None]]] = {
        "put": _put,
        "delete_range": _delete_range,
        "txn": _txn,
        "compaction": _compaction,
        "lease_grant": _lease_grant,
        "lease_revoke": _lease_revoke,
    }

    def _lives(self, lease: int) -> bool:
        known = self.leases.get(lease)
        return known is not None and known.revoked_at is None

    def _write(self, key: bytes, value: bytes, lease: int) -> None:
        before = self._newest(key)
        revision = self.revision + 1
        if before is None or before.value is None:
            version = Version(revision, value, revision, 1, lease)
        else:
            version = Version(revision, value, before.create, before.number + 1, lease)
        self._change(key, version)
        if lease:
            self.leases[lease].keys.add(key)
        self.on_put(key, value, revision)

    def _delete(self, key: bytes, end: bytes) -> None:
        for found in self._within(key, end):
            newest = self._newest(found)
            if newest is not None and newest.value is not None:
                self._change(found, Version(self.revision + 1, None))

    def _change(self, key: bytes, version: Version) -> None:
        versions = self._keys.get(key)
        if versions is None:
            versions = self._keys[key] = []
            self._sorted.insert(bisect_left(self._sorted, key), key)
        if versions and versions[-1].lease:
            self.leases[versions[-1].lease].keys.discard(key)
        versions.append(version)
        self.changes.append(Change(version.revision, key, version))
        self._firsts.append(version.revision)
        self._wrote = True

    def _end(self) -> None:
        self.revision += self._wrote
        self._wrote = False

    def _holds(self, compare: pb.Compare) -> bool:
        newest = self._newest(compare.key)
        there = newest if newest is not None and newest.value is not None else None
        if compare.target == pb.Compare.VALUE:
            return there is not None and there.value == compare.value
        if compare.target == pb.Compare.MOD:
            return (there.revision if there else 0) == compare.mod_revision
        if compare.target == pb.Compare.VERSION:
            return (there.number if there else 0) == compare.version
        return (there.create if there else 0) == compare.create_revision

    def _newest(self, key: bytes) -> Version | None:
        versions = self._keys.get(key)
        return versions[-1] if versions else None

    def _within(self, key: bytes, end: bytes) -> list[bytes]:
        if not end:
            return [key] if key in self._keys else []
        return self._sorted[bisect_left(self._sorted, key) : bisect_left(self._sorted, end)]

    # What may be seen.

    def version(self, key: bytes, revision: int) -> Version | None:
        """What a key holds at a revision; None if nothing."""
        versions = self._keys.get(key, [])
        position = bisect_right(versions, revision, key=lambda version: version.revision)
        found = versions[position - 1] if position else None
        return found if found is not None and found.value is not None else None

    def state(self, key: bytes, end: bytes, revision: int) -> list[tuple[bytes, Version]]:
        """What a range holds at a revision."""
        found = ((each, self.version(each, revision)) for each in self._within(key, end))
        return [(each, version) for each, version in found if version is not None]

    def changes_after(self, revision: int, key: bytes, end: bytes) -> Iterable[Change]:
        """The events of a range after a revision, in order."""
        for change in self.changes[bisect_right(self._firsts, revision) :]:
            if change.key == key if not end else key <= change.key < end:
                yield change

    def check_rows(self, what: str, rows: Iterable[Any], key: bytes, end: bytes, revision: int) -> None:
        """Rows that were read at a revision are those of the history. Raises Violation."""
        got = [(kv.key, kv.value, kv.create_revision, kv.mod_revision, kv.version, kv.lease) for kv in rows]
        expected = [
            (found, version.value, version.create, version.revision, version.number, version.lease)
            for found, version in self.state(key, end, revision)
        ]
        if got != expected:
            raise Violation(f"{what} at revision {revision} gives {got}, not {expected}")
