"""Requests from templates: the bytes must be what protobuf itself would have made."""

from collections.abc import Callable

import pytest

from kvbench import requests
from kvbench.requests import KeySpace, numbers
from kvstore.pb import rpc_pb2 as pb

# Lengths of 37 and 0x25 are '%' on the wire, which a template must not take for its own.
SIZES = [14, 20, 37]
VALUES = [0, 37, 256, 5_000]


def counting() -> Callable[[], int]:
    return numbers(1_000, sequential=True, seed=0)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("value_size", VALUES)
def test_puts(size: int, value_size: int) -> None:
    keys, value = KeySpace(1_000, size), requests.value_of(value_size, 1)
    make = requests.puts(keys, value, counting())
    for number in range(1_000):
        assert make() == (requests.PUT, pb.PutRequest(key=keys.key(number), value=value).SerializeToString())


@pytest.mark.parametrize("size", SIZES)
def test_gets(size: int) -> None:
    keys = KeySpace(1_000, size)
    make = requests.gets(keys, counting(), serializable=True)
    assert pb.RangeRequest.FromString(make()[1]) == pb.RangeRequest(key=keys.key(0), serializable=True)
    assert pb.RangeRequest.FromString(make()[1]) == pb.RangeRequest(key=keys.key(1), serializable=True)


def test_ranges_end_at_the_last_key() -> None:
    keys = KeySpace(1_000)
    make = requests.ranges(keys, counting(), limit=37, keys_only=True, count_only=False, serializable=False)
    make()
    make()
    request = pb.RangeRequest.FromString(make()[1])
    assert request == pb.RangeRequest(key=keys.key(1), range_end=b"kvbench0", limit=37, keys_only=True)
    assert keys.key(999) < request.range_end


@pytest.mark.parametrize("size", SIZES)
def test_transactions(size: int) -> None:
    keys, value = KeySpace(1_000, size), requests.value_of(37, 1)
    make = requests.transactions(keys, value, counting(), conflicts=0.5, seed=1)
    holding = 0
    for number in range(1_000):
        request = pb.TxnRequest.FromString(make()[1])
        (compare,), (put,), (get,) = request.compare, request.success, request.failure
        assert compare.key == put.request_put.key == get.request_range.key == keys.key(number)
        assert put.request_put.value == value
        assert compare.target == pb.Compare.MOD
        holding += compare.result == pb.Compare.LESS
    assert 400 < holding < 600


def test_mixed_reads_and_writes() -> None:
    keys = KeySpace(1_000)
    reads = requests.gets(keys, counting(), serializable=False)
    writes = requests.puts(keys, b"v", counting())
    make = requests.mixed(reads, writes, share=0.8, seed=1)
    methods = [make()[0] for _ in range(2_000)]
    assert 1_500 < methods.count(requests.RANGE) < 1_700
    assert set(methods) == {requests.RANGE, requests.PUT}


def test_stamped_puts_hold_the_moment_they_were_made_at() -> None:
    keys = KeySpace(1_000)
    make = requests.stamped_puts(keys, 256, counting())
    stamps = []
    for number in range(3):
        request = pb.PutRequest.FromString(make()[1])
        assert request.key == keys.key(number)
        assert len(request.value) == 256
        assert request.value.startswith(requests.STAMP)
        stamps.append(int(request.value[len(requests.STAMP) :][: requests.STAMP_DIGITS]))
    assert stamps == sorted(stamps)
    assert stamps[0] > 0


def test_filling_puts_every_key_once() -> None:
    keys = KeySpace(250)
    found = []
    for first in range(0, 250, 100):
        request = pb.TxnRequest.FromString(requests.fill(keys, b"v", first, 100))
        found += [operation.request_put.key for operation in request.success]
    assert found == [keys.key(number) for number in range(250)]


class TestKeySpace:
    def test_keys_have_one_size_and_are_in_order(self) -> None:
        keys = KeySpace(1_000, 20)
        made = [keys.key(number) for number in range(1_000)]
        assert made == sorted(made)
        assert {len(key) for key in made} == {20}

    def test_a_size_that_does_not_hold_the_numbers_is_refused(self) -> None:
        with pytest.raises(ValueError, match="need a key size of 14 bytes"):
            KeySpace(1_000_000, 10)

    def test_no_keys_are_refused(self) -> None:
        with pytest.raises(ValueError, match="at least one key"):
            KeySpace(0)


class TestNumbers:
    def test_sequential_numbers_of_several_workers_cover_all(self) -> None:
        parts = [numbers(10, sequential=True, seed=0, first=index, step=2) for index in range(2)]
        assert sorted(part() for part in parts for _ in range(5)) == list(range(10))

    def test_random_numbers_are_the_same_for_the_same_seed(self) -> None:
        one, same, other = (numbers(1_000_000, sequential=False, seed=seed) for seed in (7, 7, 8))
        first = [one() for _ in range(100)]
        assert first == [same() for _ in range(100)]
        assert first != [other() for _ in range(100)]
        assert all(0 <= number < 1_000_000 for number in first)
