"""What can go wrong with what is stored. Every message names the path and what to do.

Knows nothing of requests: none of these is the fault of a client.
"""

from __future__ import annotations

from typing import Final

WAY_OUT: Final = (
    "remove this member from the cluster and add it again with an empty data directory, "
    "or begin anew from a snapshot (kvctl snapshot restore)"
)
"""What is left to do where data is damaged beyond what is put right here."""


class StorageError(Exception):
    """Base of every error of the durable layer."""


class DataDirLocked(StorageError):
    """Another process uses the data directory."""


class FormatTooNew(StorageError):
    """The directory was written by a later version in a format that this one does not know."""


class FormatTooOld(StorageError):
    """The directory was written by so early a version that this one has no way from its format to the present one."""


class ProtocolTooOld(StorageError):
    """What is stored counts on a version of the protocol between members that this member does not speak."""


class IdentityMismatch(StorageError):
    """The directory belongs to another cluster or another member."""


class CorruptStore(StorageError):
    """What is on disk cannot be trusted."""


class SnapshotInvalid(StorageError):
    """A snapshot file is damaged, incomplete, or not one."""


class SnapshotFailed(StorageError):
    """A snapshot could not be made or ended before it was whole."""


class DiskFull(StorageError):
    """A transaction found no room. It is kept and tried again; nothing is lost."""


class WriterFailed(StorageError):
    """A writer cannot go on. Whether its last batch is durable is unknown: the member must stop."""


class JobFailed(StorageError):
    """A job raised in the writer or in a reader process; nothing of it was committed. The text is its traceback."""
