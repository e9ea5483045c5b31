"""What handlers may do, on our server and on grpcio's alike: the same servicers run on both."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from kvstore.rpc import EOF, Context, Promise, RpcError, StatusCode, StreamContext
from kvstore.rpc.call import StreamCall, UnaryCall
from kvstore.rpc.grpcio import GrpcioContext
from tests.rpc.harness import (
    Counters,
    EchoServicer,
    Text,
    eventually,
    grpcio_eof,
    serving,
    serving_on_grpcio,
    status_of,
    stub_of,
)


class Servicer(EchoServicer):  # type: ignore[misc]
    """Handlers in every style; the request's text chooses."""

    def __init__(self) -> None:
        self.context: Any = None
        self.promise: Promise[Any] = Promise()
        self.cancelled = False
        self.ended: list[Any] = []
        self.gate = asyncio.Event()

    def Unary(self, request: Any, context: Any) -> Any:
        self.context = context
        context.add_done_callback(self.ended.append)
        return getattr(self, f"unary_{request.text}")(request, context)

    def unary_plain(self, request: Any, context: Any) -> Any:
        return Text(text="plain", number=request.number + 1)

    def unary_bytes(self, request: Any, context: Any) -> bytes:
        return bytes(Text(text="bytes", number=request.number + 1).SerializeToString())

    def unary_promise(self, request: Any, context: Any) -> Promise[Any]:
        promise: Promise[Any] = Promise()
        asyncio.get_running_loop().call_soon(promise.set_result, Text(text="promise", number=request.number + 1))
        return promise

    def unary_resolved(self, request: Any, context: Any) -> Promise[Any]:
        return Promise.resolved(Text(text="resolved"))

    def unary_future(self, request: Any, context: Any) -> "asyncio.Future[Any]":
        future = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(future.set_result, Text(text="future").SerializeToString())
        return future

    async def unary_coroutine(self, request: Any, context: Any) -> Any:
        await asyncio.sleep(0)
        return Text(text="coroutine")

    def unary_error(self, request: Any, context: Any) -> Any:
        raise RpcError(StatusCode.OUT_OF_RANGE, "füll: 100%\n", (("reason", "compacted"), ("raw-bin", b"\x00\xff")))

    def unary_promised_error(self, request: Any, context: Any) -> Promise[Any]:
        return Promise.failed(RpcError(StatusCode.DATA_LOSS, "lost"))

    def unary_domain_error(self, request: Any, context: Any) -> Any:
        raise KeyError("foo")

    def unary_error_with_trailers(self, request: Any, context: Any) -> Any:
        context.set_trailing_metadata((("set", "before"),))
        raise RpcError(StatusCode.NOT_FOUND, "gone")

    async def unary_abort(self, request: Any, context: Any) -> Any:
        await context.abort(grpc.StatusCode.NOT_FOUND, "nothing here", (("hint", "elsewhere"),))

    def unary_crash(self, request: Any, context: Any) -> Any:
        raise RuntimeError("broken")

    def unary_code(self, request: Any, context: Any) -> Any:
        context.set_code(grpc.StatusCode.FAILED_PRECONDITION)
        context.set_details("not now")
        return Text()

    def unary_metadata(self, request: Any, context: Any) -> Any:
        sent = dict(context.invocation_metadata())
        context.send_initial_metadata((("early", "1"), ("early-bin", b"\x01\x02")))
        context.set_trailing_metadata((("late", "2"), ("late-bin", b"\x03")))
        return Text(text=sent["greeting"], data=sent["token-bin"])

    def unary_context(self, request: Any, context: Any) -> Any:
        remaining = context.time_remaining()
        return Text(
            text=f"{context.peer()} {context.full_method()}", number=-1 if remaining is None else round(remaining)
        )

    def unary_pending(self, request: Any, context: Any) -> Promise[Any]:
        return self.promise

    async def unary_hang(self, request: Any, context: Any) -> Any:
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise

    async def Collect(self, request_iterator: AsyncIterator[Any], context: Any) -> Any:
        texts = [request.text async for request in request_iterator]
        if texts == ["fail"]:
            raise RpcError(StatusCode.ABORTED, "no")
        return Text(text=",".join(texts), number=len(texts))

    def Expand(self, request: Any, context: Any) -> Any:
        self.context = context
        context.add_done_callback(self.ended.append)
        return getattr(self, f"expand_{request.text}")(request, context)

    async def expand_generator(self, request: Any, context: Any) -> AsyncIterator[Any]:
        for number in range(request.number):
            yield Text(number=number)

    async def expand_writes(self, request: Any, context: Any) -> None:
        for number in range(request.number):
            await context.write(Text(number=number))

    def expand_plain(self, request: Any, context: Any) -> None:
        for number in range(request.number):
            context.write(Text(number=number).SerializeToString())

    def expand_promise(self, request: Any, context: Any) -> Promise[None]:
        promise: Promise[None] = Promise()

        def finish() -> None:
            context.write(Text(number=1))
            promise.set_result(None)

        context.write(Text(number=0))
        asyncio.get_running_loop().call_soon(finish)
        return promise

    async def expand_error(self, request: Any, context: Any) -> AsyncIterator[Any]:
        yield Text(number=0)
        raise RpcError(StatusCode.UNAVAILABLE, "gone", (("why", "because"),))

    async def expand_forever(self, request: Any, context: Any) -> AsyncIterator[Any]:
        try:
            while True:
                yield Text()
                await asyncio.sleep(0.001)
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled = True
            raise

    async def expand_flood(self, request: Any, context: Any) -> None:
        while True:
            await context.write(Text(data=bytes(10_000)))

    async def Chat(self, request_iterator: Any, context: Any) -> Any:
        while (request := await context.read()) is not EOF:
            if request.text == "stop":
                return
            if not context.write(Text(text=request.text.upper())):
                await context.drain()
        context.write(Text(text="bye"))


