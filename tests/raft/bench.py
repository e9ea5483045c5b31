"""How fast three members in memory replicate: `python -m tests.raft.bench`.

Small entries in batches, proposed to a leader, replicated to two followers, stored and applied by all three, on one
core. Counts entries once, though each of them goes through three members, and seconds of that core, so that whatever
else the machine does does not count. Measures the same again late in a long log, and after compaction: nothing may
cost more there.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Sequence

from raft import NO_LIMIT, Config, ConfState, MemoryStorage, Message, RawNode, Snapshot, SnapshotMetadata

_MEMBERS = (1, 2, 3)
_REQUIRED_PER_SECOND = 200_000
_KEPT_ENTRIES = 10_000


class Group:
    """Three members whose messages are delivered at once."""

    def __init__(self, *, max_size_per_msg: int, max_inflight_bytes: int) -> None:
        snapshot = Snapshot(metadata=SnapshotMetadata(ConfState(list(_MEMBERS)), index=1, term=1))
        self.storages = {id: MemoryStorage(snapshot) for id in _MEMBERS}
        self.nodes = {
            id: RawNode(
                Config(
                    id=id,
                    election_tick=10,
                    heartbeat_tick=1,
                    storage=self.storages[id],
                    applied=1,
                    max_size_per_msg=max_size_per_msg,
                    max_inflight_bytes=max_inflight_bytes,
                    pre_vote=True,
                    check_quorum=True,
                    random_source=random.Random(id),
                )
            )
            for id in _MEMBERS
        }
        self.applied = dict.fromkeys(_MEMBERS, 1)
        self.nodes[1].campaign()
        self.settle()

    def settle(self) -> None:
        """Do all work there is."""
        nodes = self.nodes
        busy = True
        while busy:
            busy = False
            for id, node in nodes.items():
                if node.has_ready():
                    busy = True
                    self._send(self._work(id, node))

    def _work(self, id: int, node: RawNode) -> Sequence[Message]:
        ready = node.ready()
        storage = self.storages[id]
        if ready.hard_state is not None:
            storage.set_hard_state(ready.hard_state)
        storage.append(ready.entries)
        if ready.committed_entries:
            self.applied[id] = ready.committed_entries[-1].index
        node.advance(ready)
        return ready.messages

    def _send(self, messages: Sequence[Message]) -> None:
        for message in messages:
            self.nodes[message.to].step(message)

    def compact(self) -> None:
        """Keep only the newest entries of every log."""
        for id, storage in self.storages.items():
            storage.compact(self.applied[id] - _KEPT_ENTRIES)


def replicate(group: Group, entries: int, batch: int, size: int) -> float:
    """Replicate so many entries of that many bytes; entries a CPU second until all members have applied them."""
    payloads = [bytes(size) for _ in range(batch)]
    leader = group.nodes[1]
    target = group.applied[1] + entries // batch * batch
    start = time.process_time()
    for _ in range(entries // batch):
        leader.propose_batch(payloads)
        group.settle()
    elapsed = time.process_time() - start
    if set(group.applied.values()) != {target}:
        raise AssertionError(f"applied {group.applied}, expected {target} everywhere")
    return entries / elapsed


def main(arguments: list[str]) -> int:
    """Measure and print; 0 if it is fast enough, early and late."""
    parser = argparse.ArgumentParser(prog="python -m tests.raft.bench", description=__doc__)
    parser.add_argument("--entries", type=int, default=200_000, help="entries a measurement replicates")
    parser.add_argument("--batch", type=int, default=100, help="entries proposed together")
    parser.add_argument("--size", type=int, default=32, help="bytes of an entry's payload")
    options = parser.parse_args(arguments)

    def measure(title: str, group: Group) -> float:
        rate = replicate(group, options.entries, options.batch, options.size)
        print(f"{title}: {rate:,.0f} entries/s")
        return rate

    group = Group(max_size_per_msg=NO_LIMIT, max_inflight_bytes=0)
    rates = [measure("first entries", group)]
    for _ in range(3):
        measure("further entries", group)
    rates.append(measure(f"after {group.applied[1]:,} entries", group))
    group.compact()
    rates.append(measure("after compaction", group))
    measure("with limits in bytes", Group(max_size_per_msg=1 << 20, max_inflight_bytes=64 << 20))
    return 0 if min(rates) >= _REQUIRED_PER_SECOND else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
