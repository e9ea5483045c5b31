"""Three members in this process, whose logs find no room when the test says so: what still works, and who leads."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

import pytest

from kvstore import errors
from kvstore.mvcc.puts import for_the_log
from kvstore.pb import rpc_pb2 as pb
from kvstore.server import lifecycle
from kvstore.server import state as states
from kvstore.server.config import Config, Url
from kvstore.server.member import Member
from kvstore.server.metrics import Metrics
from kvstore.server.start import RunningMember, start_member
from kvstore.server.surroundings import Surroundings
from kvstore.storage import backend as backends
from kvstore.storage import wal as wals
from kvstore.storage.backend import Backend, BackendOptions
from kvstore.storage.batch import Operation, TableSpec, WriteStats
from kvstore.storage.errors import DiskFull
from kvstore.storage.wal import Wal, WalOptions
from kvstore.storage.writer import WriterEvents
from raft.messages import ConfState, Message, MessageType, SnapshotMetadata

SECONDS = 60.0
NAMES = ("m1", "m2", "m3")


async def eventually(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.01)


async def answered(attempt: Callable[[], Awaitable[bytes]]) -> bytes:
    """The answer of the first attempt that does not fail: the leader may just have changed."""
    async with asyncio.timeout(SECONDS):
        while True:
            try:
                return await attempt()
            except errors.KvstoreError:
                await asyncio.sleep(0.05)


class LogDisk:
    """Where one member's log lies: full or not."""

    def __init__(self) -> None:
        self.full = False
        self.wal: Wal

    def open(self, path: Path, options: WalOptions, events: WriterEvents, _: Sequence[int]) -> Wal:
        self.wal = wals.open_inline(path, options, events)
        engine = self.wal._env.engine
        assert engine is not None
        commit = engine.commit

        def commit_if_there_is_room(batches: Sequence[Sequence[Operation]]) -> WriteStats:
            if self.full:
                raise DiskFull("the log's disk is full")
            return commit(batches)

        engine.commit = commit_if_there_is_room  # type: ignore[method-assign]
        return self.wal

    def make_room(self) -> None:
        self.full = False
        self.wal._writer.retry()


class StateDisk:
    """Where one member's state lies: full or not. commits_left: how many find room before it is."""

    def __init__(self) -> None:
        self.full = False
        self.commits_left = 0
        self.backend: Backend

    def open(
        self, path: Path, tables: Sequence[TableSpec], options: BackendOptions, events: WriterEvents, _: Sequence[int]
    ) -> Backend:
        self.backend = backends.open_inline(path, tables, options, events)
        engine = self.backend._env.engine
        assert engine is not None
        commit = engine.commit

        def commit_if_there_is_room(batches: Sequence[Sequence[Operation]]) -> WriteStats:
            if self.full:
                if not self.commits_left:
                    raise DiskFull("the state's disk is full")
                self.commits_left -= 1
            return commit(batches)

        engine.commit = commit_if_there_is_room  # type: ignore[method-assign]
        return self.backend

    def make_room(self) -> None:
        self.full = False
        self.backend.retry()


