"""`version` and `completion`: what the program can tell without a cluster."""

from __future__ import annotations

import click

from kvctl.failure import bad_args
from kvctl.options import Command, Settings

API_VERSION = "3.6"
"""The level of etcd's API and of etcdctl's commands that this program keeps to."""


@click.command(cls=Command, short_help="Print the version.", epilog="Example: kvctl version", options_metavar="")
def version(settings: Settings) -> None:
    """Print the version of kvctl, and of the API it speaks."""
    from importlib import metadata

    try:
        own = metadata.version("kvstore")
    except metadata.PackageNotFoundError:
        own = "not installed"
    print(f"kvctl version: {own}")
    print(f"API version: {API_VERSION}")


@click.command(
    cls=Command,
    short_help="Print a script that completes commands in a shell.",
    epilog="Example: kvctl completion bash > /etc/bash_completion.d/kvctl",
    options_metavar="",
)
@click.argument("words", metavar="bash|zsh|fish", nargs=-1)
def completion(settings: Settings, words: tuple[str, ...]) -> None:
    """Print a script that lets the shell complete commands and flags of kvctl.

    \b
    bash   source <(kvctl completion bash)
    zsh    source <(kvctl completion zsh)
    fish   kvctl completion fish | source
    """
    from click.shell_completion import get_completion_class

    from kvctl.main import program

    shell = get_completion_class(words[0]) if len(words) == 1 else None
    if shell is None:
        bad_args("completion command needs one argument: bash, zsh or fish")
    print(shell(program, {}, "kvctl", "_KVCTL_COMPLETE").source())


COMMANDS = {"completion": completion, "version": version}
