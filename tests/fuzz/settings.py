"""Targets: what an operator writes: flags, environment, configuration files."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from hypothesis import strategies as st

from kvstore.server.config import ConfigError, Url, parse_initial_cluster, parse_urls
from kvstore.server.durations import format_duration, parse_duration
from kvstored.configuration import ConfigFileError, configure
from kvstored.flags import FLAGS, UnknownFlag
from tests.fuzz.mutations import changes, spoil
from tests.fuzz.target import Check, Target, by_itself

VALUES: Final = (
    "",
    "0",
    "1",
    "-1",
    "5",
    "true",
    "T",
    "false",
    "1h",
    "-1ms",
    "1e9h",
    "nan",
    "inf",
    "9" * 30,
    "9" * 5000,
    "١",
    "1_000",
    "http://a:1",
    "http://[::1]:1",
    "http://[::1:1",
    "https://a:99999",
    "unix:a",
    "http://a:1,http://a:1",
    "m1=http://a:1",
    "m1=",
    "=",
    ",",
    "\0",
    "\ud800",
    "periodic",
    "revision",
    "debug",
    "*",
    "a" * 5000,
)


def flags() -> st.SearchStrategy[Any]:
    """(texts of flags on the command line, in the environment)"""
    text = st.one_of(
        st.sampled_from(VALUES),
        st.text(max_size=6),
        st.text(st.sampled_from("0123456789.-hmsuµne_:/[]=,a"), max_size=12),
    )
    given = st.lists(st.tuples(st.sampled_from(sorted(FLAGS)), text), max_size=4)
    return st.tuples(given, given)


def check_flags(value: Any) -> None:
    """A configuration, or a refusal that names the flag."""
    arguments, environ = value
    with contextlib.suppress(ConfigError, UnknownFlag):
        configure(dict(arguments), {FLAGS[name].variable: text for name, text in environ}, None)


# Files

LINES: Final = (
    "name: m1",
    "data-dir: /d",
    "listen-client-urls: http://a:1",
    "max-txn-ops: 5",
    "heartbeat-interval: 1e3",
    "grpc-keepalive-min-time: 5000000000",
    "pre-vote: yes",
    "max-learners: 2001-13-45",
    "name: [a, b]",
    "name: {a: b}",
    "client-transport-security: {cert-file: a}",
    "client-transport-security: {1: a}",
    "1: 2",
    "? [a, b]\n: c",
    "? {a: b}\n: c",
    "name: !!python/object:os.system a",
    "name: !!int x",
    "name: !!float x",
    "name: !!timestamp x",
    "name: !!binary 'x'",
    "name: &a [*a]",
    "<<: {name: b}",
    "<<: 1",
    "name: 0x" + "f" * 4000,
    "name: " + "[" * 60 + "]" * 60,
    "--- a\n--- b",
    "\t",
    "a: b: c",
    "quota-backend-bytes: 9223372036854775808",
    "snapshot-count: .inf",
    "name: 1:2:3",
    "name: 2001-01-01",
    "null: 1",
    "~: ~",
)


def files() -> st.SearchStrategy[Any]:
    """Texts of configuration files, and how deep a list in them is nested."""
    text = st.lists(st.one_of(st.sampled_from(LINES), st.text(max_size=10)), max_size=4).map(
        lambda lines: "\n".join(lines).encode("utf-8", "surrogatepass")
    )
    nested = st.sampled_from((1, 200, 3000)).map(lambda depth: b"name: " + b"[" * depth + b"]" * depth)
    return st.one_of(text, st.builds(spoil, text, changes(3)), nested)


@contextlib.contextmanager
def _open_files() -> Iterator[Check]:
    with tempfile.TemporaryDirectory(prefix="kvstore-fuzz-") as name:
        path = Path(name) / "config.yaml"

        def check(value: bytes) -> None:
            """A configuration, or a refusal that names the file or the flag."""
            path.write_bytes(value)
            with contextlib.suppress(ConfigError, ConfigFileError, UnknownFlag):
                configure({}, {}, str(path))

        yield check


# Parts of values


def parts() -> st.SearchStrategy[Any]:
    """Texts of durations, URLs and lists of them; and seconds."""
    text = st.one_of(
        st.sampled_from(VALUES),
        st.text(st.sampled_from("0123456789.-+hmsuµn"), max_size=14),
        st.text(st.sampled_from("htps:/[]1.%@a=,٣"), max_size=20),
        st.text(max_size=8),
    )
    return st.tuples(text, st.integers(-(10**15), 10**15).map(lambda number: number / 1000))


def check_parts(value: Any) -> None:
    """Each is read and written back the same, or refused with ValueError."""
    text, seconds = value
    with contextlib.suppress(ValueError):
        duration = parse_duration(text)
        assert parse_duration(format_duration(duration)) == duration or abs(duration) >= 1 << 31
    assert abs(parse_duration(format_duration(seconds)) - seconds) < 1e-3
    for parse in (parse_urls, parse_initial_cluster):
        with contextlib.suppress(ValueError):
            parse(text)
    try:
        url = Url.parse(text)
    except ValueError:
        return
    assert Url.parse(str(url)) == url


TARGETS: Final = (
    Target("flags", flags, by_itself(check_flags), examples=120),
    Target("config-files", files, _open_files, examples=40, cpu_seconds=6.0),
    Target("settings", parts, by_itself(check_parts), examples=150),
)
