"""Linearizable reads that this member cannot serve, passed on to one that can.

A member whose disk is full falls behind what the others have committed, and can show none of it. A read that another
member has confirmed and answered is as good: it takes effect between its call and its answer. Knows no disks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from kvstore import errors
from kvstore.pb import rpc_pb2 as pb
from kvstore.rpc import Promise
from kvstore.server.leader_calls import PeerCalls, domain_error

ANSWER_SECONDS: Final = 1.5
"""How long a member may take before the next one is asked: a read is quick unless the leader is lost."""

MAX_PASSED_ON: Final = 10_000
"""Reads that wait for another member; more are refused."""

Read = pb.RangeRequest | pb.TxnRequest

_CANNOT_SAY: Final = (
    errors.NoRoomToCatchUp,
    errors.RequestTimeout,
    errors.RequestTooManyRequests,
    errors.Stopped,
    errors.TimeoutDueToConnectionLost,
    errors.TimeoutWaitAppliedIndex,
)
"""Says something of the member that was asked; what else it answers is the answer."""


class Elsewhere:
    """Passes one member's reads on.

    others: the other voters, those first that are to be asked first. peers: calls them.
    """

    def __init__(self, others: Callable[[], Sequence[int]], peers: PeerCalls) -> None:
        self._others = others
        self._peers = peers
        # Who answered last: with one member full and another one away, the third.
        self._last = 0
        self._waiting = 0
        self.answered_total = 0

    def read(self, request: Read) -> Promise[bytes]:
        """The encoded response of whoever can serve the read, or the KvstoreError that it comes to everywhere.

        Fails with NoRoomToCatchUp if no other member can serve it either.
        """
        if self._waiting >= MAX_PASSED_ON:
            return Promise.failed(errors.RequestTooManyRequests())
        others = sorted(self._others(), key=lambda member: member != self._last)
        method = "Range" if isinstance(request, pb.RangeRequest) else "Txn"
        promise: Promise[bytes] = Promise()
        self._waiting += 1
        self._ask(others, method, request.SerializeToString(), promise)
        return promise

    def _ask(self, members: Sequence[int], method: str, request: bytes, promise: Promise[bytes]) -> None:
        if not members:
            self._waiting -= 1
            promise.set_exception(errors.NoRoomToCatchUp())
            return
        member, *rest = members

        def answered(answer: Promise[bytes]) -> None:
            failure = answer.exception()
            error = None if failure is None else domain_error(failure)
            if isinstance(error, _CANNOT_SAY):
                self._ask(rest, method, request, promise)
                return
            self._waiting -= 1
            self._last = member
            if error is not None:
                promise.set_exception(error)
            else:
                self.answered_total += 1
                promise.set_result(answer.result())

        self._peers.call(member, method, request, ANSWER_SECONDS).then(answered)
