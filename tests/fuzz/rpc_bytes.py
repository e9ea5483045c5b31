"""Targets: what a client's connection brings: HTTP/2 frames, the repair of authorities, gRPC framing, metadata."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Sequence
from typing import Any, Final

from hypothesis import strategies as st

from kvstore.rpc import EOF, Promise, RpcError, ServerOptions, StatusCode
from kvstore.rpc.authority import AuthorityRepair
from kvstore.rpc.framing import MessageReader, frame
from kvstore.rpc.h2 import PREFACE, Engine, H2Limits
from kvstore.rpc.metadata import decode_message, decode_metadata, encode_message, format_timeout, parse_timeout
from tests.fuzz.mutations import Change, changes, pieces, spoil
from tests.fuzz.target import Target, by_itself
from tests.rpc.wire import (
    CONTINUATION,
    DATA,
    HEADERS,
    PING,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Exchange,
    Handler,
    raw_frame,
    request_headers,
)

# Sessions

Frame = tuple[int, int, int, bytes]

PATHS: Final = ("/t.T/Unary", "/t.T/Chat", "/t.T/Later", "/t.T/Nothing", "/", "")
FIELDS: Final = ("grpc_timeout", "grpc_encoding", "content_type", "te", "x", "x_bin")
VALUES: Final = (
    "1S",
    "1n",
    "99999999H",
    "gzip",
    "identity",
    "application/grpc+proto",
    "text/plain",
    "%",
    "!",
    "x" * 9000,
)


def disorder() -> st.SearchStrategy[Any]:
    """What is done to frames: strange ones among them, floods, another order."""
    stream_id = st.sampled_from((0, 1, 2, 3, 5, 7, (1 << 31) - 1, 1 << 31))
    strange = st.tuples(st.just("frame"), st.integers(0, 12), st.integers(0, 255), stream_id, st.binary(max_size=30))
    flood = st.tuples(
        st.just("flood"),
        st.sampled_from((DATA, HEADERS, RST_STREAM, SETTINGS, PING, WINDOW_UPDATE, CONTINUATION)),
        st.sampled_from((0, 1, 4, 5)),
        stream_id,
        st.sampled_from(
            (
                b"",
                bytes(4),
                bytes(8),
                b"\x7f\xff\xff\xff",
                b"\x00\x03\x00\x00\x00\x00",
                b"\x00\x04\x00\x00\x00\x01",
                b"\x82\x86",
            )
        ),
    )
    order = st.tuples(
        st.sampled_from(("swap", "repeat", "drop", "length")),
        st.integers(0, 20),
        st.integers(0, 20),
        st.just(0),
        st.just(b""),
    )
    return st.lists(st.one_of(strange, flood, order), max_size=4)


def sessions() -> st.SearchStrategy[Any]:
    """Valid calls, and what becomes of their frames: (calls, changes of frames, changes of bytes, size of reads)."""
    call = st.tuples(
        st.sampled_from(PATHS),
        st.lists(st.tuples(st.sampled_from(FIELDS), st.sampled_from(VALUES)), max_size=2),
        st.lists(st.binary(max_size=40), max_size=3),
        st.booleans(),
    )
    return st.tuples(
        st.lists(call, min_size=1, max_size=4),
        disorder(),
        changes(3),
        st.sampled_from((1 << 16, 1 << 16, 100, 7)),
    )


def session_bytes(calls: Sequence[Any], strange: Sequence[Any], made: Sequence[Change]) -> bytes:
    """What a client sends that makes these calls, after all that is done to it."""
    client = Engine.client(H2Limits())
    for path, fields, messages, end in calls:
        stream_id = client.send_request(request_headers(path, **dict(fields)), end_stream=not messages and end)
        for number, message in enumerate(messages):
            client.send_data(stream_id, frame(message), end_stream=end and number == len(messages) - 1)
    data = client.data_to_send(1 << 24)
    return spoil(data[: len(PREFACE)] + rearranged(data[len(PREFACE) :], strange), made)


def rearranged(data: bytes, strange: Sequence[Any]) -> bytes:
    """Whole frames, after what is done to some of them, as disorder() tells it."""
    found: list[bytes] = []
    while data:
        size = 9 + int.from_bytes(data[:3], "big")
        found.append(data[:size])
        data = data[size:]
    for kind, first, second, stream_id, payload in strange:
        here, there = first % len(found), second % len(found)
        match kind:
            case "swap":
                found[here], found[there] = found[there], found[here]
            case "repeat":
                found.insert(there, found[here])
            case "drop" if len(found) > 1:
                del found[here]
            case "length":
                found[here] = second.to_bytes(3, "big") + found[here][3:]
            case "frame":
                found.append(raw_frame(first, second, stream_id, payload))
            case "flood":
                if first == HEADERS and stream_id % 2:
                    found.extend(raw_frame(first, second, stream_id + 2 * i & 0x7FFFFFFF, payload) for i in range(300))
                else:
                    found.extend([raw_frame(first, second, stream_id, payload)] * 3000)
    return b"".join(found)


def exchange_of_all_kinds() -> Exchange:
    """A server that answers at once, in pieces, and never."""

    def chat(requests: Any, context: Any) -> Promise[None]:
        done: Promise[None] = Promise()

        def read(promise: Promise[Any]) -> None:
            if promise.exception() is not None or promise.result() is EOF:
                if not done.done():
                    done.set_result(None)
                return
            context.write(promise.result())
            context.read().then(read)

        context.read().then(read)
        return done

    return Exchange(
        {
            "Unary": Handler(lambda request, context: request),
            "Chat": Handler(chat, request_streaming=True, response_streaming=True),
            "Later": Handler(lambda request, context: Promise()),
        },
        options=ServerOptions(max_receive_bytes=1000, max_partial_bytes=4000),
    )


def check_session(value: Any) -> None:
    """A server's connection takes anything: it may end, but nothing escapes it and nothing is left of it."""
    calls, strange, made, size = value
    exchange, repair = exchange_of_all_kinds(), AuthorityRepair()
    connection = exchange.server
    received = sent = 0
    for piece in pieces(session_bytes(calls, strange, made), size):
        received += len(piece)
        connection.receive_data(piece if repair.done else repair.feed(piece))
        sent += len(connection.data_to_send(1 << 24))
        assert connection.partial_bytes <= 4000 + (1 << 14), "incomplete messages are not bounded"
        assert connection.active_calls <= connection.options.max_concurrent_streams
    sent += len(connection.last_words)
    # Each request may be refused in a hundred bytes or so, which took ten to ask for.
    assert sent < 10_000 + 50 * received, "the answer is out of proportion"
    exchange.host.advance(1e6)
    connection.data_to_send(1 << 24)
    connection.connection_lost("test")
    assert (connection.active_calls, connection.partial_bytes) == (0, 0)


