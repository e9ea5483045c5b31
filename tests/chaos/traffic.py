"""What the clients ask for: requests by chance, from a small set of keys that many want and a larger one.

Every value is written once, so that a read tells which write it saw. Knows the API's messages; sends nothing.
"""

import random
from collections.abc import Callable
from typing import Any

from kvstore.client import rpcs
from kvstore.client.rpcs import Rpc
from kvstore.pb.rpc_pb2 import (
    Compare,
    DeleteRangeRequest,
    PutRequest,
    RangeRequest,
    RequestOp,
    TxnRequest,
)

Question = tuple[Rpc[Any, Any], Any]

HOT_KEYS = 12
WIDE_KEYS = 400
SPAN = 12
"""Keys of a range, at most."""

EVERYTHING = (b"\0", b"\0")


def hot(number: int) -> bytes:
    return b"hot/%02d" % number


def wide(number: int) -> bytes:
    return b"wide/%04d" % number


class Traffic:
    """The requests of one client. It remembers the revisions that it was shown, to compare with and to read at."""

    def __init__(self, name: str, chance: random.Random) -> None:
        self._name = name.encode()
        self._chance = chance
        self._written = 0
        self._revision = 1
        self._seen: dict[bytes, int] = {}
        kinds: list[tuple[int, Callable[[], Question]]] = [
            (26, self._put),
            (4, self._put_over),
            (18, self._get),
            (8, self._get_serializable),
            (8, self._range),
            (4, self._range_serializable),
            (4, self._range_of_the_past),
            (3, self._count),
            (5, self._delete),
            (2, self._delete_span),
            (12, self._compare_and_swap),
            (6, self._transfer),
        ]
        self._weights = [weight for weight, _ in kinds]
        self._kinds = [kind for _, kind in kinds]

    def next(self) -> Question:
        """The next request, and the method it is for."""
        return self._chance.choices(self._kinds, self._weights)[0]()

    def learn(self, request: Any, response: Any) -> None:
        """Remember what an answer tells."""
        self._revision = max(self._revision, response.header.revision)
        if isinstance(request, RangeRequest) and not request.range_end and not request.revision:
            self._seen[request.key] = response.kvs[0].mod_revision if response.kvs else 0

    def value(self) -> bytes:
        """One that nobody has written before."""
        self._written += 1
        return b"%s-%d" % (self._name, self._written)

    def key(self) -> bytes:
        chance = self._chance
        return hot(chance.randrange(HOT_KEYS)) if chance.random() < 0.5 else wide(chance.randrange(WIDE_KEYS))

    def _span(self) -> tuple[bytes, bytes]:
        if self._chance.random() < 0.3:
            first = self._chance.randrange(HOT_KEYS)
            return hot(first), hot(min(HOT_KEYS, first + self._chance.randint(2, SPAN)))
        first = self._chance.randrange(WIDE_KEYS)
        return wide(first), wide(min(WIDE_KEYS, first + self._chance.randint(2, SPAN)))

    def _put(self) -> Question:
        return rpcs.PUT, PutRequest(key=self.key(), value=self.value(), prev_kv=self._chance.random() < 0.1)

    def _put_over(self) -> Question:
        """A put that takes over something of what is there, and is refused if nothing is."""
        if self._chance.random() < 0.5:
            return rpcs.PUT, PutRequest(key=self.key(), ignore_value=True)
        return rpcs.PUT, PutRequest(key=self.key(), value=self.value(), ignore_lease=True)

    def _get(self) -> Question:
        return rpcs.RANGE, RangeRequest(key=self.key())

    def _get_serializable(self) -> Question:
        return rpcs.RANGE, RangeRequest(key=self.key(), serializable=True)

    def _range(self) -> Question:
        key, end = self._span()
        limit = self._chance.choice((0, 0, 3))
        return rpcs.RANGE, RangeRequest(key=key, range_end=end, limit=limit, keys_only=self._chance.random() < 0.2)

    def _range_serializable(self) -> Question:
        key, end = self._span()
        return rpcs.RANGE, RangeRequest(key=key, range_end=end, serializable=True)

    def _range_of_the_past(self) -> Question:
        key, end = self._span()
        revision = max(1, self._revision - self._chance.choice((0, 10, 100, 1_000)))
        return rpcs.RANGE, RangeRequest(key=key, range_end=end, revision=revision)

    def _count(self) -> Question:
        key, end = EVERYTHING if self._chance.random() < 0.3 else self._span()
        return rpcs.RANGE, RangeRequest(key=key, range_end=end, count_only=True)

    def _delete(self) -> Question:
        return rpcs.DELETE, DeleteRangeRequest(key=self.key(), prev_kv=self._chance.random() < 0.2)

    def _delete_span(self) -> Question:
        key, end = self._span()
        return rpcs.DELETE, DeleteRangeRequest(key=key, range_end=end)

    def _compare_and_swap(self) -> Question:
        """Write a key if it is as this client has seen it, else look at it."""
        key = hot(self._chance.randrange(HOT_KEYS))
        revision = self._seen.get(key, 0)
        return rpcs.TXN, TxnRequest(
            compare=[Compare(key=key, target=Compare.MOD, result=Compare.EQUAL, mod_revision=revision)],
            success=[RequestOp(request_put=PutRequest(key=key, value=self.value()))],
            failure=[RequestOp(request_range=RangeRequest(key=key))],
        )

    def _transfer(self) -> Question:
        """Change several keys at once, and look at what came of it."""
        first, second = self._chance.sample(range(HOT_KEYS), 2)
        gone = wide(self._chance.randrange(WIDE_KEYS))
        compare = Compare(key=hot(first), target=Compare.VERSION, result=Compare.GREATER, version=0)
        return rpcs.TXN, TxnRequest(
            compare=[compare],
            success=[
                RequestOp(request_put=PutRequest(key=hot(first), value=self.value())),
                RequestOp(request_put=PutRequest(key=hot(second), value=self.value())),
                RequestOp(request_delete_range=DeleteRangeRequest(key=gone)),
                RequestOp(request_range=RangeRequest(key=hot(0), range_end=hot(HOT_KEYS))),
            ],
            failure=[RequestOp(request_put=PutRequest(key=hot(first), value=self.value()))],
        )
