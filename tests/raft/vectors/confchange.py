"""The commands of the configuration change vectors."""

from __future__ import annotations

from raft.confchange import Changer
from raft.errors import ConfChangeError
from raft.messages import ConfChangeSingle, ConfChangeType
from raft.tracker import Tracker, format_progress
from tests.raft.vectors.datadriven import Command, FormatError

_TYPES = {
    "v": ConfChangeType.ADD_NODE,
    "l": ConfChangeType.ADD_LEARNER_NODE,
    "r": ConfChangeType.REMOVE_NODE,
    "u": ConfChangeType.UPDATE_NODE,
}


def parse_changes(text: str) -> tuple[ConfChangeSingle, ...]:
    """The changes in `v1 l2 r3 u4`: add voter, add learner, remove, update."""
    return tuple(ConfChangeSingle(_TYPES[token[0]], int(token[1:])) for token in text.split())


class ConfChangeEnvironment:
    """A tracker whose configuration changes command by command."""

    def __init__(self) -> None:
        self._tracker = Tracker(10)
        self._last_index = 0

    def handle(self, command: Command) -> str:
        """Carry out a change; print the configuration and each member's progress, or the error."""
        changer = Changer(self._tracker, self._last_index)
        changes = parse_changes(" ".join(command.input))
        # Counted up whatever comes of it, so that it can be seen when a member was added.
        self._last_index += 1
        try:
            if command.name == "simple":
                proposed = changer.simple(changes)
            elif command.name == "enter-joint":
                proposed = changer.enter_joint(changes, auto_leave=command.flag("autoleave"))
            elif command.name == "leave-joint":
                proposed = changer.leave_joint()
            else:
                raise FormatError(f"line {command.line}: unknown command {command.name}")
        except ConfChangeError as error:
            return f"{error}\n"
        self._tracker.switch_to(proposed.config, proposed.progress)
        return f"{proposed.config}\n{format_progress(proposed.progress)}"
