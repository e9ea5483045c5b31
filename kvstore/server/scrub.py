"""Looking at everything that is stored, from time to time: damage is found before somebody needs what is damaged.

A read finds that a row is not what was written, but not that a damaged page hides one; and what nobody reads for a year
would be found when it is too late to have it from another member. What a look is, is the state's business.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from kvstore.storage.errors import CorruptStore, StorageError

FIRST_LOOK_SECONDS: Final = 60.0
"""After a start: a member that has just come back has other things to do."""

SECONDS_BETWEEN_LOOKS: Final = 24 * 3600.0


class Scrubber:
    """Has everything looked at a minute after its start, and once a day.

    look: does it, and raises CorruptStore for what is damaged, which it has reported.
    """

    def __init__(
        self,
        look: Callable[[], Awaitable[None]],
        *,
        first: float = FIRST_LOOK_SECONDS,
        between: float = SECONDS_BETWEEN_LOOKS,
    ) -> None:
        """first: seconds until the first look. between: seconds from the end of one to the next."""
        self._look = look
        self._first = first
        self._between = between
        self._task: asyncio.Task[None] | None = None
        self._log = structlog.get_logger("kvstore.storage")

    def start(self) -> None:
        """Begin."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """End; a look under way is given up."""
        if self._task is not None:
            self._task.cancel()
            # What else has ended it was said by whoever raised it, and must not keep the member from closing.
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        await asyncio.sleep(self._first)
        while True:
            began = time.monotonic()
            try:
                await self._look()
            except CorruptStore as error:
                # It was said, and is raised as an alarm, where it was found.
                self._log.debug("found damage", reason=str(error))
            except (StorageError, OSError) as error:
                self._log.warning("could not look at what is stored", reason=str(error))
            else:
                self._log.info("looked at all that is stored", seconds=round(time.monotonic() - began, 1))
            await asyncio.sleep(self._between)
