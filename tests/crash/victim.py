"""A member under the fault layer that goes through a history, is killed on its way, comes back, and goes on."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

# grpcio warns on every fork beside its threads, and servers are started all the time here.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

import grpc

from kvstore.pb import rpc_pb2 as pb
from tests.cluster.harness import Cluster
from tests.cluster.harness.binary import kvstored
from tests.crash.history import TTL, Compact, Delete, Do, Grant, History, Join, Leave, Put, Revoke, Step
from tests.crash.observe import ClientView, Lost, hash_of_history, observe
from tests.faultfs import FaultFs

PATIENCE = 90.0
"""Seconds for a member to start, or to end: these tests may share their machine with much else."""

FLAGS: Mapping[str, str] = {
    # Small, so that the log is cut and the state flushed all the time.
    "snapshot-count": "10",
    "snapshot-catchup-entries": "5",
    "backend-batch-interval": "20ms",
}


class Victim:
    """A member of one. `faults` is the layer under its data directory; its syncs need not wait for a real disk.

    trace: keep a trace, with a mark for each step that was acknowledged. acknowledged: how many steps were. killed:
    whether the layer has killed it. Use it in a `with` statement.
    """

    def __init__(self, directory: Path, history: History, *, trace: bool = False) -> None:
        """Nothing is started yet. Raises NoCompiler."""
        directory.mkdir(parents=True, exist_ok=True)
        self.history = history
        self.acknowledged = 0
        self.killed = False
        self._cluster = Cluster(kvstored(), directory, 1, flags=dict(FLAGS))
        self.member = self._cluster.members[0]
        self.faults = FaultFs(self.member.data, directory / "faults", trace=trace)
        self.faults.skip_syncs()
        self.member.environment = {**self.member.environment, **self.faults.environment}
        self._marking = trace

    def __enter__(self) -> Victim:
        """Nothing but the victim itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Whatever happens, no process is left."""
        self._cluster.close()
        self.faults.close()

    def end(self) -> None:
        """End its processes, whoever is waiting for them; may be called from another thread."""
        process = self.member.process
        if process is not None:
            process.kill_group()

    def go_through(self) -> tuple[int, int]:
        """Take every step; come back once if killed. Returns the hash of the history as it is then.

        Raises Lost if anything that was acknowledged is not there afterwards.
        """
        try:
            return self._go_on_and_look()
        except (grpc.RpcError, AssertionError) as error:
            # A kill that the layer did not do is no part of the plan, nor is a failure without any.
            if not self.faults.killed:
                raise
            self._come_back(error)
            return self._go_on_and_look()

    def _go_on_and_look(self) -> tuple[int, int]:
        self._go_on()
        observe(ClientView(self.member.client), self.history.contents[-1], None)
        return hash_of_history(self.member.client)

    def take_all(self) -> None:
        """Take every step, without a look at what became of them."""
        self._go_on()

    def _go_on(self) -> None:
        if not self.member.running:
            self.start()
        for step in self.history.steps[self.acknowledged :]:
            self._take(step)
            self._acknowledge()

    def start(self) -> None:
        """Start it, and wait until it serves."""
        self.member.start()
        self.member.wait_ready(PATIENCE)

    def save_snapshot(self, file: Path) -> None:
        """Write a snapshot of it to a file, as clients do."""
        with file.open("wb") as stream:
            for part in self.member.client.maintenance.Snapshot(pb.SnapshotRequest()):
                stream.write(part.blob)

    def _come_back(self, cause: Exception) -> None:
        process = self.member.process
        assert process is not None
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise Lost("a part of the member was killed, and the rest of it goes on") from cause
        self.killed = True
        self.faults.kill_at(0)
        self.start()
        contents = self.history.contents
        done = self.acknowledged
        under_way = contents[done + 1] if done + 1 < len(contents) else None
        found = observe(ClientView(self.member.client), contents[done], under_way)
        if found is not contents[done]:
            self._acknowledge()

    def _acknowledge(self) -> None:
        self.acknowledged += 1
        if self._marking:
            self.faults.mark(b"%d" % self.acknowledged)

    def _take(self, step: Step) -> None:
        client = self.member.client
        match step:
            case Put(pairs, lease) if len(pairs) == 1:
                client.put(*pairs[0], lease=lease)
            case Put(pairs, lease):
                puts = [pb.PutRequest(key=key, value=value, lease=lease) for key, value in pairs]
                client.kv.Txn(pb.TxnRequest(success=[pb.RequestOp(request_put=put) for put in puts]))
            case Delete(start, stop):
                client.delete(start, stop)
            case Grant(lease):
                client.grant(TTL, lease)
            case Revoke(lease):
                client.lease.LeaseRevoke(pb.LeaseRevokeRequest(ID=lease))
            case Compact(behind):
                at = self.history.contents[self.acknowledged].revision - behind
                client.kv.Compact(pb.CompactionRequest(revision=at, physical=True))
            case Join(url):
                client.cluster.MemberAdd(pb.MemberAddRequest(peerURLs=[url], isLearner=True))
            case Leave(url):
                [number] = [each.ID for each in client.members() if url in each.peerURLs]
                client.cluster.MemberRemove(pb.MemberRemoveRequest(ID=number))
            case Do("restart"):
                self.member.terminate(PATIENCE)
                self.start()
            case Do("defragment"):
                client.maintenance.Defragment(pb.DefragmentRequest())
            case Do("snapshot"):
                for _ in client.maintenance.Snapshot(pb.SnapshotRequest()):
                    pass
            case Do(what):
                raise ValueError(what)
