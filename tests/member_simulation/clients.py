"""Clients: what they ask, and what they were told, held against the truth as it comes.

Each is a process that never dies, with one connection at a time; when a call fails it goes to another member. Nothing
is learned from a failed call but that its effect, if it has one, comes once and not before the call was made.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TypeVar

from google.protobuf.message import Message

from kvstore.pb import rpc_pb2 as pb
from kvstore.rpc import RpcError, StatusCode
from kvstore.rpc.incoming import EOF
from tests.history.model import Watch
from tests.member_simulation.host import Host
from tests.member_simulation.network import Call, Channel, Network
from tests.member_simulation.recording import Scribe
from tests.member_simulation.timeline import ProcessLoop, Timeline, Violation
from tests.member_simulation.truth import Change, Truth

R = TypeVar("R", bound=Message)

CALL_SECONDS: Final = 8.0

WITHOUT_EFFECT: Final = frozenset(
    {
        StatusCode.INVALID_ARGUMENT,
        StatusCode.NOT_FOUND,
        StatusCode.RESOURCE_EXHAUSTED,
        StatusCode.FAILED_PRECONDITION,
        StatusCode.OUT_OF_RANGE,
    }
)
"""A call that fails with one of these was refused: it has no effect, now or later."""


@dataclass(slots=True)
class Write:
    """A put on its way. floor: what was known when it began. applied: where it took effect."""

    floor: int
    applied: int = 0
    refused: bool = False


@dataclass(slots=True)
class HeldLease:
    """A lease as its client sees it. alive_until: the world's time up to which it was promised. ended: whether its
    client has asked for its end."""

    number: int
    ttl: int
    alive_until: float
    ended: bool = False


class Cluster(Protocol):
    """Where clients find members."""

    hosts: list[Host]
    network: Network
    timeline: Timeline
    truth: Truth
    scribe: Scribe
    fastest: float
    """The rate of the fastest clock."""


@dataclass(slots=True)
class Book:
    """What all clients know together.

    floor: the highest revision that anybody was told of. hashes: by revision and compacted revision.
    """

    cluster: Cluster
    floor: int = 1
    floors: dict[tuple[str, int], int] = field(default_factory=dict)
    writes: dict[bytes, Write] = field(default_factory=dict)
    leases: dict[int, HeldLease] = field(default_factory=dict)
    hashes: dict[tuple[int, int], tuple[int, str]] = field(default_factory=dict)
    calls: int = 0
    answers: int = 0

    def __post_init__(self) -> None:
        """Be told of what takes effect."""
        self.cluster.truth.on_put = self._applied
        self.cluster.truth.on_revoke = self._revoked

    def _applied(self, key: bytes, value: bytes, revision: int) -> None:
        write = self.writes.get(value + b"@" + key)
        if write is None:
            raise Violation(f"{key!r} = {value!r} at {revision}, which nobody has asked for")
        if write.applied:
            raise Violation(f"{key!r} = {value!r} takes effect at {write.applied} and at {revision}")
        if write.refused:
            raise Violation(f"{key!r} = {value!r} was refused and takes effect at {revision}")
        if revision <= write.floor:
            raise Violation(f"{key!r} = {value!r} takes effect at {revision}, but {write.floor} was known before")
        write.applied = revision

    def _revoked(self, number: int) -> None:
        lease, now = self.leases.get(number), self.cluster.timeline.now
        if lease is not None and not lease.ended and now < lease.alive_until:
            raise Violation(f"lease {number:x} ends at {now:.3f}; it was promised until {lease.alive_until:.3f}")

    def check_renewal(self, lease: HeldLease, asked: float, ttl: int) -> None:
        """A renewal was answered."""
        truth = self.cluster.truth.leases.get(lease.number)
        revoked = truth.revoked_at if truth is not None else None
        if ttl <= 0:
            if revoked is None and self.cluster.timeline.now < lease.alive_until and not lease.ended:
                raise Violation(f"lease {lease.number:x} is said to be gone; promised until {lease.alive_until:.3f}")
            return
        if revoked is not None and revoked < asked:
            raise Violation(f"lease {lease.number:x} is renewed at {asked:.3f}, it was revoked at {revoked:.3f}")
        until = asked + ttl / self.cluster.fastest
        if revoked is not None and not lease.ended and revoked < until:
            raise Violation(f"lease {lease.number:x} ends at {revoked:.3f}; a renewal promised {until:.3f}")
        lease.alive_until = max(lease.alive_until, until)

    def see(self, floor: int, revision: int, writes: bool, what: str) -> None:
        """A linearizable call that began at `floor` was answered at a revision. Raises Violation."""
        if revision > self.cluster.truth.revision:
            raise Violation(f"{what} is answered at {revision}; the log leads to {self.cluster.truth.revision}")
        if revision < floor or (writes and revision == floor):
            raise Violation(f"linearizability: {what} at revision {revision} after {floor} was known")
        self.floor = max(self.floor, revision)


class Client:
    """What every client does: calls, at one member after another."""

    def __init__(self, cluster: Cluster, book: Book, name: str, chance: random.Random) -> None:
        self.name = name
        self.cluster = cluster
        self.book = book
        self.chance = chance
        self.quiet = False
        self.loop = ProcessLoop(cluster.timeline, name)
        self.host: Host = chance.choice(cluster.hosts)
        self._channel: Channel | None = None

    def go(self, work: Callable[[], Awaitable[None]]) -> None:
        """Begin."""

        async def begin() -> None:
            try:
                await work()
            except Exception as error:
                self.cluster.timeline.fail(error)

        self.loop.create_task(begin())

    def choose(self) -> None:
        """Go to another member, or the same."""
        self.host = self.chance.choice(self.cluster.hosts)
        self._channel = None

    def channel(self) -> Channel:
        """The connection."""
        if self._channel is None:
            self._channel = self.cluster.network.channel(self.loop, self.host.client_url)
        return self._channel

    async def call(self, method: str, request: Message, response: type[R]) -> R:
        """Call a unary method. Raises RpcError; the next call goes elsewhere then."""
        self.book.calls += 1
        noted = self.cluster.scribe.asked(self.name, request)
        try:
            encoded = await self.channel().unary(
                f"/etcdserverpb.{method}", request.SerializeToString(), timeout=CALL_SECONDS
            )
        except RpcError as error:
            self.cluster.timeline.trace.mark(error.code.name.encode())
            refused = error.code in WITHOUT_EFFECT
            self.cluster.scribe.failed(noted, error, refused)
            if not refused:
                self.choose()
            raise
        self.book.answers += 1
        answer = response.FromString(encoded)
        self.cluster.scribe.answered(noted, answer)
        self.cluster.timeline.trace.mark(encoded)
        return answer

    async def sleep(self, mean: float) -> None:
        """For a while."""
        await asyncio.sleep(self.chance.expovariate(1.0) * mean)

    def note_hash(self, revision: int, answer: pb.HashKVResponse, name: str) -> None:
        """Compare a hash with what others said. Raises Violation."""
        place = (revision, answer.compact_revision)
        other = self.book.hashes.setdefault(place, (answer.hash, name))
        if other[0] != answer.hash:
            raise Violation(f"{name} and {other[1]} have different histories up to {place}")

    def visit(self, host: Host) -> None:
        """Go to a certain member."""
        self.host = host
        self._channel = None


class Worker(Client):
    """Reads, writes, deletes and compares; each value is written once in a world."""

    def __init__(self, cluster: Cluster, book: Book, name: str, chance: random.Random, keys: int, pace: float) -> None:
        super().__init__(cluster, book, name, chance)
        self._keys = [b"k%d" % number for number in range(keys)]
        self._pace = pace
        self._serial = 0
        self._lease: HeldLease | None = None
        self._actions: list[tuple[Callable[[], Awaitable[None]], int]] = [
            (self.put, 30),
            (self.get, 20),
            (self.get_serializable, 8),
            (self.get_past, 4),
            (self.compare_and_put, 20),
            (self.write_several, 6),
            (self.delete, 6),
            (self.hold_lease, 8),
            (self.end_lease, 2),
            (self.compact, 2),
            (self.ask_hash, 3),
        ]

    async def run(self) -> None:
        """Work until told to be quiet."""
        actions = [action for action, _ in self._actions]
        weights = [weight for _, weight in self._actions]
        while True:
            await self.sleep(self._pace)
            if self.quiet:
                await asyncio.sleep(1.0)
                continue
            if self.chance.random() < 0.05:
                self.choose()
            with contextlib.suppress(RpcError):
                await self.chance.choices(actions, weights)[0]()

    def _key(self) -> bytes:
        return self.chance.choice(self._keys)

    def _value(self) -> bytes:
        self._serial += 1
        return b"%s.%d" % (self.name.encode(), self._serial)

    def _begin(self, *pairs: tuple[bytes, bytes]) -> list[Write]:
        writes = []
        for key, value in pairs:
            write = self.book.writes[value + b"@" + key] = Write(self.book.floor)
            writes.append(write)
        return writes

    async def _change(self, method: str, request: Message, response: type[R], writes: list[Write]) -> R:
        try:
            return await self.call(method, request, response)
        except RpcError as error:
            if error.code in WITHOUT_EFFECT:
                for write in writes:
                    write.refused = True
                    if write.applied:
                        raise Violation(f"a write is refused ({error}) that took effect at {write.applied}") from error
            raise

    async def put(self) -> None:
        """Put a key, at times on the lease."""
        key, value, floor = self._key(), self._value(), self.book.floor
        lease = self._lease.number if self._lease is not None and self.chance.random() < 0.5 else 0
        (write,) = self._begin((key, value))
        request = pb.PutRequest(key=key, value=value, lease=lease, prev_kv=self.chance.random() < 0.3)
        answer = await self._change("KV/Put", request, pb.PutResponse, [write])
        revision = answer.header.revision
        self.book.see(floor, revision, True, f"{key!r} = {value!r}")
        if write.applied != revision:
            raise Violation(f"{key!r} = {value!r} is acknowledged at {revision}, the history has it at {write.applied}")
        if request.prev_kv:
            rows = [answer.prev_kv] if answer.HasField("prev_kv") else []
            self.cluster.truth.check_rows(f"what {value!r} replaced", rows, key, b"", revision - 1)
        if self.chance.random() < 0.2:
            # Whoever has written expects to find it, wherever he asks.
            self.choose()
            await self.get()

    async def get(self) -> None:
        """Read a key or all."""
        await self._get(serializable=False)

    async def get_serializable(self) -> None:
        """Read what the member has."""
        await self._get(serializable=True)

    async def _get(self, serializable: bool) -> None:
        key, end = (self._key(), b"") if self.chance.random() < 0.6 else (b"k", b"l")
        floor, host = self.book.floor, self.host
        place = (host.name, host.incarnation)
        floor_here = self.book.floors.get(place, 0)
        request = pb.RangeRequest(key=key, range_end=end, serializable=serializable)
        answer = await self.call("KV/Range", request, pb.RangeResponse)
        revision = answer.header.revision
        what = f"{self.name}'s {'serializable ' if serializable else ''}read of {key!r} at {host.name}"
        if not serializable:
            self.book.see(floor, revision, False, what)
        elif host.incarnation == place[1]:
            if revision < floor_here:
                raise Violation(f"{what} goes back from revision {floor_here} to {revision}")
            self.book.floors[place] = max(revision, self.book.floors.get(place, 0))
        self.cluster.truth.check_rows(what, answer.kvs, key, end, revision)

    async def get_past(self) -> None:
        """Read at an earlier revision."""
        revision = self.chance.randint(max(1, self.book.floor - 30), self.book.floor)
        request = pb.RangeRequest(key=b"k", range_end=b"l", revision=revision)
        try:
            answer = await self.call("KV/Range", request, pb.RangeResponse)
        except RpcError as error:
            if error.code is StatusCode.OUT_OF_RANGE and revision >= self.cluster.truth.compacted:
                raise Violation(f"revision {revision} cannot be read: {error}") from error
            raise
        self.cluster.truth.check_rows("a read of the past", answer.kvs, b"k", b"l", revision)

    async def compare_and_put(self) -> None:
        """Put a key if it has not changed since it was read, else read it."""
        truth, key = self.cluster.truth, self._key()
        read = await self.call("KV/Range", pb.RangeRequest(key=key, serializable=True), pb.RangeResponse)
        known = read.kvs[0].mod_revision if read.kvs else 0
        await self.sleep(0.01)
        value, floor = self._value(), self.book.floor
        (write,) = self._begin((key, value))
        request = pb.TxnRequest(
            compare=[pb.Compare(key=key, target=pb.Compare.MOD, mod_revision=known)],
            success=[pb.RequestOp(request_put=pb.PutRequest(key=key, value=value))],
            failure=[pb.RequestOp(request_range=pb.RangeRequest(key=key))],
        )
        answer = await self._change("KV/Txn", request, pb.TxnResponse, [write])
        revision = answer.header.revision
        self.book.see(floor, revision, answer.succeeded, f"the comparison of {key!r} with {known}")
        if answer.succeeded:
            before = truth.version(key, revision - 1)
            if write.applied != revision or (before.revision if before else 0) != known:
                raise Violation(f"{key!r} = {value!r} if at {known}: said to succeed at {revision}; it was at {before}")
        else:
            if write.applied:
                raise Violation(f"{key!r} = {value!r} is said not to be written; it was at {write.applied}")
            now = truth.version(key, revision)
            if (now.revision if now else 0) == known:
                raise Violation(f"{key!r} is at {known} at revision {revision}; the comparison is said to fail")
            rows = answer.responses[0].response_range.kvs
            truth.check_rows(f"the other branch of {value!r}", rows, key, b"", revision)

    async def write_several(self) -> None:
        """Put two keys and delete a third, all at once."""
        first, second, third = self.chance.sample([*self._keys, b"k-a", b"k-b", b"k-c"], 3)
        value, floor = self._value(), self.book.floor
        writes = self._begin((first, value), (second, value))
        request = pb.TxnRequest(
            success=[
                pb.RequestOp(request_put=pb.PutRequest(key=first, value=value)),
                pb.RequestOp(request_put=pb.PutRequest(key=second, value=value)),
                pb.RequestOp(request_delete_range=pb.DeleteRangeRequest(key=third)),
                pb.RequestOp(request_range=pb.RangeRequest(key=b"k", range_end=b"l")),
            ]
        )
        answer = await self._change("KV/Txn", request, pb.TxnResponse, writes)
        revision = answer.header.revision
        self.book.see(floor, revision, True, f"several writes of {value!r}")
        if any(write.applied != revision for write in writes):
            raise Violation(f"{value!r} is acknowledged at {revision}; the history has {writes}")
        rows = answer.responses[3].response_range.kvs
        self.cluster.truth.check_rows(f"the range within {value!r}", rows, b"k", b"l", revision)

    async def delete(self) -> None:
        """Delete a key or some."""
        key, floor = self._key(), self.book.floor
        end = key[:-1] + bytes((key[-1] + self.chance.randint(1, 3),)) if self.chance.random() < 0.3 else b""
        request = pb.DeleteRangeRequest(key=key, range_end=end)
        answer = await self.call("KV/DeleteRange", request, pb.DeleteRangeResponse)
        revision = answer.header.revision
        self.book.see(floor, revision, bool(answer.deleted), f"the deletion of {key!r}")
        before = self.cluster.truth.state(key, end, revision - bool(answer.deleted))
        if len(before) != answer.deleted:
            raise Violation(f"deleting {key!r} at {revision} is said to delete {answer.deleted} of {before}")
        self.cluster.truth.check_rows("a deletion", [], key, end, revision)

    async def compact(self) -> None:
        """Forget what is older than some revisions."""
        revision = self.book.floor - self.chance.choice((0, 5, 50))
        if revision > 0:
            request = pb.CompactionRequest(revision=revision, physical=self.chance.random() < 0.3)
            await self.call("KV/Compact", request, pb.CompactionResponse)
            if self.cluster.truth.compacted < revision:
                raise Violation(f"the compaction at {revision} is said to be done")

    async def ask_hash(self) -> None:
        """Ask a member for its hash of the history."""
        revision = self.book.floor
        answer = await self.call("Maintenance/HashKV", pb.HashKVRequest(revision=revision), pb.HashKVResponse)
        self.note_hash(revision, answer, self.host.name)

    # Leases.

    async def hold_lease(self) -> None:
        """Get a lease, or renew it."""
        if self._lease is None:
            await self._grant()
        else:
            await self._renew(self._lease)

    async def _grant(self) -> None:
        ttl = self.chance.choice((2, 3, 5, 8, 20))
        asked = self.cluster.timeline.now
        answer = await self.call("Lease/LeaseGrant", pb.LeaseGrantRequest(TTL=ttl), pb.LeaseGrantResponse)
        lease = HeldLease(answer.ID, answer.TTL, asked + answer.TTL / self.cluster.fastest)
        self.book.leases[lease.number] = lease
        self._lease = lease
        self.book.check_renewal(lease, asked, answer.TTL)

    async def _renew(self, lease: HeldLease) -> None:
        asked = self.cluster.timeline.now
        stream = self.channel().stream("/etcdserverpb.Lease/LeaseKeepAlive")
        request = pb.LeaseKeepAliveRequest(ID=lease.number)
        noted = self.cluster.scribe.asked(self.name, request)
        try:
            stream.write(request.SerializeToString())
            async with asyncio.timeout(CALL_SECONDS):
                answer = await stream.read()
        except TimeoutError:
            self.choose()
            return
        except RpcError:
            self.choose()
            raise
        finally:
            stream.cancel()
        if answer is EOF:
            return
        response = pb.LeaseKeepAliveResponse.FromString(answer)
        self.cluster.scribe.answered(noted, response)
        ttl = response.TTL
        self.book.check_renewal(lease, asked, ttl)
        if ttl <= 0 and self._lease is lease:
            self._lease = None

    async def end_lease(self) -> None:
        """Let go of the lease, or revoke it; afterwards it cannot be renewed."""
        lease, self._lease = self._lease, None
        if lease is None or self.chance.random() < 0.4:
            return
        lease.ended = True
        await self.call("Lease/LeaseRevoke", pb.LeaseRevokeRequest(ID=lease.number), pb.LeaseRevokeResponse)
        known = self.cluster.truth.leases[lease.number]
        if known.revoked_at is None:
            raise Violation(f"lease {lease.number:x} is said to be revoked")
        await self._renew(lease)


class Watching(Client):
    """Watches a range for ever, at one member after another, and misses nothing.

    seen: all events up to this revision have come.
    """

    def __init__(self, cluster: Cluster, book: Book, name: str, chance: random.Random, key: bytes, end: bytes) -> None:
        super().__init__(cluster, book, name, chance)
        self.seen = 0
        self.events = 0
        self._key = key
        self._end = end
        self._begun = False
        self._noted: Watch | None = None
        self._prev_kv = chance.random() < 0.3
        self._slow = chance.choice((0.0, 0.0, 0.05, 0.5))

    @property
    def up_to_date(self) -> bool:
        """Whether everything has come."""
        return self._begun and next(iter(self._missing()), None) is None

    def _missing(self) -> Any:
        return self.cluster.truth.changes_after(self.seen, self._key, self._end)

    async def run(self) -> None:
        """Watch until the world ends."""
        while True:
            metadata = (("hasleader", "true"),) if self.chance.random() < 0.5 else ()
            stream = self.channel().stream("/etcdserverpb.Watch/Watch", metadata=metadata)
            try:
                await self._watch(stream)
            except RpcError as error:
                self.cluster.timeline.trace.mark(error.code.name.encode())
            finally:
                stream.cancel()
            self.choose()
            await self.sleep(0.2)

    async def _watch(self, stream: Call) -> None:
        create = pb.WatchCreateRequest(
            key=self._key,
            range_end=self._end,
            start_revision=self.seen + 1 if self._begun else 0,
            progress_notify=self.chance.random() < 0.5,
            prev_kv=self._prev_kv,
        )
        if self._noted is not None:
            self.cluster.scribe.resumed(self._noted, create.start_revision)
        stream.write(pb.WatchRequest(create_request=create).SerializeToString())
        # Leave from time to time, and sooner if nothing comes: the member may be cut off.
        leave = self.cluster.timeline.now + self.chance.uniform(5.0, 60.0)
        while self.cluster.timeline.now < leave:
            try:
                async with asyncio.timeout(10.0):
                    message = await stream.read()
            except TimeoutError:
                if self.chance.random() < 0.5:
                    stream.write(pb.WatchRequest(progress_request=pb.WatchProgressRequest()).SerializeToString())
                    continue
                return
            if message is EOF:
                return
            if self._slow:
                await self.sleep(0.05 if self.quiet else self._slow)
            stream.acknowledge()
            self.cluster.timeline.trace.mark(message)
            response = pb.WatchResponse.FromString(message)
            if self._noted is not None:
                self.cluster.scribe.told(self._noted, response)
            elif response.created and not response.canceled:
                self._noted = self.cluster.scribe.watch(self.name, create, response.header.revision)
            if not self._take(response):
                return

    def _take(self, response: pb.WatchResponse) -> bool:
        """Check a response; whether the watch goes on."""
        truth, revision = self.cluster.truth, response.header.revision
        if revision > truth.revision:
            raise Violation(f"{self.name} is told of revision {revision}; the log leads to {truth.revision}")
        if response.canceled:
            if response.compact_revision:
                if not self.seen + 1 < response.compact_revision <= truth.compacted:
                    raise Violation(f"{self.name} at {self.seen} is told of the compaction {response.compact_revision}")
                self.seen = response.compact_revision - 1
            return False
        if response.created:
            if not self._begun:
                self._begun, self.seen = True, revision
            return True
        if not response.events:
            missing = next(iter(self._missing()), None)
            if missing is not None and missing.revision <= revision:
                raise Violation(f"{self.name} is told that it has seen all up to {revision}; it misses {missing}")
            self.seen = max(self.seen, revision)
            return True
        expected = iter(self._missing())
        for event in response.events:
            self._check_event(event, next(expected, None))
        last = response.events[-1].kv.mod_revision
        rest: Change | None = next(expected, None)
        if rest is not None and rest.revision == last:
            raise Violation(f"{self.name} is told a part of revision {last}; {rest} is missing")
        self.seen = last
        self.events += len(response.events)
        return True

    def _check_event(self, event: Any, expected: Change | None) -> None:
        kv = event.kv
        got = (kv.mod_revision, kv.key, kv.value if event.type == 0 else None)
        wanted = (expected.revision, expected.key, expected.version.value) if expected is not None else None
        if got != wanted:
            raise Violation(f"{self.name}, which has seen all up to {self.seen}, is told of {got}, not of {wanted}")
