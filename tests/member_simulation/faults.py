"""Faults to put into the product by hand: each breaks one promise, and the simulation has to notice."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

from kvstore.lease.lessor import Lessor
from kvstore.mvcc.watch import WatchHub, WatchStream
from kvstore.pb import rpc_pb2
from kvstore.rpc import Promise
from kvstore.server.leases import LeaseKeeper
from kvstore.server.member import Member
from kvstore.server.proposals import Proposals
from kvstore.server.ready_loop import ReadyLoop
from kvstore.server.state import State
from kvstore.storage.backend import Backend
from kvstore.storage.batch import WriteBatch
from kvstore.storage.journaled import JournaledWriter
from kvstore.storage.wal import Wal
from raft.messages import Entry


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault.

    owner, name: what is replaced. replacement: is given what was there. caught: how it is noticed. first: the seed to
    begin with; of one that few worlds notice, such as one in thirty, near a world that does.
    """

    id: str
    owner: type
    name: str
    replacement: Callable[[Callable[..., Any]], Callable[..., Any]]
    caught: str
    first: int = 0

    @contextmanager
    def put_in(self) -> Iterator[None]:
        """Have it."""
        with patch.object(self.owner, self.name, self.replacement(getattr(self.owner, self.name))):
            yield


def _acknowledge_before_writing(original: Callable[..., Any]) -> Callable[..., Any]:
    def submit(self: Any, batch: WriteBatch, done: Callable[[], None], stored: Any = None) -> None:
        if self._failed:
            return
        self._keep(batch.operations, stored)
        done()

    return submit


def _acknowledge_what_is_being_written(original: Callable[..., Any]) -> Callable[..., Any]:
    def write(self: Any, payload: bytes, batch: Any) -> None:
        original(self, payload, batch)
        if self._under_way is not None:
            self._under_way = batch._replace(done=lambda: None)
            batch.done()

    return write


def _forget_votes(original: Callable[..., Any]) -> Callable[..., Any]:
    return lambda self, batch: None


def _skip_an_entry_after_a_start(original: Callable[..., Any]) -> Callable[..., Any]:
    def apply(self: State, entries: Sequence[Entry]) -> None:
        began = getattr(self, "began", self.applied == 0)
        self.began = True  # type: ignore[attr-defined]
        original(self, entries if began or len(entries) == 1 else entries[1:])

    return apply


def _read_without_a_round(original: Callable[..., Any]) -> Callable[..., Any]:
    return lambda self, waiter: waiter(None)


def _renew_without_the_leader(original: Callable[..., Any]) -> Callable[..., Any]:
    def renew(self: Any, lease_id: int) -> Promise[int]:
        lease = self._lessor.get(lease_id)
        return original(self, lease_id) if self._leader.is_leader or lease is None else Promise.resolved(lease.ttl)

    return renew


def _start_leases_with_nothing_left(original: Callable[..., Any]) -> Callable[..., Any]:
    def expiry(self: Any, lease: Any) -> Any:
        return original(self, lease) if lease.reign == self._reign else self._began

    return expiry


def _never_expire(original: Callable[..., Any]) -> Callable[..., Any]:
    return lambda self, now: []


def _watch_from_the_next_revision(original: Callable[..., Any]) -> Callable[..., Any]:
    def create(self: Any, request: rpc_pb2.WatchCreateRequest) -> int | None:
        if request.start_revision:
            request.start_revision += 1
        result: int | None = original(self, request)
        return result

    return create


def _skip_what_a_snapshot_brought(original: Callable[..., Any]) -> Callable[..., Any]:
    def reload(self: Any) -> None:
        self._store.take_events()
        self.notified_revision = self._store.revision

    return reload


def _let_checkpoints_outlive_renewals(original: Callable[..., Any]) -> Callable[..., Any]:
    return lambda self, lease_id: None


def _keep_the_leases_from_before_a_snapshot(original: Callable[..., Any]) -> Callable[..., Any]:
    def reload(self: Any) -> None:
        known = self._leases
        original(self)
        if getattr(self, "loaded", False):
            self._leases = known
        self.loaded = True

    return reload


def _forget_the_configuration(original: Callable[..., Any]) -> Callable[..., Any]:
    def set_conf_state(self: Any, state: Any) -> None:
        self.conf_state = state

    return set_conf_state


def _cut_what_is_not_flushed(original: Callable[..., Any]) -> Callable[..., Any]:
    def cut(self: Any) -> None:
        if self.applied - self._cut >= 2 and self.applied > self.wal.cut.index:
            self._cut = self.applied
            self.wal.compact(self._cut)

    return cut


def _flush_a_position_ahead(original: Callable[..., Any]) -> Callable[..., Any]:
    def set_applied(self: Backend, index: int, term: int) -> None:
        original(self, index + (index % 7 == 0), term)

    return set_applied


def _propose_twice(original: Callable[..., Any]) -> Callable[..., Any]:
    def take(self: Any) -> Any:
        taken = original(self)
        return [*taken, *taken[:1]] if self._next % 10 == 0 else taken

    return take


def _forget_that_a_removal_is_committed(original: Callable[..., Any]) -> Callable[..., Any]:
    def append_commit(self: Any, message: Any, hard_state: Any) -> None:
        original(self, message, None)

    return append_commit


FAULTS: tuple[Fault, ...] = (
    Fault("acknowledged before it is written", JournaledWriter, "submit", _acknowledge_before_writing, "lost"),
    Fault(
        "acknowledged while it is being written",
        JournaledWriter,
        "_write",
        _acknowledge_what_is_being_written,
        "lost|told of|was known",
    ),
    Fault("votes are not written", Wal, "_put_hard_state", _forget_votes, "lost its hard state"),
    Fault("an entry is skipped after a start", State, "apply", _skip_an_entry_after_a_start, "revision"),
    Fault("reads ask nobody", Member, "confirm", _read_without_a_round, "linearizability|was known|lease"),
    Fault("followers renew leases by themselves", LeaseKeeper, "renew", _renew_without_the_leader, "promised"),
    Fault("leases begin anew with nothing left", Lessor, "_expiry", _start_leases_with_nothing_left, "promised"),
    Fault("leases never end", Lessor, "expired", _never_expire, "every lease to end"),
    Fault(
        "watches begin a revision late",
        WatchStream,
        "create",
        _watch_from_the_next_revision,
        "told of|misses|every watch",
    ),
    Fault(
        "watches miss what a snapshot brought",
        WatchHub,
        "reload",
        _skip_what_a_snapshot_brought,
        "told of|misses|every watch",
        first=13,
    ),
    Fault(
        "checkpoints outlive renewals",
        Lessor,
        "owed_checkpoint",
        _let_checkpoints_outlive_renewals,
        "promised",
        first=10,
    ),
    Fault(
        "leases are those from before a snapshot",
        Lessor,
        "reload",
        _keep_the_leases_from_before_a_snapshot,
        "",
        first=13,
    ),
    Fault("the configuration is not stored", State, "set_conf_state", _forget_the_configuration, ""),
    Fault(
        "the log is cut before the state is flushed", State, "_cut_log", _cut_what_is_not_flushed, "log begins after"
    ),
    Fault("a position is flushed that is ahead", Backend, "set_applied", _flush_a_position_ahead, "state: "),
    Fault(
        "that a removal is committed is not stored",
        ReadyLoop,
        "_append_commit",
        _forget_that_a_removal_is_committed,
        "removal: ",
        first=21,
    ),
    Fault("a batch is proposed twice", Proposals, "take", _propose_twice, "takes effect at"),
)
