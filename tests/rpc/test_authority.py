"""Requests whose :authority is a URL are served like any other."""

import pytest

from kvstore.rpc.authority import AuthorityRepair
from kvstore.rpc.h2 import PREFACE

SETTINGS = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"

# RFC 7541 C.4.1: "www.example.com" in Huffman code, as an indexed literal :authority.
EXAMPLE = bytes.fromhex("418cf1e3c2e5f23a6ba0ab90f4ff")


def headers(block: bytes, flags: int = 0x4, padding: bytes = b"", priority: bytes = b"") -> bytes:
    payload = (bytes((len(padding),)) if flags & 0x8 else b"") + priority + block + padding
    return len(payload).to_bytes(3, "big") + bytes((1, flags)) + b"\x00\x00\x00\x01" + payload


def huffman(text: str) -> bytes:
    """Encode with the codes of RFC 7541, appendix B, for the symbols used here."""
    codes = {
        "h": "100111", "t": "01001", "p": "101011", ":": "1011100", "/": "011000", "-": "010110",
        "1": "00001", "2": "00010", "7": "011101", "0": "00000", ".": "010111", "3": "011001", "9": "011111",
    }  # fmt: skip
    bits = "".join(codes[character] for character in text)
    bits += "1" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big")


def literal(value: bytes, *, coded: bool) -> bytes:
    return b"\x83\x86\x41" + bytes((len(value) | (0x80 if coded else 0),)) + value + b"\x04\x01/"


@pytest.mark.parametrize("step", [1, 7, 1000])
def test_slashes_become_dashes_wherever_the_bytes_are_cut(step: int) -> None:
    received = PREFACE + SETTINGS + headers(literal(huffman("http://127.0.0.1:2379"), coded=True)) + b"rest"
    repair = AuthorityRepair()
    passed = b""
    for position in range(0, len(received), step):
        piece = received[position : position + step]
        passed += piece if repair.done else repair.feed(piece)
    assert passed == PREFACE + SETTINGS + headers(literal(huffman("http:--127.0.0.1:2379"), coded=True)) + b"rest"


def test_a_value_without_huffman_code_is_repaired_too() -> None:
    passed = AuthorityRepair().feed(PREFACE + headers(literal(b"http://a", coded=False)))
    assert passed == PREFACE + headers(literal(b"http:--a", coded=False))


def test_padding_and_priority_are_passed_over() -> None:
    flags = 0x4 | 0x8 | 0x20
    before = headers(literal(b"http://a", coded=False), flags, padding=b"//", priority=b"/" * 5)
    after = headers(literal(b"http:--a", coded=False), flags, padding=b"//", priority=b"/" * 5)
    assert AuthorityRepair().feed(PREFACE + before) == PREFACE + after


def test_a_proper_authority_and_all_else_is_left_alone() -> None:
    received = PREFACE + SETTINGS + headers(b"\x83\x86\x44\x05/a/b/" + EXAMPLE)
    assert AuthorityRepair().feed(received) == received


@pytest.mark.parametrize("block", [b"\x41", b"\x41\xff", b"\x41\x85/", b"\x7f\xff\xff\xff\xff\xff\xff", b"\x00\x7f"])
def test_a_broken_header_block_is_left_to_the_engine(block: bytes) -> None:
    received = PREFACE + headers(block)
    repair = AuthorityRepair()
    assert repair.feed(received) == received
    assert repair.done


def test_only_the_first_request_is_looked_at() -> None:
    repair = AuthorityRepair()
    repair.feed(PREFACE + headers(literal(b"a", coded=False)))
    assert repair.done
