"""The program: its commands by name, loaded when they are called, and what it exits with."""

from __future__ import annotations

import importlib
import os
import sys

import click

from kvctl.failure import CommandFailed, Exit
from kvctl.options import Group

_COMMANDS = {
    "alarm": "kvctl.alarm",
    "compaction": "kvctl.kv",
    "completion": "kvctl.about",
    "defrag": "kvctl.maintenance",
    "del": "kvctl.kv",
    "endpoint": "kvctl.endpoint",
    "get": "kvctl.kv",
    "lease": "kvctl.lease",
    "member": "kvctl.member",
    "move-leader": "kvctl.maintenance",
    "put": "kvctl.kv",
    "snapshot": "kvctl.snapshot",
    "txn": "kvctl.txn",
    "version": "kvctl.about",
    "watch": "kvctl.watch",
}


class _Program(Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def load(self, ctx: click.Context, name: str) -> click.Command | None:
        module = importlib.import_module(_COMMANDS[name])
        found = module.COMMANDS[name]
        return found if isinstance(found, click.Command) else None


program = _Program(
    name="kvctl",
    help="""Read and write a kvstore or etcd cluster, watch it, and look after its members.

    Global flags may stand anywhere on the line. Each is also read from the environment: --dial-timeout from
    KVCTL_DIAL_TIMEOUT or, if that is not set, from ETCDCTL_DIAL_TIMEOUT. Commands may be abbreviated (compact).

    \b
    Exit codes: 0 done, 1 error, 2 no connection, 3 input not understood,
    4 format or value not supported, 5 interrupted, 6 file, 128 wrong arguments.
    """,
    epilog="Example: kvctl --endpoints 10.0.0.1:2379,10.0.0.2:2379 get --prefix jobs/",
)


def main() -> None:
    """Run the command line and exit."""
    try:
        code = program.main(prog_name="kvctl", standalone_mode=False)
        sys.stdout.flush()
    except CommandFailed as failure:
        code = _report(failure)
    except click.NoSuchOption as error:
        unknown = f"unknown flag: {error.option_name}"
        if not error.option_name.startswith("--"):
            unknown = f"unknown shorthand flag: '{error.option_name[1:2]}' in {error.option_name}"
        code = _misused(error, unknown)
    except click.BadOptionUsage as error:
        code = _misused(error, f"flag needs an argument: {error.option_name}")
    except click.ClickException as error:
        code = _misused(error, error.format_message())
    except (KeyboardInterrupt, click.Abort):
        code = 130
    except BrokenPipeError:
        # Whoever read the output has seen enough; a second complaint while the interpreter exits would be noise.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = Exit.IO
    sys.exit(code or 0)


def _report(failure: CommandFailed) -> int:
    sys.stdout.flush()
    if str(failure):
        print(f"Error: {failure}", file=sys.stderr)
    return failure.code


def _misused(error: click.ClickException, message: str) -> int:
    context = error.ctx if isinstance(error, click.UsageError) else None
    path = context.command_path if context is not None else "kvctl"
    return _report(CommandFailed(Exit.ERROR, f"{message}\nRun '{path} --help' for usage."))
