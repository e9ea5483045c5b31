"""What a member tells about itself when asked.

Copies, not views: a status stays as it was when the member moves on.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from raft.messages import NONE, HardState, SoftState
from raft.progress import Progress
from raft.tracker import Configuration


@dataclass(slots=True)
class BasicStatus:
    """A member's own state."""

    id: int
    hard_state: HardState
    soft_state: SoftState
    applied: int = 0
    lead_transferee: int = NONE


@dataclass(slots=True)
class Status(BasicStatus):
    """A member's own state, the configuration it follows, and on a leader the progress of every member by id."""

    config: Configuration = field(default_factory=Configuration)
    progress: dict[int, Progress] = field(default_factory=dict)
