"""How a command fails: exit codes and the lines on standard error."""

from __future__ import annotations

from enum import IntEnum
from typing import NoReturn


class Exit(IntEnum):
    """etcdctl's exit codes."""

    ERROR = 1
    BAD_CONNECTION = 2
    INVALID_INPUT = 3
    BAD_FEATURE = 4
    INTERRUPTED = 5
    IO = 6
    BAD_ARGS = 128


class CommandFailed(Exception):
    """Ends the command with an exit code; a message that is not empty is printed as `Error: message`."""

    def __init__(self, code: Exit, message: str) -> None:
        super().__init__(message)
        self.code = code


def bad_args(message: str) -> NoReturn:
    raise CommandFailed(Exit.BAD_ARGS, message)
