"""A store as plain dicts: what every answer must be, computed the slow and obvious way."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from kvstore.errors import Compacted, FutureRev, KeyNotFound, KvstoreError, LeaseNotFound
from kvstore.pb import kv_pb2, rpc_pb2


@dataclass(frozen=True)
class Kv:
    key: bytes
    value: bytes
    create: int
    mod: int
    version: int
    lease: int

    def message(self, keys_only: bool = False) -> kv_pb2.KeyValue:
        return kv_pb2.KeyValue(
            key=self.key,
            value=b"" if keys_only else self.value,
            create_revision=self.create,
            mod_revision=self.mod,
            version=self.version,
            lease=self.lease,
        )


@dataclass(frozen=True)
class Change:
    revision: int
    key: bytes
    after: Kv | None
    before: Kv | None
    """At the revision before."""


@dataclass
class Model:
    """All states there ever were, by revision."""

    revision: int = 1
    compacted: int = -1
    live: dict[bytes, Kv] = field(default_factory=dict)
    states: dict[int, dict[bytes, Kv]] = field(default_factory=lambda: {1: {}})
    changes: list[Change] = field(default_factory=list)
    leases: set[int] = field(default_factory=set)
    wrote: bool = False

    def copy(self) -> Model:
        # What is in the containers never changes.
        return Model(
            self.revision,
            self.compacted,
            dict(self.live),
            dict(self.states),
            list(self.changes),
            set(self.leases),
            self.wrote,
        )

    def begin(self) -> None:
        self.wrote = False

    def end(self) -> None:
        if self.wrote:
            self.revision += 1
            self.states[self.revision] = dict(self.live)

    def seen_revision(self) -> int:
        return self.revision + 1 if self.wrote else self.revision

    def put(self, request: rpc_pb2.PutRequest) -> rpc_pb2.PutResponse:
        old = self.live.get(request.key)
        if request.lease and request.lease not in self.leases:
            raise LeaseNotFound
        if old is None and (request.ignore_value or request.ignore_lease):
            raise KeyNotFound
        return self.write(request)

    def write(self, request: rpc_pb2.PutRequest) -> rpc_pb2.PutResponse:
        old = self.live.get(request.key)
        revision = self.revision + 1
        new = Kv(
            key=request.key,
            value=old.value if old and request.ignore_value else request.value,
            create=old.create if old else revision,
            mod=revision,
            version=old.version + 1 if old else 1,
            lease=old.lease if old and request.ignore_lease else request.lease,
        )
        self.changes.append(Change(revision, request.key, new, self.states[self.revision].get(request.key)))
        self.live[request.key] = new
        self.wrote = True
        return rpc_pb2.PutResponse(prev_kv=old.message() if old and request.prev_kv else None)

    def delete(self, request: rpc_pb2.DeleteRangeRequest) -> rpc_pb2.DeleteRangeResponse:
        found = [kv for kv in sorted_live(self.live) if within(kv.key, request.key, request.range_end)]
        for kv in found:
            self.remove(kv.key)
        return rpc_pb2.DeleteRangeResponse(
            deleted=len(found), prev_kvs=[kv.message() for kv in found] if request.prev_kv else []
        )

    def remove(self, key: bytes) -> None:
        self.changes.append(Change(self.revision + 1, key, None, self.states[self.revision].get(key)))
        del self.live[key]
        self.wrote = True

    def state_at(self, revision: int) -> dict[bytes, Kv]:
        if revision <= 0 or revision == self.seen_revision():
            return self.live
        if revision > self.seen_revision():
            raise FutureRev
        if revision < self.compacted:
            raise Compacted
        return self.states[revision]

    def range(self, request: rpc_pb2.RangeRequest) -> rpc_pb2.RangeResponse:
        state = self.state_at(request.revision)
        rows = [kv for kv in sorted_live(state) if within(kv.key, request.key, request.range_end)]
        count = len(rows)
        if request.count_only:
            return rpc_pb2.RangeResponse(count=count)
        limit = request.limit if request.limit > 0 else len(rows)
        filtered = bool(
            request.min_mod_revision
            or request.max_mod_revision
            or request.min_create_revision
            or request.max_create_revision
        )
        if request.sort_order == rpc_pb2.RangeRequest.NONE and not filtered:
            rows = rows[: limit + 1]
        rows = [
            kv
            for kv in rows
            if not (
                (request.max_mod_revision and kv.mod > request.max_mod_revision)
                or (request.min_mod_revision and kv.mod < request.min_mod_revision)
                or (request.max_create_revision and kv.create > request.max_create_revision)
                or (request.min_create_revision and kv.create < request.min_create_revision)
            )
        ]
        field_of = {0: "key", 1: "version", 2: "create", 3: "mod", 4: "value"}[request.sort_target]
        if request.sort_target or request.sort_order:
            rows.sort(key=lambda kv: getattr(kv, field_of), reverse=request.sort_order == rpc_pb2.RangeRequest.DESCEND)
        return rpc_pb2.RangeResponse(
            kvs=[kv.message(request.keys_only) for kv in rows[:limit]], more=len(rows) > limit, count=count
        )

    def txn(self, request: rpc_pb2.TxnRequest) -> rpc_pb2.TxnResponse:
        before = self.copy()
        try:
            self.check(request)
            return self.run(request, before)
        except KvstoreError:
            self.__dict__.update(before.__dict__)
            raise

    def chosen(self, request: rpc_pb2.TxnRequest) -> bool:
        return all(self.holds(compare) for compare in request.compare)

    def check(self, request: rpc_pb2.TxnRequest) -> None:
        for operation in request.success if self.chosen(request) else request.failure:
            if operation.HasField("request_put"):
                put = operation.request_put
                if put.lease and put.lease not in self.leases:
                    raise LeaseNotFound
                if (put.ignore_value or put.ignore_lease) and put.key not in self.live:
                    raise KeyNotFound
            elif operation.HasField("request_range"):
                revision = operation.request_range.revision
                if revision > self.revision:
                    raise FutureRev
                if revision and revision < self.compacted:
                    raise Compacted
            elif operation.HasField("request_txn"):
                self.check(operation.request_txn)

    def run(self, request: rpc_pb2.TxnRequest, before: Model) -> rpc_pb2.TxnResponse:
        succeeded = before.chosen(request)
        response = rpc_pb2.TxnResponse(succeeded=succeeded)
        for operation in request.success if succeeded else request.failure:
            answer = response.responses.add()
            if operation.HasField("request_put"):
                answer.response_put.CopyFrom(self.write(operation.request_put))
                answer.response_put.header.revision = self.seen_revision()
            elif operation.HasField("request_range"):
                answer.response_range.CopyFrom(self.range(operation.request_range))
                answer.response_range.header.revision = self.seen_revision()
            elif operation.HasField("request_delete_range"):
                answer.response_delete_range.CopyFrom(self.delete(operation.request_delete_range))
                answer.response_delete_range.header.revision = self.seen_revision()
            else:
                answer.response_txn.CopyFrom(self.run(operation.request_txn, before))
                answer.response_txn.header.SetInParent()
        return response

    def holds(self, compare: rpc_pb2.Compare) -> bool:
        rows = [kv for kv in sorted_live(self.live) if within(kv.key, compare.key, compare.range_end)]
        if compare.target == rpc_pb2.Compare.VALUE:
            if not rows:
                return False
            pairs: list[tuple[object, object]] = [(kv.value, compare.value) for kv in rows]
        else:
            name, expected = {
                rpc_pb2.Compare.VERSION: ("version", compare.version),
                rpc_pb2.Compare.CREATE: ("create", compare.create_revision),
                rpc_pb2.Compare.MOD: ("mod", compare.mod_revision),
                rpc_pb2.Compare.LEASE: ("lease", compare.lease),
            }[compare.target]
            pairs = [(getattr(kv, name), expected) for kv in rows or [Kv(b"", b"", 0, 0, 0, 0)]]
        tests: dict[int, Callable[[Any, Any], bool]] = {
            rpc_pb2.Compare.EQUAL: lambda a, b: a == b,
            rpc_pb2.Compare.NOT_EQUAL: lambda a, b: a != b,
            rpc_pb2.Compare.GREATER: lambda a, b: a > b,
            rpc_pb2.Compare.LESS: lambda a, b: a < b,
        }
        return all(tests[compare.result](actual, expected) for actual, expected in pairs)

    def compact(self, revision: int) -> None:
        if revision <= self.compacted:
            raise Compacted
        if revision > self.revision:
            raise FutureRev
        self.compacted = revision

    def revoke(self, lease: int) -> None:
        if lease not in self.leases:
            raise LeaseNotFound
        for kv in sorted_live(self.live):
            if kv.lease == lease:
                self.remove(kv.key)
        self.leases.remove(lease)

    def events(
        self, first: int, key: bytes, range_end: bytes, filters: Iterable[int] = (), prev_kv: bool = False
    ) -> list[kv_pb2.Event]:
        """What a watch from a revision on must be told, as the history stands."""
        found = []
        for change in self.changes:
            if change.revision < first or not within(change.key, key, range_end):
                continue
            if (change.after is None) and rpc_pb2.WatchCreateRequest.NODELETE in filters:
                continue
            if (change.after is not None) and rpc_pb2.WatchCreateRequest.NOPUT in filters:
                continue
            event = kv_pb2.Event()
            if change.after is None:
                event.type = kv_pb2.Event.DELETE
                event.kv.key = change.key
                event.kv.mod_revision = change.revision
            else:
                event.kv.CopyFrom(change.after.message())
            created = change.after is not None and change.after.create == change.revision
            if prev_kv and change.before is not None and not created:
                event.prev_kv.CopyFrom(change.before.message())
            found.append(event)
        return found


def sorted_live(live: dict[bytes, Kv]) -> list[Kv]:
    return [live[key] for key in sorted(live)]


def within(key: bytes, start: bytes, range_end: bytes) -> bool:
    if not range_end:
        return key == start
    return key >= start and (range_end == b"\0" or key < range_end)


def without_prev(event: kv_pb2.Event) -> kv_pb2.Event:
    bare = kv_pb2.Event()
    bare.CopyFrom(event)
    bare.ClearField("prev_kv")
    return bare
