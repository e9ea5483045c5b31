"""A member that is removed is gone only when the others can do without it, whoever of them dies at which moment."""

import random
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import count

import pytest

from kvstore.pb import rpc_pb2 as pb
from kvstore.rpc import RpcError
from tests.member_simulation.clients import Client
from tests.member_simulation.host import Host
from tests.member_simulation.world import NOTHING, World

SPREAD = 3
"""Moments in the course of a removal."""

SECONDS = 5.0
"""For members to have found each other, and for a removal to have its course."""


class Removal:
    """A world in which one member is removed, and nothing else happens unless the test does it."""

    def __init__(self, world: World, leader_goes: bool) -> None:
        self.world = world
        world.temper = replace(world.temper, every=0.0)
        # Their writes would have the log say what is committed before a crash can show that it was not.
        idle, world.clients = world.clients, []
        for client in idle:
            client.loop.kill()
        for host in world.hosts:
            host.start()
        world.timeline.run(SECONDS)
        leaders = [host for host in world.hosts if host.leads]
        assert len(leaders) == 1
        followers = [host for host in world.hosts if host not in leaders]
        self.goes = leaders[0] if leader_goes else followers[0]
        self.stay = [*([] if leader_goes else leaders), *followers[not leader_goes :]]
        self.answered: float | None = None
        self.told: float | None = None

    def begin(self, asked: Host) -> None:
        world = self.world
        self.began = world.timeline.now

        async def remove() -> None:
            world.operator.visit(asked)
            request = pb.MemberRemoveRequest(ID=self.goes.member_id)
            with suppress(RpcError):
                await world.operator.call("Cluster/MemberRemove", request, pb.MemberRemoveResponse)
                self.answered = world.timeline.now - self.began

        def look() -> None:
            if self.goes.removed and self.told is None:
                self.told = world.timeline.now - self.began
            world.timeline.after(0.0002, look)

        look()
        world.operator.go(remove)


class Puts:
    """A client that puts without end, at one member after the other."""

    def __init__(self, world: World, hosts: Sequence[Host]) -> None:
        self.answered = 0
        self._hosts = hosts
        self._client = Client(world, world.book, "puts", random.Random(1))
        world.clients.append(self._client)  # type: ignore[arg-type]
        self._client.go(self._put)

    async def _put(self) -> None:
        for number in count():
            self._client.visit(self._hosts[number % len(self._hosts)])
            with suppress(RpcError):
                await self._client.call("KV/Txn", NOTHING, pb.TxnResponse)
                self.answered += 1
            await self._client.sleep(0.03)


def moments(seed: int, members: int, leader_goes: bool, put: bool = False) -> Iterator[float]:
    """When to strike: in the course that a removal takes where nobody dies, and right after the member is gone."""
    with World(seed, members) as world:
        removal = Removal(world, leader_goes)
        if put:
            Puts(world, removal.stay)
        removal.begin(removal.stay[0])
        world.timeline.run(world.timeline.now + SECONDS)
        assert removal.answered is not None
        assert removal.told is not None
    for number in range(SPREAD):
        yield max(removal.told, removal.answered) * (number + 0.5) / SPREAD
    for after in (0.0, 0.0005, 0.002, 0.01, 0.5):
        yield removal.told + after


@pytest.mark.parametrize("leader_goes", [False, True], ids=["a-follower-goes", "the-leader-goes"])
def test_of_two_the_one_that_stays_comes_back_alone(leader_goes: bool) -> None:
    seed, gone = 2, 0
    for moment in moments(seed, 2, leader_goes):
        with World(seed, 2) as world:
            removal = Removal(world, leader_goes)
            removal.begin(removal.stay[0])
            world.timeline.run(world.timeline.now + moment)
            gone += removal.goes.removed
            removal.stay[0].crash()
            world.timeline.run(world.timeline.now + 1.0)
            world.recover()
    assert gone


def test_of_two_the_one_that_goes_may_be_asked() -> None:
    with World(3, 2) as world:
        removal = Removal(world, leader_goes=True)
        removal.begin(removal.goes)
        world.timeline.run(world.timeline.now + SECONDS)
        assert removal.told is not None
        removal.stay[0].crash()
        world.recover()


def test_one_that_goes_and_dies_before_it_is_told_is_told_when_it_is_back() -> None:
    seed = 4
    for moment in moments(seed, 2, leader_goes=False):
        with World(seed, 2) as world:
            removal = Removal(world, leader_goes=False)
            removal.begin(removal.stay[0])
            world.timeline.run(world.timeline.now + moment)
            removal.goes.crash()
            world.timeline.run(world.timeline.now + 1.0)
            removal.goes.start()
            world.timeline.run(world.timeline.now + SECONDS)
            members = removal.stay[0].member
            assert members is not None
            assert removal.goes.removed != (removal.goes.member_id in {m.ID for m in members.state.membership.all()})
            world.recover()


