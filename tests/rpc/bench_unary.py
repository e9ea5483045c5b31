"""What an empty unary call costs the server: run it as `python -m tests.rpc.bench_unary [calls]`.

A server process, and a client process with 10 connections of 10 calls each in flight. Handlers answer at once, with a
Promise resolved by the next turn of the loop (as a put does), or as a coroutine. Prints calls a second, and the CPU
time that a call takes on either side: on a machine with other work to do, only the latter means something.
"""

import asyncio
import gc
import multiprocessing
import os
import sys
import time
from multiprocessing.connection import Connection
from typing import Any

import uvloop

from kvstore.rpc import Channel, Promise, Server
from tests.rpc.wire import Handler

CONNECTIONS = 10
CALLS_EACH = 10


class Turns:
    """Promises resolved together in the next turn."""

    def __init__(self) -> None:
        self._waiting: list[Promise[bytes]] = []

    def answer(self, request: bytes, context: Any) -> Promise[bytes]:
        promise: Promise[bytes] = Promise()
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._resolve)
        self._waiting.append(promise)
        return promise

    def _resolve(self) -> None:
        waiting, self._waiting = self._waiting, []
        for promise in waiting:
            promise.set_result(b"")


async def coroutine(request: bytes, context: Any) -> bytes:
    return b""


def serve(pipe: Connection) -> None:
    async def main() -> None:
        server = Server()
        handlers = {"Now": Handler(lambda *_: b""), "Turn": Handler(Turns().answer), "Coroutine": Handler(coroutine)}
        server.add_registered_method_handlers("b.B", handlers)
        pipe.send(await server.listen("127.0.0.1", 0))
        await asyncio.get_running_loop().run_in_executor(None, pipe.recv)

    gc.freeze()
    uvloop.run(main())


def cpu_seconds(pid: int) -> float:
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def load(port: int, method: str, calls: int) -> None:
    left = calls
    finished: Promise[None] = Promise()
    channels = [Channel(f"127.0.0.1:{port}") for _ in range(CONNECTIONS)]

    def keep_calling(channel: Channel) -> None:
        def again(call: Promise[bytes]) -> None:
            nonlocal left
            call.result()
            left -= 1
            if left >= CONNECTIONS * CALLS_EACH:
                channel.unary(method, b"").then(again)
            elif left == 0:
                finished.set_result(None)

        for _ in range(CALLS_EACH):
            channel.unary(method, b"").then(again)

    for channel in channels:
        await channel.ready()
    for channel in channels:
        keep_calling(channel)
    await finished
    for channel in channels:
        await channel.close()


def main(calls: int) -> None:
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs,), daemon=True)
    server.start()
    port = ours.recv()
    assert server.pid is not None
    for name in ("Now", "Turn", "Coroutine"):
        uvloop.run(load(port, f"/b.B/{name}", calls // 10))
        started, own, used = time.perf_counter(), time.process_time(), cpu_seconds(server.pid)
        uvloop.run(load(port, f"/b.B/{name}", calls))
        wall, own, used = time.perf_counter() - started, time.process_time() - own, cpu_seconds(server.pid) - used
        costs = f"server {used / calls * 1e6:.2f} us   client {own / calls * 1e6:.2f} us"
        print(f"{name:9} {calls / wall:8.0f} calls/s   {costs}")
    ours.send("stop")
    server.join()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200_000)
