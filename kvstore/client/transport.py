"""Sends calls to the cluster: over which endpoint, how often, and for how long.

The rules are few. A call goes to an endpoint that is connected, in turn; while none is, it waits. A call that the
server answered with an error of its own is the caller's to handle. A call that met a broken connection or a member
without a leader is sent again if that can do no harm (`Rpc.repeatable`), to the next endpoint, until its time is up.
A write is never sent twice: it leaves only over a connection that stands, and if that breaks, the caller is told.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TypeVar

import grpc
import grpc.aio

from kvstore.client import errors, rpcs
from kvstore.client.endpoint import ChannelConfig, Endpoint, parse_address
from kvstore.client.rpcs import Request, Response, Rpc
from kvstore.pb import rpc_pb2

T = TypeVar("T")
Metadata = tuple[tuple[str, str], ...]

REQUIRE_LEADER: Metadata = (("hasleader", "true"),)
"""Asks a member to refuse a call, or end a stream, when it has no leader."""

_TRANSIENT_CODES = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL)


class Backoff:
    """Pauses that double, from 25 ms up to a second, each shortened by chance so that clients do not march in step."""

    __slots__ = ("_next",)

    def __init__(self) -> None:
        self._next = 0.025

    async def pause(self) -> None:
        await asyncio.sleep(self._next * random.uniform(0.5, 1))
        self._next = min(self._next * 2, 1.0)

    def reset(self) -> None:
        self._next = 0.025


class Deadline:
    """A point in the loop's time by which something must be done; None seconds is never."""

    __slots__ = ("at",)

    def __init__(self, timeout: float | None) -> None:
        self.at = None if timeout is None else asyncio.get_running_loop().time() + timeout

    def left(self) -> float | None:
        return None if self.at is None else max(0.0, self.at - asyncio.get_running_loop().time())


class EndpointSet:
    """Endpoints that serve the same calls, taken in turn. `Transport` makes these."""

    __slots__ = ("_endpoints", "_next")

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        self._endpoints = endpoints
        self._next = random.randrange(len(endpoints))

    def __len__(self) -> int:
        return len(self._endpoints)

    async def pick(self, deadline: Deadline) -> Endpoint:
        """The next connected endpoint. Raises ConnectionFailed if there is none by the deadline."""
        for _ in self._endpoints:
            endpoint = self._endpoints[self._next]
            self._next = (self._next + 1) % len(self._endpoints)
            if endpoint.ready():
                return endpoint
        try:
            async with asyncio.timeout_at(deadline.at):
                return await self._first_connected()
        except TimeoutError:
            names = ", ".join(endpoint.address.text for endpoint in self._endpoints)
            raise errors.ConnectionFailed(f"no endpoint could be reached: {names}") from None

    async def _first_connected(self) -> Endpoint:
        tasks = [asyncio.ensure_future(endpoint.connected()) for endpoint in self._endpoints]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            return done.pop().result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


