"""Range requests: what they ask for, answered in steps that each take a few milliseconds at most.

A request is pinned to one revision from its first step on. Responses are joined from stored bytes where no option asks
for more. Knows requests and rows; where the rows come from is the reader's business.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import NamedTuple

from kvstore.mvcc.encoding import TRAILER_SIZE, value_of, version_of, without_value, without_values
from kvstore.mvcc.intervals import end_of
from kvstore.mvcc.reader import Reader, Row
from kvstore.pb import rpc_pb2
from kvstore.wire import varint

STEP_ROWS = 2000
"""Rows that a step reads."""

STREAM_BYTES = 1536 * 1024
"""Bytes of rows after which a part of a streamed range is sent."""

_MORE = b"\x18\x01"
_ONE = b"\x20\x01"

_SORT_KEYS: dict[int, Callable[[Row], int | bytes]] = {
    rpc_pb2.RangeRequest.KEY: lambda row: row[0],
    rpc_pb2.RangeRequest.VERSION: lambda row: version_of(row[1]).version,
    rpc_pb2.RangeRequest.CREATE: lambda row: version_of(row[1]).create_revision,
    rpc_pb2.RangeRequest.MOD: lambda row: version_of(row[1]).mod_revision,
    rpc_pb2.RangeRequest.VALUE: lambda row: value_of(row[1]),
}


class StreamPart(NamedTuple):
    """One message of a streamed range: RangeResponse fields without header. Only the last has more and count."""

    body: bytes
    last: bool


@dataclass(frozen=True, slots=True)
class RangeQuery:
    """A range request, decoded, at a revision.

    limit: 0 is none. descending: by key. filtered: by revisions. sort_target: KEY unless rows are to be sorted.
    """

    start: bytes
    end: bytes | None
    revision: int
    limit: int
    keys_only: bool
    count_only: bool
    sort_target: int
    descending: bool
    fetch_all: bool
    filters: tuple[int, int, int, int] | None

    @classmethod
    def of(cls, request: rpc_pb2.RangeRequest, revision: int) -> RangeQuery:
        """What a request asks for."""
        order, target = request.sort_order, request.sort_target
        filters: tuple[int, int, int, int] | None = (
            request.min_mod_revision,
            request.max_mod_revision,
            request.min_create_revision,
            request.max_create_revision,
        )
        if filters == (0, 0, 0, 0):
            filters = None
        by_key = target == rpc_pb2.RangeRequest.KEY
        default_order = order == rpc_pb2.RangeRequest.NONE or (by_key and order == rpc_pb2.RangeRequest.ASCEND)
        return cls(
            start=request.key,
            end=end_of(request.key, request.range_end),
            revision=revision,
            limit=max(request.limit, 0),
            keys_only=request.keys_only,
            count_only=request.count_only,
            sort_target=target,
            descending=order == rpc_pb2.RangeRequest.DESCEND,
            # As in etcd, a limit without an order cuts before the rows are sorted.
            fetch_all=not default_order or filters is not None,
            filters=filters,
        )

    @property
    def plain(self) -> bool:
        """Whether the answer is rows in order of keys, as they are read."""
        return not self.fetch_all and self.sort_target == rpc_pb2.RangeRequest.KEY

    def wants(self, row: bytes) -> bool:
        """Whether a row passes the revision filters."""
        if self.filters is None:
            return True
        min_mod, max_mod, min_create, max_create = self.filters
        create, mod = version_of(row)[:2]
        return not (
            (max_mod and mod > max_mod)
            or (min_mod and mod < min_mod)
            or (max_create and create > max_create)
            or (min_create and create < min_create)
        )

    def encode(self, rows: list[Row]) -> bytes:
        """The `kvs` fields of rows."""
        if self.keys_only:
            return without_values(rows)
        return b"".join([row[:-TRAILER_SIZE] for _, row in rows])


def answer_key(request: rpc_pb2.RangeRequest, row: bytes | None) -> bytes:
    """The RangeResponse, without header, to a request for one key that has this row. About 1 us."""
    if row is None:
        return b""
    if request.count_only:
        return _ONE
    if (
        request.min_mod_revision
        or request.max_mod_revision
        or request.min_create_revision
        or request.max_create_revision
    ) and not RangeQuery.of(request, 0).wants(row):
        return _ONE
    return (without_value(row) if request.keys_only else row[:-TRAILER_SIZE]) + _ONE


def _count_field(count: int) -> bytes:
    return b"\x20" + varint(count) if count else b""


def range_steps(reader: Reader, query: RangeQuery) -> Generator[None, None, bytes]:
    """Answer a query; yields between steps and returns the RangeResponse without header."""
    if query.count_only:
        return _count_field((yield from reader.count_steps(query.start, query.end, query.revision)))
    if query.plain:
        return (yield from _plain_steps(reader, query))
    if (
        query.descending
        and query.filters is None
        and query.sort_target == rpc_pb2.RangeRequest.KEY
        and 0 < query.limit <= STEP_ROWS
        and query.revision >= reader.head
    ):
        return _descending(reader, query)
    return (yield from _sorted_steps(reader, query))


def _plain_steps(reader: Reader, query: RangeQuery) -> Generator[None, None, bytes]:
    # Grows with each step: joined at the end, a large answer would be one long piece of work.
    body = bytearray()
    got = 0
    count: int | None = None
    following: bytes | None = query.start
    wanted = query.limit + 1 if query.limit else 0
    while following is not None:
        size = min(STEP_ROWS, wanted - got) if wanted else STEP_ROWS
        rows, following = reader.stretch(following, query.end, query.revision, size)
        got += len(rows)
        if wanted and got >= wanted:
            rows.pop()
            following = None
        body += query.encode(rows)
        if wanted and count is None and (got >= wanted or following is not None):
            # While nothing has changed since the first step this is a count of the present.
            count = yield from reader.count_steps(query.start, query.end, query.revision)
        if following is not None:
            yield
    if wanted and got >= wanted:
        body += _MORE
    body += _count_field(got if count is None else count)
    return bytes(body)


def _descending(reader: Reader, query: RangeQuery) -> bytes:
    rows = reader.current.items_back(query.start, query.end, query.limit + 1)
    more = len(rows) > query.limit
    count = reader.count_now(query.start, query.end) if more else len(rows)
    return query.encode(rows[: query.limit]) + (_MORE if more else b"") + _count_field(count)


def _sorted_steps(reader: Reader, query: RangeQuery) -> Generator[None, None, bytes]:
    found: list[Row] = []
    seen = 0
    wanted = query.limit + 1 if query.limit and not query.fetch_all else 0
    following: bytes | None = query.start
    while following is not None:
        size = min(STEP_ROWS, wanted - seen) if wanted else STEP_ROWS
        rows, following = reader.stretch(following, query.end, query.revision, size)
        seen += len(rows)
        found += rows if query.filters is None else [row for row in rows if query.wants(row[1])]
        if wanted and seen >= wanted:
            break
        if following is not None:
            yield
    count = seen
    if wanted and following is not None:
        count = yield from reader.count_steps(query.start, query.end, query.revision)
    if query.sort_target != rpc_pb2.RangeRequest.KEY:
        found.sort(key=_SORT_KEYS[query.sort_target], reverse=query.descending)
    elif query.descending:
        found.reverse()
    more = bool(query.limit) and len(found) > query.limit
    if more:
        del found[query.limit :]
    return query.encode(found) + (_MORE if more else b"") + _count_field(count)


def stream_parts(reader: Reader, query: RangeQuery) -> Generator[StreamPart | None, None, None]:
    """Answer a query in the messages of a RangeStream; None between two steps without a message.

    What cannot be sent before it is complete (sorted, filtered) comes as one message.
    """
    if query.count_only or not query.plain:
        yield StreamPart((yield from range_steps(reader, query)), last=True)
        return
    count: int | None = None
    got = 0
    wanted = query.limit + 1 if query.limit else 0
    following: bytes | None = query.start
    held: list[bytes] = []
    held_size = 0
    size = 16
    while following is not None:
        rows, following = reader.stretch(
            following, query.end, query.revision, min(size, wanted - got) if wanted else size
        )
        got += len(rows)
        if wanted and got >= wanted:
            rows.pop()
            following = None
        if count is None:
            steps = reader.count_steps(query.start, query.end, query.revision)
            count = yield from steps
        rows.reverse()
        while rows:
            # Taken off, not only looked at: between two parts a client may let us wait for long.
            part = query.encode([rows.pop()])
            if held and held_size + len(part) > STREAM_BYTES:
                yield StreamPart(_taken(held), last=False)
                held_size = 0
            held.append(part)
            held_size += len(part)
        # Grows to the usual step while rows are small, so that a step of large ones stays small.
        size = min(STEP_ROWS, size * 2) if held_size < STREAM_BYTES // 2 else max(1, size // 2)
        if following is not None:
            yield None
    held.append((_MORE if wanted and got >= wanted else b"") + _count_field(count or 0))
    yield StreamPart(_taken(held), last=True)


def _taken(parts: list[bytes]) -> bytes:
    """All of them, which are gone then."""
    joined = b"".join(parts)
    parts.clear()
    return joined