@pytest.fixture(params=["ours", "grpcio"])
async def echo(request: pytest.FixtureRequest) -> AsyncIterator[tuple[Any, Servicer, Counters]]:
    servicer = Servicer()
    counters = Counters()
    if request.param == "ours":
        async with serving(servicer, observer=counters) as (_, port), stub_of(port) as stub:
            yield stub, servicer, counters
    else:
        async with serving_on_grpcio(servicer, observer=counters) as port, stub_of(port) as stub:
            yield stub, servicer, counters


def contexts(unary: UnaryCall, stream: StreamCall, theirs: GrpcioContext) -> list[Context]:
    """For the type checker: both servers' contexts are what servicers are promised."""
    streams: list[StreamContext] = [stream, theirs]
    return [unary, *streams]


def test_both_contexts_offer_what_servicers_are_promised() -> None:
    assert contexts.__annotations__["return"] == list[Context]
    for kind, promised in ((UnaryCall, Context), (StreamCall, StreamContext), (GrpcioContext, StreamContext)):
        names = [name for name in dir(promised) if not name.startswith("_")]
        assert "abort" in names
        assert all(hasattr(kind, name) for name in names)


Echo = tuple[Any, Servicer, Counters]


@pytest.mark.parametrize("style", ["plain", "bytes", "promise", "resolved", "future", "coroutine"])
async def test_a_unary_handler_may_answer_in_any_style(echo: Echo, style: str) -> None:
    response = await echo[0].Unary(Text(text=style, number=41), timeout=5)
    assert response.text == style
    assert response.number in (0, 42)


