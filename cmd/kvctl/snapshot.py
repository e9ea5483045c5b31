"""`snapshot save|status|restore`: a copy of a member's data in a file."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click

from kvctl import gotext, offline
from kvctl.failure import CommandFailed, Exit, bad_args
from kvctl.options import Group, Settings

if TYPE_CHECKING:
    from kvstore.client import Client


@click.group(cls=Group, short_help="Copy a member's data to a file, and begin anew from one.")
def snapshot() -> None:
    """Copy a member's data to a file, look at such a file, and make a new cluster from one."""


snapshot.add_command(offline.restore)
snapshot.add_command(offline.status)


@snapshot.command(
    short_help="Save a member's data to a file.",
    epilog="Example: kvctl --endpoints 10.0.0.1:2379 snapshot save backup.db",
    options_metavar="[options]",
)
@click.argument("words", metavar="<filename>", nargs=-1)
def save(settings: Settings, words: tuple[str, ...]) -> None:
    """Save the data of the member at --endpoints, which must be one, to a file.

    What arrives is written to <filename>.part; that becomes <filename> when it is complete and on disk. Without
    --command-timeout it may take as long as it needs.
    """
    if len(words) != 1:
        bad_args("snapshot save expects one argument")
    if len(settings.endpoints) != 1:
        nodes = " ".join(settings.endpoints)
        raise CommandFailed(
            Exit.INTERRUPTED, f"snapshot must be requested to one selected node, not multiple [{nodes}]"
        )
    path = Path(words[0])
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("wb") as file:
            version = _download(settings, file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        _sync_directory(path.parent)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise CommandFailed(Exit.INTERRUPTED, f"could not write {error.filename or part}: {error.strerror}") from error
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    print(f"Snapshot saved at {words[0]}")
    if version:
        print(f"Server version {version}")


def _download(settings: Settings, file: BinaryIO) -> str:
    """Write what the member sends; its storage version. Raises CommandFailed if the stream breaks or ends early."""
    from kvctl import session

    timeout = settings.command_timeout if settings.command_timeout_given else None
    progress = _Progress()

    async def receive(client: Client) -> str:
        version, remaining = "", 0
        async for chunk in client.maintenance.snapshot(timeout=timeout):
            file.write(chunk.data)
            remaining, version = chunk.remaining, version or chunk.version
            progress.advance(len(chunk.data), remaining)
        if remaining:
            raise CommandFailed(Exit.INTERRUPTED, f"the snapshot ended {remaining} bytes early")
        return version

    try:
        return session.call(settings, receive, failing=Exit.INTERRUPTED)
    finally:
        progress.end()


class _Progress:
    """How much has arrived, on one line of a terminal's standard error, rewritten a few times a second."""

    def __init__(self) -> None:
        self._shown = sys.stderr.isatty()
        self._received = 0
        self._next = 0.0

    def advance(self, size: int, remaining: int) -> None:
        self._received += size
        now = time.monotonic()
        if self._shown and now >= self._next:
            self._next = now + 0.2
            total = self._received + remaining
            text = f"{gotext.human_bytes(self._received)} of {gotext.human_bytes(total)}"
            sys.stderr.write(f"\r{text}, {self._received * 100 // max(total, 1)}%\x1b[K")
            sys.stderr.flush()

    def end(self) -> None:
        if self._shown and self._next:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def _sync_directory(directory: Path) -> None:
    """Make a renaming survive a power cut."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


COMMANDS = {"snapshot": snapshot}
