"""Tables that say what a role does with each type of message.

Indexed by the type's number, because looking an enum member up in a dict costs more than many a handler.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, TypeVar

from raft.messages import Message, MessageType

if TYPE_CHECKING:
    from raft.raft import Raft

Handler = Callable[["Raft", Message], None]
"""Handles one message, changing the member and queueing what it has to send."""

_T = TypeVar("_T")


def handler_table(handlers: Mapping[MessageType, _T]) -> tuple[_T | None, ...]:
    """The handlers by message type; None where there is none."""
    return tuple(handlers.get(kind) for kind in MessageType)


def flag_table(kinds: Collection[MessageType]) -> tuple[bool, ...]:
    """By message type, whether it is one of `kinds`."""
    return tuple(kind in kinds for kind in MessageType)