@pytest.mark.parametrize(
    ("style", "code", "details"),
    [
        ("error", grpc.StatusCode.OUT_OF_RANGE, "füll: 100%\n"),
        ("promised_error", grpc.StatusCode.DATA_LOSS, "lost"),
        ("domain_error", grpc.StatusCode.NOT_FOUND, "missing 'foo'"),
        ("abort", grpc.StatusCode.NOT_FOUND, "nothing here"),
        ("crash", grpc.StatusCode.UNKNOWN, "Unexpected <class 'RuntimeError'>: broken"),
        ("code", grpc.StatusCode.FAILED_PRECONDITION, "not now"),
    ],
)
async def test_an_error_reaches_the_client_as_its_status(echo: Echo, style: str, code: Any, details: str) -> None:
    assert await status_of(echo[0].Unary(Text(text=style))) == (code, details)


async def test_an_error_carries_trailing_metadata(echo: Echo) -> None:
    call = echo[0].Unary(Text(text="error"))
    trailers = dict(await call.trailing_metadata())
    assert trailers["reason"] == "compacted"
    assert trailers["raw-bin"] == b"\x00\xff"
    assert dict(await echo[0].Unary(Text(text="abort")).trailing_metadata())["hint"] == "elsewhere"
    assert dict(await echo[0].Unary(Text(text="error_with_trailers")).trailing_metadata())["set"] == "before"


async def test_metadata_passes_both_ways(echo: Echo) -> None:
    call = echo[0].Unary(Text(text="metadata"), metadata=(("greeting", "hello, world"), ("token-bin", b"\x00\x01\xfe")))
    response = await call
    assert (response.text, response.data) == ("hello, world", b"\x00\x01\xfe")
    initial = dict(await call.initial_metadata())
    assert (initial["early"], initial["early-bin"]) == ("1", b"\x01\x02")
    trailing = dict(await call.trailing_metadata())
    assert (trailing["late"], trailing["late-bin"]) == ("2", b"\x03")


async def test_a_handler_knows_peer_method_and_deadline(echo: Echo) -> None:
    response = await echo[0].Unary(Text(text="context"), timeout=30)
    peer, method = response.text.split()
    assert peer.startswith("ipv4:127.0.0.1:")
    assert method == "/rpctest.Echo/Unary"
    assert 28 <= response.number <= 30
    assert (await echo[0].Unary(Text(text="context"))).number == -1


async def test_a_deadline_ends_the_call_and_cancels_its_handler(echo: Echo) -> None:
    stub, servicer, _ = echo
    code, _ = await status_of(stub.Unary(Text(text="hang"), timeout=0.1))
    assert code is grpc.StatusCode.DEADLINE_EXCEEDED
    await eventually(lambda: servicer.cancelled)
    await eventually(lambda: servicer.ended)
    assert servicer.context.cancelled()


async def test_cancelling_a_call_cancels_its_handler(echo: Echo) -> None:
    stub, servicer, _ = echo
    call = stub.Unary(Text(text="hang"))
    await eventually(lambda: servicer.context)
    assert not servicer.context.done()
    call.cancel()
    await eventually(lambda: servicer.cancelled and servicer.ended)
    assert servicer.context.cancelled()
    assert servicer.context.done()


async def test_resolving_a_promise_of_a_cancelled_call_is_harmless(echo: Echo) -> None:
    stub, servicer, _ = echo
    call = stub.Unary(Text(text="pending"))
    await eventually(lambda: servicer.context)
    call.cancel()
    await eventually(lambda: servicer.ended)
    servicer.promise.set_result(Text())
    assert (await stub.Unary(Text(text="plain"))).text == "plain"


async def test_a_client_stream_is_collected(echo: Echo) -> None:
    response = await echo[0].Collect(Text(text=str(number)) for number in range(100))
    assert response.number == 100
    assert response.text.startswith("0,1,2,3")


async def test_an_empty_client_stream_gets_its_answer(echo: Echo) -> None:
    assert (await echo[0].Collect(iter(()))).number == 0


async def test_a_client_stream_may_fail(echo: Echo) -> None:
    assert await status_of(echo[0].Collect(iter([Text(text="fail")]))) == (grpc.StatusCode.ABORTED, "no")


