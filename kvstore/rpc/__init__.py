"""gRPC over HTTP/2, served and called from one asyncio loop.

Servers take the servicers that grpcio-tools generates registration code for:

    server = Server(ServerOptions(max_receive_bytes=2 << 20), http1_factory=web_server)
    add_KVServicer_to_server(servicer, server)
    port = await server.listen("127.0.0.1", 2379)
    ...
    await server.stop(grace=5)

A handler takes the request (or an iterator over requests) and the context. It may be any of these, on this server and
on grpc.aio's alike (`kvstore.rpc.grpcio`):

    def Put(self, request, context):                # a message, or bytes that already are one: answered at once
        return PutResponse()
    def Put(self, request, context):                # a Promise: answered when resolved, without a task
        promise = Promise()
        self.waiting.append(promise)                # later: promise.set_result(response) or set_exception(RpcError())
        return promise
    async def Put(self, request, context): ...      # a coroutine, or anything awaitable
    async def Watch(self, requests, context):       # streams: an async generator,
        async for request in requests:
            yield WatchResponse()
    async def Watch(self, requests, context):       # or reads and writes of the context
        while (request := await context.read()) is not EOF:
            if not context.write(response):         # sent at the end of this turn; false: the buffer is full
                await context.drain()
    def Watch(self, requests, context):             # or a Promise that keeps the call open until it is resolved (None),
        watcher = Watcher(context.write)            # while others write: no task
        context.add_done_callback(watcher.close)
        return watcher.finished

An error is `raise RpcError(StatusCode.NOT_FOUND, "text")`, or `await context.abort(...)`. When the client cancels, its
deadline passes or its connection ends, a handler's task or future is cancelled, a Promise is let go (resolving it later
is harmless), and `context.cancelled()` is true. A client that does not read makes `context.writable` false; a handler
that does not read stops its client.

Channels speak bytes:

    channel = Channel("127.0.0.1:2379")
    response = await channel.unary("/etcdserverpb.KV/Put", request.SerializeToString(), timeout=5)
    stream = channel.stream("/kvstorepb.Peer/Messages", metadata=[("kvstore-from", "1a")])
    if not stream.write(batch): await stream.drain()
    stream.half_close(); await stream.read(); await channel.close()

`channel.unary` returns a Promise; calls made in one turn of the loop leave in one write.
"""

from kvstore.rpc.client import Channel, ChannelState
from kvstore.rpc.client_call import ClientStream, UnaryRequest
from kvstore.rpc.context import ServerContext
from kvstore.rpc.incoming import EOF, EndOfStream
from kvstore.rpc.observer import MethodStats, Observer, Report
from kvstore.rpc.options import ChannelOptions, ServerOptions
from kvstore.rpc.promise import Promise
from kvstore.rpc.server import Server
from kvstore.rpc.servicer import Context, StreamContext
from kvstore.rpc.status import Metadata, RpcError, StatusCode

__all__ = [
    "EOF",
    "Channel",
    "ChannelOptions",
    "ChannelState",
    "ClientStream",
    "Context",
    "EndOfStream",
    "Metadata",
    "MethodStats",
    "Observer",
    "Promise",
    "Report",
    "RpcError",
    "Server",
    "ServerContext",
    "ServerOptions",
    "StatusCode",
    "StreamContext",
    "UnaryRequest",
]