class Transport:
    """The connections of one client.

    timeout: seconds a call may take in all when it does not say otherwise; None is no limit.
    """

    def __init__(
        self, endpoints: Iterable[str], config: ChannelConfig, timeout: float | None, user: str, password: str
    ) -> None:
        self._config = config
        self._timeout = timeout
        self._single: dict[str, EndpointSet] = {}
        self._made: list[Endpoint] = []
        self._login = rpc_pb2.AuthenticateRequest(name=user, password=password) if user else None
        self._token: Metadata = ()
        self._closed = False
        self.addresses = tuple(endpoints)
        if not self.addresses:
            raise errors.NoEndpoints
        self._all = EndpointSet([self._endpoint(text) for text in self.addresses])

    async def connect(self, timeout: float) -> None:
        """Wait until one endpoint is connected. Raises ConnectionFailed after `timeout` seconds."""
        await self._all.pick(Deadline(timeout))

    async def close(self) -> None:
        self._closed = True
        await asyncio.gather(*(endpoint.close() for endpoint in self._made))

    async def unary(self, rpc: Rpc[Request, Response], request: Request, *, timeout: float | None = -1) -> Response:
        """Call one member, whichever. `timeout` as for the class; -1 takes the client's."""
        return await self._unary(self._all, rpc, request, timeout)

    async def unary_at(
        self, address: str, rpc: Rpc[Request, Response], request: Request, *, timeout: float | None = -1
    ) -> Response:
        """Call the member at `address`, which need not be one of the client's endpoints."""
        return await self._unary(self._at(address), rpc, request, timeout)

    async def exchange(self, rpc: Rpc[Request, Response], request: Request, *, timeout: float | None = -1) -> Response:
        """One request and its one answer over a streaming method. Raises RpcError if the stream ends without it."""

        async def attempt(endpoint: Endpoint, left: float | None, metadata: Metadata) -> Response:
            call = endpoint.stream(rpc)(None, timeout=left, metadata=metadata)
            try:
                await call.write(request)
                response = await call.read()
            except asyncio.InvalidStateError:
                # The stream was over before the request could be written; its status says why.
                raise errors.from_status(await call.code(), await call.details()) from None
            finally:
                call.cancel()
            if isinstance(response, rpc.response):
                return response
            raise errors.RpcError(grpc.StatusCode.UNAVAILABLE, "the stream ended without an answer")

        return await self._retry(self._all, rpc.repeatable, self._limit(timeout), attempt)

    async def open_stream(
        self, rpc: Rpc[Request, Response], extra: Metadata, deadline: Deadline
    ) -> grpc.aio.StreamStreamCall[Request, Response]:
        """Begin a two-way stream with a connected member; what goes wrong on it afterwards is the caller's to see."""
        endpoint = await self._pick(self._all, deadline)
        return endpoint.stream(rpc)(None, metadata=await self._metadata(endpoint, deadline) + extra)

    async def open_server_stream(
        self, rpc: Rpc[Request, Response], request: Request, deadline: Deadline
    ) -> grpc.aio.UnaryStreamCall[Request, Response]:
        """Begin a stream of answers from a connected member."""
        endpoint = await self._pick(self._all, deadline)
        metadata = await self._metadata(endpoint, deadline)
        return endpoint.server_stream(rpc)(request, timeout=deadline.left(), metadata=metadata)

    def forget_token(self) -> None:
        """Log in anew before the next call: the server does not accept the token any more."""
        self._token = ()

    async def _unary(
        self, endpoints: EndpointSet, rpc: Rpc[Request, Response], request: Request, timeout: float | None
    ) -> Response:
        async def attempt(endpoint: Endpoint, left: float | None, metadata: Metadata) -> Response:
            return await endpoint.unary(rpc)(request, timeout=left, metadata=metadata)

        return await self._retry(endpoints, rpc.repeatable, self._limit(timeout), attempt)

    async def _retry(
        self,
        endpoints: EndpointSet,
        repeatable: bool,
        deadline: Deadline,
        attempt: Callable[[Endpoint, float | None, Metadata], Awaitable[T]],
    ) -> T:
        backoff = Backoff()
        met: errors.ClientError | None = None
        attempts = logins = 0
        while True:
            try:
                endpoint = await self._pick(endpoints, deadline)
                metadata = await self._metadata(endpoint, deadline)
                return await attempt(endpoint, deadline.left(), metadata)
            except asyncio.CancelledError:
                if ended_by_closing():
                    raise errors.ClientClosed from None
                raise
            except errors.ConnectionFailed as error:
                raise errors.CallTimeout from met or error
            except errors.ServerError as error:
                failure = error
            except grpc.aio.AioRpcError as status:
                if is_local_timeout(status):
                    raise errors.CallTimeout from met or status
                failure = error_of(status)
            attempts += 1
            if self._login is not None and not logins and is_stale_login(failure):
                # Refused before anything was done, whatever the call was.
                logins += 1
                self.forget_token()
            elif not repeatable or failure.code not in _TRANSIENT_CODES:
                raise failure
            elif attempts % len(endpoints) == 0:
                await backoff.pause()
            met = failure

    async def _pick(self, endpoints: EndpointSet, deadline: Deadline) -> Endpoint:
        if self._closed:
            raise errors.ClientClosed
        return await endpoints.pick(deadline)

    async def _metadata(self, endpoint: Endpoint, deadline: Deadline) -> Metadata:
        if self._login is not None and not self._token:
            answer = await endpoint.unary(rpcs.AUTHENTICATE)(self._login, timeout=deadline.left())
            self._token = (("token", answer.token),)
        return self._token

    def _limit(self, timeout: float | None) -> Deadline:
        return Deadline(self._timeout if timeout == -1 else timeout)

    def _at(self, address: str) -> EndpointSet:
        found = self._single.get(address)
        if found is None:
            found = self._single[address] = EndpointSet([self._endpoint(address)])
        return found

    def _endpoint(self, text: str) -> Endpoint:
        tls = self._config.tls
        address = parse_address(text, secure_by_default=tls is not None and tls.secure_bare)
        endpoint = Endpoint(address, self._config)
        self._made.append(endpoint)
        return endpoint


def error_of(status: grpc.aio.AioRpcError) -> errors.ServerError:
    """The error that a failed gRPC call stands for, with the call's own as its cause."""
    error = errors.from_status(status.code(), status.details() or "")
    error.__cause__ = status
    return error


def ended_by_closing() -> bool:
    """Whether the CancelledError in hand is gRPC's, of a call that ended with its channel or stream.

    gRPC raises the same for both; a task that somebody wants to end knows of it.
    """
    task = asyncio.current_task()
    return task is None or task.cancelling() == 0


def is_local_timeout(status: grpc.aio.AioRpcError) -> bool:
    """Whether it was the call's own deadline that ended it, and not the server's word."""
    return status.code() is grpc.StatusCode.DEADLINE_EXCEEDED and status.details() != errors.DeadlineExceeded.text


def is_transient(error: errors.ServerError) -> bool:
    """Whether the same call may well succeed in a moment, here or elsewhere."""
    return error.code in _TRANSIENT_CODES


def is_stale_login(error: errors.ServerError) -> bool:
    return isinstance(error, errors.InvalidAuthToken | errors.AuthOldRevision)
