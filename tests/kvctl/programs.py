"""kvctl and etcdctl, run with given arguments, input and environment."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from unittest import mock

REPOSITORY = Path(__file__).resolve().parents[2]
TIMEOUT = 30.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a program did. The warnings that both log as JSON on standard error are taken out."""

    code: int
    out: bytes
    err: bytes


def _outcome(code: int, out: bytes, err: bytes) -> Outcome:
    lines = [line for line in err.splitlines(keepends=True) if not line.startswith(b'{"level":')]
    return Outcome(code, out, b"".join(lines))


def _clean_environment(changes: Mapping[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("KVCTL_", "ETCDCTL_"))}
    return kept | dict(changes)


class Program(Protocol):
    """Either of the two."""

    def __call__(self, *args: str, stdin: bytes = b"", **environment: str) -> Outcome: ...


class Etcdctl(Program):
    """The program to compare with."""

    def __init__(self, program: str, environment: Mapping[str, str], directory: Path) -> None:
        self._program = program
        self._environment = dict(environment)
        self._directory = directory

    def __call__(self, *args: str, stdin: bytes = b"", **environment: str) -> Outcome:
        done = subprocess.run(
            [self._program, *args],
            input=stdin,
            capture_output=True,
            env=_clean_environment(self._environment | environment),
            cwd=self._directory,
            timeout=TIMEOUT,
        )
        return _outcome(done.returncode, done.stdout, done.stderr)

    def process(self, *args: str) -> subprocess.Popen[bytes]:
        """Start it, with pipes for its input and output."""
        return subprocess.Popen(
            [self._program, *args],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=_clean_environment(self._environment),
            cwd=self._directory,
        )

    def on(self, endpoints: str) -> Etcdctl:
        """The same for other endpoints."""
        return Etcdctl(self._program, self._environment | {"ETCDCTL_ENDPOINTS": endpoints}, self._directory)


class Kvctl(Program):
    """The program under test: called, inside this process, which is quick; `process` runs it as a user would."""

    def __init__(self, environment: Mapping[str, str], directory: Path) -> None:
        self._environment = dict(environment)
        self._directory = directory

    def __call__(self, *args: str, stdin: bytes = b"", **environment: str) -> Outcome:
        out, err = io.BytesIO(), io.BytesIO()
        with self._standing_in(args, stdin, environment, out, err):
            from kvctl.main import main

            try:
                main()
                code = 0
            except SystemExit as end:
                code = int(end.code or 0)
        return _outcome(code, out.getvalue(), err.getvalue())

    def process(self, *args: str, **environment: str) -> subprocess.Popen[bytes]:
        """Start it as a program of its own, with pipes for its input and output."""
        path = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "cmd")])
        return subprocess.Popen(
            [sys.executable, "-m", "kvctl", *args],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=_clean_environment(self._environment | environment) | {"PYTHONPATH": path},
            cwd=self._directory,
        )

    def on(self, endpoints: str) -> Kvctl:
        """The same for other endpoints."""
        return Kvctl(self._environment | {"KVCTL_ENDPOINTS": endpoints}, self._directory)

    @contextlib.contextmanager
    def _standing_in(
        self, args: tuple[str, ...], stdin: bytes, environment: Mapping[str, str], out: io.BytesIO, err: io.BytesIO
    ) -> Iterator[None]:
        texts = (
            io.TextIOWrapper(io.BytesIO(stdin)),
            io.TextIOWrapper(out, errors="surrogateescape", write_through=True),
            io.TextIOWrapper(err, errors="backslashreplace", write_through=True),
        )
        with (
            mock.patch.object(sys, "argv", ["kvctl", *args]),
            mock.patch.object(sys, "stdin", texts[0]),
            mock.patch.object(sys, "stdout", texts[1]),
            mock.patch.object(sys, "stderr", texts[2]),
            mock.patch.dict(os.environ, _clean_environment({**self._environment, **environment}), clear=True),
            contextlib.chdir(self._directory),
        ):
            yield
        for text in texts:
            text.detach()
