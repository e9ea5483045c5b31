"""A plain grpcio client: the generated stubs of one endpoint, and what the tests say about errors."""

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc

from kvstore.pb import kv_pb2, rpc_pb2, rpc_pb2_grpc
from kvstore.pb.rpc_pb2 import (
    DeleteRangeRequest,
    DeleteRangeResponse,
    LeaseGrantRequest,
    LeaseKeepAliveRequest,
    LeaseKeepAliveResponse,
    PutRequest,
    PutResponse,
    RangeRequest,
    RangeResponse,
    StatusRequest,
    StatusResponse,
    WatchCancelRequest,
    WatchCreateRequest,
    WatchProgressRequest,
    WatchRequest,
    WatchResponse,
)

DEADLINE = 20.0
"""Seconds a call may take before a test fails rather than hangs."""

MESSAGE_BYTES = 64 << 20


class Client:
    """All services of one endpoint. Close it: grpcio keeps reconnecting otherwise."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.channel = grpc.insecure_channel(
            endpoint,
            options=[
                # Channels of one target share a connection otherwise, and a test that wants its own has none.
                ("grpc.use_local_subchannel_pool", 1),
                ("grpc.max_receive_message_length", MESSAGE_BYTES),
                ("grpc.max_send_message_length", MESSAGE_BYTES),
                ("grpc.initial_reconnect_backoff_ms", 50),
                ("grpc.min_reconnect_backoff_ms", 50),
                ("grpc.max_reconnect_backoff_ms", 200),
                ("grpc.enable_http_proxy", 0),
            ],
        )
        self.kv = _WithDeadline(rpc_pb2_grpc.KVStub, self.channel)
        self.lease = _WithDeadline(rpc_pb2_grpc.LeaseStub, self.channel)
        self.cluster = _WithDeadline(rpc_pb2_grpc.ClusterStub, self.channel)
        self.maintenance = _WithDeadline(rpc_pb2_grpc.MaintenanceStub, self.channel)
        self.auth = _WithDeadline(rpc_pb2_grpc.AuthStub, self.channel)

    def close(self) -> None:
        self.channel.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def put(self, key: bytes, value: bytes = b"", *, timeout: float = DEADLINE, **fields: Any) -> PutResponse:
        response: PutResponse = self.kv.Put(PutRequest(key=key, value=value, **fields), timeout=timeout)
        return response

    def range(self, key: bytes, range_end: bytes = b"", *, timeout: float = DEADLINE, **fields: Any) -> RangeResponse:
        request = RangeRequest(key=key, range_end=range_end, **fields)
        response: RangeResponse = self.kv.Range(request, timeout=timeout)
        return response

    def prefix(self, key: bytes, **fields: Any) -> RangeResponse:
        """All keys that begin with key."""
        return self.range(key, prefix_end(key), **fields)

    def get(self, key: bytes, **fields: Any) -> kv_pb2.KeyValue | None:
        response = self.range(key, **fields)
        return response.kvs[0] if response.kvs else None

    def delete(self, key: bytes, range_end: bytes = b"", **fields: Any) -> DeleteRangeResponse:
        response: DeleteRangeResponse = self.kv.DeleteRange(
            DeleteRangeRequest(key=key, range_end=range_end, **fields), timeout=DEADLINE
        )
        return response

    def grant(self, ttl: int, lease_id: int = 0) -> int:
        """The id of a new lease."""
        granted: int = self.lease.LeaseGrant(LeaseGrantRequest(TTL=ttl, ID=lease_id)).ID
        return granted

    def status(self, timeout: float = DEADLINE) -> StatusResponse:
        response: StatusResponse = self.maintenance.Status(StatusRequest(), timeout=timeout)
        return response

    def members(self, *, linearizable: bool = True) -> list[rpc_pb2.Member]:
        response = self.cluster.MemberList(rpc_pb2.MemberListRequest(linearizable=linearizable))
        return list(response.members)

    def watch_stream(self, metadata: tuple[tuple[str, str], ...] = ()) -> "WatchStream":
        return WatchStream(self.channel, metadata)

    def keepalive_stream(self, metadata: tuple[tuple[str, str], ...] = ()) -> "KeepAliveStream":
        return KeepAliveStream(self.channel, metadata)


class _WithDeadline:
    """A stub whose calls have a deadline unless told otherwise."""

    def __init__(self, make_stub: Callable[[grpc.Channel], Any], channel: grpc.Channel) -> None:
        self._stub = make_stub(channel)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._stub, name)

        def call(request: Any, *, timeout: float | None = DEADLINE, **options: Any) -> Any:
            return method(request, timeout=timeout, **options)

        return call


class _Stream:
    """A bidirectional call: requests are sent when the test says so, responses are read by a thread into a queue."""

    def __init__(
        self,
        make_stub: Callable[[grpc.Channel], Any],
        method: str,
        channel: grpc.Channel,
        metadata: tuple[tuple[str, str], ...],
    ) -> None:
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._responses: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._reading = threading.Event()
        self._reading.set()
        self._call = getattr(make_stub(channel), method)(self._outgoing(), metadata=metadata)
        threading.Thread(target=self._read, daemon=True).start()

    def _outgoing(self) -> Iterator[Any]:
        while (request := self._requests.get()) is not None:
            yield request

    def _read(self) -> None:
        try:
            for response in self._call:
                self._responses.put(response)
                self._reading.wait()
        except grpc.RpcError as error:
            self._responses.put(error)
        else:
            self._responses.put(None)

    def send(self, request: Any) -> None:
        self._requests.put(request)

    def receive(self, timeout: float = DEADLINE) -> Any:
        """The next response. Raises the stream's error when it failed, EOFError when it ended, AssertionError when
        nothing came in time.
        """
        try:
            response = self._responses.get(timeout=timeout)
        except queue.Empty:
            raise AssertionError(f"no response on the stream within {timeout:g} s") from None
        if response is None:
            raise EOFError("the server ended the stream")
        if isinstance(response, grpc.RpcError):
            raise response
        return response

    def nothing_within(self, seconds: float) -> bool:
        """Whether no response came for that long."""
        try:
            self._responses.put(self._responses.get(timeout=seconds))
        except queue.Empty:
            return True
        return False

    def pause(self) -> None:
        """Take at most one more response from the connection until resume()."""
        self._reading.clear()

    def resume(self) -> None:
        self._reading.set()

    def half_close(self) -> None:
        self._requests.put(None)

    def close(self) -> None:
        self._requests.put(None)
        self._reading.set()
        self._call.cancel()

    def __exit__(self, *_: object) -> None:
        self.close()


class WatchStream(_Stream):
    """One Watch call."""

    def __init__(self, channel: grpc.Channel, metadata: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(rpc_pb2_grpc.WatchStub, "Watch", channel, metadata)

    def __enter__(self) -> "WatchStream":
        return self

    def create(self, key: bytes, range_end: bytes = b"", **fields: Any) -> WatchResponse:
        """Ask for a watch and return the answer to that."""
        self.send(WatchRequest(create_request=WatchCreateRequest(key=key, range_end=range_end, **fields)))
        response: WatchResponse = self.receive()
        return response

    def cancel(self, watch_id: int) -> None:
        self.send(WatchRequest(cancel_request=WatchCancelRequest(watch_id=watch_id)))

    def ask_progress(self) -> None:
        self.send(WatchRequest(progress_request=WatchProgressRequest()))

    def events(self, count: int) -> list[kv_pb2.Event]:
        """The next events, whichever watch they belong to; at least so many."""
        collected: list[kv_pb2.Event] = []
        while len(collected) < count:
            response = self.receive()
            assert not response.canceled, f"the watch was cancelled: {response.cancel_reason}"
            collected.extend(response.events)
        return collected


class KeepAliveStream(_Stream):
    """One LeaseKeepAlive call."""

    def __init__(self, channel: grpc.Channel, metadata: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(rpc_pb2_grpc.LeaseStub, "LeaseKeepAlive", channel, metadata)

    def __enter__(self) -> "KeepAliveStream":
        return self

    def keep_alive(self, lease_id: int) -> LeaseKeepAliveResponse:
        self.send(LeaseKeepAliveRequest(ID=lease_id))
        response: LeaseKeepAliveResponse = self.receive()
        return response


def prefix_end(prefix: bytes) -> bytes:
    """The end of the range of all keys that begin with prefix, which must not end in 0xff."""
    return prefix[:-1] + bytes([prefix[-1] + 1])


@contextmanager
def refused(code: grpc.StatusCode, message: str) -> Iterator[None]:
    """The call inside must fail with exactly this status."""
    try:
        yield
    except grpc.RpcError as error:
        got = (error.code(), error.details())
        assert got == (code, message), f"wanted {(code, message)}, got {got}"
    else:
        raise AssertionError(f"the call succeeded; wanted {code} {message!r}")