# The repair of authorities


def authorities() -> st.SearchStrategy[Any]:
    """A client's first bytes with an authority of its own: (authority, changes, size of reads)."""
    text = st.text(st.sampled_from("htps:/.-[]12a~"), max_size=40)
    return st.tuples(st.one_of(text, text.map(lambda part: part * 200)), changes(3), st.integers(1, 300))


def _first_bytes(authority: str) -> bytes:
    client = Engine.client(H2Limits(max_header_bytes=1 << 16))
    headers = [(key, authority.encode() if key == b":authority" else value) for key, value in request_headers()]
    client.send_request(headers, end_stream=True)
    return client.data_to_send(1 << 20)


def check_authority(value: Any) -> None:
    """However the bytes arrive the same go on, not one more or less, and only slashes in the authority change."""
    authority, made, size = value
    data = spoil(_first_bytes(authority), made)
    whole = _repaired([data])
    assert _repaired(pieces(data, size)) == whole
    if whole is not None and not made:
        assert len(whole) == len(data)
        server = Engine.server(H2Limits(max_header_bytes=1 << 16))
        server.receive(whole)
        [headers] = [dict(event.headers) for event in server.events() if hasattr(event, "headers")] or [{}]
        if headers:
            assert headers[b":authority"] == authority.replace("/", "-").encode()


def _repaired(parts: Sequence[bytes]) -> bytes | None:
    """What goes on; None if the repair still waits for a whole frame."""
    repair = AuthorityRepair()
    out = b""
    for part in parts:
        out += part if repair.done else repair.feed(part)
    return out if repair.done else None


# gRPC framing


def framings() -> st.SearchStrategy[Any]:
    """Messages with flag, length and compression right or wrong: (messages, encoding, changes, size of reads)."""
    message = st.tuples(
        st.sampled_from((0, 0, 1, 1, 2, 255)),
        st.sampled_from(("plain", "gzip", "deflate", "bomb", "twice")),
        st.binary(max_size=60),
    )
    return st.tuples(
        st.lists(message, max_size=4),
        st.sampled_from((b"identity", b"gzip", b"deflate", b"br")),
        changes(3),
        st.integers(1, 100),
    )