@pytest.mark.parametrize(("style", "count"), [("generator", 300), ("writes", 300), ("plain", 300), ("promise", 2)])
async def test_a_streaming_handler_may_answer_in_any_style(echo: Echo, style: str, count: int) -> None:
    numbers = [response.number async for response in echo[0].Expand(Text(text=style, number=count))]
    assert numbers == list(range(count))


async def test_an_empty_response_stream_ends_well(echo: Echo) -> None:
    call = echo[0].Expand(Text(text="generator", number=0))
    assert [response async for response in call] == []
    assert await call.code() is grpc.StatusCode.OK


async def test_a_stream_may_fail_after_messages(echo: Echo) -> None:
    call = echo[0].Expand(Text(text="error"))
    assert (await call.read()).number == 0
    assert await status_of(call) == (grpc.StatusCode.UNAVAILABLE, "gone")
    assert dict(await call.trailing_metadata())["why"] == "because"


async def test_cancelling_a_stream_ends_its_generator(echo: Echo) -> None:
    stub, servicer, _ = echo
    call = stub.Expand(Text(text="forever"))
    await call.read()
    call.cancel()
    await eventually(lambda: servicer.cancelled and servicer.ended)


async def test_a_conversation_goes_both_ways(echo: Echo) -> None:
    call = echo[0].Chat()
    for word in ("one", "two", "three"):
        await call.write(Text(text=word))
        assert (await call.read()).text == word.upper()
    await call.done_writing()
    assert (await call.read()).text == "bye"
    assert await call.read() is grpcio_eof
    assert await call.code() is grpc.StatusCode.OK


async def test_a_server_may_end_a_conversation_first(echo: Echo) -> None:
    call = echo[0].Chat()
    await call.write(Text(text="stop"))
    assert await call.read() is grpcio_eof
    assert await call.code() is grpc.StatusCode.OK


async def test_calls_and_messages_are_counted(echo: Echo) -> None:
    stub, _, counters = echo
    await stub.Unary(Text(text="plain"))
    await status_of(stub.Unary(Text(text="error")))
    await stub.Collect(Text(text="x") for _ in range(3))
    assert [response async for response in stub.Expand(Text(text="plain", number=4))]
    unary, collect, expand = (counters.methods[name] for name in ("Unary", "Collect", "Expand"))
    assert counters.kinds == {
        "Unary": "unary",
        "Collect": "client_stream",
        "Expand": "server_stream",
        "Chat": "bidi_stream",
    }
    await eventually(lambda: expand.handled[StatusCode.OK] == 1)
    assert unary.started == 2
    assert (unary.handled[StatusCode.OK], unary.handled[StatusCode.OUT_OF_RANGE]) == (1, 1)
    assert (unary.messages_received, unary.messages_sent) == (2, 1)
    assert unary.bytes_received == Text(text="plain").ByteSize() + Text(text="error").ByteSize()
    assert (collect.messages_received, collect.messages_sent) == (3, 1)
    assert (expand.messages_received, expand.messages_sent) == (1, 4)


async def test_a_request_that_is_no_message_is_an_invalid_argument(echo: Echo) -> None:
    channel = echo[0].channel
    code, details = await status_of(channel.unary_unary("/rpctest.Echo/Unary")(b"\xff\xff"))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert details.startswith("grpc: error unmarshalling request: ")
    code, _ = await status_of(channel.stream_unary("/rpctest.Echo/Collect")(iter([b"\xff\xff"])))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert (await echo[0].Unary(Text(text="plain"))).text == "plain"


async def test_unknown_services_and_methods_are_unimplemented(echo: Echo) -> None:
    channel = echo[0].channel
    for path in ("/rpctest.Echo/Nothing", "/rpctest.Nobody/Unary"):
        code, _ = await status_of(channel.unary_unary(path)(b""))
        assert code is grpc.StatusCode.UNIMPLEMENTED
