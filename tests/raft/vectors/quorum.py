"""The commands of the quorum vectors."""

from __future__ import annotations

from collections.abc import Callable, Collection

from raft.quorum import INFINITE_INDEX, JointConfig, majority_committed, majority_vote
from tests.raft.vectors.datadriven import Command, FormatError


def handle(command: Command) -> str:
    """Compute a committed index or the outcome of a vote."""
    incoming = [int(id) for id in command.values("cfg")]
    joint = bool(command.values("cfgj"))
    outgoing = [int(id) for id in command.values("cfgj") if id != "zero"]
    order = list(dict.fromkeys([*incoming, *outgoing]))
    if command.name == "committed":
        values = command.values("idx")
        _check_count(command, order, values)
        indexes = {id: int(value) for id, value in zip(order, values, strict=True) if value != "_"}
        return _committed(JointConfig(set(incoming), set(outgoing)), indexes.get, joint=joint)
    if command.name == "vote":
        values = command.values("votes")
        _check_count(command, order, values)
        votes = {id: value == "y" for id, value in zip(order, values, strict=True) if value != "_"}
        config = JointConfig(set(incoming), set(outgoing))
        result = config.vote(votes) if joint else majority_vote(config.incoming, votes)
        if {JointConfig(config.outgoing, config.incoming).vote(votes), config.vote(votes)} != {result}:
            raise AssertionError(f"{config}: the order of the halves matters")
        return f"Vote{result.name.title()}"
    raise FormatError(f"line {command.line}: unknown command {command.name}")


def _check_count(command: Command, order: Collection[int], values: Collection[str]) -> None:
    if len(order) != len(values):
        raise FormatError(f"line {command.line}: {len(order)} voters, {len(values)} values")


def _committed(config: JointConfig, acked: Callable[[int], int | None], *, joint: bool) -> str:
    index = config.committed(acked) if joint else majority_committed(config.incoming, acked)
    half, other = config.incoming, config.outgoing
    same = {
        config.committed(acked),
        JointConfig(other, half).committed(acked),
    }
    if not joint:
        same |= {JointConfig(half, half).committed(acked), JointConfig(set(), half).committed(acked)}
    if same != {index}:
        raise AssertionError(f"{config}: {index}, but joined otherwise {same}")
    return f"{_draw(config.ids(), acked)}{'∞' if index == INFINITE_INDEX else index}\n"


def _draw(voters: Collection[int], acked: Callable[[int], int | None]) -> str:
    """One line a voter: how many voters have acknowledged less, and the index acknowledged."""
    if not voters:
        return "<empty majority quorum>"
    known = {id: acked(id) for id in sorted(voters)}
    bars = {id: sum((other or 0) < (index or 0) for other in known.values()) for id, index in known.items()}
    width = len(voters)
    lines = [" " * width + "    idx\n"]
    for id, index in known.items():
        bar = "?" + " " * width if index is None else "x" * bars[id] + ">" + " " * (width - bars[id])
        lines.append(f"{bar} {index or 0:5d}    (id={id})\n")
    return "".join(lines)