def check_framing(value: Any) -> None:
    """In whatever pieces they come, the same messages come out, and then the same error or none."""
    messages, encoding, made, size = value
    data = spoil(b"".join(bytes((flag,)) + _with_length(_packed(how, body)) for flag, how, body in messages), made)
    whole, in_pieces = _read([data], encoding), _read(pieces(data, size), encoding)
    assert whole == in_pieces
    assert whole[0] == _expected(data, encoding)


def _packed(how: str, body: bytes) -> bytes:
    match how:
        case "gzip":
            return gzip.compress(body, mtime=0)
        case "deflate":
            return zlib.compress(body)
        case "bomb":
            return gzip.compress(bytes(100_000), mtime=0)
        case "twice":
            return gzip.compress(body, mtime=0) * 2
    return body


def _with_length(body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + body


_MOST: Final = 1000


def _read(parts: Sequence[bytes], encoding: bytes) -> tuple[list[bytes], tuple[int, str] | None]:
    reader = MessageReader(_MOST, encoding)
    messages: list[bytes] = []
    for part in parts:
        held = reader.buffered
        try:
            messages += reader.feed(part)
        except RpcError as error:
            if error.code not in (StatusCode.INTERNAL, StatusCode.RESOURCE_EXHAUSTED):
                raise
            # What came before the bad message is lost with the call, so it does not count.
            return [], (error.code, error.message)
        assert reader.buffered <= held + len(part)
        assert reader.buffered <= _MOST + 5
    return messages, None


def _expected(data: bytes, encoding: bytes) -> list[bytes]:
    """The same, as the standard library understands it; nothing after an error."""
    messages: list[bytes] = []
    while len(data) >= 5:
        flag, size = data[0], int.from_bytes(data[1:5], "big")
        body = data[5 : 5 + size]
        if size > _MOST:
            return []
        if len(body) < size:
            break
        if flag == 1:
            decoder = zlib.decompressobj(
                {b"gzip": 31, b"deflate": 15}.get(encoding, 99) if encoding in (b"gzip", b"deflate") else -15
            )
            if encoding not in (b"gzip", b"deflate"):
                return []
            try:
                body = decoder.decompress(body)
            except zlib.error:
                return []
            if not decoder.eof or len(body) > _MOST:
                return []
        elif flag:
            return []
        messages.append(body)
        data = data[5 + size :]
    return messages


# Metadata


def metadata() -> st.SearchStrategy[Any]:
    """Header fields, a message's text, a timeout."""
    names = st.sampled_from((b"a", b"a-bin", b":path", b"grpc-timeout", b"te", b"-bin", b"\xff-bin"))
    values = st.one_of(st.binary(max_size=20), st.sampled_from((b"YQ==", b"YQ", b"YQ,YQ", b"Y", b",", b"====")))
    return st.tuples(
        st.lists(st.tuples(names, values), max_size=4),
        st.one_of(st.text(max_size=20), st.text(st.sampled_from("%aé\n\ud800"), max_size=10)),
        st.one_of(st.binary(max_size=12), st.from_regex(rb"\A[0-9]{1,9}[HMSmunx]\Z")),
        st.floats(min_value=0, max_value=1e12),
    )


def check_metadata(value: Any) -> None:
    """Metadata is read as well as it can be, a text survives its encoding, and a timeout is one or is refused."""
    headers, text, timeout, seconds = value
    for key, found in decode_metadata(headers):
        assert isinstance(found, bytes) == key.endswith("-bin")
        assert not key.startswith(":")
    sent = encode_message(text)
    assert all(0x20 <= byte < 0x7F for byte in sent)
    assert decode_message(sent) == text.encode("utf-8", "replace").decode()
    decode_message(timeout)
    try:
        given = parse_timeout(timeout)
    except ValueError:
        given = 0.0
    assert 0 <= given <= 99_999_999 * 3600
    again = parse_timeout(format_timeout(seconds))
    # A timeout has whole nanoseconds and ends somewhere.
    assert min(seconds, 99_999_999 * 3600.0) <= again * 1.000_001 + 1e-9


TARGETS: Final = (
    Target("http2", sessions, by_itself(check_session), examples=90, cpu_seconds=5.0),
    Target("authority", authorities, by_itself(check_authority), examples=80),
    Target("grpc-framing", framings, by_itself(check_framing), examples=120),
    Target("metadata", metadata, by_itself(check_metadata), examples=120),
)
