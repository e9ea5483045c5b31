"""A daemon whose member does what the first argument says; run as a process by test_main.py."""

import asyncio
import errno
import sys
from collections.abc import Callable

from structlog.typing import FilteringBoundLogger

from kvstore.server.config import Config
from kvstore.storage.errors import DataDirLocked
from kvstored.logs import make_logger
from kvstored.main import run_member


async def obedient(
    config: Config, logger: FilteringBoundLogger, stop: asyncio.Event, ready: Callable[[], None]
) -> None:
    ready()
    await stop.wait()


async def stubborn(
    config: Config, logger: FilteringBoundLogger, stop: asyncio.Event, ready: Callable[[], None]
) -> None:
    ready()
    await stop.wait()
    logger.info("not stopping")
    await asyncio.Event().wait()


async def locked_out(
    config: Config, logger: FilteringBoundLogger, stop: asyncio.Event, ready: Callable[[], None]
) -> None:
    raise DataDirLocked("m1.etcd/member is used by another process")


async def port_taken(
    config: Config, logger: FilteringBoundLogger, stop: asyncio.Event, ready: Callable[[], None]
) -> None:
    raise OSError(errno.EADDRINUSE, "error while attempting to bind on address ('127.0.0.1', 2379): address in use")


if __name__ == "__main__":
    kind = {"obedient": obedient, "stubborn": stubborn, "locked_out": locked_out, "port_taken": port_taken}
    sys.exit(run_member(Config(), make_logger("info", "json", ["stderr"]), kind[sys.argv[1]]))
