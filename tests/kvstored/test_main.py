"""The daemon as a process: what its command line does, what it logs, and how it ends."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if not name.startswith("ETCD")},
    "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'cmd'}",
}


def kvstored(*args: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "kvstored", *args],
        env={**ENVIRONMENT, **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@contextmanager
def member(kind: str, **environ: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.kvstored.fake_member", kind],
        cwd=ROOT,
        env={**ENVIRONMENT, **environ},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()


def wait_for_line(process: subprocess.Popen[str], message: str) -> dict[str, Any]:
    """The first line of the log with this message. Fails if the process ends without one."""
    assert process.stderr is not None
    for line in process.stderr:
        event: dict[str, Any] = json.loads(line)
        if event["msg"] == message:
            return event
    raise AssertionError(f"no line {message!r}")


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_is_grouped_and_has_an_example(flag: str) -> None:
    result = kvstored(flag)
    assert result.returncode == 0
    assert "\nMember:\n  --name 'default'\n" in result.stdout
    assert "--initial-cluster m1=http://" in result.stdout


def test_version() -> None:
    result = kvstored("--version")
    assert result.returncode == 0
    assert "etcd API Version: 3." in result.stdout
    assert re.search(r"^Modules: (interpreted|compiled)$", result.stdout, re.MULTILINE)


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["--snapshot-cuont=1"], 2, "unknown flag 'snapshot-cuont' on the command line; did you mean snapshot-count"),
        (["member"], 2, "unexpected extra argument"),
        (["--election-timeout=400"], 1, "--election-timeout=400: must be at least 5 times --heartbeat-interval"),
        (["--election-timeout", "400"], 1, "--election-timeout=400: must be"),
        (["-election-timeout", "400"], 1, "--election-timeout=400: must be"),
        (["-election-timeout=400"], 1, "--election-timeout=400: must be"),
        (["--auto-tls"], 1, "--auto-tls=true: is not supported yet"),
        (["--pre-vote", "--auto-tls=true"], 1, "--auto-tls=true: is not supported yet"),
        (["--auto-tls=false", "--pre-vote=maybe"], 1, "--pre-vote=maybe: is true or false"),
        (["--config-file=/nowhere.yml"], 1, "cannot read the configuration file /nowhere.yml"),
        (["--log-outputs=/nowhere/a.log"], 1, "cannot write the log to /nowhere/a.log"),
    ],
)
def test_a_refusal_is_one_line_and_an_exit_code(args: list[str], code: int, message: str) -> None:
    result = kvstored(*args)
    assert result.returncode == code
    assert result.stderr.startswith("kvstored: ")
    assert result.stderr.count("\n") == 1
    assert message in result.stderr


def test_the_environment_is_read() -> None:
    result = kvstored(ETCD_ELECTION_TIMEOUT="400")
    assert (result.returncode, "--election-timeout=400" in result.stderr) == (1, True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_member_in_order(number: signal.Signals) -> None:
    with member("obedient") as process:
        ready = wait_for_line(process, "ready to serve client requests")
        assert list(ready)[:4] == ["level", "ts", "caller", "msg"]
        assert ready["level"] == "info"
        assert ready["urls"] == ["http://localhost:2379"]
        process.send_signal(number)
        assert wait_for_line(process, "stopping")["signal"] == number.name
        assert process.wait(timeout=10) == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_second_signal_ends_it_at_once(number: signal.Signals, code: int) -> None:
    with member("stubborn") as process:
        wait_for_line(process, "ready to serve client requests")
        process.send_signal(signal.SIGTERM)
        wait_for_line(process, "not stopping")
        process.send_signal(number)
        assert process.wait(timeout=10) == code


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("locked_out", "m1.etcd/member is used by another process"),
        ("port_taken", "error while attempting to bind on address ('127.0.0.1', 2379): address in use"),
    ],
)
def test_a_member_that_cannot_run_says_why_in_one_line(kind: str, reason: str) -> None:
    with member(kind) as process:
        _, log = process.communicate(timeout=60)
    event = json.loads(log.splitlines()[-1])
    assert (event["level"], event["msg"], event["error"]) == ("error", "the member cannot run", reason)
    assert "Traceback" not in log
    assert process.returncode == 1


def test_systemd_is_told_when_it_is_ready(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(str(tmp_path / "notify"))
        notify.settimeout(30)
        with member("obedient", NOTIFY_SOCKET=str(tmp_path / "notify")) as process:
            assert notify.recv(100) == b"READY=1"
            process.send_signal(signal.SIGTERM)
            assert notify.recv(100) == b"STOPPING=1"
            assert process.wait(timeout=10) == 0
