"""Durations are read and written as Go does."""

import pytest

from kvstore.server.durations import format_duration, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("0s", 0.0),
        ("5s", 5.0),
        ("300ms", 0.3),
        ("1h30m", 5400.0),
        ("1.5h", 5400.0),
        (".5s", 0.5),
        ("2us", 2e-6),
        ("2µs", 2e-6),
        ("7ns", 7e-9),
        ("-1m", -60.0),
        ("+10m", 600.0),
        ("1m1s1ms", 61.001),
    ],
)
def test_reads_what_go_reads(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "s", "5 s", "5d", "1h30", "-", "1..5s", "five seconds", "5S"])
def test_refuses_what_go_refuses(text: str) -> None:
    with pytest.raises(ValueError, match="not a duration"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["0s", "5s", "300ms", "1h30m", "2h", "10m", "1m1s1ms", "250us", "7ns", "-1m"])
def test_writes_what_it_reads(text: str) -> None:
    assert format_duration(parse_duration(text)) == text
