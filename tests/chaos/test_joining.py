"""Who joins while nobody is there to be asked is started again, as by a service manager, but not for ever."""

import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from tests.chaos import faults
from tests.chaos.arena import JOIN_REFUSED, Arena, Fallen, ProxiedCluster
from tests.chaos.background import Background
from tests.chaos.network import Network
from tests.cluster.harness import Binary, Member, from_environment

REFUSED = "kvstored: no member of the cluster could be asked who belongs to it (...)"


@pytest.fixture
def arena(tmp_path: Path) -> Iterator[Arena]:
    """A cluster of one, not started."""
    with Background() as background:
        network = Network(1)
        cluster = ProxiedCluster(from_environment(), tmp_path, 1, {}, background, network)
        yield Arena(cluster, background, network)
        cluster.close()


def test_a_member_that_is_added_while_all_others_die_joins_when_they_are_back(
    arena: Arena, monkeypatch: pytest.MonkeyPatch
) -> None:
    arena.cluster.start()
    [founder] = arena.cluster.members
    add = arena.cluster.add

    def add_and_lose_all_others(name: str, *, learner: bool = False) -> Member:
        member = add(name, learner=learner)
        founder.kill_group()
        return member

    monkeypatch.setattr(arena.cluster, "add", add_and_lose_all_others)
    with faults.grow(arena, Random(1)) as done:
        assert done == "added x1 as a learner"
        joining = arena.cluster.members[1]
        assert joining.wait_ended(30) == 1
        assert any(reason in joining.log.read_bytes() for reason in JOIN_REFUSED)
        founder.start()
    assert arena.cluster.members == [founder]
    arena.settle()


def ending(arena: Arena, said: str) -> Member:
    """A member whose program says something and ends."""
    [member] = arena.cluster.members
    program = f"import sys; print({said!r}); sys.exit(1)"
    member.binary = Binary("kvstored", (sys.executable, "-c", program))
    return member


def test_who_never_joins_has_fallen(arena: Arena) -> None:
    member = ending(arena, REFUSED)
    arena.join(member, restarts=2)
    for _ in range(2):
        member.wait_ended(30)
        arena.keep_running(member)
    member.wait_ended(30)
    with pytest.raises(Fallen, match="ended by itself"):
        arena.keep_running(member)
    assert member.log_tail().count(REFUSED) == 3


def test_who_ends_for_another_reason_while_joining_has_fallen(arena: Arena) -> None:
    member = ending(arena, "kvstored: no room")
    arena.join(member)
    with pytest.raises(Fallen, match="no room"):
        arena.wait_for(member, lambda: False, "it joins", 30)


def test_who_has_joined_may_not_end(arena: Arena) -> None:
    [member] = arena.cluster.members
    arena.join(member)
    member.wait_ready()
    arena.keep_running(member)
    with member.log.open("a") as log:
        log.write(REFUSED)
    member.kill_group()
    with pytest.raises(Fallen):
        arena.keep_running(member)
