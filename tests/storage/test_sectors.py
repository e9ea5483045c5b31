"""Records on the disk: whole, cut off in all ways that a disk can cut them off, and damaged."""

from __future__ import annotations

import os
from itertools import product
from random import Random
from zlib import crc32

import pytest

from kvstore.storage import sectors
from kvstore.storage.sectors import BLOCK

SECTOR = 512
ID = b"journal1"
SEQUENCE = 41
SIZE = 8 * BLOCK


def whole(payload: bytes, sequence: int = SEQUENCE, identifier: bytes = ID) -> bytes:
    return b"".join(sectors.encode(identifier, sequence, payload))


def before(kind: str) -> bytes:
    """What a part of a journal may hold when a record is written over it."""
    if kind == "nothing":
        return sectors.blank(SIZE)
    if kind == "small records":
        return b"".join(whole(b"old %d" % number, number) for number in range(33, 41))
    if kind == "a large record":
        return whole(os.urandom(SIZE - BLOCK), 40)
    return whole(os.urandom(SIZE - BLOCK), SEQUENCE, b"earlier1")


BEFORE = ("nothing", "small records", "a large record", "the same record of an earlier journal")


def verdict(data: bytes, offset: int = 0) -> str:
    """What is to be thought of the place where a record was to be."""
    found = sectors.decode(data, offset)
    if found is not None and (found.id, found.sequence) == (ID, SEQUENCE):
        return "whole"
    return "cut off" if sectors.is_unwritten(data, offset, ID, SEQUENCE) else "damaged"


@pytest.mark.parametrize("length", [0, 1, 475, 476, 477, 980, 4003, 4004, 4005, 8036, 8037, 1_000_000])
def test_a_record_is_read_as_it_was_written(length: int) -> None:
    payload = os.urandom(length)
    record = whole(payload)
    assert len(record) == sectors.size_of(length)
    assert len(record) % BLOCK == 0
    assert sectors.size_of(length) - length < BLOCK + 100 + length // 60
    found = sectors.decode(sectors.blank(BLOCK) + record, BLOCK)
    assert found == (payload, SEQUENCE, ID, BLOCK + len(record))
    assert sectors.decode(record[:-1], 0) is None


@pytest.mark.parametrize("kind", BEFORE)
def test_a_small_record_of_which_any_sectors_are_missing_was_cut_off(kind: str) -> None:
    old = before(kind)
    record = whole(b"some payload" * 300)
    assert len(record) == BLOCK
    for written in product((False, True), repeat=BLOCK // SECTOR):
        pieces = [(record if there else old)[SECTOR * i : SECTOR * (i + 1)] for i, there in enumerate(written)]
        data = b"".join(pieces) + old[BLOCK:]
        assert verdict(data) == ("whole" if all(written) else "cut off"), written


@pytest.mark.parametrize("kind", BEFORE)
def test_a_large_record_of_which_sectors_are_missing_was_cut_off(kind: str) -> None:
    chance = Random(kind)
    old = before(kind)
    record = whole(chance.randbytes(5 * BLOCK))
    count = len(record) // SECTOR
    cases = [set(range(stop)) for stop in range(count)] + [set(range(start, count)) for start in range(1, count)]
    cases += [set(range(count)) - {missing} for missing in range(count)]
    cases += [set(chance.sample(range(count), chance.randrange(count))) for _ in range(300)]
    for written in cases:
        pieces = [(record if i in written else old)[SECTOR * i : SECTOR * (i + 1)] for i in range(count)]
        assert verdict(b"".join(pieces) + old[len(record) :]) == "cut off", written
    assert verdict(record + old[len(record) :]) == "whole"


@pytest.mark.parametrize("kind", BEFORE)
def test_a_flipped_bit_anywhere_in_a_record_is_damage(kind: str) -> None:
    old = before(kind)
    # Of several sectors, with zeros behind the payload.
    record = bytearray(whole(b"some payload" * 150) + old[BLOCK:])
    for place in range(8 * BLOCK):
        # Each byte once, each bit of what is not payload.
        if place % 8 == place // 8 % 8 or place // 8 < 40 or place // 8 % SECTOR >= 500:
            record[place // 8] ^= 1 << place % 8
            assert verdict(bytes(record)) == "damaged", f"bit {place % 8} of byte {place // 8}"
            record[place // 8] ^= 1 << place % 8
    assert verdict(bytes(record)) == "whole"


def test_several_flipped_bits_of_a_stamp_do_not_make_another_one_of_it() -> None:
    chance = Random(1)
    record = whole(b"payload")
    for _ in range(3000):
        sector = chance.randrange(BLOCK // SECTOR)
        number = int.from_bytes(record, "little")
        for bit in chance.sample(range(64), chance.randrange(1, 9)):
            number ^= 1 << 8 * (SECTOR * (sector + 1) - 8) + bit
        assert verdict(number.to_bytes(BLOCK, "little") + sectors.blank(BLOCK)) == "damaged"


def test_sectors_that_hold_what_nobody_has_written_are_damage() -> None:
    chance = Random(2)
    record = whole(chance.randbytes(3 * BLOCK))
    for sector in range(len(record) // SECTOR):
        for content in (bytes(SECTOR), b"\xff" * SECTOR, chance.randbytes(SECTOR)):
            data = record[: SECTOR * sector] + content + record[SECTOR * (sector + 1) :]
            assert verdict(data + sectors.blank(BLOCK)) == "damaged"


def test_a_sector_that_was_copied_in_part_was_cut_off() -> None:
    """As a process leaves it that is killed while it hands a record to the system."""
    old = before("a large record")
    record = whole(bytes(3000))
    for copied in range(0, BLOCK, 7):
        if copied % SECTOR <= SECTOR - 8:
            assert verdict(record[:copied] + old[copied:]) == "cut off"


def test_records_without_stamps_are_read() -> None:
    """The layout is written out here: it is that of builds that are out of reach."""
    payload = b"from before" * 500
    fields = len(payload).to_bytes(4, "little") + SEQUENCE.to_bytes(8, "little") + ID
    checksum = crc32(fields + payload).to_bytes(4, "little")
    data = bytearray((checksum + fields + payload).ljust(2 * BLOCK, b"\0"))
    assert sectors.decode_unstamped(bytes(data), 0) == (payload, SEQUENCE, ID, 2 * BLOCK)
    data[30] ^= 1
    assert sectors.decode_unstamped(bytes(data), 0) is None
    assert sectors.decode_unstamped(bytes(data[:-BLOCK]), 0) is None
    assert sectors.decode_unstamped(b"", 0) is None
