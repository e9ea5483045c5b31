"""The texts of --help and --version."""

import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

from kvstored import runtime
from kvstored.flags import FORMER, GROUPS, NOT_YET

USAGE = """\
Usage:

  kvstored [flags]
    Run a member. Without flags: a cluster of one, on localhost:2379, with its data in default.etcd.

  kvstored --config-file FILE
    Run a member by a YAML file whose keys are names of flags. Other flags and the environment are then ignored.

  kvstored --version
  kvstored --help

Example, the first of three members:

  kvstored --name m1 --data-dir /var/lib/kvstore \\
    --listen-client-urls http://10.0.0.1:2379 --advertise-client-urls http://10.0.0.1:2379 \\
    --listen-peer-urls http://10.0.0.1:2380 --initial-advertise-peer-urls http://10.0.0.1:2380 \\
    --initial-cluster m1=http://10.0.0.1:2380,m2=http://10.0.0.2:2380,m3=http://10.0.0.3:2380

Every flag can also be given as an environment variable: --max-txn-ops as ETCD_MAX_TXN_OPS. The command line wins.
Durations are written 300ms, 10m or 1h30m.
"""


def help_text() -> str:
    """What --help prints."""
    return "\n".join((USAGE, *_groups(), *_former(), _not_yet()))


def _groups() -> Iterator[str]:
    for group, flags in GROUPS.items():
        lines = [f"{group}:"]
        for flag in flags:
            lines += [f"  --{flag.name} '{flag.default}'", f"    {flag.help}"]
        yield "\n".join(lines) + "\n"


def _former() -> Iterator[str]:
    yield "Former names, still accepted:"
    for flag in FORMER:
        yield f"  --{flag.name}: now --{flag.help}"
    yield ""


def _not_yet() -> str:
    lines, line = ["Known, but not supported yet (accepted with their default only):"], " "
    for flag in NOT_YET:
        if len(line) + len(flag.name) > 110:
            lines.append(line)
            line = " "
        line += f" {flag.name}"
    return "\n".join((*lines, line))


def version_text() -> str:
    """What --version prints."""
    from kvstore.server.maintenance import API_VERSION  # here, so that --help need not wait for all of the server

    try:
        own = version("kvstore")
    except PackageNotFoundError:
        own = "not installed"
    return "\n".join(
        (
            f"kvstored Version: {own}",
            f"etcd API Version: {API_VERSION}",
            f"Python Version: {platform.python_version()}",
            f"OS/Arch: {platform.system().lower()}/{platform.machine()}",
            f"Modules: {runtime.kind_of_modules()}",
        )
    )
