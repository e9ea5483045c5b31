"""Streams: watchers that count events, and leases that are kept alive. Messages are counted and timed, not decoded."""

from collections.abc import Callable, Sequence
from time import monotonic_ns, perf_counter_ns
from typing import Any

from kvbench.latency import FOLD_AT
from kvbench.load import Result
from kvbench.requests import LEASE_KEEP_ALIVE, STAMP, STAMP_DIGITS, WATCH
from kvstore.pb import rpc_pb2 as pb
from kvstore.rpc import EOF, Channel, ClientStream, Promise, RpcError, StatusCode


class _Reader:
    """Takes every message of a stream, without a task."""

    def __init__(self, stream: ClientStream, take: Callable[[bytes], None], failed: Callable[[RpcError], None]) -> None:
        self._stream = stream
        self._take = take
        self._failed = failed
        self._read()

    def _read(self) -> None:
        # A loop over what is there already: each message calling the next would grow the stack.
        while True:
            promise = self._stream.read()
            if not promise.done():
                promise.then(self._arrived)
                return
            if not self._handle(promise):
                return

    def _arrived(self, promise: Promise[Any]) -> None:
        if self._handle(promise):
            self._read()

    def _handle(self, promise: Promise[Any]) -> bool:
        error = promise.exception()
        if error is not None:
            if not isinstance(error, RpcError):
                raise error
            self._failed(error)
            return False
        message = promise.result()
        if message is EOF:
            return False
        self._take(message)
        return True


class Watchers:
    """Watches of ranges (key and end), spread over streams, which are spread over channels.

    marker: what every key begins with.
    """

    def __init__(
        self,
        channels: Sequence[Channel],
        streams: int,
        ranges: Sequence[tuple[bytes, bytes]],
        marker: bytes,
        result: Result,
    ) -> None:
        self._result = result
        self._marker = marker
        self._wanted = len(ranges)
        self._created = 0
        self._closing = False
        self.ready: Promise[None] = Promise()
        self._streams = [channels[number % len(channels)].stream(WATCH) for number in range(streams)]
        for number, (key, end) in enumerate(ranges):
            create = pb.WatchCreateRequest(key=key, range_end=end)
            self._streams[number % streams].write(pb.WatchRequest(create_request=create).SerializeToString())
        for stream in self._streams:
            _Reader(stream, self._arrived, self._failed)

    def _arrived(self, message: bytes) -> None:
        if self._created < self._wanted:
            self._starting(message)
            return
        result = self._result
        # Every event holds its key, and nothing else holds the prefix of the keys: no need to decode.
        result.events += message.count(self._marker)
        at = message.rfind(STAMP)
        if at >= 0:
            digits = at + len(STAMP)
            sent = int(message[digits : digits + STAMP_DIGITS])
            samples = result.event_latencies.samples
            samples.append((monotonic_ns() - sent) // 1000)
            if len(samples) >= FOLD_AT:
                result.event_latencies.fold()

    def _starting(self, message: bytes) -> None:
        response = pb.WatchResponse.FromString(message)
        if response.canceled:
            self._failed(RpcError(StatusCode.CANCELLED, response.cancel_reason))
            return
        self._created += response.created
        if self._created == self._wanted:
            self.ready.set_result(None)

    def _failed(self, error: RpcError) -> None:
        if self._closing:
            return
        self._result.errors[f"{error.code.name}: {error.message}"] += 1
        if not self.ready.done():
            self.ready.set_exception(error)

    def close(self) -> None:
        self._closing = True
        for stream in self._streams:
            stream.cancel()


class KeepAlives:
    """Leases kept alive as fast as the server answers: every lease has one keepalive under way."""

    def __init__(self, channels: Sequence[Channel], streams: int, leases: Sequence[int], result: Result) -> None:
        self._result = result
        self._began = perf_counter_ns()
        self._loops = [
            _KeepAliveLoop(channels[number % len(channels)], leases[number::streams], result)
            for number in range(streams)
        ]

    def stop(self) -> None:
        self._result.elapsed = (perf_counter_ns() - self._began) / 1e9
        for loop in self._loops:
            loop.close()


class _KeepAliveLoop:
    """One stream; answers come in the order of the requests."""

    def __init__(self, channel: Channel, leases: Sequence[int], result: Result) -> None:
        self._result = result
        self._requests = [pb.LeaseKeepAliveRequest(ID=lease).SerializeToString() for lease in leases]
        self._sent = [0] * len(leases)
        self._position = 0
        self._closing = False
        self._stream = channel.stream(LEASE_KEEP_ALIVE)
        now = perf_counter_ns()
        for number, request in enumerate(self._requests):
            self._sent[number] = now
            self._stream.write(request)
        _Reader(self._stream, self._arrived, self._failed)

    def _arrived(self, message: bytes) -> None:
        result = self._result
        position = self._position
        now = perf_counter_ns()
        samples = result.latencies.samples
        samples.append((now - self._sent[position]) // 1000)
        if len(samples) >= FOLD_AT:
            result.latencies.fold()
        result.operations += 1
        result.response_bytes += len(message)
        self._sent[position] = now
        self._stream.write(self._requests[position])
        self._position = (position + 1) % len(self._requests)

    def _failed(self, error: RpcError) -> None:
        if not self._closing:
            self._result.errors[f"{error.code.name}: {error.message}"] += 1

    def close(self) -> None:
        self._closing = True
        self._stream.cancel()
