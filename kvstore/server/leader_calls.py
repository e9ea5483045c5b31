"""What only the leader can answer, asked of it by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from kvstore import errors
from kvstore.rpc import Promise, RpcError, StatusCode
from kvstore.server.ready_loop import Leadership


class PeerCalls(Protocol):
    """Calls to other members."""

    def call(self, member: int, method: str, request: bytes, timeout: float) -> Promise[bytes]:
        """Call a method of the Peer service. Fails with RpcError."""


class LeaderCalls:
    """Asks whoever leads.

    leadership: as this member knows it now. timeout: seconds a question may take.
    """

    def __init__(self, leadership: Callable[[], Leadership], peers: PeerCalls, timeout: float) -> None:
        self._leadership = leadership
        self._peers = peers
        self._timeout = timeout
        # Who waits for which leader's answer.
        self._waiting: dict[Promise[bytes], int] = {}

    @property
    def is_leader(self) -> bool:
        """Whether the one to ask is this member."""
        return self._leadership().is_leader

    def ask(self, method: str, request: bytes) -> Promise[bytes]:
        """Call a method of the leader's Peer service: the encoded response, or the KvstoreError it came to."""
        leader = self._leadership().leader
        if not leader:
            return Promise.failed(errors.NoLeader())
        promise: Promise[bytes] = Promise()
        self._waiting[promise] = leader

        def answered(answer: Promise[bytes]) -> None:
            error = answer.exception()
            if self._waiting.pop(promise, None) is None:
                return
            if error is None:
                promise.set_result(answer.result())
            else:
                promise.set_exception(domain_error(error))

        self._peers.call(leader, method, request, self._timeout).then(answered)
        return promise

    def leadership_changed(self) -> None:
        """Fail what was asked of another than the present leader: one that stands still answers nobody for long."""
        leader = self._leadership().leader
        if not leader:
            return
        for promise in [promise for promise, asked in self._waiting.items() if asked != leader]:
            del self._waiting[promise]
            promise.set_exception(errors.LeaderChanged())


def domain_error(error: BaseException) -> BaseException:
    """What another member answered with: members name their errors in the message of an ABORTED call."""
    if not isinstance(error, RpcError):
        return error
    kind = getattr(errors, error.message, None) if error.code is StatusCode.ABORTED else None
    if isinstance(kind, type) and issubclass(kind, errors.KvstoreError):
        return kind()
    if error.code is StatusCode.DEADLINE_EXCEEDED:
        return errors.RequestTimeout()
    return errors.TimeoutDueToConnectionLost()