class Three:
    """A cluster of three. disks: those of the logs, in the same order; state_disks: those of the states."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.disks = [LogDisk() for _ in NAMES]
        self.state_disks = [StateDisk() for _ in NAMES]
        self.running: list[RunningMember] = []

    async def start(self) -> None:
        sockets = [socket.socket() for _ in NAMES]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        urls = [Url("http", "127.0.0.1", each.getsockname()[1]) for each in sockets]
        for each in sockets:
            each.close()
        for name, url, disk, state_disk in zip(NAMES, urls, self.disks, self.state_disks, strict=True):
            config = Config(
                name=name,
                data_dir=self._directory / name,
                listen_peer_urls=(url,),
                initial_advertise_peer_urls=(url,),
                initial_cluster={name: (url,) for name, url in zip(NAMES, urls, strict=True)},
                heartbeat_interval=50,
                election_timeout=1_000,
            )
            surroundings = Surroundings(open_log=disk.open, open_state=state_disk.open)
            self.running.append(await start_member(config, Metrics(), surroundings))
        for member in self.running:
            await member.lifecycle.publish()

    async def stop(self) -> None:
        for disk in self.disks:
            disk.make_room()
        for state_disk in self.state_disks:
            state_disk.make_room()
        for member in self.running:
            await member.stop()

    @property
    def members(self) -> list[Member]:
        return [each.member for each in self.running]

    async def leader(self) -> int:
        """Who leads, once there is somebody."""
        await eventually(lambda: any(member.is_leader for member in self.members), "somebody leads")
        return next(number for number, member in enumerate(self.members) if member.is_leader)

    async def fill(self, number: int) -> None:
        """Leave a member's log no room, and let it find out."""
        self.disks[number].full = True
        other = self.members[number - 1]

        def write() -> bool:
            other.put(for_the_log(pb.PutRequest(key=b"filler"))).then(lambda _: None)
            return self.members[number].disk.full

        await eventually(write, f"{NAMES[number]} finds no room")


@pytest.fixture
async def three(tmp_path: Path) -> AsyncIterator[Three]:
    three = Three(tmp_path)
    async with asyncio.timeout(4 * SECONDS):
        await three.start()
        yield three
        await three.stop()


def get(key: bytes, *, serializable: bool = False) -> pb.RangeRequest:
    return pb.RangeRequest(key=key, serializable=serializable)


def values(answer: bytes) -> list[bytes]:
    return [kv.value for kv in pb.RangeResponse.FromString(answer).kvs]


async def test_a_follower_without_room_goes_on_answering_reads(three: Three) -> None:
    leader = three.members[await three.leader()]
    number = next(number for number, member in enumerate(three.members) if not member.is_leader)
    full = three.members[number]
    await leader.put(for_the_log(pb.PutRequest(key=b"k", value=b"old")))
    await full.range(get(b"k"))
    await three.fill(number)
    await answered(lambda: leader.put(for_the_log(pb.PutRequest(key=b"k", value=b"new"))))
    assert values(await full.range(get(b"k"))) == [b"new"]
    assert values(await full.range(get(b"k", serializable=True))) == [b"old"]
    txn = pb.TxnRequest(success=[pb.RequestOp(request_range=get(b"k"))])
    response = pb.TxnResponse.FromString(await full.txn(txn)).responses[0].response_range
    assert [kv.value for kv in response.kvs] == [b"new"]
    assert full.elsewhere.answered_total == 2
    with pytest.raises(errors.NoSpace):
        await full.put(for_the_log(pb.PutRequest(key=b"k")))
    with pytest.raises(errors.FutureRev):
        await full.range(pb.RangeRequest(key=b"k", revision=1_000_000))
    three.disks[number].make_room()
    await eventually(lambda: full.loop.applied == leader.loop.applied, "the member catches up")
    assert values(await full.range(get(b"k"))) == [b"new"]
    assert full.elsewhere.answered_total == 2
    await full.put(for_the_log(pb.PutRequest(key=b"k", value=b"newer")))


async def test_a_lease_is_asked_about_at_a_follower_without_room(three: Three) -> None:
    leader = three.members[await three.leader()]
    number = next(number for number, member in enumerate(three.members) if not member.is_leader)
    await three.fill(number)
    await answered(lambda: leader.lease_grant(pb.LeaseGrantRequest(ID=7, TTL=1_000)))
    answer = await three.members[number].lease_time_to_live(pb.LeaseTimeToLiveRequest(ID=7))
    assert pb.LeaseTimeToLiveResponse.FromString(answer).grantedTTL == 1_000


async def test_a_leader_without_room_hands_on_and_answers_reads(three: Three) -> None:
    number = await three.leader()
    old = three.members[number]
    await old.put(for_the_log(pb.PutRequest(key=b"k", value=b"old")))
    await three.fill(number)
    await eventually(lambda: not old.is_leader and old.has_leader, "another member leads")
    new = three.members[await three.leader()]
    assert new is not old
    await answered(lambda: new.put(for_the_log(pb.PutRequest(key=b"k", value=b"new"))))
    assert values(await old.range(get(b"k"))) == [b"new"]


