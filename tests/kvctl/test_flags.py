"""Flags: where they may stand, how they are written, and where else they come from."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from kvctl.main import program
from kvctl.options import Command, Settings
from tests.kvctl.programs import REPOSITORY, Kvctl

NOBODY = "127.0.0.1:1"


def test_flags_beat_the_environment_and_ours_beats_etcdctls() -> None:
    environment = {"KVCTL_WRITE_OUT": "fields", "ETCDCTL_WRITE_OUT": "json", "ETCDCTL_DIAL_TIMEOUT": "300ms"}
    settings = Settings.resolve({}, environment)
    assert (settings.write_out, settings.dial_timeout) == ("fields", 0.3)
    assert Settings.resolve({"write_out": "table"}, environment).write_out == "table"


def test_every_global_flag_can_come_from_the_environment() -> None:
    environment = {
        "ENDPOINTS": "a:1, b:2,", "DIAL_TIMEOUT": "1s", "COMMAND_TIMEOUT": "1m", "KEEPALIVE_TIME": "3s",
        "KEEPALIVE_TIMEOUT": "4s", "CACERT": "ca", "CERT": "cert", "KEY": "key", "INSECURE_TRANSPORT": "false",
        "INSECURE_SKIP_TLS_VERIFY": "true", "USER": "u", "PASSWORD": "p", "WRITE_OUT": "json", "HEX": "1",
        "DEBUG": "t",
    }  # fmt: skip
    settings = Settings.resolve({}, {f"ETCDCTL_{name}": value for name, value in environment.items()})
    assert settings == Settings(
        endpoints=("a:1", "b:2"),
        dial_timeout=1,
        command_timeout=60,
        keepalive_time=3,
        keepalive_timeout=4,
        cacert="ca",
        cert="cert",
        key="key",
        insecure_transport=False,
        insecure_skip_tls_verify=True,
        user="u",
        password="p",
        write_out="json",
        hex=True,
        debug=True,
        command_timeout_given=True,
    )


def test_global_flags_may_stand_anywhere(kvctl: Kvctl) -> None:
    kvctl("put", "flags/a", "v")
    for args in ("-w json get flags/a", "get -w json flags/a", "get flags/a -w=json", "get flags/a -wjson"):
        assert kvctl(*args.split()).out.startswith(b'{"header"')
    assert kvctl("get", "flags/a", KVCTL_WRITE_OUT="json").out.startswith(b'{"header"')
    assert kvctl("-w", "json", "get", "flags/a", "-w", "simple").out == b"flags/a\nv\n"


def test_what_follows_a_double_dash_is_no_flag(kvctl: Kvctl) -> None:
    assert kvctl("put", "flags/dash", "--", "--hex=false").code == 0
    assert kvctl("get", "flags/dash", "--print-value-only").out == b"--hex=false\n"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("get k --bogus", "unknown flag: --bogus"),
        ("get k -x", "unknown shorthand flag: 'x' in -x"),
        ("get k --rev", "flag needs an argument: --rev"),
        ("get k --rev x", 'invalid argument "x" for "--rev" flag: strconv.ParseInt: parsing "x": invalid syntax'),
        (
            "get k --prefix=maybe",
            'invalid argument "maybe" for "--prefix" flag: strconv.ParseBool: parsing "maybe": invalid syntax',
        ),
        (
            "get k --command-timeout 5",
            'invalid argument "5" for "--command-timeout" flag: time: missing unit in duration "5"',
        ),
        ("bogus", 'unknown command "bogus" for "kvctl"'),
        ("lease bogus", 'unknown command "bogus" for "kvctl lease"'),
    ],
)
def test_a_flag_or_command_that_does_not_exist_is_named(kvctl: Kvctl, args: str, message: str) -> None:
    outcome = kvctl(*args.split())
    assert outcome.code == 1
    assert outcome.out == b""
    assert outcome.err.decode().splitlines()[0] == f"Error: {message}"


def test_commands_may_be_abbreviated_while_they_are_the_only_ones(kvctl: Kvctl) -> None:
    assert kvctl("mem", "li").out == kvctl("member", "list").out
    assert kvctl("comp", "x").err.startswith(b'Error: unknown command "comp"')


def test_the_failure_of_a_call_is_logged_in_full_before_the_short_message(kvctl: Kvctl) -> None:
    process = kvctl.process("get", "k", "--rev", "99999999")
    _, err = process.communicate(timeout=30)
    warning, message = err.decode().splitlines()
    assert warning.startswith('{"level":"warn","ts":"')
    assert '"error":"rpc error: code = OutOfRange desc = etcdserver: mvcc: required revision is a future' in warning
    assert message == "Error: etcdserver: mvcc: required revision is a future revision"
    assert process.returncode == 1


def test_an_unreachable_endpoint_is_named_in_the_log() -> None:
    process = Kvctl({"KVCTL_ENDPOINTS": NOBODY}, Path.cwd()).process("get", "k", "--command-timeout", "100ms")
    _, err = process.communicate(timeout=30)
    assert f"no endpoint could be reached: {NOBODY}" in err.decode()
    assert process.returncode == 1


def commands(command: click.Command, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None
            yield from commands(child, (*path, name))


@pytest.mark.parametrize("path", [path for path, command in commands(program, ()) if isinstance(command, Command)])
def test_the_help_of_every_command_shows_an_example_of_it(
    tmp_path_factory: pytest.TempPathFactory, path: tuple[str, ...]
) -> None:
    outcome = Kvctl({}, tmp_path_factory.getbasetemp())(*path, "--help")
    assert outcome.code == 0
    text = outcome.out.decode()
    example = text[text.index("Example:") :]
    assert f"kvctl {' '.join(path)}" in example or path[-1] in example
    assert "--endpoints URLS" in text


def test_help_without_arguments_lists_the_commands(tmp_path_factory: pytest.TempPathFactory) -> None:
    outcome = Kvctl({}, tmp_path_factory.getbasetemp())()
    assert outcome.code == 0
    for name in ("get", "put", "watch", "snapshot", "completion"):
        assert f"\n  {name} " in outcome.out.decode()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_completion_script_names_the_program(tmp_path_factory: pytest.TempPathFactory, shell: str) -> None:
    kvctl = Kvctl({}, tmp_path_factory.getbasetemp())
    script = kvctl("completion", shell).out.decode()
    assert f"_KVCTL_COMPLETE={shell}_complete" in script
    assert kvctl("completion", "tcsh").code == 128


def test_flags_and_subcommands_are_completed(tmp_path_factory: pytest.TempPathFactory) -> None:
    kvctl = Kvctl({}, tmp_path_factory.getbasetemp())
    for words, cword, expected in (
        ("kvctl lea", "1", "lease"),
        ("kvctl lease k", "2", "keep-alive"),
        ("kvctl get --pre", "2", "--prefix"),
    ):
        process = kvctl.process(_KVCTL_COMPLETE="bash_complete", COMP_WORDS=words, COMP_CWORD=cword)
        out, _ = process.communicate(timeout=30)
        assert out.decode().splitlines() == [f"plain,{expected}"]


def test_the_version_needs_neither_grpc_nor_a_cluster(tmp_path_factory: pytest.TempPathFactory) -> None:
    script = "import sys; sys.argv = ['kvctl', 'version']; import kvctl.main, atexit\n"
    script += "atexit.register(lambda: print(sorted({'grpc', 'asyncio', 'google.protobuf'} & set(sys.modules))))\n"
    script += "kvctl.main.main()"
    path = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "cmd")])
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=30,
    )
    lines = done.stdout.splitlines()
    assert lines[0].startswith("kvctl version: ")
    assert lines[1:] == ["API version: 3.6", "[]"]
