"""Durations as Go writes them (`300ms`, `1h30m`), the notation of the daemon's flags.

Knows text and seconds only; which flag a duration belongs to is said by whoever catches the ValueError.
"""

import re

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_TERM = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h)")


def parse_duration(text: str) -> float:
    """Seconds of a duration: one or more decimal numbers, each with a unit of ns, us, ms, s, m, h; or a bare 0.

    Raises ValueError if text is anything else.
    """
    sign, rest = (-1.0, text[1:]) if text.startswith("-") else (1.0, text.removeprefix("+"))
    if rest == "0":
        return 0.0
    seconds, position = 0.0, 0
    while match := _TERM.match(rest, position):
        seconds += float(match[1]) * _UNITS[match[2]]
        position = match.end()
    if position == 0 or position != len(rest):
        raise ValueError(f"not a duration: {text!r} (numbers with units, such as 300ms, 10m or 1h30m)")
    # Sums of fractions leave dust below a nanosecond, which is Go's resolution.
    return sign * round(seconds, 9)


def format_duration(seconds: float) -> str:
    """The shortest text of a duration that parse_duration reads back: `1h30m`, `10m`, `300ms`, `0s`."""
    nanoseconds = round(abs(seconds) * 1e9)
    if nanoseconds == 0:
        return "0s"
    parts = ["-"] if seconds < 0 else []
    for unit, size in (("h", 3_600_000_000_000), ("m", 60_000_000_000), ("s", 1_000_000_000)):
        count, nanoseconds = divmod(nanoseconds, size)
        if count:
            parts.append(f"{count}{unit}")
    for unit, size in (("ms", 1_000_000), ("us", 1_000), ("ns", 1)):
        count, nanoseconds = divmod(nanoseconds, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts)
