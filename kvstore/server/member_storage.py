"""What a member stands on: its data directory, with the log and the state in it.

Opens them and says what their writers find out about the disk; knows nothing of raft or of what the state means.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

import structlog

from kvstore.mvcc.store import TABLES as STORE_TABLES
from kvstore.server.cluster_version import check_stored
from kvstore.server.config import Config
from kvstore.server.disk import Disk
from kvstore.server.metrics import DiskTimes, Metrics
from kvstore.server.surroundings import Surroundings
from kvstore.storage.backend import Backend, BackendOptions
from kvstore.storage.batch import TableSpec, WriteStats
from kvstore.storage.datadir import DataDirectory
from kvstore.storage.engine import EngineOptions
from kvstore.storage.errors import CorruptStore, DiskFull
from kvstore.storage.helper import LookAtRest
from kvstore.storage.wal import Wal, WalOptions
from kvstore.storage.writer import WriterEvents

TABLES: Final = (
    *STORE_TABLES,
    TableSpec("leases"),
    TableSpec("lease_keys"),
    TableSpec("members"),
    TableSpec("removed_members"),
    TableSpec("alarms"),
)
"""Every table of the state, beside its meta table."""


class MemberStorage:
    """The directory, log and state of a member, opened and not yet checked against each other. Made by open()."""

    def __init__(
        self, directory: DataDirectory, look: LookAtRest | None, wal: Wal, backend: Backend, disk: Disk
    ) -> None:
        """Made by open()."""
        self.directory = directory
        self.wal = wal
        self.backend = backend
        self._look = look
        self.backend.on_damage = partial(_damaged, disk)

    @classmethod
    async def open(
        cls,
        config: Config,
        metrics: Metrics,
        disk: Disk,
        fail: Callable[[BaseException], None],
        surroundings: Surroundings,
    ) -> MemberStorage:
        """Open what a member's flags name, and begin to look at what of it has not been looked at."""
        times = DiskTimes(metrics)
        directory = DataDirectory.open(
            config.data_dir,
            config.wal_dir,
            tables=TABLES,
            accept=lambda meta: check_stored(meta, config.highest_protocol, config.data_dir),
        )
        look: LookAtRest | None = None
        log: Wal | None = None
        try:
            if directory.unseen is not None:
                look = LookAtRest(directory.db, directory.unseen, _looking)
            engine = EngineOptions(unsafe_no_fsync=config.unsafe_no_fsync)
            keep_open = directory.descriptors
            log = surroundings.open_log(
                directory.wal, WalOptions(engine=engine), _events("log", disk, fail, times.log_committed), keep_open
            )
            state = surroundings.open_state(
                directory.db,
                TABLES,
                BackendOptions(
                    flush_seconds=config.backend_batch_interval,
                    flush_operations=config.backend_batch_limit,
                    engine=EngineOptions(
                        count_free=True,
                        unsafe_no_fsync=config.unsafe_no_fsync,
                        lock_memory=config.experimental_memory_mlock,
                    ),
                ),
                _events("state", disk, fail, times.state_committed),
                keep_open,
            )
        except BaseException:
            if look is not None:
                look.close()
            if log is not None:
                await log.close()
            directory.close()
            raise
        return cls(directory, look, log, state, disk)

    async def looked_at(self) -> None:
        """Wait until every page of the state has been looked at: nothing is to be read from it or applied before.

        Raises CorruptStore.
        """
        if self._look is not None:
            try:
                await self._look.wait()
            finally:
                self._end_look()

    async def close(self) -> None:
        """Flush and end everything."""
        self._end_look()
        await self.backend.close()
        await self.wal.close()
        self.directory.close()

    def _end_look(self) -> None:
        if self._look is not None:
            self._look.close()
            self._look = None


def _looking(percent: int) -> None:
    structlog.get_logger("kvstore.storage").info("looking at the pages of the state before it is read", percent=percent)


def _events(
    name: str, disk: Disk, fail: Callable[[BaseException], None], committed: Callable[[WriteStats], None]
) -> WriterEvents:
    log = structlog.get_logger("kvstore.storage")

    def full(error: DiskFull) -> None:
        log.error("no room on the disk: refusing writes until there is", writer=name, reason=str(error))
        disk.set_full(name)

    def recovered() -> None:
        log.info("there is room on the disk again", writer=name)
        disk.set_recovered(name)

    return WriterEvents(full=full, recovered=recovered, failed=fail, committed=committed)


def _damaged(disk: Disk, error: CorruptStore) -> None:
    if disk.note_damage(str(error)):
        structlog.get_logger("kvstore.storage").error("damaged data on the disk: not served", reason=str(error))
