"""What a member must not accept: nonsense on its ports, strangers as peers, data that is not its own."""

import os
import shutil
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress

import pytest

from tests.cluster.harness import Binary, Cluster, ClusterFactory, Member, wait_until

HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = bytes(3) + b"\x04" + bytes(5)


def tls_hello() -> bytes:
    """The first bytes of a client that takes the port for one with TLS."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="localhost")
    with suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


def frame(kind: int, payload: bytes, *, flags: int = 0, stream: int = 0) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


GARBAGE: dict[str, Callable[[], bytes]] = {
    "noise": lambda: bytes(range(1, 256)) * 64,
    "zeros": lambda: bytes(100_000),
    "tls": tls_hello,
    "half a request line": lambda: b"GET /health",
    "a request without end": lambda: b"GET /health HTTP/1.1\r\nX: " + b"y" * 200_000,
    "a preface and noise": lambda: HTTP2_PREFACE + bytes(range(256)) * 64,
    "a frame that is too large": lambda: HTTP2_PREFACE + SETTINGS + b"\xff\xff\xff" + bytes(6) + bytes(70_000),
    "headers that are none": lambda: HTTP2_PREFACE + SETTINGS + frame(1, b"\xff" * 100, flags=5, stream=1),
    "data on a stream that is not open": lambda: HTTP2_PREFACE + SETTINGS + frame(0, b"x" * 10, stream=7),
    "a window update of zero": lambda: HTTP2_PREFACE + SETTINGS + frame(8, bytes(4)),
    "continuation alone": lambda: HTTP2_PREFACE + SETTINGS + frame(9, b"x", stream=1),
}


@pytest.mark.parametrize("port", ["client_port", "peer_port"])
def test_garbage_hurts_nobody(cluster: Cluster, member: Member, port: str, prefix: bytes) -> None:
    number = getattr(member, port)
    left_open = []
    for make in GARBAGE.values():
        connection = socket.create_connection(("127.0.0.1", number), timeout=5)
        # A server may well close before it has read everything.
        with suppress(ConnectionError):
            connection.sendall(make())
        left_open.append(connection)
        closed = socket.create_connection(("127.0.0.1", number), timeout=5)
        with suppress(ConnectionError):
            closed.sendall(make())
        closed.close()
    assert member.client.put(prefix, b"v").header.revision > 0
    for each in cluster.members:
        assert each.client.get(prefix) is not None
    for connection in left_open:
        connection.close()


def test_a_connection_with_garbage_is_closed(member: Member) -> None:
    for name in ("noise", "a preface and noise", "a frame that is too large"):
        connection = socket.create_connection(("127.0.0.1", member.client_port), timeout=10)
        with connection, suppress(ConnectionError):
            connection.sendall(GARBAGE[name]())
            while connection.recv(65_536):
                pass
        # Reaching this line is the assertion: recv would have timed out on a connection left open.
        assert member.running, name


def test_hundreds_of_idle_connections_do_not_stop_a_client(member: Member, prefix: bytes) -> None:
    idle = [socket.create_connection(("127.0.0.1", member.client_port), timeout=5) for _ in range(300)]
    try:
        assert member.client.put(prefix).header.revision > 0
    finally:
        for connection in idle:
            connection.close()


def test_a_peer_of_another_cluster_is_refused(make_cluster: ClusterFactory) -> None:
    ours = make_cluster(3)
    ours.leader().client.put(b"key", b"ours")
    ours.wait_agreed()
    stranger = ours.followers()[0]
    stranger.kill()
    stranger.wipe()
    # The same names and addresses, but another token: it takes itself for a member of a cluster that is not there.
    stranger.start(initial_cluster_token="another")
    wait_until(
        lambda: "cluster" in stranger.log_tail().lower() and "mismatch" in stranger.log_tail().lower(),
        "the stranger's log says that the cluster is another",
    )
    for member in ours.members:
        if member is not stranger:
            member.client.put(b"key", b"still ours")
            assert len(member.client.members()) == 3
    status = stranger.status()
    assert status is None or status.leader == 0
    assert not stranger.serves()


class TestDataDirectory:
    @pytest.fixture
    def two(self, binary: Binary, make_cluster: ClusterFactory) -> tuple[Member, Member]:
        """The stopped members of two clusters that have nothing to do with each other, both with a log that was cut."""
        if binary.is_reference:
            pytest.skip("etcd takes whatever it finds, or panics")
        members = []
        for token in ("ours", "theirs"):
            cluster = make_cluster(1, {"snapshot-count": "50", "snapshot-catchup-entries": "5"}, token)
            (member,) = cluster.members
            for number in range(200):
                member.client.put(b"%d" % number, token.encode())
            member.terminate()
            members.append(member)
        return members[0], members[1]

    @pytest.mark.parametrize("part", ["wal", "db"])
    def test_one_with_a_part_of_another_members_is_refused(self, two: tuple[Member, Member], part: str) -> None:
        ours, theirs = two
        shutil.rmtree(ours.data / "member" / part)
        shutil.copytree(theirs.data / "member" / part, ours.data / "member" / part)
        status, said = ours.run_to_end()
        assert status != 0
        assert "another" in said

    def test_a_log_whose_state_is_gone_is_refused(self, two: tuple[Member, Member]) -> None:
        ours, _ = two
        shutil.rmtree(ours.data / "member" / "db")
        # The log is cut: what was cut can be told by nobody.
        status, said = ours.run_to_end()
        assert status != 0
        assert "db" in said or "state" in said

    @pytest.mark.slow
    def test_a_second_process_on_it_is_refused(self, binary: Binary, make_cluster: ClusterFactory) -> None:
        if binary.is_reference:
            pytest.skip("etcd waits for the lock for ever")
        cluster = make_cluster(1)
        (member,) = cluster.members
        ports = [f"http://127.0.0.1:{cluster.ports.take()}" for _ in range(2)]
        status, said = member.run_to_end(listen_client_urls=ports[0], listen_peer_urls=ports[1])
        assert status != 0
        assert str(member.data) in said
        assert member.client.put(b"key").header.revision > 0

    def test_one_that_cannot_be_written_is_refused(self, binary: Binary, make_cluster: ClusterFactory) -> None:
        cluster = make_cluster.prepare(1)
        (member,) = cluster.members
        member.data.write_text("a file where a directory is wanted")
        status, said = member.run_to_end()
        assert status != 0
        assert str(member.data) in said or "not a directory" in said.lower()


class TestPorts:
    def test_a_port_in_use_is_named(self, make_cluster: ClusterFactory) -> None:
        cluster = make_cluster.prepare(1)
        (member,) = cluster.members
        taken = socket.create_server(("127.0.0.1", 0))
        try:
            port = taken.getsockname()[1]
            status, said = member.run_to_end(
                listen_client_urls=f"http://127.0.0.1:{port}", advertise_client_urls=f"http://127.0.0.1:{port}"
            )
        finally:
            taken.close()
        assert status != 0
        assert str(port) in said
        assert "in use" in said

    def test_a_bad_flag_is_named(self, make_cluster: ClusterFactory) -> None:
        (member,) = make_cluster.prepare(1).members
        for name, value in (("listen-client-urls", "nonsense"), ("election-timeout", "10"), ("no-such-flag", "1")):
            member.flags = {name: value}
            status, said = member.run_to_end()
            assert status != 0
            assert name.split("-")[0] in said
        assert not os.path.exists(member.data)
