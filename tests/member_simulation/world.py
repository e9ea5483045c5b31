"""A world: a cluster, its clients, and trouble; all of it drawn from one seed.

For a while everything that can break breaks: processes crash, pause and are stopped, disks fill and slow down, networks
lose, repeat and part, members come and go. Then the trouble ends, and within a time everybody must agree, answer and
have seen everything.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from google.protobuf.message import Message

from kvstore.pb import rpc_pb2 as pb
from kvstore.rpc import RpcError
from kvstore.server.config import Config, Url
from raft.messages import ConfState, Snapshot, SnapshotMetadata
from tests.history import CheckOptions, check
from tests.member_simulation.clients import Book, Client, Watching, Worker
from tests.member_simulation.host import Group, Host
from tests.member_simulation.network import Network, NetworkHabits
from tests.member_simulation.recording import Scribe
from tests.member_simulation.timeline import Timeline, Trace, Violation
from tests.member_simulation.truth import Truth
from tests.simulation.invariants import Invariants

TROUBLE_SECONDS: Final = 60.0
"""Of the world, before it must recover."""

RECOVERY_SECONDS: Final = 90.0

MAX_MEMBERS: Final = 5


@dataclass(frozen=True, slots=True)
class Temper:
    """What kind of world it is; drawn anew for each, for in some nothing breaks and in others little works.

    every: seconds between two troubles, on average; 0 for none. The rest are weights of kinds of trouble.
    """

    every: float
    crash: int
    crash_all: int
    stop: int
    pause: int
    part: int
    lag: int
    network: int
    disk: int
    writer: int
    leader: int
    members: int
    maintain: int

    @classmethod
    def draw(cls, chance: random.Random) -> Temper:
        """Of a seed."""
        return cls(
            every=chance.choice((0.0, 1.0, 2.0, 4.0, 8.0)),
            crash=chance.choice((0, 2, 5)),
            crash_all=chance.choice((0, 0, 1)),
            stop=chance.choice((0, 1)),
            pause=chance.choice((0, 1, 3)),
            part=chance.choice((0, 3, 6)),
            lag=chance.choice((0, 2, 6)),
            network=chance.choice((0, 1, 2)),
            disk=chance.choice((0, 1, 2)),
            writer=chance.choice((0, 0, 1)),
            leader=chance.choice((0, 1, 3)),
            members=chance.choice((0, 0, 3)),
            maintain=chance.choice((0, 1)),
        )


class World:
    """One run. Use it as a context manager; `run` raises what does not hold.

    members: how many begin; drawn if 0. trace: where it is told what happens.
    """

    def __init__(self, seed: int, members: int = 0, trace: Trace | None = None) -> None:
        self.seed = seed
        self.chance = chance = random.Random(seed)
        self.trace = trace or Trace()
        self.timeline = timeline = Timeline(chance, self.trace)
        self.temper = Temper.draw(chance)
        self.network = Network(timeline)
        self.network.habits.seconds = chance.choice((0.0002, 0.001, 0.01, 0.03))
        self.truth = Truth(lambda: timeline.now)
        self.scribe = Scribe(lambda: timeline.now)
        first = Snapshot(b"", SnapshotMetadata(ConfState(), 0, 0))
        self.group = Group(timeline, self.network, self.truth, Invariants(first))
        self.directory = Path(tempfile.mkdtemp(prefix="kvstore-simulation-", dir=_directory()))
        self.trace.hidden = str(self.directory)
        self.fastest = 1.0
        self.undecided = False
        self.hosts: list[Host] = []
        self._quiet = False
        self._leaving: set[int] = set()
        self._life: Counter[int] = Counter()
        self._options = self._draw_options()
        self._rates = chance.choice(((1.0,), (1.0,), (0.98, 1.0, 1.02)))
        self.fastest = max(self._rates)
        self._checkpoint_seconds = chance.choice((1.0, 3.0, 300.0))
        if self._options["auto_compaction_retention"]:
            self.truth.on_compaction = self.scribe.compacted
        self._found(members or chance.choice((1, 2, 3, 3, 3, 4, 5)))
        self.book = Book(self)
        self.clients = self._make_clients()
        self.operator = Client(self, self.book, "operator", random.Random(chance.random()))
        self.timeline.note(f"seed {seed}: {len(self.hosts)} members, {self.temper}, {self._options}")

    def __enter__(self) -> World:
        """Nothing but the world."""
        return self

    def __exit__(self, *_: object) -> None:
        """End every process and remove what was written."""
        for host in self.hosts:
            host.close()
        for client in (*self.clients, self.operator):
            client.loop.kill()
        self.timeline.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def run(self, seconds: float = TROUBLE_SECONDS) -> None:
        """Trouble, recovery, and the last checks. Raises Violation."""
        timeline = self.timeline
        for host in self.hosts:
            host.start()
        for client in self.clients:
            client.go(client.run)
        if self.temper.every:
            timeline.after(self.chance.uniform(0.0, 5.0), self._trouble)
        timeline.run(seconds)
        self.recover()

    def recover(self) -> None:
        """End all trouble; then everything must come right. Raises Violation."""
        timeline = self.timeline
        self._quiet = True
        timeline.note("the trouble ends")
        self.network.cut.clear()
        self.network.habits = NetworkHabits(min(self.network.habits.seconds, 0.01))
        for host in self.hosts:
            host.disk.slow, host.disk.full, host.disk.strike = 1.0, False, None
        for client in self.clients:
            client.quiet = True
        self._restart_for_ever()
        self._reached: str = "nothing"
        self.operator.go(self._settle)
        timeline.run(timeline.now + RECOVERY_SECONDS)
        if self._reached != "everything":
            raise Violation(f"liveness: {RECOVERY_SECONDS} s after the trouble: {self._reached}; {self._describe()}")
        timeline.note(f"the end: revision {self.truth.revision}, {self.truth.applied} entries")
        self._judge()

    def _judge(self) -> None:
        """Hold what the clients saw against what is possible, by itself."""
        # A promise is kept if the fastest clock keeps it, as clients.py holds it too.
        report = check(self.scribe.history, CheckOptions(clock_error=1.0 - 1.0 / self.fastest + 1e-9))
        self.undecided = bool(report.undecided)
        if report.violations:
            raise Violation(f"history: {report.summary()}")

    # How it begins.

    def _draw_options(self) -> dict[str, object]:
        chance = self.chance
        election = chance.choice((500, 1000, 1000))
        return {
            "heartbeat_interval": 100,
            "election_timeout": election,
            "pre_vote": chance.random() < 0.8,
            "initial_election_tick_advance": chance.random() < 0.5,
            "snapshot_count": chance.choice((2, 20, 100, 10_000)),
            "snapshot_catchup_entries": chance.choice((0, 5, 50)),
            "backend_batch_interval": chance.choice((0.01, 0.1, 1.0)),
            "backend_batch_limit": chance.choice((3, 10_000)),
            "compaction_batch_limit": chance.choice((1, 10, 1000)),
            "watch_progress_notify_interval": chance.choice((0.5, 5.0, 600.0)),
            "auto_compaction_retention": chance.choice((0.0, 0.0, 10.0)),
            "max_learners": 2,
        }

    def _found(self, count: int) -> None:
        self._numbers = count
        addresses = {f"m{number}": (_url(number, 2380),) for number in range(1, count + 1)}
        for number in range(1, count + 1):
            self._add_host(number, addresses, "new")

    def _add_host(self, number: int, cluster: Mapping[str, tuple[Url, ...]], state: str) -> Host:
        life = self._life[number]
        self._life[number] += 1
        config = Config(
            name=f"m{number}",
            data_dir=self.directory / f"m{number}.{life}",
            listen_peer_urls=(_url(number, 2380),),
            initial_advertise_peer_urls=(_url(number, 2380),),
            listen_client_urls=(_url(number, 2379),),
            advertise_client_urls=(_url(number, 2379),),
            initial_cluster=cluster,
            initial_cluster_state=state,  # type: ignore[arg-type]
            **self._options,  # type: ignore[arg-type]
        )
        host = Host(self.group, config, self.chance.choice(self._rates), self._checkpoint_seconds)
        host.disk.seconds = self.chance.choice((0.0002, 0.001, 0.005))
        # Clients tell by it what they were told by one process from what the next one says.
        host.incarnation = 1_000_000 * life
        self.hosts.append(host)
        return host

    def _make_clients(self) -> list[Worker | Watching]:
        chance = self.chance
        pace = chance.choice((0.1, 0.3, 1.0))
        keys = chance.choice((2, 4, 9))
        clients: list[Worker | Watching] = [
            Worker(self, self.book, f"c{number}", random.Random(chance.random()), keys, pace)
            for number in range(chance.choice((1, 2, 4)))
        ]
        for number in range(chance.choice((0, 1, 3))):
            key, end = chance.choice(((b"k", b"l"), (b"k", b"l"), (b"k0", b""), (b"k1", b"k3")))
            clients.append(Watching(self, self.book, f"w{number}", random.Random(chance.random()), key, end))
        return clients

    # Trouble.

    def _trouble(self) -> None:
        if self._quiet:
            return
        temper = self.temper
        kinds: list[tuple[Callable[[], None], int]] = [
            (self._crash, temper.crash),
            (self._crash_all, temper.crash_all),
            (self._stop, temper.stop),
            (self._pause, temper.pause),
            (self._part, temper.part),
            (self._leave_behind, temper.lag),
            (self._change_network, temper.network),
            (self._change_disk, temper.disk),
            (self._break_writer, temper.writer),
            (self._move_leader, temper.leader),
            (self._change_members, temper.members),
            (self._maintain, temper.maintain),
        ]
        if any(weight for _, weight in kinds):
            self.chance.choices([kind for kind, _ in kinds], [weight for _, weight in kinds])[0]()
        self.timeline.after(self.chance.expovariate(1.0 / temper.every), self._trouble)

    def _running(self) -> list[Host]:
        return [host for host in self.hosts if host.loop is not None]

    def _one(self) -> Host | None:
        """A running member; the leader more often than another."""
        running = self._running()
        leaders = [host for host in running if host.leads]
        if leaders and self.chance.random() < 0.4:
            return self.chance.choice(leaders)
        return self.chance.choice(running) if running else None

    def _start_later(self, host: Host) -> None:
        self.timeline.after(self.chance.choice((0.0, 0.5, 3.0, 15.0)) * self.chance.random(), host.start)

    def _crash(self) -> None:
        host = self._one()
        if host is None:
            return

        def crash() -> None:
            host.crash()
            self._start_later(host)

        if self.chance.random() < 0.5:
            crash()
        else:
            host.disk.strike = crash

    def _crash_all(self) -> None:
        for host in self._running():
            host.crash()
            self._start_later(host)

    def _stop(self) -> None:
        host = self._one()
        if host is not None:
            host.stop()
            self.timeline.after(self.chance.uniform(4.0, 10.0), host.start)

    def _pause(self) -> None:
        host = self._one()
        if host is not None:
            host.pause(self.chance.choice((0.1, 1.0, 3.0, 10.0)) * self.chance.random())

    def _part(self) -> None:
        chance, cut = self.chance, self.network.cut
        cut.clear()
        names = [host.name for host in self.hosts]
        everybody = [*names, *(client.name for client in self.clients)]
        how = chance.random()
        if how < 0.5:
            sides = {name: chance.random() < 0.5 for name in everybody}
        else:
            leader = next((host.name for host in self.hosts if host.leads), chance.choice(names))
            sides = {name: name == leader for name in names}
            # Clients on both sides: one must not be served what the other no longer sees.
            sides.update({client.name: chance.random() < 0.5 for client in self.clients})
        one_way = chance.random() < 0.15
        for source in everybody:
            for target in everybody:
                if sides[source] != sides[target] and not (one_way and sides[source]):
                    cut.add((source, target))
        self.timeline.note(f"parted: {[name for name, side in sides.items() if side]}{' one way' * one_way}")
        self._heal_after(chance.choice((0.5, 2.0, 8.0, 20.0)) * chance.random())

    def _leave_behind(self) -> None:
        """Part one member from the others, not from clients: who watches there stays, and is to miss nothing."""
        chance, cut = self.chance, self.network.cut
        followers = [host for host in self._running() if not host.leads]
        if not followers:
            return
        cut.clear()
        behind = chance.choice(followers).name
        for host in self.hosts:
            if host.name != behind:
                cut.update(((host.name, behind), (behind, host.name)))
        self.timeline.note(f"{behind} is left behind")
        healing = chance.uniform(1.0, 12.0)
        self._heal_after(healing)
        if chance.random() < 0.5:
            # While the others send it a copy of what they have, they forget their past, or it does.
            self.timeline.after(healing + chance.uniform(0.0, 2.0), self._compact)

    def _heal_after(self, seconds: float) -> None:
        cut = self.network.cut
        parted = set(cut)

        def heal() -> None:
            if cut == parted:
                self.timeline.note("together again")
                cut.clear()

        self.timeline.after(seconds, heal)

    def _compact(self) -> None:
        host = self._one()
        if host is not None and self.book.floor > 1:
            request = pb.CompactionRequest(revision=self.book.floor, physical=self.chance.random() < 0.3)
            self._operate(host, "KV/Compact", request, pb.CompactionResponse)

    def _change_network(self) -> None:
        chance, habits = self.chance, self.network.habits
        habits.drop = chance.choice((0.0, 0.0, 0.02, 0.2))
        habits.damage = chance.choice((0.0, 0.0, 0.0, 0.01))
        habits.repeat = chance.choice((0.0, 0.0, 0.05))
        habits.reorder = chance.choice((0.0, 0.0, 0.1))
        habits.seconds = chance.choice((0.0002, 0.001, 0.01, 0.05))
        self.timeline.note(f"{habits}")

    def _change_disk(self) -> None:
        host = self.chance.choice(self.hosts)
        if self.chance.random() < 0.3:
            host.disk.full = True
        else:
            host.disk.slow = self.chance.choice((10.0, 100.0, 1000.0))
        self.timeline.note(f"{host.name} has {host.disk}")

        def mend() -> None:
            host.disk.slow, host.disk.full = 1.0, False

        self.timeline.after(self.chance.uniform(0.0, 10.0), mend)

    def _break_writer(self) -> None:
        host = self._one()
        if host is not None and host.running is not None:
            host.break_writer()
            self.timeline.after(self.chance.uniform(5.0, 10.0), host.start)

    def _move_leader(self) -> None:
        leader = next((host for host in self.hosts if host.leads), None)
        targets = [host.member_id for host in self.hosts if host.member_id]
        if leader is not None and targets:
            request = pb.MoveLeaderRequest(targetID=self.chance.choice(targets))
            self._operate(leader, "Maintenance/MoveLeader", request, pb.MoveLeaderResponse)

    def _maintain(self) -> None:
        host = self._one()
        if host is not None:
            self._operate(host, "Maintenance/Defragment", pb.DefragmentRequest(), pb.DefragmentResponse)

    def _operate(self, host: Host, method: str, request: Message, answer: type[Message]) -> None:
        async def operate() -> None:
            self.operator.visit(host)
            with contextlib.suppress(RpcError):
                await self.operator.call(method, request, answer)
                self.timeline.note(f"{method} at {host.name}")

        self.operator.go(operate)

    # Members come and go.

    def _change_members(self) -> None:
        present = [host for host in self.hosts if not host.removed]
        if len(present) < MAX_MEMBERS and self.chance.random() < 0.6:
            self.operator.go(self._add_member)
        elif len(present) > 1:
            self.operator.go(self._remove_member)

    async def _add_member(self) -> None:
        gone = [host for host in self.hosts if host.removed and host.loop is None]
        if gone and self.chance.random() < 0.5:
            # Somebody's machine comes back with nothing on it.
            again = self.chance.choice(gone)
            self.hosts.remove(again)
            number = int(again.name[1:])
        else:
            self._numbers += 1
            number = self._numbers
        url = _url(number, 2380)
        learner = self.chance.random() < 0.7
        request = pb.MemberAddRequest(peerURLs=[str(url)], isLearner=learner)
        self.operator.choose()
        try:
            answer = await self.operator.call("Cluster/MemberAdd", request, pb.MemberAddResponse)
        except RpcError:
            # If it was added all the same, it is found and started when the trouble ends.
            return
        if any(host.peer_url == str(url) for host in self.hosts):
            # The trouble has ended meanwhile.
            return
        cluster = _initial_cluster(answer.members, number)
        host = self._add_host(number, cluster, "existing")
        self.timeline.note(f"{host.name} is added{' as a learner' * learner}")
        host.start()
        while learner and not self._quiet and not host.removed:
            await self.operator.sleep(3.0)
            self.operator.choose()
            with contextlib.suppress(RpcError):
                promote = pb.MemberPromoteRequest(ID=answer.member.ID)
                await self.operator.call("Cluster/MemberPromote", promote, pb.MemberPromoteResponse)
                self.timeline.note(f"{host.name} votes")
                return

    async def _remove_member(self) -> None:
        host = self.chance.choice([host for host in self.hosts if not host.removed and host.member_id])
        voters = [member.ID for member in self._known_members() if not member.isLearner]
        staying = [member for member in voters if member not in self._leaving]
        if host.member_id in voters and len(staying) <= 1:
            return
        self._leaving.add(host.member_id)
        self.operator.choose()
        with contextlib.suppress(RpcError):
            request = pb.MemberRemoveRequest(ID=host.member_id)
            await self.operator.call("Cluster/MemberRemove", request, pb.MemberRemoveResponse)
            self.timeline.note(f"{host.name} is removed")

    # Recovery.

    def _restart_for_ever(self) -> None:
        self._adopt()
        for host in self.hosts:
            host.start()
        self.timeline.after(1.0, self._restart_for_ever)

    def _adopt(self) -> None:
        """Start who belongs to the cluster and never ran: it may be needed for a quorum."""
        known = self._known_members()
        for member in known:
            host = next((host for host in self.hosts if host.peer_url in member.peerURLs), None)
            number = int(str(member.peerURLs[0]).split(":")[1].rpartition(".")[2])
            if host is None:
                self._add_host(number, _initial_cluster(known, number), "existing")
            elif host.member is None and host.config.initial_cluster_state == "existing":
                # Without an entry in its log it asks to join again, though it may have run.
                host.config = replace(host.config, initial_cluster=_initial_cluster(known, number))

    def _known_members(self) -> list[pb.Member]:
        """The cluster in the eyes of the member that has applied most."""
        running = [host.member for host in self.hosts if host.member is not None]
        if not running:
            return []
        return max(running, key=lambda member: member.loop.applied).state.membership.all()

    def _members(self) -> list[Host]:
        """The hosts of the cluster's members."""
        known = {member.ID for member in self._known_members()}
        return [host for host in self.hosts if host.member_id in known]

    async def _settle(self) -> None:
        """Wait until everything is right, one thing after another."""
        for name, reached in (
            ("a write at every member", self._write_everywhere),
            ("every lease to end", self._leases_ended),
            ("every watch to have seen everything", self._watches_done),
            ("everybody to have applied everything", self._all_applied),
            ("the same state at every member", self._same_everywhere),
        ):
            self._reached = f"waiting for {name}"
            while True:
                await asyncio.sleep(0.5)
                try:
                    if await reached():
                        break
                except RpcError as error:
                    self._reached = f"waiting for {name}: {error}"
        self._reached = "everything"
        self.timeline.stop()

    async def _write_everywhere(self) -> bool:
        members = self._members()
        if not members:
            return False
        for host in members:
            if host.member is None:
                return False
            if host.member.is_learner:
                continue
            self.operator.visit(host)
            await self.operator.call("KV/Txn", NOTHING, pb.TxnResponse)
        return True

    async def _leases_ended(self) -> bool:
        return all(lease.revoked_at is not None for lease in self.truth.leases.values())

    async def _watches_done(self) -> bool:
        return all(client.up_to_date for client in self.clients if isinstance(client, Watching))

    async def _all_applied(self) -> bool:
        members = self._members()
        return all(host.member is not None and host.member.loop.applied == self.truth.applied for host in members)

    async def _same_everywhere(self) -> bool:
        revision, lists = self.truth.revision, set()
        for host in self._members():
            member = host.member
            if member is None:
                return False
            lists.add(tuple(each.SerializeToString(deterministic=True) for each in member.state.membership.all()))
            if member.state.conf_state != member.state.membership.conf_state():
                raise Violation(f"{host.name} has {member.state.conf_state} and other members in its list")
            if member.is_learner:
                continue
            self.operator.visit(host)
            request = pb.RangeRequest(key=b"k", range_end=b"l", serializable=True)
            answer = await self.operator.call("KV/Range", request, pb.RangeResponse)
            self.truth.check_rows(f"the last read at {host.name}", answer.kvs, b"k", b"l", revision)
            hashed = await self.operator.call("Maintenance/HashKV", pb.HashKVRequest(), pb.HashKVResponse)
            if hashed.header.revision == revision == self.truth.revision:
                self.operator.note_hash(revision, hashed, host.name)
        if len(lists) > 1 and self.truth.revision == revision:
            raise Violation(f"members have different lists of members: {lists}")
        return True

    def _describe(self) -> str:
        lines = []
        for host in self.hosts:
            member = host.member
            text = "removed" if host.removed else "down" if host.loop is None else "starting"
            if member is not None:
                text = f"applied {member.loop.applied} {member.loop.leadership} {member.loop.node.basic_status()}"
            lines.append(f"{host.name}: {text}")
        watching = [f"{c.name} at {c.seen}" for c in self.clients if isinstance(c, Watching)]
        return "; ".join([*lines, *watching, f"the truth at {self.truth.applied}, revision {self.truth.revision}"])


NOTHING: Final = pb.TxnRequest(
    success=[pb.RequestOp(request_delete_range=pb.DeleteRangeRequest(key=b"there is no such key"))]
)
"""A write without an effect on the store: whoever answers it has a leader and a quorum."""


def _initial_cluster(members: Iterable[pb.Member], number: int) -> dict[str, tuple[Url, ...]]:
    """As the flag of the member with this number must name them."""
    cluster = {f"x{member.ID:x}": tuple(map(Url.parse, member.peerURLs)) for member in members}
    own = next(name for name, urls in cluster.items() if _url(number, 2380) in urls)
    cluster[f"m{number}"] = cluster.pop(own)
    return cluster


def _url(number: int, port: int) -> Url:
    return Url("http", f"10.0.0.{number}", port)


def _directory() -> str | None:
    """Memory, if there is a file system in it: nothing of a world is to outlive it."""
    memory = Path("/dev/shm")
    return str(memory) if memory.is_dir() else None
