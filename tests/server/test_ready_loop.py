"""The Ready loop over an in-memory log and network: what it must keep whatever the timing."""

import asyncio
import random
from collections.abc import Callable, Sequence

import pytest

from kvstore.errors import LeaderChanged, TimeoutDueToLeaderFail
from kvstore.mvcc.puts import Put
from kvstore.pb import rpc_pb2 as pb
from kvstore.rpc.promise import Promise
from kvstore.server.proposals import Proposals, decode
from kvstore.server.reads import ReadRounds
from kvstore.server.ready_loop import PASSED_ON_BYTES, Leadership, ReadyLoop
from raft import Config, MemoryStorage, RawNode
from raft.confcodec import decode_entry, encode_conf_change
from raft.messages import (
    ConfChange,
    ConfChangeType,
    ConfState,
    Entry,
    EntryType,
    HardState,
    Message,
    MessageType,
    Snapshot,
    SnapshotMetadata,
    StateType,
)


class Log:
    """Durable one turn after it was asked for."""

    def __init__(self, storage: MemoryStorage) -> None:
        self.storage = storage

    def append(
        self,
        hard_state: HardState | None,
        entries: Sequence[Entry],
        snapshot: SnapshotMetadata | None,
        done: Callable[[], None],
    ) -> None:
        def durable() -> None:
            if hard_state is not None:
                self.storage.set_hard_state(hard_state)
            self.storage.append(entries)
            done()

        asyncio.get_running_loop().call_soon(durable)


