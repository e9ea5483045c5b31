"""Members that hear of each other, though raft has nothing to tell."""

from pathlib import Path

import pytest

from kvstore.peer import transport
from kvstore.server import changes
from tests.server.test_full_disk import Three, eventually


async def test_a_follower_knows_that_the_cluster_is_healthy_and_adds_a_member(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "PROBE_SECONDS", 0.05)
    monkeypatch.setattr(changes, "HEALTHY_SECONDS", 0.0)
    three = Three(tmp_path)
    await three.start()
    leader = await three.leader()
    others = [number for number in range(3) if number != leader]
    for number in others:
        connections = three.running[number].lifecycle.transport
        known = [member.id for member in three.members if member is not three.members[number]]
        await eventually(
            lambda connections=connections, known=known: all(map(connections.active_since, known)),  # type: ignore[misc]
            "the follower is connected to everybody",
        )
    asked = three.members[others[0]]
    await eventually(lambda: len(asked.state.membership.started_voters()) == 3, "the follower knows all names")
    added, members = await asked.changes.add(["http://127.0.0.1:1"], is_learner=False)
    assert len(members) == 4
    assert added in members
    await three.stop()


async def test_one_that_is_gone_is_not_taken_for_one_with_nothing_to_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "PROBE_SECONDS", 0.05)
    three = Three(tmp_path)
    await three.start()
    leader = await three.leader()
    left, gone = (number for number in range(3) if number != leader)
    connections, number = three.running[left].lifecycle.transport, three.members[gone].id
    await eventually(lambda: connections.active_since(number) is not None, "two followers are connected")
    await three.running.pop(gone).stop()
    await eventually(lambda: connections.active_since(number) is None, "one of them notices that the other is gone")
    await three.stop()