async def test_a_leader_keeps_the_lead_when_nobody_has_room(three: Three) -> None:
    number = await three.leader()
    leader = three.members[number]
    await leader.put(for_the_log(pb.PutRequest(key=b"k", value=b"v")))
    for each in range(len(NAMES)):
        three.disks[each].full = True
    for member in three.members:
        member.put(for_the_log(pb.PutRequest(key=b"filler"))).then(lambda _: None)
    await eventually(lambda: all(member.disk.full for member in three.members), "all find no room")
    term = leader.loop.node.basic_status().hard_state.term
    # Longer than the leader tries to find somebody who can store something.
    until = asyncio.get_running_loop().time() + lifecycle.STEP_ASIDE_SECONDS + 0.5
    while asyncio.get_running_loop().time() < until:
        for member in three.members:
            assert values(await member.range(get(b"k"))) == [b"v"]
    assert leader.is_leader
    assert leader.loop.node.basic_status().hard_state.term == term
    for disk in three.disks:
        disk.make_room()
    await eventually(lambda: not any(member.disk.full for member in three.members), "there is room")
    for member in three.members:
        await answered(lambda member=member: member.put(for_the_log(pb.PutRequest(key=b"k", value=b"v"))))  # type: ignore[misc]


async def test_a_member_without_room_does_not_take_the_lead(three: Three) -> None:
    leader = three.members[await three.leader()]
    number = next(number for number, member in enumerate(three.members) if not member.is_leader)
    await three.fill(number)
    term = leader.loop.node.basic_status().hard_state.term
    asked = Message(MessageType.TIMEOUT_NOW, to=three.members[number].id, from_=leader.id, term=term)
    three.running[number].lifecycle.receive([asked])
    await answered(lambda: leader.put(for_the_log(pb.PutRequest(key=b"k"))))
    assert leader.is_leader
    assert leader.loop.node.basic_status().hard_state.term == term


async def test_a_write_under_way_does_not_wait_long_for_room(three: Three) -> None:
    number = await three.leader()
    leader = three.members[number]
    loop = asyncio.get_running_loop()
    three.disks[number].full = True
    began = loop.time()
    with pytest.raises((errors.RequestTimeout, errors.TimeoutDueToLeaderFail)):
        await leader.put(for_the_log(pb.PutRequest(key=b"k")))
    # Far from sharp: the machine may be busy. Without a full disk it is the whole timeout.
    assert loop.time() - began < leader.config.request_timeout - lifecycle.FULL_DISK_SECONDS


@pytest.mark.parametrize("measure", ["bytes", "rows"])
async def test_a_follower_whose_state_has_no_room_while_its_log_has_applies_so_much_and_no_more(
    three: Three, monkeypatch: pytest.MonkeyPatch, measure: str
) -> None:
    monkeypatch.setattr(states, "MAX_UNSTORED_BYTES", 100_000 if measure == "bytes" else 1 << 40)
    monkeypatch.setattr(states, "MAX_UNSTORED_ROWS", 50 if measure == "rows" else 1 << 40)
    leader = three.members[await three.leader()]
    number = next(number for number, member in enumerate(three.members) if not member.is_leader)
    full, disk = three.members[number], three.state_disks[number]
    disk.full = True
    await leader.put(for_the_log(pb.PutRequest(key=b"k")))
    await eventually(lambda: full.disk.full, "the member finds no room for its state")
    began = full.loop.applied
    value = bytes(10_000 if measure == "bytes" else 10)
    for put in range(50):
        await leader.put(for_the_log(pb.PutRequest(key=b"k%d" % put, value=value)))
        # All in one turn it would apply: it is asked before each batch.
        await eventually(
            lambda: full.state.holds_too_much or full.loop.applied == leader.loop.applied, "the member keeps up"
        )
    await eventually(lambda: full.state.holds_too_much, "the member has enough")
    # A dozen puts are too much, and what was under way by then is applied.
    assert full.loop.applied < began + 25 < leader.loop.applied
    with pytest.raises(errors.NoSpace):
        await full.put(for_the_log(pb.PutRequest(key=b"k")))
    assert values(await full.range(get(b"k49"))) == [value]
    assert values(await full.range(get(b"k49", serializable=True))) == []
    disk.make_room()
    await eventually(lambda: full.loop.applied == leader.loop.applied, "the member catches up")
    assert values(await full.range(get(b"k49", serializable=True))) == [value]
    await eventually(lambda: not full.state.holds_too_much and not full.disk.full, "there is room again")


