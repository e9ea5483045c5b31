"""The file format of the vectors: commands, their input, and the output expected of them.

Knows nothing of what a command does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

_SEPARATOR = "----"
_LOG_LINE = re.compile(r"^\s*(DEBUG|INFO|WARN|ERROR) ")
_ARGUMENT = re.compile(r"\s*([^\s=]+)(?:=(\([^)]*\)|\S*))?")


class FormatError(Exception):
    """A file that is not in the format, or a command with arguments it does not take."""


@dataclass(slots=True)
class Argument:
    """`key`, `key=value` or `key=(value, value)`."""

    key: str
    values: list[str] = field(default_factory=list)
    has_value: bool = False


@dataclass(slots=True)
class Command:
    """One command of a file: where it is, what it says and what it must print."""

    line: int
    name: str
    arguments: list[Argument]
    input: list[str]
    expected: list[str]

    @property
    def words(self) -> list[str]:
        """The arguments without a value."""
        return [argument.key for argument in self.arguments if not argument.has_value]

    def values(self, key: str) -> list[str]:
        """The values given for `key`; empty if it is not there."""
        return [value for argument in self.arguments if argument.key == key for value in argument.values]

    def value(self, key: str, default: str = "") -> str:
        """The one value given for `key`."""
        values = self.values(key)
        if len(values) > 1:
            raise FormatError(f"line {self.line}: {key} takes one value")
        return values[0] if values else default

    def number(self, key: str, default: int = 0) -> int:
        """The one number given for `key`."""
        return int(self.value(key, str(default)))

    def flag(self, key: str) -> bool:
        """Whether `key=true` is given."""
        return self.value(key, "false") == "true"


@dataclass(slots=True)
class Verdict:
    """How the output of a file compares.

    difference: the first one, over several lines; empty if there is none. protocol_difference: the first one with
    log lines left out on both sides.
    """

    path: Path
    difference: str = ""
    protocol_difference: str = ""


Handler = Callable[[Command], str]


def parse_line(line: str, number: int = 0) -> tuple[str, list[Argument]]:
    """The name and the arguments of a command line."""
    name, _, rest = line.strip().partition(" ")
    arguments = []
    position = 0
    rest = rest.strip()
    while position < len(rest):
        match = _ARGUMENT.match(rest, position)
        if match is None:
            raise FormatError(f"line {number}: cannot parse {rest[position:]!r}")
        key, value = match.groups()
        position = match.end()
        if value is None:
            arguments.append(Argument(key))
        elif value.startswith("("):
            parts = [part.strip() for part in re.split(r"[,\s]+", value[1:-1].strip()) if part.strip()]
            arguments.append(Argument(key, parts, has_value=True))
        else:
            arguments.append(Argument(key, [value], has_value=True))
    return name, arguments


def parse(text: str) -> Iterator[Command | str]:
    """The commands of a file in order, and between them, as they are, the comments and blank lines."""
    lines = text.split("\n")
    at = 0
    while at < len(lines):
        line = lines[at]
        if not line.strip() or line.startswith("#"):
            at += 1
            if at < len(lines) or line:
                yield line
            continue
        start = at
        directive = []
        while at < len(lines) and lines[at] != _SEPARATOR:
            directive.append(lines[at])
            at += 1
        if at == len(lines):
            raise FormatError(f"line {start + 1}: no {_SEPARATOR} after the command")
        at += 1
        expected = []
        if at < len(lines) and lines[at] == _SEPARATOR:
            # Output with blank lines stands between two pairs of separators.
            at += 1
            while lines[at : at + 2] != [_SEPARATOR, _SEPARATOR]:
                if at >= len(lines):
                    raise FormatError(f"line {start + 1}: output without an end")
                expected.append(lines[at])
                at += 1
            at += 2
        else:
            while at < len(lines) and lines[at].strip():
                expected.append(lines[at])
                at += 1
        name, arguments = parse_line(directive[0], start + 1)
        yield Command(start + 1, name, arguments, directive[1:], expected)


def run(path: Path, handler: Handler) -> Verdict:
    """Run every command of the file and compare what it prints."""
    verdict = Verdict(path)
    for item in parse(path.read_text()):
        if isinstance(item, str):
            continue
        actual = _lines(handler(item))
        if not verdict.difference:
            verdict.difference = _difference(path, item, item.expected, actual)
        if not verdict.protocol_difference:
            verdict.protocol_difference = _difference(path, item, _protocol(item.expected), _protocol(actual))
    return verdict


def rewrite(path: Path, handler: Handler) -> None:
    """Run every command of the file and put what it prints in the place of what is expected."""
    source = path.read_text().split("\n")
    out = []
    for item in parse(path.read_text()):
        if isinstance(item, str):
            out.append(item)
            continue
        out.append(source[item.line - 1])
        out.extend(item.input)
        lines = _lines(handler(item))
        fence = [_SEPARATOR] if any(not line.strip() for line in lines) else []
        out.extend([_SEPARATOR, *fence, *lines, *fence * 2])
    path.write_text("\n".join(out).rstrip("\n") + "\n")


def _lines(output: str) -> list[str]:
    return output.rstrip("\n").split("\n")


def _protocol(lines: list[str]) -> list[str]:
    # A command that only logs prints nothing but "ok" without its log.
    kept = [line for line in lines if not _LOG_LINE.match(line)]
    return [] if kept == ["ok"] else kept


def _difference(path: Path, command: Command, expected: list[str], actual: list[str]) -> str:
    for offset in range(max(len(expected), len(actual))):
        want = expected[offset] if offset < len(expected) else None
        got = actual[offset] if offset < len(actual) else None
        if want != got:
            return "\n".join(
                [
                    f"{path}:{command.line}: {command.name}, line {offset + 1} of the output",
                    f"  expected: {'(nothing)' if want is None else want}",
                    f"  actual:   {'(nothing)' if got is None else got}",
                ]
            )
    return ""
