"""A leader that stands still while the world goes on, as a machine that is suspended or starved does."""

from __future__ import annotations

import threading
from contextlib import suppress

import grpc
import pytest

from tests.cluster.harness import Client, Cluster, Member, wait_until
from tests.cluster.harness.register import Register

TTL = 4

WRITTEN = b"written while the leader was paused"
READERS = 20


@pytest.fixture
def paused(cluster: Cluster) -> Member:
    """The leader, which the test pauses."""
    cluster.heal()
    return cluster.leader()


def let_another_lead(cluster: Cluster, paused: Member) -> None:
    """Pause a leader until the others have elected one."""
    paused_id = paused.id
    paused.pause()
    others = [member for member in cluster.members if member is not paused]

    def elected() -> bool:
        statuses = [member.status() for member in others]
        return all(status is not None and status.leader not in (0, paused_id) for status in statuses)

    wait_until(elected, "the others have elected a leader")


def test_stale_reads_after_a_process_pause(cluster: Cluster, paused: Member) -> None:
    """etcd (issue 20418) answered linearizable reads with values that had been overwritten when leaders were paused
    and woke with requests and answers of their time still on the way.

    Here reads and writes go through every member while the leader is paused, replaced and woken, twice; a read that
    shows less than was acknowledged before it began is found by the register. Many more reads lie before the paused
    leader when it wakes, together with its followers' news that another leads.
    """
    with Register([member.endpoint for member in cluster.members]) as register:
        register.wait_for_progress()
        for number in range(2):
            leader = cluster.leader()
            with Readers(leader) as readers:
                let_another_lead(cluster, leader)
                register.wait_for_progress(writes=10, reads=20)
                value = b"%d" % number
                next(member for member in cluster.members if member is not leader).client.put(WRITTEN, value)
                readers.begin()
                register.wait_for_progress(writes=2, reads=4)
                leader.resume()
                assert readers.shown() <= {value}
            register.wait_for_progress(writes=10, reads=40)
    assert register.stale == []


class Readers:
    """Clients of one member, each with a connection of its own. Use it in a `with` statement."""

    def __init__(self, member: Member) -> None:
        """Connected on return: a request needs the server's word first, which one that stands still does not give."""
        self._clients = [Client(member.endpoint) for _ in range(READERS)]
        for client in self._clients:
            client.get(WRITTEN)
        self._outcomes: list[bytes | None] = []
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Readers:
        return self

    def __exit__(self, *_: object) -> None:
        for client in self._clients:
            client.close()

    def begin(self) -> None:
        """Read, all at once."""

        def read(client: Client) -> None:
            # Without an answer nothing wrong was shown.
            with suppress(grpc.RpcError):
                kv = client.get(WRITTEN, timeout=20.0)
                self._outcomes.append(kv.value if kv is not None else None)

        self._threads = [threading.Thread(target=read, args=(client,), daemon=True) for client in self._clients]
        for thread in self._threads:
            thread.start()

    def shown(self) -> set[bytes | None]:
        """What they have been told."""
        for thread in self._threads:
            thread.join(30)
        return set(self._outcomes)


def test_lease_ended_by_a_leader_that_was_paused(cluster: Cluster, paused: Member) -> None:
    """etcd (issue 15247): a leader that had been stuck found on waking that leases had run out, by a clock that had
    seen none of the renewals which the next leader had granted, and had them revoked.

    Here only the leader expires leases, and what one proposes that has been replaced is not in the log.
    """
    survivor = cluster.followers()[0]
    lease = survivor.client.grant(TTL)
    survivor.client.put(b"leased", b"", lease=lease)
    stop = threading.Event()
    lost: list[int] = []

    def keep_alive() -> None:
        while not stop.wait(0.2):
            with survivor.client.keepalive_stream() as stream:
                try:
                    answer = stream.keep_alive(lease)
                except (grpc.RpcError, EOFError, AssertionError):
                    # Without a leader nobody can renew; the next one gives every lease its full time.
                    continue
                if answer.TTL == 0:
                    lost.append(answer.TTL)

    keeper = threading.Thread(target=keep_alive, daemon=True)
    keeper.start()
    try:
        let_another_lead(cluster, paused)
        renewed = survivor.client.status().header.revision
        # Longer than the lease would have lived by the clock of the one that is paused.
        stop_at = threading.Event()
        stop_at.wait(TTL + 1.5)
        paused.resume()
        wait_until(lambda: paused.status() is not None and not paused.is_leader, "the old leader follows")
        paused.client.put(b"woken", b"")
        assert paused.client.get(b"leased") is not None
        assert not lost
        assert survivor.client.status().header.revision == renewed + 1
    finally:
        stop.set()
        keeper.join(10)
        paused.resume()