class FullState:
    """A follower whose state has no room, and may have 100,000 bytes in memory that are not stored."""

    def __init__(self, three: Three, leader: Member, number: int) -> None:
        self._leader = leader
        self._disk = three.state_disks[number]
        self.state = three.members[number].state

    async def fill(self) -> None:
        """Have 10,000 bytes wait for room, and 80,000 behind them."""
        backend = self.state.backend
        await eventually(
            lambda: backend.flushed_index == self.state.applied == self._leader.loop.applied, "all before is stored"
        )
        self._disk.full = True
        await self.put(1)
        await self.find_no_room()
        await self.put(8)
        assert not self.state.holds_too_much

    async def put(self, times: int) -> None:
        for _ in range(times):
            await self._leader.put(for_the_log(pb.PutRequest(key=b"k", value=bytes(10_000))))
        await eventually(lambda: self.state.applied == self._leader.loop.applied, "the member has applied it")

    def make_room_for_one_commit(self) -> None:
        self._disk.commits_left = 1
        self._disk.backend.retry()
        assert self._disk.commits_left == 0

    async def find_no_room(self) -> None:
        await eventually(lambda: self.state.backend.is_full, "the member finds no room for its state")


@pytest.fixture
async def full_state(three: Three, monkeypatch: pytest.MonkeyPatch) -> FullState:
    monkeypatch.setattr(states, "MAX_UNSTORED_BYTES", 100_000)
    leader = three.members[await three.leader()]
    number = next(number for number, member in enumerate(three.members) if not member.is_leader)
    made = FullState(three, leader, number)
    await made.fill()
    return made


async def test_what_was_applied_without_room_counts_no_more_once_it_is_stored(full_state: FullState) -> None:
    full_state.make_room_for_one_commit()
    await full_state.find_no_room()
    await full_state.put(1)
    full_state.make_room_for_one_commit()
    await full_state.find_no_room()
    # The 80,000 are stored, 10,000 are not.
    await full_state.put(3)
    assert not full_state.state.holds_too_much


async def test_what_was_applied_without_room_counts_until_it_is_stored(
    full_state: FullState, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(full_state.state.backend, "maybe_flush", lambda now: None)
        full_state.make_room_for_one_commit()
        assert not full_state.state.backend.is_full
        await full_state.put(1)
    # The first 10,000 are stored, the 80,000 and the last 10,000 are not.
    await full_state.find_no_room()
    # Each is a little more than its value.
    await full_state.put(1)
    await eventually(lambda: full_state.state.holds_too_much, "the member has enough")


async def test_a_copy_of_the_state_waits_for_room_to_be_put_in_place(
    three: Three, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(states, "REPLACE_RETRY_SECONDS", 0.01)
    running = three.running[0]
    state, disk = running.member.state, running.member.disk
    found: list[bool] = []

    async def replace(*_: object) -> None:
        found.append(disk.full)
        if len(found) < 3:
            raise DiskFull("the state's disk is full")

    monkeypatch.setattr(state.backend, "replace", replace)
    metadata = SnapshotMetadata(ConfState(), 1_000_000, 1)
    state.expect(metadata, Path("copy"))
    done = asyncio.Event()
    state.install(metadata, done.set)
    await done.wait()
    assert found == [False, True, True]
    assert not disk.full
    assert not running.failed.done()
