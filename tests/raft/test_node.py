"""A member inside asyncio: what waits, what is cancelled, what stops."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from raft import (
    LOCAL_APPEND_THREAD,
    LOCAL_APPLY_THREAD,
    ConfChange,
    ConfChangeType,
    ConfChangeV2,
    Config,
    ConfState,
    Entry,
    EntryType,
    HardState,
    MemoryStorage,
    Message,
    MessageType,
    MisuseError,
    Node,
    NodeStopped,
    Peer,
    ProposalDropped,
    Ready,
    Snapshot,
    SnapshotMetadata,
    StateType,
    StepLocalMessage,
    decode_entry,
    restart_node,
    start_node,
)


def config(id: int = 1, storage: MemoryStorage | None = None, **fields: object) -> Config:
    options = {"election_tick": 10, "heartbeat_tick": 1, "random_source": random.Random(id), **fields}
    return Config(id=id, storage=storage or MemoryStorage(), **options)  # type: ignore[arg-type]


def group_storage(*voters: int) -> MemoryStorage:
    return MemoryStorage(Snapshot(metadata=SnapshotMetadata(ConfState(list(voters)), 1, 1)))


class Driver:
    """Drives a node alone: persists, applies and advances."""

    def __init__(self, node: Node, storage: MemoryStorage) -> None:
        self.node = node
        self.storage = storage
        self.applied: list[Entry] = []
        self.sent: list[Message] = []

    async def work(self) -> Ready:
        """Take one Ready and do what it says."""
        ready = await self.node.ready()
        if ready.hard_state is not None:
            self.storage.set_hard_state(ready.hard_state)
        self.storage.append(ready.entries)
        for entry in ready.committed_entries:
            if entry.type != EntryType.NORMAL:
                self.node.apply_conf_change(decode_entry(entry))
            self.applied.append(entry)
        self.sent += ready.messages
        self.node.advance()
        return ready

    async def lead(self) -> None:
        """Become the leader of a group of one."""
        await self.node.campaign()
        while True:
            status = self.node.status()
            leads = status.soft_state.raft_state == StateType.LEADER
            if leads and self.applied and self.applied[-1].term == status.hard_state.term:
                return
            await self.work()


@pytest.fixture
def alone() -> Driver:
    storage = group_storage(1)
    return Driver(restart_node(config(storage=storage, applied=1)), storage)


@contextmanager
def waiting(coroutine: object) -> Iterator[asyncio.Task[object]]:
    """A task of the coroutine, that has to be done by the end."""
    task: asyncio.Task[object] = asyncio.ensure_future(coroutine)  # type: ignore[call-overload]
    yield task
    assert task.done()


async def turns(count: int = 3) -> None:
    """Let everything that can go on go on."""
    for _ in range(count):
        await asyncio.sleep(0)


class TestStarting:
    async def test_a_new_group_begins_with_its_peers(self) -> None:
        storage = MemoryStorage()
        node = start_node(config(storage=storage), [Peer(1, b"ctx")])
        driver = Driver(node, storage)
        ready = await driver.work()
        assert ready.hard_state == HardState(1, 0, 1)
        assert [entry.type for entry in ready.committed_entries] == [EntryType.CONF_CHANGE]
        await driver.lead()
        await node.propose(b"x")
        await driver.work()
        await driver.work()
        assert driver.applied[-1].data == b"x"

    async def test_a_group_needs_peers(self) -> None:
        with pytest.raises(MisuseError, match="restart_node"):
            start_node(config(), [])

    async def test_a_restart_goes_on_from_the_storage(self, alone: Driver) -> None:
        await alone.lead()
        await alone.node.propose(b"x")
        await alone.work()
        await alone.node.stop()
        again = Driver(restart_node(config(storage=alone.storage, applied=1)), alone.storage)
        await again.work()
        assert [entry.index for entry in again.applied] == [2]
        await again.lead()
        assert [entry.data for entry in again.applied] == [b"", b"x", b""]


class TestReady:
    async def test_waits_until_there_is_something_to_do(self, alone: Driver) -> None:
        with waiting(alone.node.ready()) as task:
            await turns()
            assert not task.done()
            await alone.node.campaign()
            await turns()

    async def test_waits_until_the_last_one_is_advanced(self, alone: Driver) -> None:
        await alone.node.campaign()
        await alone.node.ready()
        await alone.node.campaign()
        with waiting(alone.node.ready()) as task:
            await turns()
            assert not task.done()
            alone.node.advance()
            await turns()

    async def test_cancelled_it_takes_nothing(self, alone: Driver) -> None:
        task = asyncio.ensure_future(alone.node.ready())
        await turns()
        await alone.node.campaign()
        # The work is there and the task has been woken, but has not gone on yet.
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        ready = await alone.node.ready()
        assert ready.hard_state is not None

    async def test_two_that_wait_get_different_work(self, alone: Driver) -> None:
        first = asyncio.ensure_future(alone.node.ready())
        second = asyncio.ensure_future(alone.node.ready())
        await turns()
        await alone.node.campaign()
        await turns()
        assert [first.done(), second.done()] == [True, False]
        alone.node.advance()
        await turns()
        assert second.done()
        assert first.result() != second.result()

    async def test_advancing_without_a_ready_is_wrong_use(self, alone: Driver) -> None:
        with pytest.raises(MisuseError, match="without a Ready"):
            alone.node.advance()

    async def test_asynchronous_storage_writes_need_no_advance(self) -> None:
        storage = group_storage(1)
        node = restart_node(config(storage=storage, applied=1, async_storage_writes=True))
        await node.campaign()
        committed: list[bytes] = []
        proposed = False
        while b"x" not in committed:
            if node.status().soft_state.raft_state == StateType.LEADER and not proposed:
                proposed = True
                await node.propose(b"x")
            ready = await node.ready()
            for message in ready.messages:
                if message.to == LOCAL_APPEND_THREAD:
                    storage.append(message.entries)
                elif message.to == LOCAL_APPLY_THREAD:
                    committed += [entry.data for entry in message.entries]
                for response in message.responses:
                    await node.step(response)
        with pytest.raises(MisuseError):
            node.advance()


class TestProposing:
    async def test_waits_until_there_is_a_leader(self, alone: Driver) -> None:
        with waiting(alone.node.propose(b"x")) as task:
            await turns()
            assert not task.done()
            await alone.lead()
            await turns()
        await alone.work()
        await alone.work()
        assert alone.applied[-1].data == b"x"

    async def test_cancelled_it_proposes_nothing(self, alone: Driver) -> None:
        task = asyncio.ensure_future(alone.node.propose(b"x"))
        await turns()
        await alone.lead()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await alone.node.propose(b"y")
        await alone.work()
        await alone.work()
        assert [entry.data for entry in alone.applied if entry.data] == [b"y"]

    async def test_a_dropped_proposal_raises(self) -> None:
        storage = group_storage(1, 2)
        node = restart_node(config(storage=storage, applied=1, disable_proposal_forwarding=True))
        await node.step(Message(MessageType.HEARTBEAT, 1, 2, 1))
        with pytest.raises(ProposalDropped):
            await node.propose(b"x")
        with pytest.raises(ProposalDropped):
            await node.propose_batch([b"x"])
        with pytest.raises(ProposalDropped):
            await node.propose_conf_change(ConfChangeV2())

    async def test_a_batch_is_one_append(self, alone: Driver) -> None:
        await alone.lead()
        await alone.node.propose_batch([b"a", b"b"])
        assert [entry.data for entry in (await alone.work()).entries] == [b"a", b"b"]

    async def test_a_removed_member_waits_for_another_leader(self) -> None:
        storage = group_storage(1, 2)
        node = restart_node(config(storage=storage, applied=1))
        await node.step(Message(MessageType.HEARTBEAT, 1, 2, 1))
        node.apply_conf_change(ConfChange(type=ConfChangeType.REMOVE_NODE, node_id=1))
        with waiting(node.propose(b"x")) as task:
            await turns()
            assert not task.done()
            await node.step(Message(MessageType.HEARTBEAT, 1, 3, 2))
            await turns()

    async def test_a_change_of_the_configuration_is_proposed_and_applied(self, alone: Driver) -> None:
        await alone.lead()
        await alone.node.propose_conf_change(ConfChange(type=ConfChangeType.ADD_LEARNER_NODE, node_id=2))
        await alone.work()
        await alone.work()
        assert alone.node.status().config.conf_state() == ConfState([1], [2])


class TestStepping:
    async def test_a_forwarded_proposal_waits_for_a_leader_and_may_be_lost(self) -> None:
        node = restart_node(config(storage=group_storage(1, 2), applied=1, disable_proposal_forwarding=True))
        proposal = Message(MessageType.PROP, 1, 2, entries=[Entry(data=b"x")])
        with waiting(node.step(proposal)) as task:
            await turns()
            assert not task.done()
            await node.step(Message(MessageType.HEARTBEAT, 1, 2, 1))
            await turns()
        assert task.exception() is None

    async def test_what_no_peer_may_send_is_refused(self, alone: Driver) -> None:
        with pytest.raises(StepLocalMessage):
            await alone.node.step(Message(MessageType.HUP, 1, 2))

    async def test_a_response_from_a_stranger_is_lost(self, alone: Driver) -> None:
        await alone.node.step(Message(MessageType.APP_RESP, 1, 9, 1, index=5))
        assert alone.node.status().hard_state.term == 0

    async def test_ticks_elect(self, alone: Driver) -> None:
        for _ in range(20):
            alone.node.tick()
        assert alone.node.status().soft_state.raft_state == StateType.CANDIDATE

    async def test_reads_are_answered_in_a_ready(self, alone: Driver) -> None:
        await alone.lead()
        await alone.node.read_index(b"r")
        ready = await alone.work()
        assert [(read.index, read.request_ctx) for read in ready.read_states] == [(2, b"r")]

    async def test_leadership_is_transferred(self) -> None:
        node = restart_node(config(storage=group_storage(1, 2, 3), applied=1))
        await node.step(Message(MessageType.HEARTBEAT, 1, 2, 1))
        await node.transfer_leadership(2, 3)
        ready = await node.ready()
        forwarded = [m for m in ready.messages if m.type == MessageType.TRANSFER_LEADER]
        assert [(m.to, m.from_) for m in forwarded] == [(2, 3)]

    async def test_a_leader_is_forgotten(self) -> None:
        node = restart_node(config(storage=group_storage(1, 2), applied=1))
        await node.step(Message(MessageType.HEARTBEAT, 1, 2, 1))
        await node.forget_leader()
        assert node.status().soft_state.lead == 0

    async def test_reports_about_peers_reach_the_leader(self) -> None:
        storage = group_storage(1, 2)
        driver = Driver(restart_node(config(storage=storage, applied=1)), storage)
        await driver.node.campaign()
        await driver.work()
        await driver.node.step(Message(MessageType.VOTE_RESP, 1, 2, 1))
        await driver.work()
        await driver.node.step(Message(MessageType.APP_RESP, 1, 2, 1, index=2))
        assert str(driver.node.status().progress[2]) == "StateReplicate match=2 next=3"
        driver.node.report_unreachable(2)
        assert str(driver.node.status().progress[2]) == "StateProbe match=2 next=3"
        driver.node.report_snapshot(2, ok=True)
        assert str(driver.node.status().progress[2]) == "StateProbe match=2 next=3"


class TestStopping:
    async def test_whatever_waits_is_told(self, alone: Driver) -> None:
        tasks = [
            asyncio.ensure_future(alone.node.ready()),
            asyncio.ensure_future(alone.node.propose(b"x")),
            asyncio.ensure_future(alone.node.step(Message(MessageType.PROP, 1, 2, entries=[Entry()]))),
        ]
        await turns()
        await alone.node.stop()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [NodeStopped] * 3

    async def test_later_calls_raise_or_do_nothing(self, alone: Driver) -> None:
        node = alone.node
        await node.stop()
        await node.stop()
        for call in (
            node.ready(),
            node.propose(b"x"),
            node.campaign(),
            node.read_index(b"r"),
            node.forget_leader(),
            node.transfer_leadership(1, 2),
            node.step(Message(MessageType.HEARTBEAT, 1, 2, 1)),
        ):
            with pytest.raises(NodeStopped):
                await call
        node.tick()
        node.advance()
        node.report_unreachable(2)
        node.report_snapshot(2, ok=True)
        assert node.status().hard_state.term == 0


class _Lines:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def debug(self, message: str) -> None:
        self.lines.append(message)

    info = warning = error = debug


async def test_changes_of_the_leader_are_logged() -> None:
    lines = _Lines()
    node = restart_node(config(storage=group_storage(1, 2, 3), applied=1, logger=lines))
    await node.step(Message(MessageType.HEARTBEAT, 1, 2, 1))
    await node.step(Message(MessageType.HEARTBEAT, 1, 3, 2))
    await node.forget_leader()
    assert [line for line in lines.lines if line.startswith("raft.node")] == [
        "raft.node: 1 elected leader 2 at term 1",
        "raft.node: 1 changed leader from 2 to 3 at term 2",
        "raft.node: 1 lost leader 3 at term 2",
    ]
