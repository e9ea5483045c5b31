"""Applying the log: each committed request to the store, the leases, the alarms or the membership, in order.

Deterministic: what a request does follows from the log and the state alone, on every member alike. Whoever waits for a
request on this member gets its response here, encoded and complete.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import structlog

from kvstore import errors
from kvstore.lease.lessor import Lessor
from kvstore.mvcc.puts import Put
from kvstore.mvcc.store import Store
from kvstore.pb import internal_pb2, rpc_pb2
from kvstore.rpc import Promise
from kvstore.server.alarms import Alarms
from kvstore.server.cluster_version import ClusterVersion
from kvstore.server.headers import ResponseHeaders
from kvstore.server.membership import Membership
from kvstore.server.metrics import ApplyTimes
from kvstore.server.proposals import Proposals, decode, identity
from kvstore.wire import length_delimited
from raft.confcodec import decode_entry
from raft.messages import ConfChange, ConfState, Entry, EntryType

Handler = Callable[[object], bytes]


class Applier:
    """Applies entries to one member's state.

    headers: makes the encoded header of responses. apply_conf_change: tells raft of a change (one with node id 0 if
    it was refused) and returns the new configuration; conf_state_changed stores it. conf_changes: callers of the
    membership changes that this member proposed, by sequence. times: told how long each entry took.
    """

    def __init__(
        self,
        *,
        member_id: int,
        store: Store,
        lessor: Lessor,
        alarms: Alarms,
        membership: Membership,
        version: ClusterVersion,
        proposals: Proposals,
        headers: ResponseHeaders,
        apply_conf_change: Callable[[ConfChange], ConfState],
        conf_state_changed: Callable[[ConfState], None],
        now: Callable[[], float],
        times: ApplyTimes,
    ) -> None:
        self._member_id = member_id
        self._store = store
        self._lessor = lessor
        self._alarms = alarms
        self._membership = membership
        self._version = version
        self._proposals = proposals
        self._headers = headers
        self._apply_conf_change = apply_conf_change
        self._conf_state_changed = conf_state_changed
        self._now = now
        self._times = times
        self.conf_changes: dict[int, Promise[bytes]] = {}
        self.applied_requests = 0
        # Typed by kind, not by class: a kind's handler is only ever given that kind's message.
        self._handlers = cast(
            dict[str, Handler],
            {
                "put": self._put,
                "delete_range": self._delete_range,
                "txn": self._txn,
                "compaction": self._compaction,
                "lease_grant": self._lease_grant,
                "lease_revoke": self._lease_revoke,
                "lease_checkpoint": self._lease_checkpoint,
                "alarm": self._alarm,
                "member_attributes": self._member_attributes,
                "removals_settled": self._removals_settled,
                "cluster_version": self._cluster_version,
            },
        )
        self._log = structlog.get_logger("kvstore.apply")

    def apply(self, entries: Sequence[Entry]) -> None:
        """Apply entries in their order."""
        for entry in entries:
            if entry.type is EntryType.NORMAL:
                if entry.data:
                    self._apply_batch(entry.index, entry.data)
            else:
                self._apply_membership(entry)

    def _check_writable(self) -> None:
        """Raise Corrupt while members are known to differ: nothing more may be built on that."""
        if self._alarms.corrupt:
            raise errors.Corrupt

    def _apply_batch(self, index: int, data: bytes) -> None:
        times = self._times
        began = times.clock()
        proposer, sequence = identity(data)
        batch = self._proposals.applied(sequence) if proposer == self._member_id else None
        handlers = self._handlers
        kinds: list[str] = []
        failed: list[str] = []
        if batch is None:
            for kind, request in decode(data)[2]:
                kinds.append(kind)
                try:
                    handlers[kind](request)
                except errors.KvstoreError as error:
                    # An outcome like any other; whoever asked is told by the member that proposed it.
                    if not isinstance(error, errors.Compacted):
                        failed.append(kind)
            self.applied_requests += len(kinds)
            times.applied(index, kinds, failed, began)
            return
        headers, store = self._headers, self._store
        self.applied_requests += len(batch.requests)
        for pending in batch.requests:
            try:
                body = handlers[pending.kind](pending.request)
            except errors.KvstoreError as error:
                if not isinstance(error, errors.Compacted):
                    failed.append(pending.kind)
                pending.promise.set_exception(error)
            else:
                pending.promise.set_result(headers.encode(store.revision) + body)
        times.applied(index, [pending.kind for pending in batch.requests], failed, began)

    # What each kind of request does.

    def _put(self, put: Put) -> bytes:
        # The one request where even a call would be felt.
        if self._alarms.corrupt:
            raise errors.Corrupt
        if self._alarms.no_space:
            raise errors.NoSpace
        return self._store.put(put)

    def _delete_range(self, request: rpc_pb2.DeleteRangeRequest) -> bytes:
        self._check_writable()
        return self._store.delete_range(request)

    def _txn(self, request: rpc_pb2.TxnRequest) -> bytes:
        self._check_writable()
        if self._alarms.no_space and txn_puts(request):
            raise errors.NoSpace
        return self._store.txn(request)

    def _compaction(self, request: rpc_pb2.CompactionRequest) -> bytes:
        self._check_writable()
        self._store.compact(request.revision)
        self._times.compacting(self._store.compactor, request.revision)
        return b""

    def _lease_grant(self, request: rpc_pb2.LeaseGrantRequest) -> bytes:
        self._check_writable()
        if self._alarms.no_space:
            raise errors.NoSpace
        return self._lessor.grant(request, self._now())

    def _lease_revoke(self, request: rpc_pb2.LeaseRevokeRequest) -> bytes:
        self._check_writable()
        return self._lessor.revoke(request.ID, self._store.delete_keys)

    def _lease_checkpoint(self, request: rpc_pb2.LeaseCheckpointRequest) -> bytes:
        self._check_writable()
        self._lessor.checkpoint(request)
        return b""

    def _alarm(self, request: rpc_pb2.AlarmRequest) -> bytes:
        return b"".join(length_delimited(2, alarm.SerializeToString()) for alarm in self._alarms.apply(request))

    def _member_attributes(self, request: internal_pb2.MemberAttributes) -> bytes:
        self._membership.set_attributes(request)
        return b""

    def _removals_settled(self, request: internal_pb2.RemovalsSettled) -> bytes:
        self._membership.settle(request.members)
        return b""

    def _cluster_version(self, request: internal_pb2.ClusterVersion) -> bytes:
        self._version.apply(request)
        return b""

    # Membership.

    def _apply_membership(self, entry: Entry) -> None:
        change = decode_entry(entry)
        if not isinstance(change, ConfChange):
            raise AssertionError(f"entry {entry.index} holds a kind of change that no member proposes")
        context = internal_pb2.MemberChange.FromString(change.context)
        verdict = self._membership.verdict(change, context)
        if verdict is None:
            self._membership.apply(change, context)
            self._conf_state_changed(self._apply_conf_change(change))
            self._log.info("applied a membership change", change=change.type.name, member=f"{change.node_id:x}")
        else:
            # Raft waits for every change it let into the log; one without a node changes nothing.
            self._apply_conf_change(ConfChange(change.id, change.type, 0))
            self._log.warning("refused a membership change", change=change.type.name, reason=type(verdict).__name__)
        promise = self.conf_changes.pop(context.sequence, None) if context.proposer == self._member_id else None
        if promise is None:
            return
        if verdict is not None:
            promise.set_exception(verdict)
        else:
            promise.set_result(self._headers.encode(self._store.revision))


def txn_puts(request: rpc_pb2.TxnRequest) -> bool:
    """Whether a branch of the txn, or of one inside it, may put."""
    for operation in (*request.success, *request.failure):
        kind = operation.WhichOneof("request")
        if kind == "request_put" or (kind == "request_txn" and txn_puts(operation.request_txn)):
            return True
    return False