class Machine:
    """Keeps the keys that were put, in their order."""

    def __init__(self, member: "TestMember") -> None:
        self.member = member
        self.keys: list[bytes] = []

    def apply(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            if not entry.data:
                continue
            proposer, sequence, requests = decode(entry.data)
            for kind, request in requests:
                assert kind == "put"
                assert isinstance(request, Put)
                self.keys.append(request.key)
            batch = self.member.proposals.applied(sequence) if proposer == self.member.id else None
            for pending in batch.requests if batch else ():
                pending.promise.set_result(b"")

    def install(self, snapshot: SnapshotMetadata, done: Callable[[], None]) -> None:
        raise AssertionError("nobody falls behind here")

    def turn_ended(self) -> None:
        pass


class TestMember:
    """One member of a group in this process."""

    __test__ = False

    def __init__(self, number: int, group: "Group") -> None:
        self.id = number
        self.group = group
        storage = MemoryStorage(Snapshot(b"", SnapshotMetadata(ConfState(voters=[1, 2, 3]), 1, 1)))
        node = RawNode(
            Config(
                id=number,
                election_tick=10,
                heartbeat_tick=1,
                storage=storage,
                applied=1,
                async_storage_writes=True,
                check_quorum=True,
                pre_vote=True,
                random_source=random.Random(number),
            )
        )
        self.proposals = Proposals(number, 1, 5.0)
        self.machine = Machine(self)
        self.reads = ReadRounds(number, 1, node.read_index, 5.0)
        self.leaderships: list[Leadership] = []
        self.loop = ReadyLoop(
            node=node,
            member_id=number,
            log=Log(storage),
            peers=self,
            machine=self.machine,
            proposals=self.proposals,
            reads=self.reads,
            applied=1,
            on_leadership=self.leaderships.append,
            on_failure=group.failures.append,
        )

    def send(self, to: int, messages: list[Message]) -> None:
        asyncio.get_running_loop().call_soon(self.group.deliver, self.id, to, messages)

    def reaches(self, member: int) -> bool:
        return (self.id, member) not in self.group.unconnected

    def put(self, key: bytes, reign: int = 0) -> Promise[bytes]:
        promise: Promise[bytes] = Promise()
        request = pb.PutRequest(key=key)
        now = asyncio.get_running_loop().time()
        self.proposals.add("put", request, request.SerializeToString(), promise, now, reign)
        self.loop.wake()
        return promise

    @property
    def term(self) -> int:
        return self.loop.node.basic_status().hard_state.term


class Group:
    """Three members; messages between those in `cut` and the others are lost.

    unconnected: pairs of which the first has no connection to the second, and knows it.
    """

    def __init__(self) -> None:
        self.failures: list[BaseException] = []
        self.cut: set[int] = set()
        self.unconnected: set[tuple[int, int]] = set()
        self.members = {number: TestMember(number, self) for number in (1, 2, 3)}

    def deliver(self, from_: int, to: int, messages: list[Message]) -> None:
        if (from_ in self.cut) == (to in self.cut) and (from_, to) not in self.unconnected:
            self.members[to].loop.receive(messages)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                assert not self.failures, self.failures
                for member in self.members.values():
                    member.loop.tick()
                for _ in range(10):
                    await asyncio.sleep(0)

    async def lead(self, number: int) -> TestMember:
        member = self.members[number]
        member.loop.call(lambda node: node.campaign())
        await self.until(lambda: all(m.loop.leadership.leader == number for m in self.members.values()))
        return member


async def test_requests_of_all_members_are_applied_in_one_order_everywhere() -> None:
    group = Group()
    await group.lead(1)
    promises = [member.put(b"%d-%d" % (number, i)) for i in range(100) for number, member in group.members.items()]
    await group.until(lambda: all(promise.done() for promise in promises))
    await group.until(lambda: all(len(m.machine.keys) == 300 for m in group.members.values()))
    orders = {tuple(member.machine.keys) for member in group.members.values()}
    assert len(orders) == 1
    assert set(orders.pop()) == {b"%d-%d" % (number, i) for i in range(100) for number in (1, 2, 3)}


async def test_requests_of_one_turn_share_an_entry() -> None:
    group = Group()
    leader = await group.lead(2)
    before = leader.loop.committed
    promises = [leader.put(b"%d" % i) for i in range(500)]
    await group.until(lambda: all(promise.done() for promise in promises))
    assert leader.loop.committed == before + 1


async def turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_leader_with_two_of_its_own_entries_under_way_gathers_what_comes_into_one_more() -> None:
    group = Group()
    leader = await group.lead(1)
    group.cut = {1}
    before = len(leader.loop.node.uncommitted())
    promises = []
    for number in range(6):
        promises.append(leader.put(b"%d" % number))
        await turns()
    assert len(leader.loop.node.uncommitted()) == before + 2
    committed = leader.loop.committed
    group.cut = set()
    await group.until(lambda: all(promise.done() for promise in promises))
    assert leader.loop.committed == committed + 3
    assert leader.machine.keys == [b"%d" % number for number in range(6)]


async def test_a_follower_keeps_requests_until_it_has_a_connection_to_the_leader() -> None:
    group = Group()
    leader = await group.lead(1)
    follower = group.members[2]
    group.unconnected = {(2, 1)}
    promises = [follower.put(b"%d" % number) for number in range(3)]
    await turns()
    assert follower.proposals.has_open
    group.unconnected = set()
    # The next look is a tick's.
    await group.until(lambda: all(promise.done() for promise in promises))
    assert [promise.exception() for promise in promises] == [None] * 3
    assert leader.machine.keys == [b"0", b"1", b"2"]


async def test_what_a_follower_could_not_send_goes_to_who_leads_next() -> None:
    group = Group()
    await group.lead(1)
    follower = group.members[2]
    group.unconnected = {(2, 1), (3, 1), (1, 2), (1, 3)}
    promise = follower.put(b"kept")
    await group.until(lambda: follower.loop.leadership.leader not in (0, 1))
    await group.until(promise.done)
    assert promise.exception() is None
    assert follower.machine.keys == [b"kept"]


async def test_many_requests_go_to_the_leader_in_messages_of_a_moderate_size() -> None:
    group = Group()
    leader = await group.lead(1)
    follower = group.members[2]
    group.unconnected = {(2, 1)}
    kept = []
    for number in range(7):
        kept.append(follower.put(b"%d" % number + bytes(PASSED_ON_BYTES // 3)))
        # Each in an entry of its own, as after a tenth of a second.
        follower.proposals._timeout += 1.0
    sizes: list[int] = []
    deliver = group.deliver

    def weigh(from_: int, to: int, messages: list[Message]) -> None:
        sizes.extend(sum(len(each.data) for each in m.entries) for m in messages if m.type is MessageType.PROP)
        deliver(from_, to, messages)

    group.deliver = weigh  # type: ignore[method-assign]
    group.unconnected = set()
    await group.until(lambda: all(promise.done() for promise in kept))
    assert [promise.exception() for promise in kept] == [None] * 7
    assert len(sizes) == 4
    assert max(sizes) <= PASSED_ON_BYTES
    assert [key[:1] for key in leader.machine.keys] == [b"%d" % number for number in range(7)]


@pytest.mark.parametrize("number", [1, 2])
async def test_what_comes_with_the_first_word_of_a_new_leader_waits_for_a_connection_to_that_one(number: int) -> None:
    group = Group()
    await group.lead(1)
    member = group.members[number]
    group.unconnected = {(number, 3)}
    promise = member.put(b"k")
    member.loop.receive([Message(MessageType.HEARTBEAT, number, 3, member.term + 1, commit=0)])
    await turns()
    assert member.loop.leadership == Leadership(3, False)
    assert member.proposals.has_open
    assert not promise.done()


async def test_what_others_pass_on_does_not_keep_a_leaders_own_requests_waiting() -> None:
    group = Group()
    leader = await group.lead(1)
    group.cut = {1}
    for _ in range(5):
        entry = Entry(data=b"of another member")
        leader.loop.receive([Message(MessageType.PROP, to=1, from_=2, entries=[entry])])
        await turns()
    before = len(leader.loop.node.uncommitted())
    assert before >= 5
    leader.put(b"its own")
    await turns()
    assert len(leader.loop.node.uncommitted()) == before + 1


async def test_requests_without_a_leader_wait_for_one() -> None:
    group = Group()
    member = group.members[3]
    promise = member.put(b"early")
    for _ in range(20):
        await asyncio.sleep(0)
    assert not promise.done()
    await group.lead(1)
    await group.until(promise.done)
    assert member.machine.keys == [b"early"]


async def test_a_read_is_served_only_after_what_was_committed_before_it() -> None:
    group = Group()
    leader = await group.lead(1)
    follower = group.members[3]
    promise = leader.put(b"x")
    await group.until(promise.done)
    served: list[list[bytes]] = []
    follower.reads.join(lambda error: served.append(list(follower.machine.keys)), asyncio.get_running_loop().time())
    follower.loop.wake()
    await group.until(lambda: bool(served))
    assert served == [[b"x"]]


async def test_a_leader_that_is_cut_off_confirms_no_read() -> None:
    group = Group()
    old = await group.lead(1)
    group.cut = {1}
    outcomes: list[object] = []
    old.reads.join(outcomes.append, asyncio.get_running_loop().time())
    old.loop.wake()
    await group.until(lambda: group.members[2].loop.leadership.is_leader or group.members[3].loop.leadership.is_leader)
    assert outcomes == []
    group.cut = set()
    await group.until(lambda: outcomes == [None])


async def test_a_write_that_went_down_with_its_leader_fails_as_soon_as_the_next_one_goes_on() -> None:
    group = Group()
    old = await group.lead(1)
    group.cut = {1}
    lost = old.put(b"lost")
    await group.until(lambda: group.members[2].loop.leadership.is_leader or group.members[3].loop.leadership.is_leader)
    group.cut = set()
    kept = group.members[2].put(b"kept")
    await group.until(kept.done)
    await group.until(lambda: all(member.machine.keys == [b"kept"] for member in group.members.values()))
    assert isinstance(lost.exception(), TimeoutDueToLeaderFail)


async def test_a_proposal_that_meets_a_leader_about_to_go_is_taken_by_the_next() -> None:
    group = Group()
    old = await group.lead(1)
    # The transfer cannot complete while member 2 hears nothing, and a leader that transfers takes no proposals.
    group.cut = {2}
    old.loop.call(lambda node: node.transfer_leader(2))
    forwarded = group.members[3].put(b"forwarded")
    own = old.put(b"own")
    for _ in range(50):
        await asyncio.sleep(0)
    assert not forwarded.done()
    assert not own.done()
    group.cut = set()
    await group.until(lambda: forwarded.done() and own.done())
    await group.until(lambda: all(len(member.machine.keys) == 2 for member in group.members.values()))
    assert forwarded.exception() is None
    assert own.exception() is None


async def test_what_was_decided_as_the_leader_of_a_term_is_appended_in_that_term_only() -> None:
    group = Group()
    old = await group.lead(1)
    reign = old.term
    decided = old.put(b"in time", reign)
    await group.until(decided.done)
    # What waits for a transfer goes to the next leader. This transfer waits for its target to catch up.
    group.cut = {2}
    missed = old.put(b"missed")
    await group.until(missed.done)
    old.loop.call(lambda node: node.transfer_leader(2))
    late, anybodys = old.put(b"too late", reign), old.put(b"anybody's")
    for _ in range(50):
        await asyncio.sleep(0)
    assert not late.done()
    group.cut = set()
    await group.until(lambda: late.done() and anybodys.done())
    assert group.members[2].loop.leadership.is_leader
    assert isinstance(late.exception(), LeaderChanged)
    assert anybodys.exception() is None
    # Leading again is another reign, in which others may have decided since.
    group.members[2].loop.call(lambda node: node.transfer_leader(1))
    await group.until(lambda: old.loop.leadership.is_leader)
    again = old.put(b"from before", reign)
    await group.until(again.done)
    assert isinstance(again.exception(), LeaderChanged)
    anew = old.put(b"anew", old.term)
    await group.until(anew.done)
    assert anew.exception() is None
    await group.until(lambda: len(old.machine.keys) == 4)
    assert old.machine.keys == [b"in time", b"missed", b"anybody's", b"anew"]


async def test_time_that_passed_while_the_state_was_replaced_makes_nobody_campaign() -> None:
    group = Group()
    await group.until(lambda: any(member.loop.leadership.is_leader for member in group.members.values()))
    await group.until(lambda: all(member.loop.leadership.leader for member in group.members.values()))
    follower = next(member for member in group.members.values() if not member.loop.leadership.is_leader)
    before = follower.loop.leadership
    follower.loop.installing = True
    for _ in range(100):
        follower.loop.tick()
        await asyncio.sleep(0)
    follower.loop.installing = False
    follower.loop.wake()
    for _ in range(10):
        await asyncio.sleep(0)
    assert follower.loop.leadership == before
    assert follower.loop.node.raft.state is StateType.FOLLOWER


class Alone:
    """A member that is alone, and what its log was asked to write: the entries and the commit index with them."""

    def __init__(self, hard_state: HardState, entries: Sequence[Entry], voters: Sequence[int] = (1,)) -> None:
        self.storage = MemoryStorage(Snapshot(b"", SnapshotMetadata(ConfState(voters=list(voters)), 1, 1)))
        self.storage.set_hard_state(hard_state)
        self.storage.append(entries)
        config = Config(
            id=1, election_tick=10, heartbeat_tick=1, storage=self.storage, applied=1, async_storage_writes=True
        )
        self.node = node = RawNode(config)
        self.written: list[tuple[list[int], int | None]] = []
        self.failures: list[BaseException] = []
        self.loop = ReadyLoop(
            node=node,
            member_id=1,
            log=self,
            peers=self,
            machine=self,
            proposals=Proposals(1, 1, 5.0),
            reads=ReadRounds(1, 1, node.read_index, 5.0),
            applied=1,
            on_leadership=lambda leadership: None,
            on_failure=self.failures.append,
        )

    def append(
        self,
        hard_state: HardState | None,
        entries: Sequence[Entry],
        snapshot: SnapshotMetadata | None,
        done: Callable[[], None],
    ) -> None:
        self.written.append(([entry.index for entry in entries], hard_state.commit if hard_state else None))
        if hard_state is not None:
            self.storage.set_hard_state(hard_state)
        self.storage.append(entries)
        done()

    def send(self, to: int, messages: list[Message]) -> None:
        pass

    def reaches(self, member: int) -> bool:
        return True

    def apply(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            if entry.type is not EntryType.NORMAL:
                self.node.apply_conf_change(decode_entry(entry))

    def install(self, snapshot: SnapshotMetadata, done: Callable[[], None]) -> None:
        raise AssertionError("nobody falls behind here")

    def turn_ended(self) -> None:
        pass

    async def do(self, action: Callable[[RawNode], None]) -> list[tuple[list[int], int | None]]:
        """What is written in consequence."""
        self.written.clear()
        self.loop.call(action)
        for _ in range(5):
            await asyncio.sleep(0)
        assert not self.failures
        return list(self.written)


async def test_that_a_membership_change_is_committed_is_written_with_the_entry_after_it() -> None:
    member = Alone(HardState(1, 1, 1), ())
    await member.do(RawNode.campaign)
    await member.do(lambda node: node.propose(b"x"))
    # A commit index that moves alone is written neither by itself nor with the next entry.
    assert await member.do(lambda node: node.propose(b"x")) == [([4], None)]
    learner = ConfChange(type=ConfChangeType.ADD_LEARNER_NODE, node_id=2)
    assert await member.do(lambda node: node.propose_conf_change(learner)) == [([5], None)]
    assert member.loop.applied == 5
    assert await member.do(lambda node: node.propose(b"x")) == [([6], 5)]
    assert await member.do(lambda node: node.propose(b"x")) == [([7], None)]


async def test_of_a_change_in_the_log_of_the_last_process_it_is_written_too() -> None:
    learner = ConfChange(type=ConfChangeType.ADD_LEARNER_NODE, node_id=2)
    kind, data = encode_conf_change(learner)
    member = Alone(HardState(1, 1, 1), [Entry(1, 2, kind, data)])
    # All that the last process knew to be committed is forgotten, so it is committed again.
    await member.do(RawNode.campaign)
    assert member.loop.applied == 3
    assert await member.do(lambda node: node.propose(b"x")) == [([4], 3)]


async def test_a_change_deep_in_the_log_of_the_last_process_is_not_forgotten_with_what_comes_before_it() -> None:
    learner = ConfChange(type=ConfChangeType.ADD_LEARNER_NODE, node_id=3)
    kind, data = encode_conf_change(learner)
    tail = [Entry(1, 2, EntryType.NORMAL, b"x"), Entry(1, 3, kind, data)]
    member = Alone(HardState(1, 2, 1), tail, voters=[1, 2])

    def heard(index: int, commit: int, *entries: Entry) -> Callable[[RawNode], None]:
        message = Message(
            MessageType.APP, to=1, from_=2, term=1, log_term=1, index=index, commit=commit, entries=list(entries)
        )
        return lambda node: node.step(message)

    # The commit index reaches what is before the change with one entry, the change by itself, and then the next entry.
    assert await member.do(heard(3, 2, Entry(1, 4, EntryType.NORMAL, b"x"))) == [([4], 2)]
    assert await member.do(heard(4, 4)) == []
    assert member.loop.applied == 4
    assert await member.do(heard(4, 4, Entry(1, 5, EntryType.NORMAL, b"x"))) == [([5], 4)]
