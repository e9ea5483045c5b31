"""Raft's messages as they arrive from one member: read from its stream, checked, decoded and handed on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from kvstore.peer.batches import DamagedBatch, decode_batch, is_sealed, unseal
from kvstore.peer.codec import MalformedMessage
from kvstore.peer.versions import CHECKSUMS, Versions
from kvstore.rpc import EOF, Promise, RpcError, StatusCode
from raft.messages import Message


class BatchReader(Protocol):
    """A call whose requests, encoded batches, are read one by one."""

    def read(self) -> Promise[Any]:
        """The next request, or EOF."""


class RaftHost(Protocol):
    """Who is sent the messages."""

    @property
    def spoken(self) -> Versions:
        """What the host speaks; the lowest is what the cluster has agreed on."""

    def is_removed(self, member: int) -> bool:
        """Whether a member was removed from the cluster, and is to hear of it."""

    def heard_from(self, member: int, received_bytes: int) -> None:
        """A member is alive."""

    def receive(self, messages: Sequence[Message]) -> None:
        """Take raft messages."""


class Receiver:
    """Takes batches as they arrive, within the turn that received them: a task would take a turn more for each.

    sealed: whether every batch has a checksum; after the first that has one, all are to have it. unreadable: told of
    what cannot be read. answer: the call's, an encoded MessagesResponse, once the sender has ended
    or a batch could not be taken.
    """

    def __init__(
        self,
        reader: BatchReader,
        sender: int,
        sealed: bool,
        host: RaftHost,
        unreadable: Callable[[int, MalformedMessage], None],
    ) -> None:
        self.answer: Promise[bytes] = Promise()
        self._reader = reader
        self._sender = sender
        self._sealed = sealed
        self._host = host
        self._unreadable = unreadable
        self._read()

    def _read(self) -> None:
        while not self.answer.done():
            batch = self._reader.read()
            if not batch.done():
                batch.then(self._arrived)
                return
            self._take(batch)

    def _arrived(self, batch: Promise[Any]) -> None:
        self._take(batch)
        self._read()

    def _take(self, read: Promise[Any]) -> None:
        try:
            batch = read.result()
            if batch is EOF:
                self.answer.set_result(b"")
            else:
                self._receive(batch)
        except Exception as error:  # whatever it is, it ends the call and not the connection
            self.answer.set_exception(error)

    def _receive(self, data: bytes) -> None:
        host, sender = self._host, self._sender
        if host.is_removed(sender):
            raise RpcError(StatusCode.PERMISSION_DENIED, "the member has been permanently removed from the cluster")
        size = len(data)
        host.heard_from(sender, size)
        try:
            if is_sealed(data):
                version = host.spoken[1]
                if version < CHECKSUMS:
                    raise MalformedMessage(f"a sealed batch is not of version {version}")
                data = unseal(data)
                self._sealed = True
            elif self._sealed:
                # Damage to the very first byte makes it another field.
                raise DamagedBatch(f"{size} bytes of messages arrived damaged: they have lost their checksum")
            messages = decode_batch(data)
        except MalformedMessage as error:
            self._unreadable(sender, error)
            # After damage the sender connects again at once, and raft repeats what is missing.
            code = StatusCode.DATA_LOSS if isinstance(error, DamagedBatch) else StatusCode.INVALID_ARGUMENT
            raise RpcError(code, str(error)) from error
        host.receive(messages)
