"""Targets: whole members on real sockets: every method of the API on both gRPC servers, spoiled HTTP/2, HTTP/1.1.

The members live in this process, so an exception that only reaches the log is found there.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc
import structlog
from aiohttp.http_exceptions import HttpProcessingError
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import DecodeError
from hypothesis import strategies as st

from kvstore.pb import election_pb2, lock_pb2, rpc_pb2
from kvstore.server.config import GrpcServer, Url
from tests.api.real_member import RealMember
from tests.fuzz.messages import encoded
from tests.fuzz.mutations import changes, pieces, spoil
from tests.fuzz.rpc_bytes import session_bytes, sessions
from tests.fuzz.target import Check, Target

CALL_SECONDS: Final = 10.0
WATCH_SECONDS: Final = 0.1
"""A watch has no end: after this long there is nothing more to come that was caused by its requests."""

LEASE_SECONDS: Final = 1000
"""Leases of these tests outlive them: when one ends is not for two members to agree on."""

UNTOUCHED: Final = frozenset(
    {
        "etcdserverpb.Auth.AuthEnable",
        "etcdserverpb.Cluster.MemberAdd",
        "etcdserverpb.Maintenance.Downgrade",
    }
)
"""What would leave the members unable to serve what comes after it."""

CLIENTS: Final = (rpc_pb2, lock_pb2, election_pb2)


METHODS: Final[dict[str, MethodDescriptor]] = {
    method.full_name: method
    for module in CLIENTS
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
    if method.full_name not in UNTOUCHED
}


class Tracebacks(logging.Handler):
    """Keeps what is logged with an exception: nothing a client sends may lead to one."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        # The HTTP/1.1 server logs with its traceback what it refuses as no request.
        if record.exc_info and isinstance(record.exc_info[1], HttpProcessingError):
            return
        if record.exc_info or "Traceback" in record.getMessage():
            self.found.append(logging.Formatter().format(record))


@dataclass(frozen=True, slots=True)
class Members:
    """One member on each gRPC server, and what they logged."""

    ours: RealMember
    grpcio: RealMember
    tracebacks: Tracebacks

    def check_alive(self) -> None:
        """Both answer, and neither had an exception."""
        for member in (self.ours, self.grpcio):
            member.maintenance.Status(rpc_pb2.StatusRequest(), timeout=CALL_SECONDS)
        assert not self.tracebacks.found, self.tracebacks.found.pop()


@contextlib.contextmanager
def members() -> Iterator[Members]:
    """Two members that have nothing to do with one another."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    tracebacks = Tracebacks()
    logging.getLogger().addHandler(tracebacks)
    with contextlib.ExitStack() as stack:
        stack.callback(structlog.reset_defaults)
        stack.callback(logging.getLogger().removeHandler, tracebacks)
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kvstore-fuzz-")))
        started: dict[GrpcServer, RealMember] = {}
        servers: tuple[GrpcServer, GrpcServer] = ("ngh2", "grpcio")
        for name in servers:
            started[name] = RealMember(directory / name, name)
            started[name].start()
            stack.callback(started[name].stop)
        yield Members(started["ngh2"], started["grpcio"], tracebacks)


# Calls


def calls() -> st.SearchStrategy[Any]:
    """(method, the encoded messages of its request) of some calls."""
    one = st.one_of(
        [
            st.tuples(
                st.just(name),
                st.lists(encoded(method.input_type), min_size=1, max_size=3 if method.client_streaming else 1),
            )
            for name, method in METHODS.items()
        ]
    )
    return st.lists(one, min_size=1, max_size=8)


def _raw_call(channel: grpc.Channel, method: MethodDescriptor, messages: list[bytes]) -> grpc.StatusCode:
    path = f"/{method.containing_service.full_name}/{method.name}"
    kind = f"{'stream' if method.client_streaming else 'unary'}_{'stream' if method.server_streaming else 'unary'}"
    request = iter(messages) if method.client_streaming else messages[0]
    endless = method.name in ("Watch", "Observe", "Campaign", "Lock")
    call = getattr(channel, kind)(path)(request, timeout=WATCH_SECONDS if endless else CALL_SECONDS)
    if method.server_streaming:
        for _ in call:
            continue
    return grpc.StatusCode.OK


def _status(channel: grpc.Channel, method: MethodDescriptor, messages: list[bytes]) -> grpc.StatusCode:
    try:
        return _raw_call(channel, method, messages)
    except grpc.RpcError as error:
        code: grpc.StatusCode = error.code()
        if code in (grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL):
            raise
        return code


def _outlives(method: MethodDescriptor, data: bytes) -> bool:
    """Whether a call leaves no lease that ends while the test runs."""
    if method.name != "LeaseGrant":
        return True
    try:
        return bool(rpc_pb2.LeaseGrantRequest.FromString(data).TTL >= LEASE_SECONDS)
    except DecodeError:
        return True


@contextlib.contextmanager
def _open_calls() -> Iterator[Check]:
    with members() as both:

        def check(value: Any) -> None:
            """Every call ends with a gRPC status that is not the server's fault, the same on both servers."""
            for name, messages in value:
                method = METHODS[name]
                if not all(_outlives(method, data) for data in messages):
                    continue
                ours = _status(both.ours.channel, method, messages)
                theirs = _status(both.grpcio.channel, method, messages)
                # Which of a call that goes on its client gave up on is a matter of its pace.
                assert ours == theirs or grpc.StatusCode.DEADLINE_EXCEEDED in (ours, theirs), (name, ours, theirs)
            both.check_alive()
            _tidy(both)

        yield check


