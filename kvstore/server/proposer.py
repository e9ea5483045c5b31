"""How the requests of this member get into the log, and which are one too many."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from google.protobuf.message import Message as ProtoMessage

from kvstore import errors
from kvstore.rpc import Promise
from kvstore.server.disk import Disk
from kvstore.server.proposals import Proposals

MAX_PENDING_REQUESTS: Final = 20_000
MAX_PENDING_BYTES: Final = 256 << 20
"""Requests proposed but not applied, beyond which more are refused."""


class RequestProposer:
    """Puts requests of this member into the log."""

    def __init__(
        self, proposals: Proposals, loop: asyncio.AbstractEventLoop, max_request_bytes: int, disk: Disk
    ) -> None:
        self._proposals = proposals
        self._disk = disk
        self._time = loop.time
        self._max_request_bytes = max_request_bytes
        self.wake: Callable[[], None] = lambda: None
        self.stopped = False

    @property
    def pending_requests(self) -> int:
        """Requests proposed and not yet applied."""
        return self._proposals.pending_requests

    def propose(self, kind: str, request: ProtoMessage, reign: int = 0) -> Promise[bytes]:
        """Propose a request, as Proposer has it.

        Fields that this version does not know are taken out of it: a member of a later version would act on them when
        it applies the entry, and groups in them may be nested so deep that the entry could not be decoded.
        """
        request.DiscardUnknownFields()
        return self.propose_encoded(kind, request, request.SerializeToString(), reign)

    def propose_encoded(self, kind: str, request: object, encoded: bytes, reign: int = 0) -> Promise[bytes]:
        """Propose a request that is encoded already, without fields that this version does not know.

        request: what is handed to the applier, as the kind has it.
        """
        proposals = self._proposals
        if len(encoded) > self._max_request_bytes:
            return Promise.failed(errors.RequestTooLarge())
        if proposals.pending_requests >= MAX_PENDING_REQUESTS or proposals.pending_bytes >= MAX_PENDING_BYTES:
            return Promise.failed(errors.RequestTooManyRequests())
        if self._disk.full:
            # Even a deletion has to be written first; without room it would only wait for its timeout.
            return Promise.failed(errors.NoSpace())
        if self.stopped:
            return Promise.failed(errors.Stopped())
        promise: Promise[bytes] = Promise()
        proposals.add(kind, request, encoded, promise, self._time(), reign)
        self.wake()
        return promise
