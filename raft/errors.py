"""Every error the library raises, by whose fault it is: the caller's, the storage's, or a broken invariant.

Knows nothing of the rest of the library, so that any module may import it.
"""

from __future__ import annotations


class RaftError(Exception):
    """Base of every error of the library."""


class ConfigError(RaftError, ValueError):
    """A Config that cannot work; the message names the field and what it must be."""


class ProposalDropped(RaftError):
    """The proposal was not taken: there is no leader, it is being transferred, or a limit is reached. Try later."""

    def __init__(self, message: str = "raft proposal dropped") -> None:
        super().__init__(message)


class StepLocalMessage(RaftError):
    """A message type that never crosses the network was handed to `step`."""

    def __init__(self, message: str = "raft: cannot step raft local message") -> None:
        super().__init__(message)


class StepPeerNotFound(RaftError):
    """A response arrived from a peer that is not in the configuration."""

    def __init__(self, message: str = "raft: cannot step as peer not found") -> None:
        super().__init__(message)


class MisuseError(RaftError):
    """A call that is wrong in the state the node is in; the message names the mistake."""


class ConfChangeError(RaftError, ValueError):
    """A configuration change that the current configuration does not allow."""


class CodecError(RaftError, ValueError):
    """Bytes that do not decode as the configuration change they should hold."""


class NodeStopped(RaftError):
    """The asyncio node was stopped before, or while, the call was served."""

    def __init__(self, message: str = "raft: stopped") -> None:
        super().__init__(message)


class InvariantViolation(RaftError, AssertionError):
    """Something that must never be was found. The node must not go on: its state cannot be trusted."""


class StorageError(RaftError):
    """Base of the answers a Storage gives instead of a value."""


class Compacted(StorageError):
    """The index lies before the first one the storage still holds."""

    def __init__(self, message: str = "requested index is unavailable due to compaction") -> None:
        super().__init__(message)


class Unavailable(StorageError):
    """The index lies after the last one the storage holds."""

    def __init__(self, message: str = "requested entry at index is unavailable") -> None:
        super().__init__(message)


class SnapshotOutOfDate(StorageError):
    """The snapshot offered is older than the one the storage has."""

    def __init__(self, message: str = "requested index is older than the existing snapshot") -> None:
        super().__init__(message)


class SnapshotTemporarilyUnavailable(StorageError):
    """No snapshot can be handed out now; the library asks again later."""

    def __init__(self, message: str = "snapshot is temporarily unavailable") -> None:
        super().__init__(message)
