"""Go's spelling of numbers, times and strings."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvctl import gotext


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5s", 5),
        ("300ms", 0.3),
        ("1h2m3.5s", 3723.5),
        ("0", 0),
        ("1.5m", 90),
        ("-2s", -2),
        ("10us", 1e-5),
        (".5s", 0.5),
    ],
)
def test_durations_are_read(text: str, seconds: float) -> None:
    assert gotext.parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("bogus", 'time: invalid duration "bogus"'),
        ("5", 'time: missing unit in duration "5"'),
        ("5d", 'time: unknown unit "d" in duration "5d"'),
        ("", 'time: invalid duration ""'),
    ],
)
def test_what_is_not_a_duration_earns_gos_message(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        gotext.parse_duration(text)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (1e-9, "1ns"),
        (1.5e-6, "1.5µs"),
        (0.001736005, "1.736005ms"),
        (0.999999999, "999.999999ms"),
        (1, "1s"),
        (2.5, "2.5s"),
        (90, "1m30s"),
        (3600, "1h0m0s"),
    ],
)
def test_durations_are_printed(seconds: float, text: str) -> None:
    assert gotext.format_duration(seconds) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (9, "9 B"), (82, "82 B"), (999, "999 B"), (1000, "1.0 kB"), (24576, "25 kB"), (8_700_000, "8.7 MB"),
     (2_147_483_648, "2.1 GB"), (18_000_000_000, "18 GB")],
)  # fmt: skip
def test_sizes_are_printed_for_people(size: int, text: str) -> None:
    assert gotext.human_bytes(size) == text


@pytest.mark.parametrize(
    ("text", "base", "value"),
    [("12", 10, 12), ("-5", 10, -5), ("ff", 16, 255), ("0x10", 0, 16), ("010", 0, 8), ("+7", 10, 7)],
)
def test_integers_are_read(text: str, base: int, value: int) -> None:
    assert gotext.parse_int(text, base=base) == value


@pytest.mark.parametrize(
    ("text", "base", "signed", "message"),
    [
        ("x", 10, True, 'strconv.ParseInt: parsing "x": invalid syntax'),
        ("", 16, True, 'strconv.ParseInt: parsing "": invalid syntax'),
        ("1_0", 10, True, 'strconv.ParseInt: parsing "1_0": invalid syntax'),
        (" 1", 10, True, 'strconv.ParseInt: parsing " 1": invalid syntax'),
        ("-1", 16, False, 'strconv.ParseUint: parsing "-1": invalid syntax'),
        ("9223372036854775808", 10, True, 'strconv.ParseInt: parsing "9223372036854775808": value out of range'),
    ],
)
def test_what_is_not_an_integer_earns_gos_message(text: str, base: int, signed: bool, message: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        gotext.parse_int(text, base=base, signed=signed)
    assert str(caught.value) == message


@given(st.binary())
def test_what_was_quoted_is_unquoted_to_the_same(raw: bytes) -> None:
    quoted = gotext.quote(raw)
    assert gotext.unquote(quoted[1:-1].encode()) == raw


def test_strings_are_quoted_as_go_does() -> None:
    assert gotext.quote(b'a"b\\\n\x00\x7f\xff') == r'"a\"b\\\n\x00\x7f\xff"'
    assert gotext.quote("é\u2028\u00a0\U0001f600\U000e0001".encode()) == '"é\\u2028\\u00a0\U0001f600\\U000e0001"'


def test_json_escapes_what_could_be_taken_for_html() -> None:
    assert gotext.to_json({"a": "<&>é\u2028", "b": [1, True, None]}) == (
        '{"a":"\\u003c\\u0026\\u003eé\\u2028","b":[1,true,null]}'
    )
