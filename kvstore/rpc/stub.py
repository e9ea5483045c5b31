"""Stubs that grpcio-tools generates, on our channels.

    stub = KVStub(StubChannel(channel))
    response = await stub.Put(PutRequest(key=b"a", value=b"b"), timeout=5)
    watch = stub.Watch()
    watch.write(WatchRequest(...)); response = await watch.read()

For those who would rather have messages than bytes; who makes a hundred thousand calls a second uses the channel
itself. Unlike grpcio's, a stream is written and read as `ClientStream` is.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from kvstore.rpc.client import Channel
from kvstore.rpc.client_call import ClientStream
from kvstore.rpc.incoming import EOF, EndOfStream
from kvstore.rpc.outgoing import Buffered, Written
from kvstore.rpc.status import Metadata

Encode = Callable[[Any], bytes]
Decode = Callable[[bytes], Any]


class MessageStream:
    """A ClientStream of messages; what has nothing to do with messages is found on `stream`."""

    def __init__(self, stream: ClientStream, encode: Encode, decode: Decode) -> None:
        self.stream = stream
        self._encode = encode
        self._decode = decode

    def write(self, message: Any) -> Written | Buffered:
        """Send one message; false when no more should be written for now (ClientStream.write)."""
        return self.stream.write(self._encode(message))

    async def drain(self) -> None:
        """Wait until more may be written."""
        await self.stream.drain()

    def half_close(self) -> None:
        """Say that no more messages follow."""
        self.stream.half_close()

    async def read(self) -> Any | EndOfStream:
        """The next response message, or EOF. Raises RpcError when the call ends with an error."""
        message = await self.stream.read()
        return EOF if message is EOF else self._decode(message)

    def __aiter__(self) -> "MessageStream":
        return self

    async def __anext__(self) -> Any:
        return self._decode(await anext(self.stream))

    def cancel(self) -> bool:
        """Give up the call. False if it has ended."""
        return self.stream.cancel()


class StubChannel:
    """What a generated stub takes for its channel."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def unary_unary(
        self, method: str, request_serializer: Encode, response_deserializer: Decode, _registered_method: bool = False
    ) -> Callable[..., Awaitable[Any]]:
        """call(request, *, metadata=(), timeout=None, wait_for_ready=False) -> awaitable of the response."""

        async def call(
            request: Any, *, metadata: Metadata = (), timeout: float | None = None, wait_for_ready: bool = False
        ) -> Any:
            data = request_serializer(request)
            response = self._channel.unary(
                method, data, metadata=metadata, timeout=timeout, wait_for_ready=wait_for_ready
            )
            return response_deserializer(await response)

        return call

    def unary_stream(
        self, method: str, request_serializer: Encode, response_deserializer: Decode, _registered_method: bool = False
    ) -> Callable[..., MessageStream]:
        """call(request, *, metadata=(), timeout=None, wait_for_ready=False) -> stream of responses."""
        start = self.stream_stream(method, request_serializer, response_deserializer)

        def call(request: Any, **options: Any) -> MessageStream:
            stream = start(**options)
            stream.write(request)
            stream.half_close()
            return stream

        return call

    def stream_unary(
        self, method: str, request_serializer: Encode, response_deserializer: Decode, _registered_method: bool = False
    ) -> Callable[..., MessageStream]:
        """call(*, metadata=(), timeout=None, wait_for_ready=False) -> stream; half_close, then read the response."""
        return self.stream_stream(method, request_serializer, response_deserializer)

    def stream_stream(
        self, method: str, request_serializer: Encode, response_deserializer: Decode, _registered_method: bool = False
    ) -> Callable[..., MessageStream]:
        """call(*, metadata=(), timeout=None, wait_for_ready=False) -> stream both ways."""

        def call(
            *, metadata: Metadata = (), timeout: float | None = None, wait_for_ready: bool = False
        ) -> MessageStream:
            stream = self._channel.stream(method, metadata=metadata, timeout=timeout, wait_for_ready=wait_for_ready)
            return MessageStream(stream, request_serializer, response_deserializer)

        return call