def test_of_four_any_two_of_those_who_stay_go_on() -> None:
    seed, gone = 6, 0
    for moment in moments(seed, 4, leader_goes=False, put=True):
        with World(seed, 4) as world:
            removal = Removal(world, leader_goes=False)
            puts = Puts(world, removal.stay)
            removal.begin(removal.stay[0])
            world.timeline.run(world.timeline.now + moment)
            gone += removal.goes.removed
            # The leader never comes back, the others do.
            lost, *others = removal.stay
            for host in removal.stay:
                host.crash()
            lost.removed = True
            for host in others:
                host.start()
            served = puts.answered
            end = world.timeline.now + 30.0
            while puts.answered < served + 2 and world.timeline.now < end:
                world.timeline.run(world.timeline.now + 0.5)
            assert puts.answered >= served + 2, world._describe()
    assert gone


def test_a_removed_leader_asks_another_to_lead_if_the_first_one_does_not() -> None:
    with World(9, 4) as world:
        removal = Removal(world, leader_goes=True)
        running = removal.goes.running
        assert running is not None
        connections = running.lifecycle.transport
        first, second, _ = sorted(
            removal.stay, key=lambda host: (connections.active_since(host.member_id) or 0.0, host.member_id)
        )
        # Who can write nothing does not take the lead.
        first.disk.full = True
        Puts(world, [second])
        member = first.member
        assert member is not None
        end = world.timeline.now + 30.0
        while not member.disk.full:
            assert world.timeline.now < end
            world.timeline.run(world.timeline.now + 0.1)
        assert removal.goes.leads
        removal.begin(second)
        world.timeline.run(world.timeline.now + 2 * SECONDS)
        assert first.disk.full
        assert removal.answered is not None
        assert removal.goes.removed
        world.recover()


def test_who_asks_again_for_a_removal_that_is_not_settled_waits_for_the_same_one() -> None:
    with World(10, 4) as world:
        removal = Removal(world, leader_goes=False)
        leader = next(host for host in removal.stay if host.leads)
        member = leader.member
        assert member is not None
        removal.begin(leader)
        while not member.state.membership.unsettled:
            world.timeline.run(world.timeline.now + 0.0001)
        # Before anybody else can store what settles it.
        for host in world.hosts:
            if host is not leader:
                host.pause(0.3)
        client = Client(world, world.book, "another", random.Random(2))
        world.clients.append(client)  # type: ignore[arg-type]
        answers: list[pb.MemberRemoveResponse] = []

        async def remove() -> None:
            client.visit(leader)
            request = pb.MemberRemoveRequest(ID=removal.goes.member_id)
            answers.append(await client.call("Cluster/MemberRemove", request, pb.MemberRemoveResponse))

        client.go(remove)
        world.timeline.run(world.timeline.now + 0.2)
        assert member.state.membership.unsettled == [removal.goes.member_id]
        assert not answers
        assert removal.answered is None
        world.timeline.run(world.timeline.now + SECONDS)
        assert removal.answered is not None
        assert [{each.ID for each in answer.members} for answer in answers] == [
            {host.member_id for host in removal.stay}
        ]
        world.recover()


def test_a_member_that_learns_of_a_removal_by_a_copy_of_the_state_tries_to_reach_the_removed_one_no_more() -> None:
    with World(8, 4) as world:
        # So that nothing but a copy brings level who was away.
        for host in world.hosts:
            host.config = replace(host.config, snapshot_count=2, snapshot_catchup_entries=0)
        removal = Removal(world, leader_goes=False)
        asked, behind, _ = removal.stay
        for host in world.hosts:
            if host is not behind:
                world.network.cut.update(((host.name, behind.name), (behind.name, host.name)))
        removal.begin(asked)
        Puts(world, [asked])
        world.timeline.run(world.timeline.now + SECONDS)
        assert removal.goes.removed
        member, running = behind.member, behind.running
        assert member is not None
        assert running is not None
        assert removal.goes.member_id in running.lifecycle.transport.stats()
        world.network.cut.clear()
        world.timeline.run(world.timeline.now + 2 * SECONDS)
        assert member.state.installs_total == 1
        others = {host.member_id for host in removal.stay if host is not behind}
        assert set(running.lifecycle.transport.stats()) == others
        world.recover()
