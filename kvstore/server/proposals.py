"""Requests on their way through the log: the batch of this turn of the loop, and those whose entry is not applied yet.

A raft entry holds a `RequestBatch`: all requests that arrived together, each in the encoding of its message. Encoding a
batch is joining bytes; the decoded requests stay here under the batch's sequence number, so the member that proposed
them need not decode them again.

Knows nothing of raft or of what a request does.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Protocol

from google.protobuf.message import Message as ProtoMessage

from kvstore.errors import KvstoreError, LeaderChanged
from kvstore.mvcc import puts
from kvstore.pb import internal_pb2 as pb
from kvstore.rpc import Promise
from kvstore.wire import varint

MAX_BATCH_BYTES: Final = 1 << 20
"""A batch is closed once it holds this much, so that one entry neither blocks the log nor exceeds a message."""

KINDS: Final = tuple(f.name for f in pb.InternalRequest.DESCRIPTOR.oneofs_by_name["request"].fields)
"""Names of the kinds of requests, as in InternalRequest."""

_REQUESTS_TAG: Final = b"\x1a"
_KIND_TAGS: Final = {
    f.name: varint(f.number << 3 | 2) for f in pb.InternalRequest.DESCRIPTOR.oneofs_by_name["request"].fields
}


class Proposer(Protocol):
    """Puts requests into the log."""

    def propose(self, kind: str, request: ProtoMessage, reign: int = 0) -> Promise[bytes]:
        """Propose a request: its encoded response once it is applied, or the KvstoreError it came to.

        reign: the term as whose leader this member decided on it. If it is not in the log of that term, it will never
        be, and comes to LeaderChanged: who leads next may know better. 0: whoever leads may take it.
        """


class Pending:
    """One request, decoded as its kind's handler takes it, and who waits for its encoded response."""

    # No dataclass: the initialiser which that makes is not compiled, and there is one of it for each request.
    __slots__ = ("kind", "promise", "request")

    def __init__(self, kind: str, request: object, promise: Promise[bytes]) -> None:
        self.kind = kind
        self.request = request
        self.promise = promise


class Batch:
    """Requests of one entry in their order.

    deadline: when its callers are told that it took too long. reign: the only term whose leader may append it, 0 if any
    may. term: raft's when it was proposed, 0 before.
    """

    __slots__ = ("chunks", "deadline", "reign", "requests", "sequence", "size", "term")

    def __init__(self, sequence: int, deadline: float, reign: int) -> None:
        self.sequence = sequence
        self.deadline = deadline
        self.reign = reign
        self.term = 0
        self.requests: list[Pending] = []
        self.chunks: list[bytes] = []
        self.size = 0


def decode(data: bytes) -> tuple[int, int, Iterator[tuple[str, object]]]:
    """Proposer, sequence and the requests of an entry's payload, each as its kind's handler takes it: a Put of a put,
    of anything else its message.
    """
    batch = pb.RequestBatch.FromString(data)
    return batch.proposer, batch.sequence, _requests(batch)


def identity(data: bytes) -> tuple[int, int]:
    """Proposer and sequence of an entry's payload, without decoding the requests."""
    # Two fixed64 fields come first: tag 0x09, 8 bytes, tag 0x11, 8 bytes.
    return int.from_bytes(data[1:9], "little"), int.from_bytes(data[10:18], "little")


def _requests(batch: pb.RequestBatch) -> Iterator[tuple[str, object]]:
    for request in batch.requests:
        kind = request.WhichOneof("request")
        if kind is None:
            raise ValueError("an entry of the log holds a kind of request that this version does not know")
        yield kind, puts.of_message(request.put) if kind == "put" else getattr(request, kind)


