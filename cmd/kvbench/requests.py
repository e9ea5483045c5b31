"""Requests as bytes, made from templates.

A key is always of one size, so of a request only the key's digits change: the rest is encoded once, as a template for
the % operator, and making a request costs some 200 ns. The encoding itself is protobuf's own; only the place of the
number is found in it.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic_ns

from kvstore.pb import rpc_pb2 as pb

PUT = "/etcdserverpb.KV/Put"
RANGE = "/etcdserverpb.KV/Range"
TXN = "/etcdserverpb.KV/Txn"
WATCH = "/etcdserverpb.Watch/Watch"
LEASE_GRANT = "/etcdserverpb.Lease/LeaseGrant"
LEASE_KEEP_ALIVE = "/etcdserverpb.Lease/LeaseKeepAlive"

PREFIX = b"kvbench/"
EVERY_REVISION = (1 << 63) - 1
# Stands in a watched value before the moment of its put: nanoseconds of the machine's monotonic clock.
STAMP = b"\x00at="
STAMP_DIGITS = 20

MakeRequest = Callable[[], tuple[str, bytes]]
"""Makes the next request: its method and its encoded message."""


@dataclass(frozen=True, slots=True)
class KeySpace:
    """Keys that are a prefix and a number of fixed width.

    count: numbers are below it. size: bytes of a whole key. Raises ValueError if size is too small for the numbers.
    """

    count: int
    size: int = 20
    prefix: bytes = PREFIX

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError("there must be at least one key")
        if self.digits < len(str(self.count - 1)):
            needed = len(self.prefix) + len(str(self.count - 1))
            raise ValueError(f"{self.count} keys need a key size of {needed} bytes or more, not {self.size}")

    @property
    def digits(self) -> int:
        return self.size - len(self.prefix)

    def key(self, number: int) -> bytes:
        return self.prefix + b"%0*d" % (self.digits, number)

    @property
    def end(self) -> bytes:
        """The end of the range of all keys."""
        return self.prefix[:-1] + bytes([self.prefix[-1] + 1])

    def template(self, encode: Callable[[bytes], bytes]) -> bytes:
        """What encode(key) makes of a key, as a template whose % with a number gives that of the number's key."""
        # Any digits will do for the place, save some that the rest of the message holds too.
        for number in (0, self.count // 3, self.count - 1):
            key = self.key(number)
            before, found, after = encode(key).partition(key)
            if found and key not in after:
                escaped = before.replace(b"%", b"%%"), self.prefix.replace(b"%", b"%%"), after.replace(b"%", b"%%")
                return escaped[0] + escaped[1] + b"%%0%dd" % self.digits + escaped[2]
        raise ValueError("the message does not hold the key exactly once")


def numbers(count: int, *, sequential: bool, seed: int, first: int = 0, step: int = 1) -> Callable[[], int]:
    """Numbers below count: at random, or first, first + step, ... and round again."""
    if sequential:
        position = first - step

        def following() -> int:
            nonlocal position
            position = (position + step) % count
            return position

        return following
    uniform = random.Random(seed).random
    # A float has 53 random bits: enough for any number of keys, and a third of the cost of randrange.
    return lambda: int(uniform() * count)


def value_of(size: int, seed: int) -> bytes:
    """A value that does not compress to nothing, of printable ASCII."""
    return bytes(random.Random(seed).choices(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789", k=size))


def puts(keys: KeySpace, value: bytes, next_number: Callable[[], int]) -> MakeRequest:
    """Put requests."""
    template = keys.template(lambda key: pb.PutRequest(key=key, value=value).SerializeToString())
    return lambda: (PUT, template % next_number())


def stamped_puts(keys: KeySpace, size: int, next_number: Callable[[], int]) -> MakeRequest:
    """Put requests whose values hold the moment they were made at. size: bytes of a value, which has a least one."""
    place = STAMP + b"0" * STAMP_DIGITS
    value = place + value_of(max(0, size - len(place)), 1)
    template = keys.template(lambda key: pb.PutRequest(key=key, value=value).SerializeToString())
    before, _, after = template.partition(place)
    template = before + STAMP + b"%%0%dd" % STAMP_DIGITS + after
    return lambda: (PUT, template % (next_number(), monotonic_ns()))


def gets(keys: KeySpace, next_number: Callable[[], int], *, serializable: bool) -> MakeRequest:
    """Range requests for one key each."""
    template = keys.template(lambda key: pb.RangeRequest(key=key, serializable=serializable).SerializeToString())
    return lambda: (RANGE, template % next_number())


def ranges(
    keys: KeySpace,
    next_number: Callable[[], int],
    *,
    limit: int,
    keys_only: bool,
    count_only: bool,
    serializable: bool,
) -> MakeRequest:
    """Range requests from a key to the last one."""

    def encode(key: bytes) -> bytes:
        request = pb.RangeRequest(
            key=key,
            range_end=keys.end,
            limit=limit,
            keys_only=keys_only,
            count_only=count_only,
            serializable=serializable,
        )
        return request.SerializeToString()

    template = keys.template(encode)
    # Starts in the first half, so that the limit and not the end of the keys cuts the answer.
    return lambda: (RANGE, template % (next_number() // 2))


def transactions(
    keys: KeySpace, value: bytes, next_number: Callable[[], int], *, conflicts: float, seed: int
) -> MakeRequest:
    """Transactions as writers make them that check what they have read: if mod_revision is as wanted put, else get.

    conflicts: the share of them, 0 to 1, whose comparison fails.
    """

    def encode(result: pb.Compare.CompareResult.ValueType, key: bytes) -> bytes:
        compare = pb.Compare(key=key, target=pb.Compare.MOD, result=result, mod_revision=EVERY_REVISION)
        put = pb.RequestOp(request_put=pb.PutRequest(key=b"\0", value=value))
        get = pb.RequestOp(request_range=pb.RangeRequest(key=b"\0"))
        request = pb.TxnRequest(compare=[compare], success=[put], failure=[get])
        request.success[0].request_put.key = key
        request.failure[0].request_range.key = key
        return request.SerializeToString()

    holds = _thrice(keys, lambda key: encode(pb.Compare.LESS, key))
    fails = _thrice(keys, lambda key: encode(pb.Compare.GREATER, key))
    uniform = random.Random(seed).random

    def make() -> tuple[str, bytes]:
        number = next_number()
        return TXN, (fails if uniform() < conflicts else holds) % (number, number, number)

    return make


def _thrice(keys: KeySpace, encode: Callable[[bytes], bytes]) -> bytes:
    """As KeySpace.template, of a message that holds the key three times."""
    key = keys.key(keys.count - 1)
    parts = encode(key).split(key)
    if len(parts) != 4:
        raise ValueError("the message does not hold the key exactly three times")
    place = keys.prefix.replace(b"%", b"%%") + b"%%0%dd" % keys.digits
    return place.join(part.replace(b"%", b"%%") for part in parts)


def mixed(reads: MakeRequest, writes: MakeRequest, *, share: float, seed: int) -> MakeRequest:
    """Reads and writes at random. share: of reads, 0 to 1."""
    uniform = random.Random(seed).random
    return lambda: reads() if uniform() < share else writes()


def keys_of_their_own(keys: KeySpace, watchers: range) -> list[tuple[bytes, bytes]]:
    """A range of one key for each of these watchers; they share keys if there are fewer keys."""
    return [(keys.key(number % keys.count), b"") for number in watchers]


def fill(keys: KeySpace, value: bytes, first: int, count: int) -> bytes:
    """A transaction that puts `count` keys from number `first` on."""
    puts = [
        pb.RequestOp(request_put=pb.PutRequest(key=keys.key(number), value=value))
        for number in range(first, min(first + count, keys.count))
    ]
    return pb.TxnRequest(success=puts).SerializeToString()
