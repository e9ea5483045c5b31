"""One address of the cluster and the gRPC channel to it.

Knows whether the address can be reached, and makes calls there; which address a call goes to, and whether it is
tried again, is the transport's decision.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import grpc
import grpc.aio

from kvstore.client import tls
from kvstore.client.errors import ClientClosed
from kvstore.client.rpcs import Request, Response, Rpc

_PROBE_PAUSE = 0.2
"""Seconds between two attempts to see the certificate of a server that is not verified."""


@dataclass(slots=True, frozen=True)
class Address:
    """An endpoint as it was written, and what that means: `target` is gRPC's way to say it."""

    text: str
    target: str
    secure: bool
    host: str = ""
    port: int = 0


def parse_address(text: str, *, secure_by_default: bool) -> Address:
    """Read `host:port`, `http://`, `https://`, `unix://` or `unixs://`. A bare address is secure if TLS was configured.

    Raises ValueError for another scheme, or where a port is missing.
    """
    if "://" not in text:
        parts = urlsplit(f"//{text}")
        secure = secure_by_default
    else:
        parts = urlsplit(text)
        if parts.scheme not in ("http", "https", "unix", "unixs"):
            raise ValueError(f"endpoint {text!r}: the scheme must be http, https, unix or unixs")
        secure = parts.scheme in ("https", "unixs")
    if parts.scheme.startswith("unix"):
        return Address(text, f"unix:{parts.netloc}{parts.path}", secure)
    if parts.hostname is None or parts.port is None:
        raise ValueError(f"endpoint {text!r}: expected host:port")
    return Address(text, parts.netloc.rpartition("@")[2], secure, parts.hostname, parts.port)


@dataclass(slots=True, frozen=True)
class ChannelConfig:
    """What every channel of a client is made with. Times in seconds.

    dial_timeout: how long one attempt to connect may take. keepalive_time: how long a connection with open calls may
    be silent before it is pinged; keepalive_timeout: how long the answer may take before it is given up.
    """

    tls: tls.TLSConfig | None
    dial_timeout: float
    keepalive_time: float
    keepalive_timeout: float

    def options(self, server_name: str) -> list[tuple[str, Any]]:
        options: list[tuple[str, Any]] = [
            ("grpc.max_receive_message_length", -1),
            ("grpc.max_send_message_length", -1),
            ("grpc.keepalive_time_ms", int(self.keepalive_time * 1000)),
            ("grpc.keepalive_timeout_ms", int(self.keepalive_timeout * 1000)),
            ("grpc.http2.max_pings_without_data", 0),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.min_reconnect_backoff_ms", int(self.dial_timeout * 1000)),
            ("grpc.max_reconnect_backoff_ms", 2000),
            ("grpc.service_config_disable_resolution", 1),
            # Two clients of one process are two connections, as two users would expect.
            ("grpc.use_local_subchannel_pool", 1),
            # Retrying is decided here, by what a call does; gRPC's own policy would hide attempts from it.
            ("grpc.enable_retries", 0),
        ]
        if server_name:
            options.append(("grpc.ssl_target_name_override", server_name))
        return options


class Endpoint:
    """A lazily made channel to one address, and the callables on it."""

    __slots__ = ("_calls", "_channel", "_config", "address")

    def __init__(self, address: Address, config: ChannelConfig) -> None:
        self.address = address
        self._config = config
        self._channel: grpc.aio.Channel | None = None
        self._calls: dict[Rpc[Any, Any], Any] = {}

    def ready(self) -> bool:
        """Whether a call can be sent at once. If not, a channel that exists begins to connect."""
        channel = self._channel
        return channel is not None and channel.get_state(try_to_connect=True) is grpc.ChannelConnectivity.READY

    async def connected(self) -> Endpoint:
        """Wait until the address is connected, however long that takes, and return this endpoint.

        Raises ClientClosed if it is closed meanwhile.
        """
        if self._channel is None:
            self._channel = await self._open()
        channel = self._channel
        try:
            while (state := channel.get_state(try_to_connect=True)) is not grpc.ChannelConnectivity.READY:
                await channel.wait_for_state_change(state)
        except grpc.aio.UsageError:
            raise ClientClosed from None
        return self

    async def close(self) -> None:
        if self._channel is not None:
            channel, self._channel = self._channel, None
            self._calls.clear()
            await channel.close(None)

    def unary(self, rpc: Rpc[Request, Response]) -> grpc.aio.UnaryUnaryMultiCallable[Request, Response]:
        call: grpc.aio.UnaryUnaryMultiCallable[Request, Response] | None = self._calls.get(rpc)
        if call is None:
            call = self._calls[rpc] = self._open_channel.unary_unary(
                rpc.path,
                request_serializer=rpc.request.SerializeToString,
                response_deserializer=rpc.response.FromString,
            )
        return call

    def server_stream(self, rpc: Rpc[Request, Response]) -> grpc.aio.UnaryStreamMultiCallable[Request, Response]:
        return self._open_channel.unary_stream(
            rpc.path, request_serializer=rpc.request.SerializeToString, response_deserializer=rpc.response.FromString
        )

    def stream(self, rpc: Rpc[Request, Response]) -> grpc.aio.StreamStreamMultiCallable[Request, Response]:
        return self._open_channel.stream_stream(
            rpc.path, request_serializer=rpc.request.SerializeToString, response_deserializer=rpc.response.FromString
        )

    @property
    def _open_channel(self) -> grpc.aio.Channel:
        assert self._channel is not None, "a call was made before the endpoint was connected"
        return self._channel

    async def _open(self) -> grpc.aio.Channel:
        if not self.address.secure:
            return grpc.aio.insecure_channel(self.address.target, options=self._config.options(""))
        config = self._config.tls or tls.TLSConfig()
        secured = await self._probe(config) if config.skip_verify else tls.verified(config)
        options = self._config.options(secured.server_name)
        return grpc.aio.secure_channel(self.address.target, secured.credentials, options=options)

    async def _probe(self, config: tls.TLSConfig) -> tls.Secured:
        while True:
            try:
                return await asyncio.to_thread(
                    tls.unverified, config, self.address.host, self.address.port, self._config.dial_timeout
                )
            except OSError:
                await asyncio.sleep(_PROBE_PAUSE)