class Proposals:
    """The batches of one member.

    member_id: marks this member's batches. first_sequence: must be above any that the member ever used, also before
    a restart. timeout: seconds a caller waits at most.
    """

    def __init__(self, member_id: int, first_sequence: int, timeout: float) -> None:
        self._proposer = b"\x09" + member_id.to_bytes(8, "little") + b"\x11"
        self._next = first_sequence
        self._timeout = timeout
        self._open: list[Batch] = []
        self._waiting: dict[int, Batch] = {}
        # Those of them that only the leader of one term may append, and that are not proposed yet.
        self._bound: dict[int, Batch] = {}
        self.pending_bytes = 0
        self.pending_requests = 0
        self.failed_total = 0

    def add(
        self, kind: str, request: object, encoded: bytes, promise: Promise[bytes], now: float, reign: int = 0
    ) -> None:
        """Put a request into this turn's batch; `promise` is resolved once it is applied, fails, or took too long.

        reign: as Proposer.propose has it.
        """
        opened = self._open
        batch = opened[-1] if opened else None
        # While there is no leader batches stay open; a request does not join one whose time is partly over.
        if (
            batch is None
            or batch.size >= MAX_BATCH_BYTES
            or batch.deadline - now <= self._timeout - 0.1
            or batch.reign != reign
        ):
            batch = Batch(self._next, now + self._timeout, reign)
            self._next += 1
            opened.append(batch)
        tag = _KIND_TAGS[kind]
        length = varint(len(encoded))
        batch.chunks += (_REQUESTS_TAG, varint(len(tag) + len(length) + len(encoded)), tag, length, encoded)
        batch.requests.append(Pending(kind, request, promise))
        size = len(encoded) + 16
        batch.size += size
        self.pending_bytes += size
        self.pending_requests += 1

    def reserve(self) -> int:
        """A sequence number for something that is proposed outside a batch."""
        sequence = self._next
        self._next += 1
        return sequence

    @property
    def has_open(self) -> bool:
        """Whether there is something to propose."""
        return bool(self._open)

    def proposed(self, sequence: int, term: int) -> None:
        """A batch was handed to raft in this term."""
        self._bound.pop(sequence, None)
        batch = self._waiting.get(sequence)
        if batch is not None:
            batch.term = term

    def withdraw(self, reign: int) -> int:
        """Fail what only the leader of another term may append: how many requests. reign: the term that this member
        leads, 0 if it leads in none.

        To be called right before proposing. What has been appended in its own term does no harm later: whoever leads
        next has it before anything that it decides itself, or has it not and never will.
        """
        if not self._bound:
            return 0
        late = [batch for batch in self._bound.values() if batch.reign != reign]
        for batch in late:
            del self._waiting[batch.sequence]
        return self._fail(late, LeaderChanged())

    def leader_failed(self, term: int, error: KvstoreError) -> int:
        """Fail what was proposed in an earlier term than that of an entry applied now: how many requests.

        The log has gone on without it. It may have been on its way to the leader that failed, and reach the next one
        yet; so what came of it is as unknown as after a timeout, only known to be so at once.
        """
        late = [batch for batch in self._waiting.values() if 0 < batch.term < term]
        for batch in late:
            del self._waiting[batch.sequence]
        return self._fail(late, error)

    def overtaken(self, error: KvstoreError) -> int:
        """Fail everything proposed: a snapshot has taken the place of entries that may have held it."""
        late = [batch for batch in self._waiting.values() if batch.term]
        for batch in late:
            del self._waiting[batch.sequence]
        return self._fail(late, error)

    def take(self) -> list[tuple[int, bytes]]:
        """Close the open batches: their sequence numbers and payloads, to be proposed in this order."""
        taken = []
        for batch in self._open:
            self._waiting[batch.sequence] = batch
            if batch.reign:
                self._bound[batch.sequence] = batch
            payload = b"".join((self._proposer, batch.sequence.to_bytes(8, "little"), *batch.chunks))
            taken.append((batch.sequence, payload))
            batch.chunks = []
        self._open = []
        return taken

    def is_waiting(self, sequence: int) -> bool:
        """Whether somebody still waits for this batch."""
        return sequence in self._waiting

    def applied(self, sequence: int) -> Batch | None:
        """The batch that is being applied now; None if nobody waits for it any more."""
        batch = self._waiting.pop(sequence, None)
        if batch is not None:
            self._forget(batch)
        return batch

    def expire(self, now: float, error: KvstoreError) -> int:
        """Fail what has waited too long with `error`: how many requests. They may still be applied later."""
        late = [batch for batch in self._waiting.values() if batch.deadline <= now]
        while self._open and self._open[0].deadline <= now:
            late.append(self._open.pop(0))
        for batch in late:
            self._waiting.pop(batch.sequence, None)
        return self._fail(late, error)

    def fail_all(self, error: KvstoreError) -> None:
        """Fail everything: the member stops."""
        late = [*self._waiting.values(), *self._open]
        self._waiting.clear()
        self._open = []
        self._fail(late, error)

    def _fail(self, batches: list[Batch], error: KvstoreError) -> int:
        count = 0
        for batch in batches:
            self._forget(batch)
            count += len(batch.requests)
            for pending in batch.requests:
                pending.promise.set_exception(error)
        self.failed_total += count
        return count

    def _forget(self, batch: Batch) -> None:
        self._bound.pop(batch.sequence, None)
        self.pending_bytes -= batch.size
        self.pending_requests -= len(batch.requests)
