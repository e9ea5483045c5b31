"""Numbers, times and strings in the spelling of the Go standard library, which etcdctl's users and scripts know.

Plain text functions: nothing here knows of commands or the store.
"""

from __future__ import annotations

import json
import re
from typing import Any

_DURATION_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"([0-9]*\.?[0-9]+|[0-9]+\.)([a-zµμ]+)")
_ESCAPES = {"\a": "\\a", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\v": "\\v"}
_UNESCAPE = re.compile(
    rb"""\\(?:([abfnrtv\\'"])|x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([0-7]{3}))|\\""", re.DOTALL
)
_SIMPLE_ESCAPES = {
    b"a": b"\a", b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v",
    b"\\": b"\\", b"'": b"'", b'"': b'"',
}  # fmt: skip
_BOOLS = {text: value for value, texts in {True: "1 t T TRUE true True", False: "0 f F FALSE false False"}.items()
          for text in texts.split()}  # fmt: skip


def parse_int(text: str, *, base: int = 10, signed: bool = True) -> int:
    """A 64-bit integer. Raises ValueError with the text of `strconv.ParseInt` or `ParseUint`."""
    function = "strconv.ParseInt" if signed else "strconv.ParseUint"
    sign = "[+-]?" if signed else ""
    digits = r"(?:0[xX][0-9a-fA-F]+|0[oO][0-7]+|0[bB][01]+|[0-9]+)" if base == 0 else r"[0-9a-zA-Z]+"
    try:
        if not re.fullmatch(sign + digits, text):
            raise ValueError(text)
        leading_zero = base == 0 and re.fullmatch(r"[+-]?0[0-9]+", text)
        value = int(text, 8 if leading_zero else base)
    except ValueError:
        raise ValueError(
            f"{function}: parsing {quote(text.encode('utf-8', 'surrogateescape'))}: invalid syntax"
        ) from None
    low, high = (-(1 << 63), (1 << 63) - 1) if signed else (0, (1 << 64) - 1)
    if not low <= value <= high:
        raise ValueError(f'{function}: parsing "{text}": value out of range')
    return value


def parse_bool(text: str) -> bool:
    """Raises ValueError with the text of `strconv.ParseBool`."""
    try:
        return _BOOLS[text]
    except KeyError:
        raise ValueError(f'strconv.ParseBool: parsing "{text}": invalid syntax') from None


def parse_duration(text: str) -> float:
    """Seconds from `1h2m3.5s`, `300ms`. Raises ValueError with the text of `time.ParseDuration`."""
    sign, rest = (-1.0, text[1:]) if text.startswith("-") else (1.0, text.removeprefix("+"))
    if rest == "0":
        return 0.0
    total, position = 0.0, 0
    while position < len(rest):
        part = _DURATION.match(rest, position)
        if part is None:
            reason = "missing unit in" if re.fullmatch(r"[0-9.]+", rest[position:]) else "invalid"
            raise ValueError(f'time: {reason} duration "{text}"')
        if part[2] not in _DURATION_UNITS:
            raise ValueError(f'time: unknown unit "{part[2]}" in duration "{text}"')
        total += float(part[1]) * _DURATION_UNITS[part[2]]
        position = part.end()
    if not rest:
        raise ValueError(f'time: invalid duration "{text}"')
    return sign * total


def format_duration(seconds: float) -> str:
    """As `time.Duration` prints: `1.736005ms`, `2.5s`, `1m30s`."""
    nanoseconds = round(seconds * 1e9)
    if nanoseconds == 0:
        return "0s"
    if nanoseconds < 1_000_000_000:
        for size, unit in ((1, "ns"), (1_000, "µs"), (1_000_000, "ms")):
            if nanoseconds < size * 1000:
                return _decimal(nanoseconds, size) + unit
    minutes, rest = divmod(nanoseconds, 60_000_000_000)
    hours, minutes = divmod(minutes, 60)
    text = _decimal(rest, 1_000_000_000) + "s"
    if hours:
        return f"{hours}h{minutes}m{text}"
    return f"{minutes}m{text}" if minutes else text


def _decimal(value: int, unit: int) -> str:
    whole, rest = divmod(value, unit)
    digits = str(rest).rjust(len(str(unit)) - 1, "0").rstrip("0")
    return f"{whole}.{digits}" if rest else str(whole)


def human_bytes(size: int) -> str:
    """A size with one digit after the point below ten: `25 kB`, `2.1 GB`."""
    if size < 10:
        return f"{size} B"
    units = ("B", "kB", "MB", "GB", "TB", "PB", "EB")
    exponent = 0
    while size >= 1000 ** (exponent + 1) and exponent < len(units) - 1:
        exponent += 1
    value = int(size / 1000**exponent * 10 + 0.5) / 10
    return f"{value:.1f} {units[exponent]}" if value < 10 else f"{value:.0f} {units[exponent]}"


def quote(raw: bytes) -> str:
    """A string literal as `%q` prints it: UTF-8 that can be printed stays, everything else is escaped."""
    return '"' + "".join(map(_quoted, raw.decode("utf-8", "surrogateescape"))) + '"'


def _quoted(char: str) -> str:
    code = ord(char)
    if char in '"\\':
        return "\\" + char
    if char.isprintable():
        return char
    if char in _ESCAPES:
        return _ESCAPES[char]
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    if code < 0x20 or code == 0x7F:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def unquote(body: bytes) -> bytes:
    """What stands between double quotes, its escapes read. Raises ValueError for one that Go does not have."""
    return _UNESCAPE.sub(_unescaped, body)


def _unescaped(match: re.Match[bytes]) -> bytes:
    simple, byte, short, long, octal = match.groups()
    if simple is not None:
        return _SIMPLE_ESCAPES[simple]
    if byte is not None or octal is not None:
        value = int(byte, 16) if byte is not None else int(octal, 8)
        if value > 255:
            raise ValueError("invalid syntax")
        return bytes((value,))
    if short is not None or long is not None:
        return chr(int(short or long, 16)).encode()
    raise ValueError("invalid syntax")


def to_json(value: Any) -> str:
    """As `json.Marshal`: no spaces, HTML's special characters and the line separators escaped, bad UTF-8 replaced."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    text = re.sub("[\ud800-\udfff]", "\\\\ufffd", text)
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text