def _tidy(both: Members) -> None:
    """Disarm what was raised, so that the next calls are not all refused."""
    for member in (both.ours, both.grpcio):
        raised = member.maintenance.Alarm(rpc_pb2.AlarmRequest(), timeout=CALL_SECONDS).alarms
        for alarm in raised:
            request = rpc_pb2.AlarmRequest(
                action=rpc_pb2.AlarmRequest.DEACTIVATE, memberID=alarm.memberID, alarm=alarm.alarm
            )
            member.maintenance.Alarm(request, timeout=CALL_SECONDS)


# Sockets

LINES: Final = (
    b"GET /health HTTP/1.1",
    b"GET /health?exclude=%FF&exclude=\xff&serializable=true HTTP/1.1",
    b"GET /readyz?verbose&exclude=a HTTP/1.1",
    b"GET /metrics HTTP/1.1",
    b"GET /version HTTP/1.0",
    b"OPTIONS /version HTTP/1.1",
    b"POST /v3/kv/put HTTP/1.1",
    b"GET /%00/../%2e%2e// HTTP/1.1",
    b"GET http://[::1 HTTP/1.1",
    b"PRI * HTTP/1.1",
    b"\x16\x03\x01\x02\x00\x01",
)
HEADERS: Final = (
    b"Host: a",
    b"Accept: application/openmetrics-text;q=x",
    b"Accept-Encoding: gzip",
    b"Content-Length: 5",
    b"Content-Length: -1",
    b"Transfer-Encoding: chunked",
    b"Connection: Upgrade, HTTP2-Settings",
    b"Upgrade: h2c",
    b"Expect: 100-continue",
    b"A: " + b"x" * 9000,
    b": b",
    b"\xff: \xff",
)
BODIES: Final = (b"", b"{", b'{"key": "', b"5\r\nhello\r\n0\r\n\r\n", b"ffffffffffffffffff\r\n", b"[" * 3000)


def bytes_for_sockets() -> st.SearchStrategy[Any]:
    """(which port, an HTTP/2 session or HTTP/1.1 request, what is done to it, size of writes)"""
    http1 = st.builds(
        lambda line, headers, body: b"\r\n".join([line, *headers, b"", body]),
        st.sampled_from(LINES),
        st.lists(st.sampled_from(HEADERS), max_size=3),
        st.sampled_from(BODIES),
    )
    http2 = sessions().map(lambda session: session_bytes(*session[:3]))
    port = st.sampled_from(("client", "client", "peer", "grpcio"))
    return st.tuples(port, st.one_of(http1, http2), changes(3), st.sampled_from((1 << 16, 300, 20)))


@contextlib.contextmanager
def _open_sockets() -> Iterator[Check]:
    with members() as both:
        ports = {
            "client": both.ours.url,
            "grpcio": both.grpcio.url,
            "peer": Url.parse(both.ours.peer_url),
        }

        def check(value: Any) -> None:
            """Whatever a connection brings, the member serves the others."""
            port, data, made, size = value
            # Many small writes would only make it slow.
            size = max(size, len(data) // 20)
            address = (ports[port].host, ports[port].port)
            # The server may end it at any moment.
            with socket.create_connection(address, timeout=CALL_SECONDS) as connection, contextlib.suppress(OSError):
                for piece in pieces(spoil(data, made), size):
                    connection.sendall(piece)
                connection.shutdown(socket.SHUT_WR)
                connection.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    connection.recv(1 << 16)
            both.check_alive()

        yield check


TARGETS: Final = (
    Target("api-calls", calls, _open_calls, examples=25, cpu_seconds=20.0),
    Target("sockets", bytes_for_sockets, _open_sockets, examples=50, cpu_seconds=20.0),
)
