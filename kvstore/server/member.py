"""One member of a cluster: the requests of the etcd v3 API, decided.

Checks a request, puts it into the log or has the read confirmed, and answers with encoded responses. How the parts of a
member are made and wired is `assembly.py`'s business; how requests arrive, the API's.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from typing import Final, TypeVar

from kvstore import errors
from kvstore.lease.lessor import Lessor
from kvstore.mvcc import validate
from kvstore.mvcc.puts import Put
from kvstore.mvcc.ranges import StreamPart
from kvstore.mvcc.store import Store
from kvstore.pb import rpc_pb2 as pb
from kvstore.rpc import Promise
from kvstore.server.apply import txn_puts
from kvstore.server.changes import MembershipChanges
from kvstore.server.config import Config
from kvstore.server.disk import Disk
from kvstore.server.elsewhere import Elsewhere
from kvstore.server.headers import ResponseHeaders
from kvstore.server.leases import LeaseKeeper
from kvstore.server.long_answers import EAGER, Asker, ReadAnswers
from kvstore.server.maintenance import Maintenance
from kvstore.server.proposer import RequestProposer
from kvstore.server.reads import ReadRounds, Waiter
from kvstore.server.ready_loop import ReadyLoop
from kvstore.server.state import State
from kvstore.wire import varint

Request = TypeVar("Request", pb.RangeRequest, pb.TxnRequest)

Answer = Callable[[Request, Promise[bytes], Asker], None]
"""Makes the answer to a read and resolves the promise with it."""

CROWDED_REQUESTS: Final = 5_000
"""Requests waiting, beyond which a client that has many of them is refused more; one that has few is still served."""


FREEING_SECONDS: Final = 30.0
"""What a defragmentation waits at most for compactions to free what they can: some 2,000,000 old versions."""


class Member:
    """One member.

    Methods that return Promise[bytes] resolve to the encoded response message, header included, or fail with a
    KvstoreError; they check the request first, so the promise may be resolved on return. Nothing here blocks.
    """

    def __init__(
        self,
        *,
        config: Config,
        member_id: int,
        cluster_id: int,
        headers: ResponseHeaders,
        state: State,
        loop: ReadyLoop,
        proposer: RequestProposer,
        reads: ReadRounds,
        elsewhere: Elsewhere,
        leases: LeaseKeeper,
        changes: MembershipChanges,
        maintenance: Maintenance,
        disk: Disk,
        chance: random.Random,
    ) -> None:
        self.config = config
        self.id = member_id
        self.cluster_id = cluster_id
        self.state = state
        self.store: Store = state.store
        self.lessor: Lessor = state.lessor
        self.loop = loop
        self.reads = reads
        self.elsewhere = elsewhere
        self.leases = leases
        self.changes = changes
        self.maintenance = maintenance
        self.proposer = proposer
        self.disk = disk
        self._headers = headers
        self._chance = chance
        self._time = asyncio.get_running_loop().time
        self._answers = ReadAnswers(self.store.range_steps, self.header, asyncio.get_running_loop().call_soon)
        self._quota = config.quota
        self._raising_no_space = False
        self._defragmentations: set[asyncio.Task[None]] = set()
        self._leader_lost_callbacks: dict[int, Callable[[], None]] = {}

    # What every answer needs.

    def header(self, revision: int | None = None) -> bytes:
        """Field 1 of a response, encoded: tag, length, ResponseHeader. revision: the store's current one if None."""
        return self._headers.encode(self.store.revision if revision is None else revision)

    def header_message(self) -> pb.ResponseHeader:
        """The same as a message, for responses that are not made by hand."""
        return pb.ResponseHeader.FromString(self.header()[2:])

    @property
    def has_leader(self) -> bool:
        """Whether this member knows a leader."""
        return self.loop.leadership.leader != 0

    @property
    def protocol_version(self) -> int:
        """The version of the protocol between members that the cluster uses."""
        return self.state.version.current

    @property
    def crowded(self) -> bool:
        """Whether so many requests wait that those who send the most should be refused."""
        return self.proposer.pending_requests >= CROWDED_REQUESTS or self.reads.joining >= CROWDED_REQUESTS

    @property
    def is_leader(self) -> bool:
        """Whether this member leads."""
        return self.loop.leadership.is_leader

    @property
    def is_learner(self) -> bool:
        """Whether this member has no vote yet."""
        member = self.state.membership.get(self.id)
        return member is not None and member.isLearner

    def on_leader_lost(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call back each time there has been no leader for longer than an election timeout; returns how to stop it."""
        key = id(callback)
        self._leader_lost_callbacks[key] = callback
        return lambda: self._leader_lost_callbacks.pop(key, None) and None

    def leader_lost(self) -> None:
        """There has been no leader for longer than an election timeout."""
        for callback in list(self._leader_lost_callbacks.values()):
            callback()

    # KV

    def range(self, request: pb.RangeRequest, asker: Asker = EAGER) -> Promise[bytes]:
        """Read keys. Long answers are made in steps that let the loop go on."""
        try:
            validate.check_range(request)
        except errors.KvstoreError as error:
            return Promise.failed(error)
        if request.serializable:
            return self._read(self._answers.range, request, asker)
        return self._confirmed_read(self._answers.range, request, asker)

    async def range_here(self, request: pb.RangeRequest) -> bytes:
        """Read keys for another member, which cannot: an encoded response. Fails as that did if it cannot either."""
        validate.check_range(request)
        await self.linearizable()
        return await self._read(self._answers.range, request, EAGER)

    async def range_stream(self, request: pb.RangeRequest, asker: Asker = EAGER) -> AsyncIterator[bytes]:
        """Read keys: encoded RangeStreamResponse messages, each made in its turn."""
        validate.check_range(request)
        if not request.serializable:
            await self.linearizable()
        with contextlib.closing(self.store.range_stream(request)) as parts:
            while (message := await self._range_part(parts, asker)) is not None:
                yield message
                # The next may have to wait for long, and this one can be large.
                del message

    async def _range_part(self, parts: Iterator[StreamPart | None], asker: Asker) -> bytes | None:
        # A function of its own, so that while the client reads nothing is kept but the message.
        part = await self._answers.part(parts, asker)
        if part is None:
            return None
        header = self.header()
        return b"".join((b"\n", varint(len(header) + len(part.body)), header, part.body))

    def put(self, put: Put) -> Promise[bytes]:
        """Set a key."""
        try:
            put.check()
            self._check_space()
        except errors.KvstoreError as error:
            return Promise.failed(error)
        return self.proposer.propose_encoded("put", put, put.encoded)

    def delete_range(self, request: pb.DeleteRangeRequest) -> Promise[bytes]:
        """Delete keys."""
        try:
            validate.check_delete_range(request)
        except errors.KvstoreError as error:
            return Promise.failed(error)
        return self.proposer.propose("delete_range", request)

    def txn(self, request: pb.TxnRequest, asker: Asker = EAGER) -> Promise[bytes]:
        """Compare, then do one of two things. Without writes it is a read: serializable if all its ranges are."""
        try:
            validate.check_txn(request, self.config.max_txn_ops)
            if txn_writes(request):
                if txn_puts(request):
                    self._check_space()
                return self.proposer.propose("txn", request)
        except errors.KvstoreError as error:
            return Promise.failed(error)
        if txn_serializable(request):
            return self._read(self._answer_txn, request, asker)
        return self._confirmed_read(self._answer_txn, request, asker)

    async def txn_here(self, request: pb.TxnRequest) -> bytes:
        """As range_here, for a txn without writes. Raises NotCapable for another one."""
        validate.check_txn(request, self.config.max_txn_ops)
        if txn_writes(request):
            raise errors.NotCapable
        await self.linearizable()
        return await self._read(self._answer_txn, request, EAGER)

    def compact(self, request: pb.CompactionRequest) -> Promise[bytes]:
        """Forget history. With `physical`, answered when the space is free on this member."""
        answer = self.proposer.propose("compaction", request)
        if not request.physical:
            return answer
        promise: Promise[bytes] = Promise()

        def applied(answer: Promise[bytes]) -> None:
            error = answer.exception()
            if error is not None:
                promise.set_exception(error)
                return
            self.store.compactor.when_finished(request.revision, lambda: promise.set_result(answer.result()))

        answer.then(applied)
        return promise

    # Lease

    def lease_grant(self, request: pb.LeaseGrantRequest) -> Promise[bytes]:
        """Create a lease; ID 0 lets this member choose one."""
        try:
            self._check_space()
        except errors.KvstoreError as error:
            return Promise.failed(error)
        if request.ID == 0:
            chosen = pb.LeaseGrantRequest(TTL=request.TTL)
            while chosen.ID == 0 or self.lessor.exists(chosen.ID):
                chosen.ID = self._chance.getrandbits(63)
            request = chosen
        return self.proposer.propose("lease_grant", request)

    def lease_revoke(self, request: pb.LeaseRevokeRequest) -> Promise[bytes]:
        """End a lease and delete its keys."""
        return self.proposer.propose("lease_revoke", request)

    def lease_renew(self, lease_id: int) -> Promise[int]:
        """Renew a lease here or, on a follower, at the leader: its TTL, 0 if there is no such lease."""
        return self.leases.renew(lease_id)

    async def lease_time_to_live(self, request: pb.LeaseTimeToLiveRequest) -> bytes:
        """What is left of a lease: an encoded response."""
        try:
            await self.linearizable()
        except errors.NoRoomToCatchUp:
            # The leader, if that is another member, answers by what it has applied itself.
            if self.is_leader:
                raise
        return self.header() + await self.leases.time_to_live(request)

    async def lease_leases(self) -> bytes:
        """All leases: an encoded response."""
        await self.linearizable()
        return self.header() + self.lessor.leases()

    # Cluster

    async def member_list(self, linearizable: bool) -> list[pb.Member]:
        """Everybody in the cluster."""
        if linearizable:
            await self.linearizable()
        return self.state.membership.all()

    async def member_add(self, peer_urls: Sequence[str], is_learner: bool) -> tuple[pb.Member, list[pb.Member]]:
        """Add a member: itself and everybody."""
        return await self.changes.add(peer_urls, is_learner)

    async def member_remove(self, number: int) -> list[pb.Member]:
        """Remove a member: everybody left."""
        return await self.changes.remove(number)

    async def member_update(self, number: int, peer_urls: Sequence[str]) -> list[pb.Member]:
        """Change where a member is reached: everybody."""
        return await self.changes.update(number, peer_urls)

    async def member_promote(self, number: int) -> list[pb.Member]:
        """Make a learner a voter: everybody."""
        return await self.changes.promote(number)

    # Maintenance

    def status(self) -> pb.StatusResponse:
        """Sizes, leader and indexes, and what is wrong."""
        return self.maintenance.status()

    async def alarm(self, request: pb.AlarmRequest) -> pb.AlarmResponse:
        """List, raise or disarm alarms."""
        return await self.maintenance.alarm(request)

    async def hash(self) -> int:
        """A hash of the whole state."""
        return await self.maintenance.hash()

    async def hash_kv(self, revision: int) -> pb.HashKVResponse:
        """A hash of the history up to a revision."""
        return await self.maintenance.hash_kv(revision)

    def snapshot(self) -> AsyncGenerator[pb.SnapshotResponse, None]:
        """A consistent copy of the state in chunks, its SHA-256 at the end."""
        return self.maintenance.snapshot()

    async def defragment(self) -> None:
        """Rewrite the state's file without its free pages, of which there are more once compactions are done.

        A compaction that was answered counts, whichever member answered it; without a leader only if it has come here.
        Goes on when the caller is cancelled: who waits no longer may ask again, and find it done.
        """
        task = asyncio.create_task(self._defragment())
        self._defragmentations.add(task)
        task.add_done_callback(self._defragmentations.discard)
        await asyncio.shield(task)

    async def _defragment(self) -> None:
        compactor = self.store.compactor
        freed = asyncio.Event()
        with contextlib.suppress(errors.KvstoreError, TimeoutError):
            async with asyncio.timeout(FREEING_SECONDS):
                if self.loop.leadership.leader:
                    await self.linearizable()
                compactor.when_finished(self.store.compact_revision, freed.set)
                await freed.wait()
        await self.maintenance.defragment()

    async def stop(self) -> None:
        """Give up what waits for its time to come."""
        for task in self._defragmentations:
            task.cancel()
        await asyncio.gather(*self._defragmentations, return_exceptions=True)

    async def move_leader(self, target: int) -> None:
        """Hand leadership on. Raises NotLeader, BadLeaderTransferee or RequestTimeout."""
        await self.maintenance.move_leader(target)

    # Reads

    async def linearizable(self) -> None:
        """Return once everything committed before the call is applied here. Raises KvstoreError."""
        promise: Promise[None] = Promise()

        def confirmed(error: errors.KvstoreError | None) -> None:
            if error is None:
                promise.set_result(None)
            else:
                promise.set_exception(error)

        self.confirm(confirmed)
        await promise

    def confirm(self, waiter: Waiter) -> None:
        """Call back once everything committed before the call is applied here."""
        if self.proposer.stopped:
            waiter(errors.Stopped())
            return
        self.reads.join(waiter, self._time())
        self.loop.wake()

    def _confirmed_read(self, answer: Answer[Request], request: Request, asker: Asker) -> Promise[bytes]:
        promise: Promise[bytes] = Promise()

        def confirmed(error: errors.KvstoreError | None) -> None:
            if error is None:
                asker.when_relieved(lambda: answer(request, promise, asker))
            elif isinstance(error, errors.NoRoomToCatchUp):
                asker.when_relieved(lambda: self._read_elsewhere(request, promise))
            else:
                promise.set_exception(error)

        self.confirm(confirmed)
        return promise

    def _read_elsewhere(self, request: pb.RangeRequest | pb.TxnRequest, promise: Promise[bytes]) -> None:
        def answered(answer: Promise[bytes]) -> None:
            error = answer.exception()
            if error is None:
                promise.set_result(answer.result())
            else:
                promise.set_exception(error)

        self.elsewhere.read(request).then(answered)

    def _read(self, answer: Answer[Request], request: Request, asker: Asker) -> Promise[bytes]:
        promise: Promise[bytes] = Promise()
        asker.when_relieved(lambda: answer(request, promise, asker))
        return promise

    def _answer_txn(self, request: pb.TxnRequest, promise: Promise[bytes], asker: Asker) -> None:
        self._answers.whole(lambda: self.store.txn(request), promise, asker)

    # Space

    def _check_space(self) -> None:
        """Raise NoSpace if nothing more may be stored, and have everybody know it."""
        if self.state.alarms.no_space:
            # Not raised here: what the alarm means is decided where the log is applied, alike on all members. But no
            # need to bother them with a request whose fate is known.
            raise errors.NoSpace
        quota = self._quota
        if quota is not None and self.state.backend.size > quota:
            self.raise_no_space()
            raise errors.NoSpace

    def raise_no_space(self) -> None:
        """Raise the NOSPACE alarm, once."""
        if self._raising_no_space or self.state.alarms.no_space:
            return
        self._raising_no_space = True

        def answered(_: Promise[bytes]) -> None:
            self._raising_no_space = False

        request = pb.AlarmRequest(action=pb.AlarmRequest.ACTIVATE, memberID=self.id, alarm=pb.AlarmType.NOSPACE)
        self.proposer.propose("alarm", request).then(answered)


def txn_writes(request: pb.TxnRequest) -> bool:
    """Whether a branch of the txn, or of one inside it, may write."""
    for operation in (*request.success, *request.failure):
        kind = operation.WhichOneof("request")
        if kind != "request_range" and (kind != "request_txn" or txn_writes(operation.request_txn)):
            return True
    return False


def txn_serializable(request: pb.TxnRequest) -> bool:
    """Whether a txn without writes has ranges, and all of them ask for no more than a serializable read."""
    ranges = list(txn_ranges(request))
    return bool(ranges) and all(each.serializable for each in ranges)


def txn_ranges(request: pb.TxnRequest) -> Iterator[pb.RangeRequest]:
    """All ranges of a txn and of those inside it."""
    for operation in (*request.success, *request.failure):
        if operation.WhichOneof("request") == "request_txn":
            yield from txn_ranges(operation.request_txn)
        else:
            yield operation.request_range
