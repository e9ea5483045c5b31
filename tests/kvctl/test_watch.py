"""Watching from the command line."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import threading
from collections.abc import Iterator

import pytest

from tests.kvctl.programs import Etcdctl, Kvctl


class Screen:
    """What a running program has printed so far, read by a thread, so that a test can wait for it with a deadline."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._text = b""
        self._news = threading.Condition()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        while piece := self._process.stdout.read1():  # type: ignore[attr-defined]
            with self._news:
                self._text += piece
                self._news.notify_all()

    def shows(self, text: bytes, timeout: float) -> bool:
        """Whether it is printed within so many seconds."""
        with self._news:
            return self._news.wait_for(lambda: text in self._text, timeout)

    def wait_for(self, text: bytes) -> bytes:
        with self._news:
            assert self._news.wait_for(lambda: text in self._text, 30), self._text
            return self._text


@contextlib.contextmanager
def watching(kvctl: Kvctl, *args: str, **environment: str) -> Iterator[tuple[subprocess.Popen[bytes], Screen]]:
    process = kvctl.process("watch", *args, **environment)
    try:
        yield process, Screen(process)
    finally:
        process.kill()
        process.communicate()


def history(kvctl: Kvctl, key: str) -> str:
    """Make two changes and a deletion; the revision of the first."""
    before = kvctl("put", key, "v1", "-w", "fields").out.splitlines()
    kvctl("put", key, "v2")
    kvctl("del", key)
    return next(line for line in before if line.startswith(b'"Revision"')).split()[-1].decode()


@pytest.mark.parametrize(
    ("format", "flags"),
    [
        ("simple", []),
        ("simple", ["--prev-kv"]),
        ("simple", ["--hex"]),
        ("json", []),
        ("json", ["--prev-kv"]),
        ("json", ["--hex"]),
        ("fields", []),
        ("fields", ["--prev-kv"]),
    ],
)
def test_events_are_printed_as_etcdctl_prints_them(
    kvctl: Kvctl, etcdctl: Etcdctl, format: str, flags: list[str]
) -> None:
    key = "watch/alike"
    revision = history(kvctl, key)
    args = ("watch", key, "--rev", revision, "-w", format, *flags)
    kvctl("put", key, "end")
    end = {"simple": rb"\x65\x6e\x64" if "--hex" in flags else b"end\n", "json": b"ZW5k", "fields": b'"end"'}[format]
    shown = []
    for process in (etcdctl.process(*args), kvctl.process(*args)):
        text = Screen(process).wait_for(end)
        shown.append(text[: text.index(end)])
        process.kill()
        process.communicate()
    assert shown[1] == shown[0]


def test_a_compacted_start_ends_the_watch_as_in_etcdctl(kvctl: Kvctl, etcdctl: Etcdctl) -> None:
    revision = history(kvctl, "watch/compacted")
    kvctl("compaction", str(int(revision) + 2))
    for format in ("simple", "json"):
        args = ("watch", "watch/compacted", "--rev", revision, "-w", format)
        expected = etcdctl(*args)
        assert kvctl(*args) == expected
        assert expected.code == 5


def test_a_command_is_run_for_each_event(kvctl: Kvctl) -> None:
    revision = history(kvctl, "watch/exec")
    script = 'echo "<$ETCD_WATCH_REVISION $ETCD_WATCH_EVENT_TYPE $ETCD_WATCH_KEY $ETCD_WATCH_VALUE>"'
    with watching(kvctl, "watch/exec", "--rev", revision, "--", "sh", "-c", script) as (_, screen):
        shown = screen.wait_for(b' "DELETE" "watch/exec" "">\n').decode()
    assert '"PUT" "watch/exec" "v1">' in shown
    assert '"PUT" "watch/exec" "v2">' in shown


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        ("false", b'command ["false"] error (exit status 1)\n'),
        ("not-there", b'command ["not-there"] error (exec: "not-there": executable file not found in $PATH)\n'),
    ],
)
def test_a_command_that_fails_ends_the_watch(kvctl: Kvctl, command: str, problem: bytes) -> None:
    revision = history(kvctl, "watch/fails")
    process = kvctl.process("watch", "watch/fails", "--rev", revision, "--", command)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (1, problem)


def test_the_key_can_come_from_the_environment(kvctl: Kvctl) -> None:
    revision = history(kvctl, "watch/env")
    with watching(kvctl, "--rev", revision, "--", "echo", "ran", KVCTL_WATCH_KEY="watch/env") as (_, screen):
        screen.wait_for(b"ran\n")
    with watching(kvctl, "--rev", revision, ETCDCTL_WATCH_KEY="watch/en", ETCDCTL_WATCH_RANGE_END="watch/ew") as (
        _,
        screen,
    ):
        screen.wait_for(b"DELETE\n")
    conflict = kvctl("watch", "other", KVCTL_WATCH_KEY="watch/env")
    assert conflict.err == b"Error: bad number of arguments (found conflicting environment key)\n"


def test_interactive_watches_share_a_session_and_report_progress(kvctl: Kvctl) -> None:
    first = history(kvctl, "watch/i1")
    second = history(kvctl, "watch/i2")
    with watching(kvctl, "-i") as (process, screen):
        assert process.stdin is not None
        process.stdin.write(f"watch watch/i1 --rev {first}\nwatch --rev={second} 'watch/i2' -- echo done\n".encode())
        process.stdin.flush()
        screen.wait_for(b"watch/i1\nv2\n")
        # The two watches write as their events come: the command of one may run after what the other shows.
        screen.wait_for(b"DELETE\nwatch/i2\n\n")
        screen.wait_for(b"done\n")
        # A release of etcd forgets a request that comes while a watch is still being brought up to date.
        for _ in range(30):
            process.stdin.write(b"progress\n")
            process.stdin.flush()
            if screen.shows(b"progress notify: ", 1):
                break
        screen.wait_for(b"progress notify: ")


def test_interactive_lines_that_mean_nothing_are_answered_as_in_etcdctl(kvctl: Kvctl, etcdctl: Etcdctl) -> None:
    for stdin in (b"bogus\n\nwatch\nwatch a b --prefix\n", b"watch x --bogus\n", b"watch x --\n"):
        expected = etcdctl("watch", "-i", stdin=stdin)
        got = kvctl("watch", "-i", stdin=stdin)
        assert got.code == expected.code
        assert got.err.lower() == expected.err.lower()


def test_an_interrupt_ends_a_watch_without_a_complaint(kvctl: Kvctl) -> None:
    revision = history(kvctl, "watch/interrupt")
    process = kvctl.process("watch", "watch/interrupt", "--rev", revision)
    screen = Screen(process)
    screen.wait_for(b"DELETE\n")
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    assert process.stderr is not None
    assert process.stderr.read().strip() == b""


def test_watching_an_endpoint_that_is_not_there_fails_after_the_dial_timeout(kvctl: Kvctl) -> None:
    outcome = kvctl.on("127.0.0.1:1")("watch", "k", "--dial-timeout", "200ms")
    assert (outcome.code, outcome.err) == (2, b"Error: context deadline exceeded\n")
